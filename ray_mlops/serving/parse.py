"""Turn the bytes of a request into checked values, or say which column of which row is wrong."""

import difflib
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from ray_mlops.config import ServingConfig
from ray_mlops.data.values import MISSING_US, time_us
from ray_mlops.errors import PayloadTooLargeError, RequestError

ID_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@+=-]{0,127}")
"""Safe in a path, a file name and a log line."""
MAX_ROUTING_KEY = 256
_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"')
_NOT_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
_STEP = np.zeros(256, np.int32)
_STEP[list(b"[{")], _STEP[list(b"]}")] = 1, -1


@dataclass(frozen=True, slots=True)
class Limits:
    """How large a request may be."""

    body_bytes: int
    rows: int
    depth: int

    @classmethod
    def of(cls, serving: ServingConfig) -> "Limits":
        """The limits of a configuration."""
        return cls(int(serving.max_body_mb * 1024 * 1024), serving.max_rows, serving.max_json_depth)


@dataclass(frozen=True, slots=True)
class InputColumns:
    """Which keys an instance may and must have."""

    required: frozenset[str]
    """The champion's input columns: each must be there, null where the value is missing."""
    allowed: frozenset[str]
    """Those, and the inputs of the other versions that are loaded."""
    event_time: str | None = None
    """A further key that is the row's event time; it stays in the row only when it is an input as well."""


@dataclass(frozen=True, slots=True)
class PredictRequest:
    """A checked request for predictions."""

    rows: list[dict[str, Any]]
    ids: list[str]
    request_id: str
    """The unit of routing."""
    is_named: bool
    """The client chose the ids, so that a repeat can be told from a new request."""
    routing_key: str | None = None
    event_us: list[int] | None = None
    """Event time of each row, microseconds since 1970 UTC; None: no row has one, arrival counts."""


def parse_json(body: bytes, max_depth: int) -> Any:
    """Parse JSON that is not nested deeper than allowed.

    NaN, Infinity and numbers too large for a double are not JSON.

    Raises:
        RequestError: It is not JSON, or is nested too deeply.

    Example:
        >>> parse_json(b'{"a": [1, 2]}', max_depth=2)
        {'a': [1, 2]}
    """
    if not body:
        raise RequestError("the body is empty", "body", 'send JSON like {"instances": [{"column": 1}]}')
    if body.count(b"[") + body.count(b"{") > max_depth and _nests_deeper(body, max_depth):
        raise RequestError(f"JSON is nested deeper than {max_depth} levels", "body")
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RequestError(f"not JSON: {error}", "body") from None


def parse_predict(
    body: bytes, columns: InputColumns, limits: Limits, *, transport_id: str | None = None, arrival_us: int = 0
) -> PredictRequest:
    """Check a request of ``POST /predict``.

    Args:
        body: ``{"instances": [{column: value}], "routing_key"?, "ids"?, "request_id"?}``.
        columns: Keys that an instance may and must have.
        limits: The most rows and nesting.
        transport_id: The request id that came with the transport (``x-request-id``), if any.
        arrival_us: Stands in for an event time that a row lacks, microseconds since 1970 UTC.

    Raises:
        RequestError: Anything that is wrong, with its place.
        PayloadTooLargeError: Too many rows.
    """
    content = _members(parse_json(body, limits.depth), {"instances", "routing_key", "ids", "request_id"}, "body")
    rows = _rows(content, "instances", limits.rows)
    _check_columns(rows, columns)
    ids = _ids(content.get("ids"), len(rows))
    request_id = content.get("request_id")
    if request_id is not None:
        _check_id(request_id, "request_id")
    unit = request_id or (ids[0] if ids else None) or _transport_unit(transport_id)
    return PredictRequest(
        rows=rows,
        ids=ids or [f"{unit}-{index}" for index in range(len(rows))],
        request_id=unit,
        is_named=bool(ids or request_id),
        routing_key=_routing_key(content.get("routing_key")),
        event_us=_event_times(rows, columns, arrival_us),
    )


def parse_event_time(value: Any, where: str) -> int:
    """Read an ISO 8601 time (UTC if it names no zone) as microseconds since 1970 UTC.

    Raises:
        RequestError: It is not one.

    Example:
        >>> parse_event_time("1970-01-01T00:00:01Z", "time")
        1000000
    """
    try:
        time = time_us(value)
    except (TypeError, ValueError, OverflowError):
        time = MISSING_US
    if time == MISSING_US:
        problem = f"expected an ISO 8601 time like '2026-01-31T12:00:00Z', got {shorten(value)}"
        raise RequestError(problem, where)
    return time


def parse_labels(body: bytes, limits: Limits) -> list[tuple[str, Any, int | None]]:
    """Check the shape of ``POST /feedback``: ``{"labels": [{"id", "label", "time"?}]}``.

    Returns:
        Id, label and event time in microseconds (None when not given) of each label, in order.

    Raises:
        RequestError: Anything that is wrong, with its place.
        PayloadTooLargeError: Too many labels.
    """
    content = _members(parse_json(body, limits.depth), {"labels"}, "body")
    labels = []
    for index, row in enumerate(_rows(content, "labels", limits.rows)):
        where = f"labels[{index}]"
        _members(row, {"id", "label", "time"}, where)
        _check_id(row.get("id"), f"{where}.id")
        if row.get("label") is None:
            raise RequestError("a label is missing", f"{where}.label")
        time = None if row.get("time") is None else parse_event_time(row["time"], f"{where}.time")
        labels.append((row["id"], row["label"], time))
    return labels


