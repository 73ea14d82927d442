"""A bundle: what it predicts, that it is the same on disk, and what it refuses."""

import copy
import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from ray_mlops.config import with_overrides
from ray_mlops.errors import BundleError, FeatureError, StoreError
from ray_mlops.runtime.files import Files
from ray_mlops.training import bundle as bundle_module
from ray_mlops.training.bundle import ModelBundle, ParitySet, Prediction
from ray_mlops.training.bundle_files import VERIFIED
from ray_mlops.training.calibration import fit_temperature
from ray_mlops.training.parity import predict_in_batches

TASKS = ("binary", "multiclass", "regression")
Problem = Any


@pytest.fixture(scope="module")
def problems(make_problem: Callable[..., Problem]) -> dict[str, Problem]:
    return {task: make_problem(task) for task in TASKS}


@pytest.fixture(scope="module")
def bundles(problems: dict[str, Problem], make_bundle: Callable[..., ModelBundle]) -> dict[str, ModelBundle]:
    return {task: make_bundle(problem) for task, problem in problems.items()}


@pytest.fixture
def saved(tmp_path: Path, bundles: dict[str, ModelBundle]) -> Path:
    return Path(bundles["binary"].save(Files(str(tmp_path))).uri)


@pytest.mark.parametrize("task", TASKS)
def test_a_bundle_loaded_from_disk_predicts_the_same_bits(
    task: str, bundles: dict[str, ModelBundle], problems: dict[str, Problem], tmp_path: Path
) -> None:
    bundle, table = bundles[task], problems[task].table
    reference = bundle.save(Files(str(tmp_path)))
    loaded = ModelBundle.load(reference.uri)
    assert loaded.hash == bundle.hash == reference.hash == Path(reference.uri).name
    assert loaded.manifest == bundle.manifest
    assert loaded.profile.to_json() == bundle.profile.to_json()
    np.testing.assert_array_equal(loaded.predict(table).values, bundle.predict(table).values)
    np.testing.assert_array_equal(loaded.parity.values, bundle.parity.values)
    np.testing.assert_array_equal(loaded.parity.features.numeric, bundle.parity.features.numeric)
    assert loaded.parity.rows.equals(bundle.parity.rows)


@pytest.mark.parametrize("task", TASKS)
def test_predictions_are_good_and_in_the_target_s_own_terms(
    task: str, bundles: dict[str, ModelBundle], problems: dict[str, Problem]
) -> None:
    bundle, problem = bundles[task], problems[task]
    values = bundle.predict(problem.table).values
    target = problem.encoder.encode(problem.table["y"])
    assert values.dtype == np.float64
    if task == "regression":
        assert np.abs(values - target).mean() < 0.3 * target.std()
        assert bundle.loss_scale > 1
    elif task == "binary":
        assert ((values >= 0.5) == target).mean() > 0.75
    else:
        np.testing.assert_allclose(values.sum(1), 1.0)
        assert (values.argmax(1) == target).mean() > 0.6


def test_probabilities_are_calibrated_on_the_validation_rows_unless_told_not_to(
    problems: dict[str, Problem], bundles: dict[str, ModelBundle], make_bundle: Callable[..., ModelBundle]
) -> None:
    problem, bundle = problems["multiclass"], bundles["multiclass"]
    rows = problem.data.validation
    assert bundle.manifest.temperature == fit_temperature("multiclass", bundle.outputs(rows.features), rows.target)
    assert bundle.manifest.temperature != 1.0
    config = with_overrides(problem.config, {"training.calibrate": False})
    assert make_bundle(dataclasses.replace(problem, config=config)).manifest.temperature == 1.0


def test_predict_takes_tables_rows_and_features_alike(
    bundles: dict[str, ModelBundle], problems: dict[str, Problem]
) -> None:
    bundle, table = bundles["binary"], problems["binary"].table.slice(0, 9)
    from_table = bundle.predict(table).values
    np.testing.assert_array_equal(bundle.predict(table.to_pylist()).values, from_table)
    np.testing.assert_array_equal(bundle.predict(bundle.features.transform(table)).values, from_table)
    with pytest.raises(FeatureError, match="x"):
        bundle.predict([{"noise": 1.0, "city": "a"}])


