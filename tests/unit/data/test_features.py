"""The same row gives the same features to the bit, whichever way it comes."""

import json
import pickle
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ray_mlops.config import DataConfig, FeatureConfig, SourceConfig
from ray_mlops.data.features import FeatureMatrix, FeaturePipeline
from ray_mlops.data.inputs import candidate_features
from ray_mlops.errors import BundleError, FeatureError

FEATURES = [
    FeatureConfig(name="plain"),
    FeatureConfig(name="robust", scale="robust", impute="mean"),
    FeatureConfig(name="ranked", scale="quantile"),
    FeatureConfig(name="pieces", encoding="piecewise_linear", encoding_bins=5, impute="constant", fill_value=-1.0),
    FeatureConfig(name="cycle", encoding="periodic", period=24.0, scale="none"),
    FeatureConfig(name="whole"),
    FeatureConfig(name="flag"),
    FeatureConfig(name="city", min_count=1),
    FeatureConfig(name="code", type="categorical"),
    FeatureConfig(name="at", parts=["year", "month", "day", "weekday", "hour", "minute"]),
]


def random_table(seed: int, n: int = 300) -> pa.Table:
    rng = np.random.default_rng(seed)

    def holes(values: Any, kind: pa.DataType | None = None) -> pa.Array:
        return pa.array(list(values), kind, mask=rng.random(n) < 0.1)

    odd = rng.normal(size=n) * 10.0 ** rng.integers(-30, 30, n)
    odd[rng.random(n) < 0.02] = np.inf
    odd[rng.random(n) < 0.02] = np.nan
    times = [datetime(1965, 1, 1, tzinfo=UTC) + timedelta(microseconds=int(x)) for x in rng.integers(0, 2**51, n)]
    return pa.table(
        {
            "plain": pa.array(odd),
            "robust": holes(rng.normal(size=n).astype(np.float32), pa.float32()),
            "ranked": holes(rng.exponential(size=n)),
            "pieces": holes(rng.normal(size=n)),
            "cycle": holes(rng.uniform(-1e6, 1e6, n)),
            "whole": holes(rng.integers(-(2**62), 2**62, n)),
            "flag": holes(rng.random(n) < 0.3),
            "city": holes(rng.choice(["", "Wien", "Graz", "Łódź", "Linz"], n)),
            "code": holes(rng.integers(0, 9, n)),
            "at": holes(times, pa.timestamp("us", tz="UTC")),
        }
    )


def same(left: FeatureMatrix, right: FeatureMatrix) -> bool:
    return left.numeric.tobytes() == right.numeric.tobytes() and np.array_equal(left.categorical, right.categorical)


@pytest.mark.parametrize("seed", range(5))
def test_transform_table_and_rows_any_batch_equal_to_the_bit(seed: int) -> None:
    pipeline = FeaturePipeline.fit_table(random_table(seed), FEATURES)
    table = random_table(seed + 100)
    whole = pipeline.transform(table)
    rows = table.to_pylist()
    assert np.isfinite(whole.numeric).all()
    assert same(whole, pipeline.transform_rows(rows))
    assert same(whole, pipeline.transform(pipeline.to_table(rows)))
    assert same(whole, pipeline.transform(pipeline.canonical_table(table)))
    for size in (1, 2, 7, 64):
        starts = range(0, len(table), size)
        parts = [pipeline.transform_rows(rows[start : start + size]) for start in starts]
        assert same(whole, FeatureMatrix.concatenate(parts))
        parts = [pipeline.transform(table.slice(start, size)) for start in starts]
        assert same(whole, FeatureMatrix.concatenate(parts))


def test_transform_arrow_layouts_of_the_same_values_equal() -> None:
    table = random_table(1)
    pipeline = FeaturePipeline.fit_table(table, FEATURES)
    expected = pipeline.transform(table)
    code = table["code"].cast(pa.float64())
    other = table.set_column(8, "code", code)
    other = other.set_column(7, "city", pa.chunked_array(table["city"].cast(pa.large_string()).dictionary_encode()))
    other = other.set_column(9, "at", pc_strings(table["at"]))
    other = pa.concat_tables([other.slice(0, 100), other.slice(100)])
    assert same(expected, pipeline.transform(other))


