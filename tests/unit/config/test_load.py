"""The configuration file: what is accepted, and what an error says."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ray_mlops.config import (
    ProjectConfig,
    build_config,
    config_hash,
    json_schema,
    load_config,
    parse_overrides,
    with_overrides,
)
from ray_mlops.config.store import base_directory
from ray_mlops.errors import ConfigError

ROOT = Path(__file__).resolve().parents[3]
SMALL: dict[str, Any] = {"name": "m", "data": {"source": {"path": "a.csv"}, "task": "binary", "target": "y"}}


@pytest.mark.parametrize("file", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda f: f.name)
def test_shipped_config_loads(file: Path) -> None:
    assert load_config(file).name


def test_misspelt_key_names_its_path_and_the_nearest_right_one() -> None:
    with pytest.raises(ConfigError, match=r"training\.lerning_rate.*did you mean 'learning_rate'"):
        build_config(SMALL, {"training.lerning_rate": 1})


def test_misspelt_section_names_the_nearest_right_one() -> None:
    with pytest.raises(ConfigError, match=r"rollouts: unknown key 'rollouts'; did you mean 'rollout'"):
        build_config({**SMALL, "rollouts": {}}, {})


def test_misspelt_key_in_a_list_of_features_is_found() -> None:
    with pytest.raises(ConfigError, match=r"data\.features\.0\.scal: .*did you mean 'scale'"):
        build_config(SMALL, {"data.features": [{"name": "x", "scal": "none"}]})


@pytest.mark.parametrize(
    ("dotted", "value", "text"),
    [
        ("training.epochs", "many", "training.epochs: .*integer.*'many'"),
        ("training.epochs", 0, "training.epochs: .*greater than 0.*0"),
        ("monitoring.window", 5, "monitoring.window: expected a duration like"),
        ("training.model", "os.system", "training.model: expected a dotted path"),
        ("rollout.steps", [0.5, 0.1], "rollout: steps must rise strictly"),
        ("rollout.guards.slices", ["a", "a"], "rollout.guards: a column is listed twice in slices"),
        ("rollout.guards.slices", list("abcdef"), "rollout.guards.slices: .*at most 5"),
        ("data.split", {"by": "time"}, "needs 'event_time'"),
        ("name", "Bad Name", "name: should match pattern .*'Bad Name'"),
        ("training", 3, "training: should be a section: a mapping of keys, got 3"),
        ("training.learning_rate", float("inf"), "training.learning_rate: should be a finite number"),
        ("retraining.cool_down", "99999999999d", "retraining.cool_down: expected at most"),
        ("schema_version", 2, "schema_version: is 2, this release reads 1; upgrade"),
    ],
)
def test_wrong_value_names_its_place(dotted: str, value: Any, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        build_config(SMALL, {dotted: value})


def test_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such file; create one with 'ray-mlops init"):
        load_config(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    "text",
    ["", "- a\n- b\n", "word", "a: [", "\x00", "a: " + "[" * 3000, "a: &a [*a]", "a: 2024-13-45", "? [1]\n: 2"],
)
def test_file_that_is_no_mapping_is_a_config_error(tmp_path: Path, text: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"bad\.yaml") as raised:
        load_config(file)
    assert "\n" not in str(raised.value)


def test_directory_in_place_of_a_file_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read: .*directory"):
        load_config(tmp_path)


def test_section_that_stands_twice_is_refused_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "twice.yaml"
    file.write_text("name: m\ntraining: {epochs: 3}\ntraining: {seed: 1}\n")
    with pytest.raises(ConfigError, match="line 3, column 1: the key 'training' stands twice"):
        load_config(file)


def test_overrides_are_validated_again() -> None:
    config = build_config(SMALL, {})
    assert with_overrides(config, {"training.epochs": 3}).training.epochs == 3
    with pytest.raises(ConfigError, match=r"training\.epochs"):
        with_overrides(config, {"training.epochs": -1})


def test_parse_overrides_reads_yaml_values() -> None:
    assert parse_overrides(["a.b=[1, 2]", "c=x"]) == {"a.b": [1, 2], "c": "x"}
    with pytest.raises(ConfigError, match="expected KEY=VALUE"):
        parse_overrides(["oops"])


def test_parse_overrides_broken_yaml_is_named_in_one_line() -> None:
    with pytest.raises(ConfigError, match=r"--set a\.b: is not valid YAML: line 1") as raised:
        parse_overrides(["a.b=[1"])
    assert "\n" not in str(raised.value)


def test_override_reaches_into_lists_by_index() -> None:
    config = build_config(SMALL, {"data.features": [{"name": "x"}, {"name": "c"}]})
    changed = with_overrides(config, {"data.features.1.type": "categorical"})
    assert changed.data.features is not None
    assert [feature.type for feature in changed.data.features] == ["auto", "categorical"]
    with pytest.raises(ConfigError, match=r"data\.features\.2\.type: expected an index below 2, got '2'"):
        with_overrides(config, {"data.features.2.type": "numeric"})
    with pytest.raises(ConfigError, match=r"training\.epochs\.x: 'training.epochs' is 20, which has no 'x'"):
        with_overrides(config, {"training.epochs.x": 1})


def test_override_that_is_a_date_is_read_as_text() -> None:
    assert build_config(SMALL, parse_overrides(["data.target=2024-01-01"])).data.target == "2024-01-01"


def test_config_survives_json_and_keeps_its_hash() -> None:
    config = load_config(ROOT / "configs" / "flights.yaml")
    copy = ProjectConfig.model_validate(json.loads(json.dumps(config.model_dump(mode="json"))))
    assert copy == config
    assert config_hash(copy) == config_hash(config)
    assert config_hash(with_overrides(config, {"training.seed": 8})) != config_hash(config)


def test_durations_are_read_with_units() -> None:
    config = build_config(SMALL, {"monitoring.window": "36h"})
    assert config.monitoring.window == timedelta(hours=36)


def test_schema_documents_every_field() -> None:
    schema = json_schema()
    assert schema["properties"]["name"]["description"].startswith("The model's name")
    assert "RolloutConfig" in schema["$defs"]


def test_config_is_frozen() -> None:
    config = build_config(SMALL, {})
    with pytest.raises(ValueError, match="frozen"):
        config.name = "other"  # type: ignore[misc]


def test_relative_store_becomes_absolute_when_the_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("name: m\ndata: {source: {path: x.csv}, task: binary, target: y}\nstore: {root: kept}\n")
    monkeypatch.chdir(tmp_path)
    store = load_config(file).store
    monkeypatch.chdir("/")
    assert store.local_root == tmp_path / "kept"
    assert store.database_url == f"sqlite:///{tmp_path}/kept/ledger.db"


def test_store_of_a_job_is_not_in_the_working_directory_that_ray_deletes(tmp_path: Path) -> None:
    uploaded = Path("/tmp/ray/session/runtime_resources/working_dir_files/_ray_pkg_1")
    assert base_directory(uploaded) == Path.home()
    assert base_directory(tmp_path) == tmp_path


def test_slices_are_inputs_whose_values_may_be_shown() -> None:
    sliced = {"rollout.guards.slices": ["carrier"]}
    assert build_config(SMALL, sliced).rollout.guards.slices == ["carrier"]
    with pytest.raises(ConfigError, match=r"carrier, which serving\.log\.redact hides"):
        build_config(SMALL, {**sliced, "serving.log.redact": {"carrier": "hash"}})
    with pytest.raises(ConfigError, match=r"carrier, which is not in data\.features \(origin\)"):
        build_config(SMALL, {**sliced, "data.features": [{"name": "origin"}]})