def test_predict_of_no_rows_is_empty(bundles: dict[str, ModelBundle], problems: dict[str, Problem]) -> None:
    assert len(bundles["binary"].predict(problems["binary"].table.slice(0, 0))) == 0
    assert bundles["multiclass"].predict(problems["multiclass"].table.slice(0, 0)).values.shape == (0, 3)


def test_predict_of_many_rows_goes_through_in_chunks(
    bundles: dict[str, ModelBundle], problems: dict[str, Problem], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, table = bundles["binary"], problems["binary"].table
    whole = bundle.predict(table).values
    monkeypatch.setattr(bundle_module, "CHUNK_ROWS", 7)
    np.testing.assert_allclose(bundle.predict(table).values, whole, atol=1e-6)


def test_parity_rows_are_what_the_bundle_gives_in_batches_of_their_size(bundles: dict[str, ModelBundle]) -> None:
    bundle = bundles["multiclass"]
    parity = bundle.parity
    assert (len(parity), parity.batch_rows) == (100, 64)
    again = predict_in_batches(lambda part: bundle.predict_matrix(part).values, parity.features, 64)
    np.testing.assert_array_equal(again, parity.values)
    np.testing.assert_array_equal(bundle.features.transform(parity.rows).numeric, parity.features.numeric)
    for size in (1, 2, 7):
        other = predict_in_batches(lambda part: bundle.predict_matrix(part).values, parity.features, size)
        np.testing.assert_allclose(other, parity.values, atol=1e-5)


def test_parity_rows_without_numbers_or_categories_survive() -> None:
    features = bundle_module.FeatureMatrix(np.zeros((2, 0), np.float32), np.array([[1], [2]]))
    parity = ParitySet(pa.table({"c": ["a", None]}), features, np.array([0.5, np.nan]))
    loaded = ParitySet.from_bytes(parity.to_bytes())
    assert loaded.features.numeric.shape == (2, 0)
    assert loaded.features.categorical.tolist() == [[1], [2]]
    np.testing.assert_array_equal(loaded.values, parity.values)


def test_training_again_gives_the_same_hash_whatever_the_run(
    problems: dict[str, Problem], bundles: dict[str, ModelBundle], make_bundle: Callable[..., ModelBundle]
) -> None:
    problem, first = problems["binary"], bundles["binary"]
    assert make_bundle(problem, provenance={"run_id": "another", "time": 1.0}).hash == first.hash
    assert make_bundle(problem, snapshot="6" * 16).hash != first.hash
    assert make_bundle(problem, lineage={"config": "1"}).hash != first.hash
    other = ModelBundle(first.manifest, first.features, copy.deepcopy(first.model), first.profile, first.parity)
    with torch.no_grad():
        next(other.model.parameters()).view(-1)[0] += 1e-6
    assert other.hash != first.hash


def test_save_keeps_a_whole_bundle_and_completes_half_a_one(bundles: dict[str, ModelBundle], saved: Path) -> None:
    files = Files(str(saved.parents[1]))
    times = {path.name: path.stat().st_mtime_ns for path in saved.iterdir()}
    bundles["binary"].save(files)
    assert {path.name: path.stat().st_mtime_ns for path in saved.iterdir()} == times
    (saved / "bundle.json").unlink()
    (saved / "profile.json").write_text("half")
    with pytest.raises(BundleError, match=r"bundle\.json: is missing"):
        ModelBundle.load(str(saved))
    bundles["binary"].save(files)
    assert ModelBundle.load(str(saved)).hash == bundles["binary"].hash


@pytest.mark.parametrize("survived", range(6))
def test_save_that_breaks_off_leaves_no_bundle(
    survived: int, bundles: dict[str, ModelBundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    write = Files.write

    def break_off(self: Files, path: str, content: bytes) -> None:
        if len(written) == survived:
            raise StoreError("no space left")
        written.append(path)
        write(self, path, content)

    monkeypatch.setattr(Files, "write", break_off)
    with pytest.raises(StoreError, match="no space"):
        bundles["binary"].save(Files(str(tmp_path)))
    assert not any(path.endswith("bundle.json") for path in written)


@pytest.mark.parametrize("name", VERIFIED)
def test_load_of_a_damaged_or_missing_file_names_it(saved: Path, name: str) -> None:
    content = bytearray((saved / name).read_bytes())
    content[len(content) // 2] ^= 1
    (saved / name).write_bytes(content)
    with pytest.raises(BundleError, match=rf"{name}: is damaged"):
        ModelBundle.load(str(saved))
    (saved / name).unlink()
    with pytest.raises(BundleError, match=rf"{name}: is missing"):
        ModelBundle.load(str(saved))


def edit(saved: Path, target: Path, change: Callable[[dict[str, Any]], None]) -> str:
    shutil.copytree(saved, target)
    content = json.loads((target / "bundle.json").read_text())
    change(content)
    (target / "bundle.json").write_text(json.dumps(content))
    return str(target)


def test_load_checks_the_manifest_against_the_directory_s_name(saved: Path) -> None:
    content = json.loads((saved / "bundle.json").read_text())
    (saved / "bundle.json").write_text(json.dumps({**content, "threshold": 0.9}))
    with pytest.raises(BundleError, match=r"bundle\.json: is damaged"):
        ModelBundle.load(str(saved))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.update(schema_version=3), "schema_version 3, this release reads up to 2; upgrade"),
        (lambda content: content["model"].update(factory="os:system"), "import 'os:system', which is not trusted"),
        (lambda content: content["model"].update(params={"width": 1}), "cannot be built"),
        (lambda content: content["model"]["params"].update(hidden=9), "weights do not fit"),
        (lambda content: content.pop("model"), "is damaged"),
        (lambda content: content.update(files={}), "must list the hashes"),
        (lambda content: content["files"].update({"../x": "0"}), "must list the hashes"),
    ],
)
def test_load_refuses_what_it_should_not_run_or_cannot_read(
    saved: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    with pytest.raises(BundleError, match=message):
        ModelBundle.load(edit(saved, tmp_path / "edited", change))


def test_load_of_something_that_is_no_manifest_says_so(saved: Path) -> None:
    (saved / "bundle.json").write_text("[1]")
    with pytest.raises(BundleError, match="expected an object, got a list"):
        ModelBundle.load(str(saved))
    (saved / "bundle.json").write_text("{")
    with pytest.raises(BundleError, match="is not JSON"):
        ModelBundle.load(str(saved))


def test_a_bundle_lives_in_any_fsspec_store(bundles: dict[str, ModelBundle]) -> None:
    reference = bundles["regression"].save(Files("memory://bundles-test"))
    assert reference.uri == f"memory://bundles-test/bundles/{reference.hash}"
    assert ModelBundle.load(reference.uri).hash == reference.hash


def test_provenance_is_kept_beside_the_hashed_files(bundles: dict[str, ModelBundle], tmp_path: Path) -> None:
    bundle = bundles["binary"]
    noted = ModelBundle(bundle.manifest, bundle.features, bundle.model, bundle.profile, bundle.parity, {"run_id": "r1"})
    reference = noted.save(Files(str(tmp_path)))
    assert reference.hash == bundle.hash
    assert ModelBundle.load(reference.uri).provenance == {"run_id": "r1"}


def test_prediction_as_json() -> None:
    several = Prediction("multiclass", np.array([[0.2, 0.8]]), ("a", 3))
    assert several.to_json() == [{"label": 3, "probabilities": {"a": 0.2, "3": 0.8}}]
    assert Prediction("regression", np.array([1.5])).to_json() == [1.5]
    strict = Prediction("binary", np.array([0.5, 0.6]), (False, True), threshold=0.6)
    assert strict.labels() == [False, True]
    assert strict.take([1]).to_json() == [{"label": True, "probability": 0.6}]
