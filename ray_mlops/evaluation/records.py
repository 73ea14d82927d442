"""Frozen records to JSON and back, by their type hints.

Numbers that are not finite become null: JSON has none, and a reader must not take them for a value. A null
in a field of type ``float`` comes back as NaN, which no check of the gate lets pass.
"""

import math
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from ray_mlops.errors import EvaluationError

R = TypeVar("R")


def encode_record(value: Any) -> Any:
    """Turn a record, and all that it holds, into what ``json.dumps`` takes."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: encode_record(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): encode_record(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encode_record(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value


def decode_record(kind: type[R], content: Any) -> R:
    """Rebuild a record of a class from what ``encode_record`` made of it.

    A field that is missing takes its default; an unknown one is an error.

    Raises:
        EvaluationError: A field is unknown, missing without a default, or of a wrong form.
    """
    if not isinstance(content, Mapping):
        raise EvaluationError(f"expected an object, got {type(content).__name__}", kind.__name__)
    hints = get_type_hints(kind)
    unknown = sorted(set(content) - set(hints))
    if unknown:
        raise EvaluationError(f"unknown fields {unknown}", kind.__name__, "it was written by another version")
    try:
        return kind(**{name: _decode(hints[name], item) for name, item in content.items()})
    except (TypeError, ValueError) as error:
        raise EvaluationError(f"cannot be read: {error}", kind.__name__) from error


def check_schema_version(content: Mapping[str, Any], known: int, what: str) -> None:
    """Refuse a document of a newer form.

    Raises:
        EvaluationError: Its ``schema_version`` is not an integer from 1 to ``known``.
    """
    version = content.get("schema_version")
    if not isinstance(version, int) or not 1 <= version <= known:
        raise EvaluationError(f"schema_version {version!r}, expected 1 to {known}", what, "upgrade ray-mlops")


def _decode(kind: Any, content: Any) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        inner = [argument for argument in arguments if argument is not type(None)]
        return None if content is None else _decode(inner[0], content)
    if origin is tuple:
        return tuple(_decode(arguments[0], item) for item in content)
    if origin is dict:
        if not isinstance(content, Mapping):
            raise TypeError(f"expected an object, got {content!r}")
        return {key: _decode(arguments[1], item) for key, item in content.items()}
    if kind is float:
        return math.nan if content is None else float(content)
    if is_dataclass(kind) and isinstance(kind, type):
        return decode_record(kind, content)
    if kind in (int, str, bool) and type(content) is not kind:
        raise TypeError(f"expected {kind.__name__}, got {content!r}")
    if origin is Literal and content not in arguments:
        raise ValueError(f"expected one of {arguments}, got {content!r}")
    return content
