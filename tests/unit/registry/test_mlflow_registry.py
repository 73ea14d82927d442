"""Versions and aliases in MLflow."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from ray_mlops.errors import ModelNotFoundError, RegistryError
from ray_mlops.registry import MlflowRegistry, RegisteredVersion, Registry, quiet_mlflow
from ray_mlops.registry.versions import KEY_TAG


@pytest.fixture
def registry(tracking_uri: str) -> Registry:
    return MlflowRegistry(tracking_uri)


def create(registry: Registry, model: str, key: str) -> RegisteredVersion:
    return registry.create_version(model, f"/bundles/{key}", run_id=None, tags={"bundle_hash": key}, key=key)


def test_create_version_counts_up_and_reads_back(registry: Registry, model: str) -> None:
    first = registry.create_version(model, "/bundles/a", run_id="run7", tags={"gate": "passed"}, key="it's a/key")
    second = create(registry, model, "b")
    assert (first.model, first.version, first.bundle, first.run_id) == (model, "1", "/bundles/a", "run7")
    assert first.tags == {"gate": "passed", KEY_TAG: "it's a/key"}
    assert first.created > 1.7e9
    assert (second.version, second.run_id) == ("2", None)
    assert registry.get(model, "1") == first
    assert registry.versions(model) == [first, second]


def test_create_version_same_key_returns_the_version_that_is_there(
    tracking_uri: str, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = MlflowRegistry(tracking_uri)
    first = create(registry, model, "a")
    create(registry, model, "b")
    monkeypatch.delattr(MlflowClient, "create_model_version")
    assert create(registry, model, "a") == first
    assert len(registry.versions(model)) == 2


def test_create_version_interrupted_after_creation_is_not_repeated(
    tracking_uri: str, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = MlflowRegistry(tracking_uri)
    with monkeypatch.context() as crash:
        answers = iter([lambda: None])  # the second look, after the creation, never returns
        crash.setattr(registry, "_by_key", lambda model, key: next(answers)())
        with pytest.raises(StopIteration):
            create(registry, model, "a")
    assert create(registry, model, "a").version == "1"
    assert len(registry.versions(model)) == 1


def test_create_version_race_keeps_the_lower_number(
    tracking_uri: str, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = MlflowRegistry(tracking_uri)
    winner = create(registry, model, "a")
    look, seen = registry._by_key, []

    def look_too_early_once(model: str, key: str) -> RegisteredVersion | None:
        seen.append(key)
        return None if len(seen) == 1 else look(model, key)

    monkeypatch.setattr(registry, "_by_key", look_too_early_once)
    assert create(registry, model, "a") == winner
    assert registry._client.search_model_versions(f"name = '{model}'")[0].version in (1, "1")
    assert len(registry._client.search_model_versions(f"name = '{model}'")) == 1


def test_versions_are_in_numeric_order(registry: Registry, model: str) -> None:
    for number in range(11):
        create(registry, model, f"k{number}")
    assert [version.version for version in registry.versions(model)] == [str(number) for number in range(1, 12)]


def test_aliases_move_and_go(registry: Registry, model: str) -> None:
    assert registry.aliases(model) == {}
    create(registry, model, "a")
    second = create(registry, model, "b")
    registry.set_alias(model, "champion", "1")
    registry.set_alias(model, "candidate", "2")
    registry.set_alias(model, "previous", "1")
    registry.set_alias(model, "champion", "2")
    assert registry.aliases(model) == {"champion": "2", "candidate": "2", "previous": "1"}
    assert registry.get(model, "champion") == second
    registry.delete_alias(model, "candidate")
    registry.delete_alias(model, "candidate")
    assert registry.aliases(model) == {"champion": "2", "previous": "1"}


@pytest.mark.parametrize("wanted", ["9", "champion"])
def test_get_unknown_is_not_found(registry: Registry, model: str, wanted: str) -> None:
    with pytest.raises(ModelNotFoundError, match="versions"):
        registry.get(model, wanted)
    create(registry, model, "a")
    with pytest.raises(ModelNotFoundError, match="versions"):
        registry.get(model, wanted)


def test_set_alias_unknown_version_is_not_found(registry: Registry, model: str) -> None:
    create(registry, model, "a")
    with pytest.raises(ModelNotFoundError):
        registry.set_alias(model, "champion", "2")


def test_unknown_model_has_no_versions_and_no_aliases(registry: Registry, model: str) -> None:
    registry.delete_alias(model, "champion")
    assert registry.versions(model) == []
    assert registry.aliases(model) == {}


def test_refused_alias_is_our_error(registry: Registry, model: str) -> None:
    create(registry, model, "a")
    with pytest.raises(RegistryError, match="two words"):
        registry.set_alias(model, "two words", "1")


def test_pickled_registry_comes_back(registry: Registry, model: str) -> None:
    first = create(registry, model, "a")
    assert pickle.loads(pickle.dumps(registry)).get(model, "1") == pickle.loads(pickle.dumps(first))


@pytest.mark.parametrize("uri", ["mlruns", "sqlite://", "sqlite:///:memory:"])
def test_wrong_uri_names_the_setting(uri: str) -> None:
    with pytest.raises(RegistryError, match=r"store\.mlflow_tracking_uri"):
        MlflowRegistry(uri)


def test_damaged_database_fails_at_once(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("no tables " * 200)
    with pytest.raises(RegistryError, match="not a database"):
        MlflowRegistry(f"sqlite:///{tmp_path}/mlflow.db").versions("m")


def test_directory_that_cannot_be_made_fails_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RegistryError, match="cannot be opened"):
        MlflowRegistry(f"sqlite:///{tmp_path}/file/mlflow.db").versions("m")


def test_missing_server_fails_at_once_and_hides_the_password() -> None:
    with pytest.raises(RegistryError, match="cannot be opened") as caught:
        MlflowRegistry("postgresql://me:secret@127.0.0.1:1/mlflow").versions("m")
    assert "secret" not in str(caught.value)


def test_quiet_mlflow_leaves_a_choice_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY", raising=False)
    quiet_mlflow()
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "false")
    quiet_mlflow()
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "false"


def test_new_database_is_made_in_silence(tmp_path: Path) -> None:
    code = f"""
import logging, os
logging.basicConfig(level=logging.INFO)
from ray_mlops.registry import MlflowRegistry
assert "MLFLOW_DISABLE_TELEMETRY" not in os.environ
MlflowRegistry("sqlite:///{tmp_path}/mlflow.db").versions("m")
"""
    root = str(Path(__file__).resolve().parents[3])
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW")}
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, "PYTHONPATH": root},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert result.stdout + result.stderr == ""
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]
