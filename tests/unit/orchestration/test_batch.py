"""Batch prediction without Ray: what makes which file, what is refused, what is done anew."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from ray_mlops.config import FeatureConfig, SourceConfig
from ray_mlops.data.features import FeaturePipeline
from ray_mlops.data.source_files import describe_files
from ray_mlops.errors import FeatureError, ResourceError, SourceError, StoreError
from ray_mlops.orchestration import batch
from ray_mlops.orchestration.batch import on_device, read_unit, worker_options
from ray_mlops.orchestration.batch_output import BatchOutput
from ray_mlops.orchestration.batch_plan import BatchPlan, make_plan
from ray_mlops.orchestration.batch_rows import predict_unit, with_predictions
from ray_mlops.serving.predictor import Predictor
from ray_mlops.training.bundle import Manifest, ModelBundle
from ray_mlops.training.models import ModelSpec
from ray_mlops.training.prediction import Prediction

ROWS = 120


class Product(nn.Module):
    """A matrix product, so that batch shapes matter; a category of 9 breaks a row."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, numeric: torch.Tensor, categorical: torch.Tensor) -> torch.Tensor:
        return torch.where(numeric[:, :1] > 30.0, torch.nan, self.layers(numeric[:, :2]))


@pytest.fixture(scope="module")
def bundle() -> ModelBundle:
    table = pa.table({"x": [0.0, 1.0, 2.0, None], "c": ["a", "b", "a", "b"], "flag": [True, False, True, False]})
    features = FeaturePipeline.fit_table(table, [FeatureConfig(name=name) for name in table.column_names])
    spec = ModelSpec("binary", len(features.numeric_names), features.categorical_sizes, 1)
    manifest = Manifest("m", "binary", "y", ("no", "yes"), "ray_mlops.training.models:tabular", {}, spec)
    return ModelBundle(manifest, features, Product(), None, None)  # type: ignore[arg-type]