def pc_strings(times: pa.ChunkedArray) -> pa.Array:
    return pa.array([None if time is None else time.isoformat() for time in times.to_pylist()])


def test_transform_rows_numpy_scalars_and_strings_of_times_equal() -> None:
    table = random_table(2)
    pipeline = FeaturePipeline.fit_table(table, FEATURES)
    rows = table.to_pylist()
    odd = [
        {
            **row,
            "plain": None if row["plain"] is None else np.float64(row["plain"]),
            "flag": None if row["flag"] is None else int(row["flag"]),
            "code": None if row["code"] is None else np.int32(row["code"]),
            "at": None if row["at"] is None else row["at"].isoformat(),
            "more": object(),
        }
        for row in rows
    ]
    assert same(pipeline.transform_rows(rows), pipeline.transform_rows(odd))
    assert same(pipeline.transform_rows(rows), pipeline.transform(pipeline.to_table(odd)))


def test_json_round_trip_gives_the_same_features() -> None:
    table = random_table(3)
    pipeline = FeaturePipeline.fit_table(table, FEATURES)
    content = json.loads(json.dumps(pipeline.to_json(), allow_nan=False))
    again = FeaturePipeline.from_json(content)
    assert again == pipeline
    assert again.content_hash == pipeline.content_hash
    assert same(again.transform(table), pipeline.transform(table))
    assert pickle.loads(pickle.dumps(pipeline)) == pipeline


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("plain", "12"),
        ("plain", True),
        ("plain", [1.0]),
        ("flag", 2),
        ("flag", "true"),
        ("city", ["Wien"]),
        ("city", {"a": 1}),
        ("at", 12),
        ("at", "yesterday"),
        ("at", True),
    ],
)
def test_transform_rows_wrong_type_names_column_and_row(column: str, value: object) -> None:
    table = random_table(4)
    pipeline = FeaturePipeline.fit_table(table, FEATURES)
    rows = table.slice(0, 3).to_pylist()
    rows[2][column] = value
    for read in (pipeline.transform_rows, pipeline.to_table):
        with pytest.raises(FeatureError, match=rf"column '{column}', row 2: expected a"):
            read(rows)


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("plain", ["a", "b"]),
        ("plain", [True, False]),
        ("flag", [0.0, 0.5]),
        ("at", [1, 2]),
        ("at", ["2020-01-01", "x"]),
    ],
)
def test_transform_table_wrong_type_names_column_and_row(column: str, values: list[Any]) -> None:
    pipeline = FeaturePipeline.fit_table(random_table(4), FEATURES)
    table = random_table(4).slice(0, 3)
    array = pa.array([None, *values])
    wrong = table.set_column(table.column_names.index(column), column, array)
    with pytest.raises(FeatureError, match=rf"column '{column}', row [12]: expected a"):
        pipeline.transform(wrong)


def test_transform_huge_integers_and_decimals_are_numbers() -> None:
    pipeline = FeaturePipeline.fit_table(pa.table({"x": [1.0, 2.0, None]}), [FeatureConfig(name="x", indicator=True)])
    matrix = pipeline.transform_rows([{"x": 10**400}, {"x": Decimal("1.5")}, {"x": 10**300}, {"x": None}])
    assert matrix.numeric[:, 1].tolist() == [1, 0, 0, 1]
    assert matrix.numeric[1, 0] == 0
    assert matrix.numeric[2, 0] == 1e4  # saturates
    assert same(matrix, pipeline.transform_rows([{"x": None}, {"x": 1.5}, {"x": 1e300}, {"x": float("nan")}]))


