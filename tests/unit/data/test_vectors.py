"""Columns of vectors: what is one, what is wrong with one, and the same inputs of the model whichever way it came."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from ray_mlops.config import ColumnContract, DataConfig, FeatureConfig, MonitoringConfig, SourceConfig
from ray_mlops.data.columns import column_type
from ray_mlops.data.features import FeaturePipeline
from ray_mlops.data.hashing import hash_column, hash_rows
from ray_mlops.data.inputs import candidate_features
from ray_mlops.data.profile import ReferenceProfile, fit_features_and_profile
from ray_mlops.data.schema import check_contract, check_table, infer_contract
from ray_mlops.data.snapshot import create_snapshot, snapshot_table
from ray_mlops.data.source import source_table
from ray_mlops.data.statistics_pass import PartialStatistics, PassPlan, block_statistics, merge_statistics
from ray_mlops.data.vectors import vector_type
from ray_mlops.errors import ContractError, DataError, FeatureError, SourceError
from ray_mlops.runtime.files import Files

D = 5
ROWS = 400


def table(seed: int = 0, kind: pa.DataType | None = None, holes: float = 0.1) -> pa.Table:
    generator = np.random.default_rng(seed)
    vectors = generator.normal(size=(ROWS, D)).astype(np.float32).astype(np.float64) * 3 + 1
    rows = [None if generator.random() < holes else vector.tolist() for vector in vectors]
    x = generator.normal(size=ROWS)
    return pa.table({"x": x, "v": pa.array(rows, kind or pa.list_(pa.float64())), "y": (x > 0).astype(int)})


def config(**more: Any) -> DataConfig:
    return DataConfig(source=SourceConfig(path="x.parquet"), task="binary", target="y", **more)


def pipeline_of(rows: pa.Table, **options: Any) -> FeaturePipeline:
    return FeaturePipeline.fit_table(rows, [FeatureConfig(name="x"), FeatureConfig(name="v", **options)])


# -- contract -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [{"min": 0}, {"max": 1}, {"allowed": [1]}, {"unique": True}])
def test_rules_of_single_values_are_refused_of_vectors(rule: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="cannot be asked of a vector"):
        ColumnContract(type="vector", **rule)
    with pytest.raises(ContractError, match=r"data.contract.columns.v.*cannot be asked of a vector"):
        infer_contract(table(), config(contract={"columns": {"v": rule}}))


def test_length_of_a_number_is_refused() -> None:
    with pytest.raises(ValueError, match="'length' is of vectors, the type is 'numeric'"):
        ColumnContract(type="numeric", length=3)


@pytest.mark.parametrize("kind", [pa.list_(pa.float64()), pa.list_(pa.float32(), D), pa.large_list(pa.float16())])
def test_lists_of_one_length_are_inferred_as_vectors(kind: pa.DataType) -> None:
    rule = infer_contract(table(kind=kind), config()).columns["v"]
    assert (rule.type, rule.length) == ("vector", D)
    assert 0.1 < rule.max_null_ratio < 0.5


def test_lists_of_many_lengths_or_of_no_use_are_not_inferred() -> None:
    lists = [list(range(row % 4 + 1)) for row in range(ROWS)]
    rows = table().set_column(1, "v", pa.array(lists))
    assert infer_contract(rows, config()).columns["v"].type is None
    with pytest.raises(FeatureError, match=r"column 'v': its lists differ in length.*length: \.\.\."):
        FeaturePipeline.fit_table(rows, candidate_features(rows.schema, config()))
    assert infer_contract(table(), config(exclude=["v"])).columns["v"].type is None


def test_wrong_vectors_are_set_aside_with_their_reasons() -> None:
    odd = [[1.0] * (D - 1), [1.0] * (D - 1) + [None], [np.nan] + [1.0] * (D - 1), [np.inf] * D, None, [1.0] * D]
    rows = pa.concat_tables([table(holes=0), table().slice(0, len(odd)).set_column(1, "v", pa.array(odd))])
    contract = infer_contract(rows, config(contract={"columns": {"v": {"max_null_ratio": 0.5}}}))
    good, report = check_contract(rows, contract, config(), 0.0)
    assert report.reasons == {
        "v: a number inside is not finite": 2,
        "v: a null inside": 1,
        f"v: not {D} numbers": 1,
    }
    assert (report.breaches, report.good, good["v"].null_count) == ((), ROWS + 2, 1)
    assert good.schema.field("v").type == vector_type(D)
    named, reasons, nulls = check_table(rows, contract)
    assert (int((~named).sum()), nulls["v"]) == (4, 1)
    assert reasons.to_pylist()[ROWS] == f"v: not {D} numbers"


def test_null_vectors_break_a_contract_of_few_nulls() -> None:
    contract = infer_contract(table(), config(contract={"columns": {"v": {"max_null_ratio": 0.01}}}))
    _, report = check_contract(table(), contract, config(), 0.0)
    assert any("column 'v'" in breach and "missing" in breach for breach in report.breaches)
    strict = infer_contract(table(), config(contract={"columns": {"v": {"max_null_ratio": 0}}}))
    assert check_contract(table(), strict, config(), 0.0)[1].reasons == {"v: null": table()["v"].null_count}


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (pa.array([[1.0] * (D + 1)] * ROWS, pa.list_(pa.float64(), D + 1)), f"not {D} numbers"),
        (pa.array(["[1, 2]"] * ROWS), "CSV holds no vectors"),
        (pa.array([["a"]] * ROWS), "expected vector, got list<item: string>"),
        (pa.array(np.ones(ROWS)), "expected vector, got double"),
    ],
)
def test_column_that_holds_no_such_vectors_is_a_breach(values: pa.Array, problem: str) -> None:
    contract = infer_contract(table(), config())
    _, report = check_contract(table().set_column(1, "v", values), contract, config(), 0.0)
    assert any(problem in breach for breach in report.breaches)


def test_stored_contract_keeps_the_length() -> None:
    contract = infer_contract(table(), config())
    assert type(contract).from_json(json.loads(json.dumps(contract.to_json()))) == contract


# -- files --------------------------------------------------------------------------------------------


def test_parquet_and_json_lines_give_the_same_vectors_and_csv_none(tmp_path: Path) -> None:
    rows = table(kind=pa.list_(pa.float32()))
    pq.write_table(rows, tmp_path / "rows.parquet")
    lines = "".join(json.dumps(row) + "\n" for row in rows.to_pylist())
    (tmp_path / "rows.jsonl").write_text(lines)
    parquet, jsonl = (source_table(SourceConfig(path=str(tmp_path / f"rows.{end}"))) for end in ("parquet", "jsonl"))
    assert parquet["v"].to_pylist() == jsonl["v"].to_pylist() == rows["v"].to_pylist()
    assert np.array_equal(hash_rows(parquet), hash_rows(jsonl))
    pacsv.write_csv(rows.set_column(1, "v", pa.array(["[1.0, 2.0]"] * ROWS)), tmp_path / "rows.csv")
    text = source_table(SourceConfig(path=str(tmp_path / "rows.csv")))
    with pytest.raises(FeatureError, match=r"column 'v': a column of type string holds no vectors.*CSV has none"):
        FeaturePipeline.fit_table(text, [FeatureConfig(name="v", type="vector")])


def test_parquet_with_null_lists_of_a_fixed_size_says_what_to_do(tmp_path: Path) -> None:
    """As of Arrow 25 such a file cannot be read, whoever wrote it; when this fails, the remedy has had its day."""
    pq.write_table(table(kind=pa.list_(pa.float32(), D)), tmp_path / "rows.parquet")
    with pytest.raises(SourceError, match="write vectors as plain lists"):
        source_table(SourceConfig(path=str(tmp_path / "rows.parquet")))


@pytest.mark.parametrize("kind", [pa.list_(pa.float64()), vector_type(D)])
def test_snapshot_of_vectors_with_nulls_is_read_back(kind: pa.DataType, tmp_path: Path) -> None:
    rows, files = table(kind=kind), Files(str(tmp_path))
    snapshot = create_snapshot(config(), files, table=rows)
    assert snapshot_table(snapshot, files).equals(rows)


def test_hash_of_a_vector_is_that_of_its_numbers() -> None:
    lists = pa.array([[1.0, 2.0], [2.0, 1.0], [1.0], [], None, [1.0, 2.0, 0.0], [1.0, None]])
    hashes = hash_column(lists)
    assert len(set(hashes.tolist())) == len(hashes)
    whole = hash_column(pa.array([[1, 2], [2, 1]], pa.list_(pa.int32(), 2)))
    assert np.array_equal(whole, hashes[:2])
    assert np.array_equal(hash_column(lists.slice(1, 3)), hashes[1:4])


# -- features -----------------------------------------------------------------------------------------


def test_vector_of_d_numbers_becomes_d_inputs_that_are_scaled_each() -> None:
    rows = table()
    pipeline = pipeline_of(rows)
    assert pipeline.numeric_names == ("x", *(f"v[{i}]" for i in range(D)), "v:missing")
    assert pipeline.input_positions("v") == (tuple(range(1, D + 2)), ())
    inputs = pipeline.transform(rows).numeric
    missing = np.array(rows["v"].is_null())
    assert np.array_equal(inputs[:, -1], missing)
    assert not inputs[missing, 1:-1].any()
    assert np.allclose(inputs[~missing, 1:-1].mean(axis=0), 0, atol=1e-5)
    assert np.allclose(inputs[~missing, 1:-1].std(axis=0), 1, atol=1e-5)


def test_unscaled_vectors_stay_as_they_are() -> None:
    rows = table(holes=0)
    inputs = pipeline_of(rows, scale="none").transform(rows).numeric
    assert np.array_equal(inputs[:, 1:], np.array(rows["v"].to_pylist(), np.float32))


@pytest.mark.parametrize("options", [{"scale": "robust"}, {"encoding": "piecewise_linear"}, {"impute": "mean"}])
def test_options_of_numbers_are_refused_of_vectors(options: dict[str, Any]) -> None:
    with pytest.raises(FeatureError, match=r"data.features: v.*cannot be had of a vector"):
        pipeline_of(table(), **options)


def test_rows_tables_and_any_batch_give_the_same_inputs_to_the_bit() -> None:
    pipeline, rows = pipeline_of(table(1)), table(2)
    whole = pipeline.transform(rows).numeric.tobytes()
    as_rows = rows.to_pylist()
    assert pipeline.transform_rows(as_rows).numeric.tobytes() == whole
    assert pipeline.transform(pipeline.to_table(as_rows)).numeric.tobytes() == whole
    assert pipeline.transform(pipeline.canonical_table(rows)).numeric.tobytes() == whole
    parts = [pipeline.transform(rows.slice(start, 7)).numeric.tobytes() for start in range(0, ROWS, 7)]
    assert b"".join(parts) == whole
    arrays = [{**row, "v": None if row["v"] is None else np.array(row["v"])} for row in as_rows]
    assert pipeline.transform_rows(arrays).numeric.tobytes() == whole
    again = FeaturePipeline.from_json(json.loads(json.dumps(pipeline.to_json(), allow_nan=False)))
    assert again == pipeline
    assert again.transform(rows).numeric.tobytes() == whole


@pytest.mark.parametrize(
    ("value", "got"),
    [
        ([1.0] * (D - 1), f"got {D - 1} of them"),
        ([1.0] * (D - 1) + ["a"], f"got 'a' at position {D - 1}"),
        ([None] + [1.0] * (D - 1), "got None at position 0"),
        ([1.0, float("nan")] + [1.0] * (D - 2), "got nan at position 1"),
        ([True] * D, "got True at position 0"),
        ([10**400] + [1] * (D - 1), "at position 0"),
        (1.0, "got 1.0"),
        ("abcde", "got 'abcde'"),
    ],
)
def test_what_is_no_vector_names_column_row_and_position(value: Any, got: str) -> None:
    pipeline = pipeline_of(table())
    rows = table(holes=0).slice(0, 3).to_pylist()
    rows[2]["v"] = value
    for read in (pipeline.transform_rows, pipeline.to_table):
        with pytest.raises(FeatureError, match=rf"column 'v', row 2: expected a list of {D} finite numbers, .*{got}"):
            read(rows)


def test_table_with_a_wrong_vector_names_column_and_row() -> None:
    pipeline = pipeline_of(table())
    odd = pa.table({"x": [1.0, 1.0], "v": pa.array([None, [1.0]])})
    with pytest.raises(FeatureError, match=rf"column 'v', row 1: expected a list of {D} finite numbers, got 1 of them"):
        pipeline.transform(odd)
    with pytest.raises(FeatureError, match="column 'v', row 0: expected a list"):
        pipeline.transform(pa.table({"x": [1.0], "v": [2.0]}))
    assert not pipeline.transform(pa.table({"x": [1.0], "v": pa.nulls(1)})).numeric[0, 1:-1].any()


def test_statistics_of_blocks_are_those_of_all_rows_to_the_bit() -> None:
    rows = table(kind=vector_type(D))
    plan = PassPlan(pipeline_of(rows).columns, None, ROWS)
    whole = merge_statistics([block_statistics(rows, plan)], plan)
    packed = [block_statistics(rows.slice(start, 90), plan).to_table() for start in (360, 0, 270, 90, 180)]
    parts = [PartialStatistics.from_bytes(p["statistics"][0].as_py(), p["sample"][0].as_py()) for p in packed]
    merged = merge_statistics(parts, plan)
    assert merged.columns["v"].elements == whole.columns["v"].elements
    assert len(whole.columns["v"].elements) == D
    assert merged.sample.equals(whole.sample)
    assert "v.direction_15" in whole.sample.column_names


def mean_of(array: pa.Array) -> pa.Array:
    return pa.array([None if vector is None else sum(vector) / len(vector) for vector in array.to_pylist()])


def test_function_turns_vectors_into_numbers() -> None:
    rows = table()
    pipeline = pipeline_of(rows, function=f"{__name__}:mean_of")
    assert pipeline.numeric_names == ("x", "v", "v:missing")
    vector = [1.0, 2.0, 3.0, 4.0, 5.0]
    given = pipeline.transform_rows([{"x": 0.0, "v": vector}]).numeric
    assert given.tobytes() == pipeline.transform(pa.table({"x": [0.0], "v": [vector]})).numeric.tobytes()


# -- reference ----------------------------------------------------------------------------------------


def test_profile_counts_norms_and_directions_and_names_their_column() -> None:
    rows = table()
    _, profile, _ = fit_features_and_profile(rows, config(), MonitoringConfig())
    assert profile.columns["v"].type == "vector"
    assert profile.columns["v"].total.nulls == rows["v"].null_count
    assert len(profile.vectors.columns) == 16
    assert profile.derivations.sources["v.direction_07"] == ("v",)
    again = ReferenceProfile.from_json(json.loads(json.dumps(profile.to_json())))
    assert again.vectors == profile.vectors
    assert set(profile.without(["v"]).counted) == {"x"}
    scalar = fit_features_and_profile(rows.drop_columns(["v"]), config(), MonitoringConfig())[1]
    assert "vectors" not in scalar.to_json()


def test_direction_of_the_name_of_a_column_is_refused() -> None:
    rows = table().append_column("v.direction_03", pa.array(np.arange(ROWS)))
    with pytest.raises(DataError, match=r"column 'v.direction_03': a column has the name of a direction"):
        fit_features_and_profile(rows, config(), MonitoringConfig())


def test_column_type_of_lists() -> None:
    assert column_type(pa.large_list(pa.int8()), "v") == "vector"
    with pytest.raises(FeatureError, match="cannot be a feature"):
        column_type(pa.list_(pa.list_(pa.float64())), "v")