def make_table(rows: int = ROWS, seed: int = 0) -> pa.Table:
    random = np.random.default_rng(seed)
    return pa.table(
        {
            "key": [f"{seed}-{row}" for row in range(rows)],
            "x": random.normal(size=rows),
            "c": random.choice(["a", "b", "z"], rows),
            "flag": random.random(rows) < 0.5,
        }
    )


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two files: one of three units, one of one."""
    monkeypatch.setattr("ray_mlops.data.source_files.READ_ROWS", 50)
    (tmp_path / "in").mkdir()
    pq.write_table(make_table(), tmp_path / "in" / "a.parquet", row_group_size=25)
    pq.write_table(make_table(10, seed=1), tmp_path / "in" / "b.parquet")
    return tmp_path / "in"


def plan_of(path: Path, **options: Any) -> BatchPlan:
    found = describe_files(SourceConfig(path=str(path)), hashed=True)
    named = {"model": "m", "version": "3", "bundle": "b" * 32, **options}
    return make_plan(found, **named)


def do(plan: BatchPlan, output: BatchOutput, bundle: ModelBundle, source: Path) -> None:
    """What a worker does, for every unit that is missing."""
    schema = describe_files(SourceConfig(path=str(source))).schema
    done = output.prepare(plan, fresh=False)
    for unit in plan.units:
        if unit.index not in done:
            output.write_unit(plan, unit, predict_unit(read_unit(unit, plan.format, schema), bundle, plan, unit))


# -- the plan -----------------------------------------------------------------------------------------


def test_units_cover_the_input_in_order_and_the_same_input_gives_the_same_plan(data: Path) -> None:
    plan = plan_of(data)
    cuts = [(unit.name, unit.row_groups, unit.first_row, unit.source_row, unit.rows) for unit in plan.units]
    assert cuts == [
        ("a.parquet", (0, 1), 0, 0, 50),
        ("a.parquet", (2, 3), 50, 50, 50),
        ("a.parquet", (4,), 100, 100, 20),
        ("b.parquet", None, 0, 120, 10),
    ]
    assert plan.digest == plan_of(data).digest
    assert [plan.part(unit) for unit in plan.units] == sorted(plan.part(unit) for unit in plan.units)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"bundle": "c" * 32, "version": "4"}, r"they are of version 3 \(bundle b+\), not 4"),
        ({"keep": ["key"]}, r"columns was \['key', 'x', 'c', 'flag'\], and is \['key'\] now"),
        ({"on_error": "skip"}, "on_error was 'fail', and is 'skip' now"),
        ({"id_column": "key"}, "id was None, and is 'key' now"),
    ],
)
def test_another_version_or_option_is_refused_with_the_remedy(
    data: Path, tmp_path: Path, options: Any, said: str
) -> None:
    output = BatchOutput(str(tmp_path / "out"))
    output.prepare(plan_of(data), fresh=False)
    with pytest.raises(StoreError, match=rf"holds other predictions: {said}; give --fresh to replace it, or another"):
        output.prepare(plan_of(data, **options), fresh=False)


def test_version_under_another_name_is_the_same_plan(data: Path) -> None:
    assert plan_of(data, version="/store/bundles/bb").digest == plan_of(data).digest


def test_changed_input_is_refused_and_named(data: Path, tmp_path: Path) -> None:
    output = BatchOutput(str(tmp_path / "out"))
    output.prepare(plan_of(data), fresh=False)
    content = (data / "b.parquet").read_bytes()
    pq.write_table(make_table(10, seed=2), data / "b.parquet")
    with pytest.raises(StoreError, match=r"the input has changed: b\.parquet has other content"):
        output.prepare(plan_of(data), fresh=False)
    (data / "b.parquet").unlink()
    with pytest.raises(StoreError, match=r"b\.parquet is gone"):
        output.prepare(plan_of(data), fresh=False)
    (data / "b.parquet").write_bytes(content)
    (data / "c.parquet").write_bytes(content)
    with pytest.raises(StoreError, match=r"c\.parquet was added"):
        output.prepare(plan_of(data), fresh=False)
    (data / "c.parquet").unlink()
    assert output.prepare(plan_of(data), fresh=False) == {}


def test_unknown_columns_are_refused_before_anything_is_read(data: Path) -> None:
    with pytest.raises(SourceError, match=r"--keep: no column 'nope'; the rows have key, x, c, flag"):
        plan_of(data, keep=["nope"])
    with pytest.raises(SourceError, match="--id: no column"):
        plan_of(data, id_column="nope")


# -- the output ---------------------------------------------------------------------------------------


def test_output_is_the_input_in_its_order_with_predictions(data: Path, tmp_path: Path, bundle: ModelBundle) -> None:
    output = tmp_path / "out"
    do(plan_of(data, id_column="key"), BatchOutput(str(output)), bundle, data)
    made, given = pq.read_table(output), pa.concat_tables([make_table(), make_table(10, seed=1)])
    assert made.column_names == ["key", "x", "c", "flag", "prediction", "label"]
    assert made.select(["key", "x", "c", "flag"]).equals(given)
    assert np.allclose(made["prediction"], bundle.predict(given).values, atol=1e-5)


def test_rows_without_an_id_are_numbered_and_only_the_columns_that_were_asked_for_are_kept(
    data: Path, tmp_path: Path, bundle: ModelBundle
) -> None:
    output = tmp_path / "out"
    do(plan_of(data, keep=["c"]), BatchOutput(str(output)), bundle, data)
    made = pq.read_table(output)
    assert made.column_names == ["source_row", "c", "prediction", "label"]
    assert made["source_row"].to_pylist() == list(range(130))


def test_run_goes_on_with_what_is_missing_and_gives_the_same_files(
    data: Path, tmp_path: Path, bundle: ModelBundle
) -> None:
    plan, output, target = plan_of(data), tmp_path / "out", BatchOutput(str(tmp_path / "out"))
    do(plan, target, bundle, data)
    whole = {file.name: file.read_bytes() for file in output.iterdir()}
    (output / plan.part(plan.units[1])).unlink()
    (output / plan.part(plan.units[2])).write_bytes(whole[plan.part(plan.units[2])][:-7])  # no file of ours
    (output / f".{plan.part(plan.units[1])}.0a1b2c3d.tmp").write_bytes(b"half")  # of a writer that was killed
    assert set(target.prepare(plan, fresh=False)) == {0, 3}
    do(plan, target, bundle, data)
    assert {file.name: file.read_bytes() for file in output.iterdir() if file.suffix != ".tmp"} == whole
    assert pq.read_table(output).num_rows == 130


def test_every_file_says_what_it_was_made_of(data: Path, tmp_path: Path, bundle: ModelBundle) -> None:
    plan = plan_of(data)
    do(plan, BatchOutput(str(tmp_path / "out")), bundle, data)
    unit = plan.units[1]
    metadata = pq.read_schema(tmp_path / "out" / plan.part(unit)).metadata
    said = json.loads(metadata[b"ray_mlops.batch"])
    assert (said["input"], said["sha256"], said["row_groups"]) == ("a.parquet", unit.sha256, [2, 3])
    assert (said["bundle"], said["predicted"], said["refused"]) == ("b" * 32, 50, 0)


def test_fresh_replaces_ours_and_nothing_else(data: Path, tmp_path: Path, bundle: ModelBundle) -> None:
    plan, output = plan_of(data), tmp_path / "out"
    target = BatchOutput(str(output))
    do(plan, target, bundle, data)
    target.finish({})
    other = plan_of(data, bundle="c" * 32)
    assert target.prepare(other, fresh=True) == {}
    assert [file.name for file in output.iterdir()] == ["_batch.json"]
    (output / "theirs.csv").write_text("x")
    for fresh in (False, True):
        with pytest.raises(StoreError, match=r"holds 1 files that are no predictions, 'theirs\.csv' among them"):
            target.prepare(other, fresh=fresh)
    with pytest.raises(StoreError, match=r"theirs\.csv: is a file"):
        BatchOutput(str(output / "theirs.csv")).prepare(plan, fresh=False)


def test_damaged_or_newer_manifest_is_refused(data: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    for content, said in (("{", "is damaged"), ('{"schema_version": 2}', "schema_version 2, this release reads 1")):
        (tmp_path / "out" / "_batch.json").write_text(content)
        with pytest.raises(StoreError, match=said):
            BatchOutput(str(tmp_path / "out")).prepare(plan_of(data), fresh=False)


def test_predictions_without_a_manifest_are_refused(data: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / f"part-000000-{'0' * 12}.parquet").write_bytes(b"")
    with pytest.raises(StoreError, match=r"without their _batch\.json; give --fresh"):
        BatchOutput(str(tmp_path / "out")).prepare(plan_of(data), fresh=False)


def test_file_that_changes_meanwhile_is_noticed(data: Path) -> None:
    plan, schema = plan_of(data), make_table(1).schema
    pq.write_table(make_table(11, seed=1), data / "b.parquet")
    with pytest.raises(SourceError, match="has changed since the run began"):
        read_unit(plan.units[3], "parquet", schema)


def test_output_inside_the_source_is_refused(data: Path) -> None:
    with pytest.raises(StoreError, match="lies inside the source"):
        batch._check_apart(str(data), str(data / "out"))
    batch._check_apart(str(data), f"{data}-out")


# -- rows ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 2, 7, 64])
def test_predictions_are_those_of_serving_to_the_bit_at_equal_batch_shape(
    data: Path, bundle: ModelBundle, rows: int
) -> None:
    table = make_table(rows)
    pq.write_table(table, data / "b.parquet")
    plan = plan_of(data / "b.parquet")
    served = Predictor(bundle).predict_rows(table.drop_columns(["key"]).to_pylist())
    made = predict_unit(table, bundle, plan, plan.units[0]).predicted
    assert made["prediction"].to_pylist() == served.values.tolist()
    assert made["label"].to_pylist() == served.labels()


def csv_plan(tmp_path: Path, text: str, **options: Any) -> tuple[BatchPlan, pa.Table]:
    (tmp_path / "rows.csv").write_text(text)
    plan = plan_of(tmp_path / "rows.csv", **options)
    return plan, read_unit(plan.units[0], "csv", describe_files(SourceConfig(path=plan.units[0].path)).schema)


BAD_CSV = "key,x,c,flag\nr0,1.5,a,true\nr1,far,a,0\nr2,,b,maybe\nr3,2e0,,False\nr4,31,a,1\n"


def test_bad_rows_are_set_aside_with_reasons(tmp_path: Path, bundle: ModelBundle) -> None:
    plan, table = csv_plan(tmp_path, BAD_CSV, on_error="skip", id_column="key")
    result = predict_unit(table, bundle, plan, plan.units[0])
    assert result.predicted["key"].to_pylist() == ["r0", "r3"]
    expected = bundle.predict([{"x": 1.5, "c": "a", "flag": True}, {"x": 2.0, "c": None, "flag": False}])
    assert result.predicted["prediction"].to_pylist() == expected.values.tolist()
    refused = result.refused.select(["key", "source_row", "error_column", "error"]).to_pylist()
    assert [tuple(row.values()) for row in refused] == [
        ("r1", 1, "x", "expected a number, got 'far'"),
        ("r2", 2, "flag", "expected true or false, got 'maybe'"),
        ("r4", 4, None, "the prediction is not finite"),
    ]


def test_one_bad_field_makes_no_good_row_bad(tmp_path: Path, bundle: ModelBundle) -> None:
    text = "key,x,c,flag\nr0, 2 ,a, true\nr1,inf,a,0\nr2,-Infinity,b,1\nr3,1E1,b,1\nr4,abc,a,1\n"
    plan, table = csv_plan(tmp_path, text, on_error="skip", id_column="key")
    result = predict_unit(table, bundle, plan, plan.units[0])
    assert result.refused["key"].to_pylist() == ["r4"]
    rows = [("a", 2.0, True), ("a", None, False), ("b", None, True), ("b", 10.0, True)]
    expected = bundle.predict([{"x": x, "c": c, "flag": flag} for c, x, flag in rows])
    assert result.predicted["prediction"].to_pylist() == expected.values.tolist()


def test_bad_row_is_an_error_with_its_place(tmp_path: Path, bundle: ModelBundle) -> None:
    plan, table = csv_plan(tmp_path, BAD_CSV)
    with pytest.raises(FeatureError, match=r"rows\.csv, row 1, column 'x': expected a number, got 'far'; mend it, or"):
        predict_unit(table, bundle, plan, plan.units[0])


def test_typed_rows_of_the_wrong_type_are_found_one_by_one(data: Path, bundle: ModelBundle) -> None:
    flags = [0, 1, 1, 0, 7, 1, 0, 5, 1, 0]
    table = make_table(10).set_column(3, "flag", pa.array(flags))
    pq.write_table(table, data / "b.parquet")
    plan = plan_of(data / "b.parquet", on_error="skip")
    result = predict_unit(table, bundle, plan, plan.units[0])
    assert result.refused["source_row"].to_pylist() == [4, 7]
    assert set(result.refused["error"].to_pylist()) == {"expected a boolean, got 7", "expected a boolean, got 5"}
    assert len(result.predicted) == 8


def test_unit_of_bad_rows_only_is_an_empty_file_of_the_same_columns(data: Path, bundle: ModelBundle) -> None:
    table = make_table(3).set_column(1, "x", pa.array(["a", "b", "c"]))
    pq.write_table(table, data / "b.parquet")
    plan = plan_of(data / "b.parquet", on_error="skip", id_column="key", keep=[])
    result = predict_unit(table, bundle, plan, plan.units[0])
    assert (len(result.predicted), len(result.refused)) == (0, 3)
    assert result.predicted.schema.types == [pa.string(), pa.float64(), pa.string()]


def test_missing_column_is_no_matter_of_rows(data: Path, bundle: ModelBundle) -> None:
    plan = plan_of(data, on_error="skip")
    with pytest.raises(FeatureError, match="column 'flag': the column is missing"):
        predict_unit(make_table(50).drop_columns(["flag"]), bundle, plan, plan.units[0])


def test_predictions_are_appended_to_the_rows() -> None:
    made = with_predictions(pa.table({"x": [1.0, 2.0]}), Prediction("binary", np.array([0.2, 0.9]), ("no", "yes"), 0.5))
    assert made.column_names == ["x", "prediction", "label"]
    assert made["label"].to_pylist() == ["no", "yes"]


def test_columns_of_the_rows_keep_their_names() -> None:
    rows = pa.table({"label": ["mine"], "prediction": [7]})
    made = with_predictions(rows, Prediction("binary", np.array([0.9]), ("no", "yes"), 0.5))
    assert made.column_names == ["label", "prediction", "predicted_prediction", "predicted_label"]
    assert made["label"].to_pylist() == ["mine"]


# -- GPUs ---------------------------------------------------------------------------------------------


def test_gpus_that_are_not_there_are_refused_instead_of_waited_for() -> None:
    assert worker_options(1.0, 3.0) == {"num_gpus": 1.0, "concurrency": (1, 3)}
    with pytest.raises(ResourceError, match="asked for 1 GPUs for each worker, the cluster has 0"):
        worker_options(1.0, 0.0)


def test_model_goes_to_the_workers_device(bundle: ModelBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ResourceError, match="torch finds none"):
        on_device(bundle, "cuda")
    asked: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(Product, "to", lambda self, device: asked.append(device) or self)
    assert on_device(bundle, "cuda").features is bundle.features
    assert asked == ["cuda"]
    monkeypatch.undo()
    assert on_device(replace(bundle, model=Product()), "meta")._device.type == "meta"