def test_values_of_each_encoding() -> None:
    table = pa.table(
        {"x": [0.0, 1.0, 2.0, 3.0, 4.0], "c": ["b", "b", "a", "a", "once"], "f": [True, False, None] + 2 * [True]}
    )
    features = [
        FeatureConfig(name="x", encoding="piecewise_linear", encoding_bins=2),
        FeatureConfig(name="c"),
        FeatureConfig(name="f"),
    ]
    pipeline = FeaturePipeline.fit_table(table, features)
    assert pipeline.numeric_names == ("x", "f", "f:missing", "x[0]", "x[1]")
    assert (pipeline.categorical_names, pipeline.categorical_sizes) == (("c",), (4,))
    matrix = pipeline.transform_rows([{"x": 3.0, "c": "a", "f": None}, {"x": -9, "c": "once", "f": False}])
    expected = [[1 / 2**0.5, 1.0, 1.0, 1.0, 0.5], [-11 / 2**0.5, 0.0, 0.0, 0.0, 0.0]]
    np.testing.assert_allclose(matrix.numeric, expected, rtol=1e-6)
    assert matrix.categorical.tolist() == [[2], [1]]
    assert pipeline.input_positions("x") == ((0, 3, 4), ())
    assert pipeline.input_positions("c") == ((), (0,))


def test_columns_whose_names_look_like_inputs_of_others_keep_apart() -> None:
    table = pa.table({"a": [1.0, None, 3.0], "a:missing": [1.0, 2.0, None]})
    pipeline = FeaturePipeline.fit_table(table, [FeatureConfig(name="a"), FeatureConfig(name="a:missing")])
    assert pipeline.input_positions("a") == ((0, 2), ())
    assert pipeline.input_positions("a:missing") == ((1, 3), ())


def test_empty_batches_have_the_right_shape() -> None:
    pipeline = FeaturePipeline.fit_table(random_table(5), FEATURES)
    for matrix in (pipeline.transform_rows([]), pipeline.transform(random_table(5).slice(0, 0))):
        assert matrix.numeric.shape == (0, len(pipeline.numeric_names))
        assert matrix.categorical.shape == (0, 2)


def test_missing_column_is_an_error_unless_optional() -> None:
    table = pa.table({"x": [1.0, 2.0], "y": [1.0, 3.0]})
    features = [FeatureConfig(name="x"), FeatureConfig(name="y")]
    pipeline = FeaturePipeline.fit_table(table, features, optional={"y"})
    assert pipeline.check_columns(["y", "z"]) == (["x"], ["z"])
    assert same(pipeline.transform_rows([{"x": 1}]), pipeline.transform_rows([{"x": 1, "y": None}]))
    assert same(pipeline.transform(table.select(["x"]).slice(0, 1)), pipeline.transform_rows([{"x": 1.0, "y": None}]))
    for read, rows in (
        (pipeline.transform_rows, [{"y": 1.0}]),
        (pipeline.to_table, [{"y": 1.0}]),
        (pipeline.transform, table.select(["y"])),
    ):
        with pytest.raises(FeatureError, match="column 'x': the column is missing"):
            read(rows)  # type: ignore[operator]
    with pytest.raises(FeatureError, match="row 1: expected a mapping"):
        pipeline.transform_rows([{"x": 1}, [1]])  # type: ignore[list-item]


def test_inferred_features_drop_what_cannot_help() -> None:
    n = 1200
    table = pa.table(
        {
            "y": np.arange(n) % 2,
            "id": [f"row {i}" for i in range(n)],
            "constant": np.ones(n),
            "nothing": pa.nulls(n),
            "holes": pa.array([1.0] * (n - 1) + [None]),
            "kept": np.arange(n),
        }
    )
    data = DataConfig(source=SourceConfig(path="x.parquet"), task="binary", target="y")
    pipeline = FeaturePipeline.fit_table(table, candidate_features(table.schema, data), infer=True)
    assert [column.name for column in pipeline.columns] == ["holes", "kept"]
    assert set(pipeline.dropped) == {"id", "constant", "nothing"}
    assert "identifier" in pipeline.dropped["id"]


