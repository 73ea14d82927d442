"""Read, override and describe configuration files, with errors that name the place and the remedy."""

import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from ray_mlops.config.project import ProjectConfig
from ray_mlops.errors import ConfigError

_SUBJECT = re.compile(r"^(Input|String|List|Tuple|Dictionary) should ")
"""How a message of pydantic begins; the place is named instead."""


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
    content = _read_yaml(text, str(path))
    if not isinstance(content, dict):
        found = "nothing" if content is None else f"a {type(content).__name__}"
        raise ConfigError(f"expected a mapping of sections, got {found}", str(path))
    config = build_config(content, overrides or {}, origin=str(path))
    return config.model_copy(update={"store": config.store.anchored()})


def build_config(content: Mapping[str, Any], overrides: Mapping[str, Any], origin: str = "") -> ProjectConfig:
    """Validate a configuration given as a mapping; see ``load_config``."""
    merged = _plain(content, origin)
    for dotted, value in overrides.items():
        _put(merged, dotted, _plain(value, dotted))
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
        parsed[key.strip()] = _read_yaml(value, f"--set {key.strip()}")
    return parsed


def config_hash(config: BaseModel) -> str:
    """Hash a section (or the whole file) by content; 16 hexadecimal digits."""
    canonical = json.dumps(config.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def json_schema() -> dict[str, Any]:
    """The JSON Schema of the configuration file, with each field's documentation."""
    return ProjectConfig.model_json_schema()


class _StrictLoader(yaml.SafeLoader):
    """Refuses a key that stands twice in one mapping: YAML keeps the last one and forgets the first silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if key is not None and key in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {key!r} stands twice", problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _read_yaml(text: str, where: str) -> Any:
    """Read YAML, with an error of one line."""
    try:
        return yaml.load(text, Loader=_StrictLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
        raise ConfigError(f"is not valid YAML: {place}{error.problem or error.context}", where) from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: an impossible date, such as 2024-13-45
        raise ConfigError(f"is not valid YAML: {' '.join(str(error).split())}", where) from error
    except RecursionError:
        raise ConfigError("is not valid YAML: nested too deeply", where) from None


def _plain(value: Any, where: str) -> Any:
    """A copy as plain JSON values; dates become text."""
    try:
        return json.loads(json.dumps(value, default=str))
    except (ValueError, TypeError, RecursionError) as error:  # an alias that holds itself; a key that is no scalar
        raise ConfigError(f"cannot be written as JSON: {error}", where, "use plain mappings and lists") from error


def _put(tree: dict[str, Any], dotted: str, value: Any) -> None:
    """Set a value by dotted path; items of a list go by their index (``data.features.0.scale``)."""
    node: Any = tree
    *parents, leaf = dotted.split(".")
    for position, parent in enumerate(parents):
        if isinstance(node, list):
            child = node[_index(node, parent, dotted)]
        else:
            child = node.get(parent)
            if child is None:
                child = node[parent] = {}
        if not isinstance(child, dict | list):
            name = ".".join(parents[: position + 1])
            raise ConfigError(f"{name!r} is {child!r}, which has no {leaf!r} in it", dotted, "set it as a whole")
        node = child
    node[_index(node, leaf, dotted) if isinstance(node, list) else leaf] = value


def _index(items: list[Any], part: str, dotted: str) -> int:
    if not part.isdecimal() or int(part) >= len(items):
        raise ConfigError(f"expected an index below {len(items)}, got {part!r}", dotted, "or set the list as a whole")
    return int(part)


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
    message = first["msg"].removeprefix("Value error, ")
    got = "" if first["type"] == "value_error" or isinstance(first["input"], dict) else f", got {first['input']!r}"
    expected = "should be a section: a mapping of keys" if first["type"] == "model_type" else message
    expected = _SUBJECT.sub("should ", expected)
    return ConfigError(f"{expected}{got}{more}", _place(origin, dotted), "see 'ray-mlops config schema'")


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
