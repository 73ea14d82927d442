"""Read, override and describe configuration files, with errors that name the place and the remedy."""

import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from ray_mlops.config.project import ProjectConfig
from ray_mlops.errors import ConfigError


def load_config(path: str | Path, overrides: Mapping[str, Any] | None = None) -> ProjectConfig:
    """Read a YAML or JSON configuration file.

    Args:
        path: The file.
        overrides: Values by dotted path (``{"training.epochs": 3}``) that replace the file's.

    Raises:
        ConfigError: The file is missing, is not YAML, or a key or value in it is wrong.
    """
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError("no such file", str(path), "create one with 'ray-mlops init DATA --target COLUMN'") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read: {error}", str(path)) from error
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"is not valid YAML: {error}", str(path)) from error
    if not isinstance(content, dict):
        found = "nothing" if content is None else f"a {type(content).__name__}"
        raise ConfigError(f"expected a mapping of sections, got {found}", str(path))
    return build_config(content, overrides or {}, origin=str(path))


def build_config(content: Mapping[str, Any], overrides: Mapping[str, Any], origin: str = "") -> ProjectConfig:
    """Validate a configuration given as a mapping; see ``load_config``."""
    merged = json.loads(json.dumps(content, default=str))
    for dotted, value in overrides.items():
        _put(merged, dotted, value)
    version = merged.get("schema_version", 1)
    if isinstance(version, int) and version > 1:
        raise ConfigError(f"is {version}, this release reads 1", _place(origin, "schema_version"), "upgrade ray-mlops")
    try:
        return ProjectConfig.model_validate(merged)
    except ValidationError as error:
        raise _explain(error, origin) from None


def with_overrides(config: ProjectConfig, overrides: Mapping[str, Any]) -> ProjectConfig:
    """Return a copy with values replaced by dotted path, validated again.

    Example:
        >>> from ray_mlops.config import build_config
        >>> data = {"source": {"path": "a.parquet"}, "task": "binary", "target": "y"}
        >>> config = build_config({"name": "m", "data": data}, {})
        >>> with_overrides(config, {"training.epochs": 3}).training.epochs
        3
    """
    return build_config(config.model_dump(mode="json"), overrides)


def parse_overrides(assignments: Iterable[str]) -> dict[str, Any]:
    """Read ``key.path=value`` strings; values are YAML.

    Example:
        >>> parse_overrides(["training.epochs=3", "rollout.steps=[0.1, 0.5]"])
        {'training.epochs': 3, 'rollout.steps': [0.1, 0.5]}
    """
    parsed: dict[str, Any] = {}
    for assignment in assignments:
        key, separator, value = assignment.partition("=")
        if not separator or not key.strip():
            raise ConfigError(f"expected KEY=VALUE, got {assignment!r}", "--set")
        try:
            parsed[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"value is not valid YAML: {error}", f"--set {key.strip()}") from error
    return parsed


def config_hash(config: BaseModel) -> str:
    """Hash a section (or the whole file) by content; 16 hexadecimal digits."""
    canonical = json.dumps(config.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def json_schema() -> dict[str, Any]:
    """The JSON Schema of the configuration file, with each field's documentation."""
    return ProjectConfig.model_json_schema()


def _put(tree: dict[str, Any], dotted: str, value: Any) -> None:
    node = tree
    *parents, leaf = dotted.split(".")
    for parent in parents:
        child = node.setdefault(parent, {})
        if child is None:
            child = node[parent] = {}
        if not isinstance(child, dict):
            raise ConfigError(f"{parent!r} is not a section", dotted)
        node = child
    node[leaf] = value


def _place(origin: str, dotted: str) -> str:
    return f"{origin}: {dotted}" if origin and dotted else origin or dotted


def _explain(error: ValidationError, origin: str) -> ConfigError:
    details = error.errors(include_url=False)
    first = details[0]
    dotted = ".".join(str(part) for part in first["loc"])
    more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
    if first["type"] == "extra_forbidden":
        key = str(first["loc"][-1])
        known = sorted(_fields_at(first["loc"][:-1]))
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
        remedy = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
        return ConfigError(f"unknown key {key!r}{more}", _place(origin, dotted), remedy)
    if first["type"] == "missing":
        return ConfigError(f"is required{more}", _place(origin, dotted), "see 'ray-mlops config schema'")
    message = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    got = "" if isinstance(first["input"], dict) else f", got {first['input']!r}"
    expected = message if first["type"] == "value_error" else f"should be {message}{got}"
    return ConfigError(f"{expected}{more}", _place(origin, dotted), "see 'ray-mlops config schema'")


def _fields_at(location: tuple[int | str, ...]) -> set[str]:
    """Names of the fields of the section at a location, through optionals, lists and mappings."""
    models: list[type[BaseModel]] = [ProjectConfig]
    for part in location:
        if isinstance(part, int) or not models:
            continue
        field = next((m.model_fields[part] for m in models if part in m.model_fields), None)
        if field is not None:
            models = _models_in(field.annotation)
    return {name for model in models for name in model.model_fields}


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]