def test_candidate_features_lists_of_text_are_refused() -> None:
    data = DataConfig(source=SourceConfig(path="x.parquet"), task="binary", target="y")
    with pytest.raises(FeatureError, match="column 'l': a column of type list"):
        candidate_features(pa.schema([("y", pa.int64()), ("l", pa.list_(pa.string()))]), data)


def test_fit_no_rows_or_columns_is_an_error() -> None:
    empty = pa.table({"x": pa.array([], pa.float64())})
    with pytest.raises(FeatureError, match="no rows"):
        FeaturePipeline.fit_table(empty, [FeatureConfig(name="x")])
    with pytest.raises(FeatureError, match="no such column"):
        FeaturePipeline.fit_table(empty, [FeatureConfig(name="y")])
    with pytest.raises(FeatureError, match="no feature is left"):
        FeaturePipeline.fit_table(pa.table({"x": [1.0, 1.0]}), [FeatureConfig(name="x")], infer=True)


FUNCTIONS = """
import pyarrow as pa
import pyarrow.compute as pc

def length(array):
    return pc.utf8_length(array)

def short(array):
    return array[:1]

def broken(array):
    raise KeyError("x") if len(array) else ValueError("empty")
"""


@pytest.fixture
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "users_feature_code.py"
    file.write_text(FUNCTIONS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "users_feature_code", raising=False)
    return file


def test_user_function_same_everywhere_and_recorded(user_module: Path) -> None:
    table = pa.table({"name": ["a", "bbb", None, ""]})
    features = [FeatureConfig(name="name", function="users_feature_code:length")]
    pipeline = FeaturePipeline.fit_table(table, features)
    assert pipeline.columns[0].input_type == "categorical"
    assert pipeline.columns[0].type == "numeric"
    assert same(pipeline.transform(table), pipeline.transform_rows(table.to_pylist()))
    assert pipeline.transform_rows([{"name": "cc"}]).numeric[0, 0] == 0
    content = pipeline.to_json()
    with pytest.raises(BundleError, match="not trusted"):
        FeaturePipeline.from_json(content)
    with pytest.raises(BundleError, match="not trusted"):
        FeaturePipeline.from_json(content, trusted=["users_feature"])
    assert FeaturePipeline.from_json(content, trusted=["users_feature_code"]) == pipeline
    assert pickle.loads(pickle.dumps(pipeline)) == pipeline
    content["columns"][0]["column"]["function"]["source_hash"] = "0" * 16
    with pytest.raises(FeatureError, match="has changed"):
        FeaturePipeline.from_json(content, trusted=["users_feature_code"])


def test_from_json_untrusted_module_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "evil_code.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    content = FeaturePipeline.fit_table(pa.table({"x": [1.0, 2.0]}), [FeatureConfig(name="x")]).to_json()
    content["columns"][0]["column"]["function"] = {"path": "evil_code:f", "source_hash": ""}
    with pytest.raises(BundleError, match="evil_code"):
        FeaturePipeline.from_json(content, trusted=("ray_mlops.",))
    assert "evil_code" not in sys.modules


def test_user_function_that_breaks_its_contract_is_named(user_module: Path) -> None:
    table = pa.table({"name": ["a", "bbb"]})
    for path, match in (
        ("users_feature_code:short", "column 'name': the feature function returned 1 values"),
        ("users_feature_code:broken", "the feature function failed: KeyError"),
        ("users_feature_code:none", "cannot import"),
        ("no_such_module_here:none", "cannot import"),
    ):
        with pytest.raises(FeatureError, match=match):
            FeaturePipeline.fit_table(table, [FeatureConfig(name="name", type="numeric", function=path)])


@pytest.mark.parametrize("change", [{"schema_version": 2}, {"schema_version": None}, {"columns": [{}]}])
def test_from_json_damaged_or_newer_is_refused(change: dict[str, Any]) -> None:
    content = FeaturePipeline.fit_table(pa.table({"x": [1.0, 2.0]}), [FeatureConfig(name="x")]).to_json()
    with pytest.raises(BundleError, match="feature pipeline"):
        FeaturePipeline.from_json({**content, **change})