def parse_command(body: bytes, limits: Limits, allowed: Mapping[str, type]) -> dict[str, Any]:
    """Check the optional JSON object of an operator's command.

    Args:
        body: Nothing, or a JSON object.
        limits: The deepest nesting.
        allowed: The type of each member.

    Raises:
        RequestError: An unknown member, or one of the wrong type.
    """
    content = _members(parse_json(body, limits.depth) if body.strip() else {}, set(allowed), "body")
    for name, value in content.items():
        if value is not None and not isinstance(value, allowed[name]):
            raise RequestError(f"expected a {allowed[name].__name__}, got {shorten(value)}", name)
    return {name: value for name, value in content.items() if value is not None}


def near(name: str, known: Sequence[str]) -> str:
    """Say the nearest right name, or all of them when none is near.

    Example:
        >>> near("distnace", ["distance", "carrier"])
        "did you mean 'distance'?"
    """
    found = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {found[0]!r}?" if found else f"one of {', '.join(sorted(known)[:30])}"


def shorten(value: Any) -> str:
    """Show a value in an error message, at most 60 characters of it."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _nests_deeper(body: bytes, max_depth: int) -> bool:
    brackets = np.frombuffer(_STRINGS.sub(b"", body).translate(None, _NOT_BRACKETS), np.uint8)
    return bool(brackets.size) and int(np.cumsum(_STEP[brackets]).max()) > max_depth


def _members(content: Any, known: set[str], where: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise RequestError(f"expected a JSON object, got {shorten(content)}", where)
    if unknown := content.keys() - known:
        name = min(unknown)
        raise RequestError(f"unknown key {name!r}", where, near(name, sorted(known)))
    return content


def _rows(content: Mapping[str, Any], name: str, max_rows: int) -> list[dict[str, Any]]:
    rows = content.get(name)
    if not isinstance(rows, list):
        raise RequestError(f"expected a list of objects, got {shorten(rows)}", name)
    if not rows:
        raise RequestError("the list is empty", name)
    if len(rows) > max_rows:
        remedy = "send fewer rows at once or raise serving.max_rows"
        raise PayloadTooLargeError(f"{len(rows)} rows are more than {max_rows}", name, remedy)
    for index, row in enumerate(rows):
        if type(row) is not dict:
            raise RequestError(f"expected an object, got {shorten(row)}", f"{name}[{index}]")
    return rows


def _check_columns(rows: Sequence[dict[str, Any]], columns: InputColumns) -> None:
    timed = columns.required | {columns.event_time} if columns.event_time else columns.required
    for index, row in enumerate(rows):
        keys = row.keys()
        if keys == timed or keys == columns.required:
            continue
        accepted = columns.allowed | timed
        if unknown := keys - accepted:
            name = min(unknown)
            raise RequestError(f"unknown column {name!r}", f"instances[{index}]", near(name, sorted(accepted)))
        if missing := columns.required - keys:
            problem = f"column {min(missing)!r} is missing"
            raise RequestError(problem, f"instances[{index}]", "send null for a missing value")


def _ids(ids: Any, num_rows: int) -> list[str] | None:
    if ids is None:
        return None
    if not isinstance(ids, list) or len(ids) != num_rows:
        raise RequestError(f"expected a list of {num_rows} strings, one for each instance, got {shorten(ids)}", "ids")
    for index, value in enumerate(ids):
        _check_id(value, f"ids[{index}]")
    if len(set(ids)) != len(ids):
        repeated = next(value for value in ids if ids.count(value) > 1)
        raise RequestError(f"{repeated!r} occurs twice", "ids", "ids must be unique")
    return ids


def _check_id(value: Any, where: str) -> None:
    if not isinstance(value, str) or not ID_PATTERN.fullmatch(value):
        rule = "letters, digits and ._:@+=- , first a letter or digit, at most 128"
        raise RequestError(f"{shorten(value)} is no valid id", where, f"use {rule}")


def _transport_unit(transport_id: str | None) -> str:
    if transport_id is not None and ID_PATTERN.fullmatch(transport_id):
        return transport_id
    return uuid.uuid4().hex


def _routing_key(value: Any) -> str | None:
    if value is not None and (not isinstance(value, str) or not 0 < len(value) <= MAX_ROUTING_KEY):
        raise RequestError(f"expected a string of 1 to {MAX_ROUTING_KEY} characters", "routing_key")
    return value


def _event_times(rows: Sequence[dict[str, Any]], columns: InputColumns, arrival_us: int) -> list[int] | None:
    name = columns.event_time
    if name is None or not any(name in row for row in rows):
        return None
    times = []
    for index, row in enumerate(rows):
        value = row.get(name) if name in columns.allowed else row.pop(name, None)
        times.append(arrival_us if value is None else parse_event_time(value, f"instances[{index}].{name}"))
    return times
