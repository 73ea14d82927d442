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
        ("data.split", {"by": "time"}, "needs 'event_time'"),
        ("name", "Bad Name", "name: .*pattern"),
        ("schema_version", 2, "schema_version: is 2, this release reads 1; upgrade"),
    ],
)
def test_wrong_value_names_its_place(dotted: str, value: Any, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        build_config(SMALL, {dotted: value})


def test_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such file; create one with 'ray-mlops init"):
        load_config(tmp_path / "none.yaml")


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "a: [", "\x00"])
def test_file_that_is_no_mapping_is_a_config_error(tmp_path: Path, text: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"bad\.yaml"):
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
