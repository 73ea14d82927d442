"""Turn the bytes of a request into checked values, or say which column of which row is wrong."""

import difflib
import re
import uuid
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from ray_mlops.config import ServingConfig
from ray_mlops.data.values import MISSING_US, time_us
from ray_mlops.errors import PayloadTooLargeError, RequestError
from ray_mlops.serving.http.json_body import parse_json

ID_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@+=-]{0,127}")
"""Safe in a path, a file name and a log line."""
MAX_ROUTING_KEY = 256
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
"""Characters that end a line or a string in headers, logs and terminals; no routing key has one."""


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


@dataclass(slots=True)
class PredictRequest:
    """A checked request for predictions. (Not frozen: see ``Response``.)"""

    rows: list[dict[str, Any]]
    ids: list[str]
    request_id: str
    """The unit of routing."""
    is_named: bool
    """The client chose the ids, so that a repeat can be told from a new request."""
    routing_key: str | None = None
    event_us: list[int] | None = None
    """Event time of each row, microseconds since 1970 UTC; None: no row has one, arrival counts."""
    where: str = "instances"
    """What the client calls its rows, for errors."""


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
    content = members(parse_json(body, limits.depth), {"instances", "routing_key", "ids", "request_id"}, "body")
    rows = list_of_rows(content, "instances", limits.rows)
    check_columns(rows, columns, "instances")
    return build_request(rows, columns, content, transport_id=transport_id, arrival_us=arrival_us)


def build_request(
    rows: list[dict[str, Any]],
    columns: InputColumns,
    named: Mapping[str, Any],
    *,
    where: str = "instances",
    transport_id: str | None = None,
    arrival_us: int = 0,
) -> PredictRequest:
    """Give checked rows their ids, routing key and event times; every protocol's requests are made here.

    Args:
        rows: With columns that ``check_columns`` has passed.
        columns: Says which column is the event time.
        named: What the client chose itself of ``ids``, ``request_id`` and ``routing_key``.
        where: What the client's protocol calls the rows.
        transport_id: As in ``parse_predict``.
        arrival_us: As in ``parse_predict``.

    Raises:
        RequestError: An id, the routing key or an event time is wrong.
    """
    ids = _ids(named.get("ids"), len(rows))
    request_id = named.get("request_id")
    if request_id is not None:
        check_id(request_id, "request_id")
    unit = request_id or (ids[0] if ids else None) or _transport_unit(transport_id)
    return PredictRequest(
        rows=rows,
        ids=ids or [f"{unit}-{index}" for index in range(len(rows))],
        request_id=unit,
        is_named=bool(ids or request_id),
        routing_key=_routing_key(named.get("routing_key")),
        event_us=_event_times(rows, columns, arrival_us, where),
        where=where,
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


def members(content: Any, known: AbstractSet[str], where: str) -> dict[str, Any]:
    """Check that content is a JSON object without unknown keys.

    Raises:
        RequestError: It is not.
    """
    if not isinstance(content, dict):
        raise RequestError(f"expected a JSON object, got {shorten(content)}", where)
    if unknown := content.keys() - known:
        name = min(unknown)
        raise RequestError(f"unknown key {shorten(name)}", where, near(name, sorted(known)))
    return content


def list_of_rows(content: Mapping[str, Any], name: str, max_rows: int) -> list[dict[str, Any]]:
    """Check that a member is a list of objects, neither empty nor too long.

    Raises:
        RequestError: It is not.
        PayloadTooLargeError: It is too long.
    """
    rows = content.get(name)
    if not isinstance(rows, list):
        raise RequestError(f"expected a list of objects, got {shorten(rows)}", name)
    check_count(len(rows), max_rows, name)
    for index, row in enumerate(rows):
        if type(row) is not dict:
            raise RequestError(f"expected an object, got {shorten(row)}", f"{name}[{index}]")
    return rows


def check_count(num_rows: int, max_rows: int, where: str) -> None:
    """Check a number of rows.

    Raises:
        RequestError: There is none.
        PayloadTooLargeError: There are too many.
    """
    if not num_rows:
        raise RequestError("the list is empty", where)
    if num_rows > max_rows:
        remedy = "send fewer rows at once or raise serving.max_rows"
        raise PayloadTooLargeError(f"{num_rows} rows are more than {max_rows}", where, remedy)


def check_columns(rows: Sequence[dict[str, Any]], columns: InputColumns, where: str) -> None:
    """Check that every row has the columns it must have, and no others.

    Raises:
        RequestError: One has not; names the row and the column.
    """
    timed = columns.required | {columns.event_time} if columns.event_time else columns.required
    for index, row in enumerate(rows):
        keys = row.keys()
        if keys == timed or keys == columns.required:
            continue
        check_names(keys, columns, f"{where}[{index}]", "send null for a missing value")


def check_names(names: AbstractSet[str], columns: InputColumns, where: str, remedy: str) -> None:
    """Check the names of the columns that were sent.

    Raises:
        RequestError: One is unknown, or one is missing; then ``remedy`` says what to do.
    """
    accepted = columns.allowed | {columns.event_time} if columns.event_time else columns.allowed
    if unknown := names - accepted:
        name = min(unknown)
        raise RequestError(f"unknown column {shorten(name)}", where, near(name, sorted(accepted)))
    if missing := columns.required - names:
        raise RequestError(f"column {min(missing)!r} is missing", where, remedy)


def _ids(ids: Any, num_rows: int) -> list[str] | None:
    if ids is None:
        return None
    if not isinstance(ids, list) or len(ids) != num_rows:
        raise RequestError(f"expected a list of {num_rows} strings, one for each instance, got {shorten(ids)}", "ids")
    for index, value in enumerate(ids):
        check_id(value, f"ids[{index}]")
    if len(set(ids)) != len(ids):
        repeated = next(value for value in ids if ids.count(value) > 1)
        raise RequestError(f"{repeated!r} occurs twice", "ids", "ids must be unique")
    return ids


def check_id(value: Any, where: str) -> None:
    """Check an id that a client has chosen.

    Raises:
        RequestError: It is no text, or has characters that are not safe everywhere.
    """
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
    if value is not None and CONTROL.search(value):
        raise RequestError(f"{shorten(value)} has a control character", "routing_key", "leave line breaks out of it")
    return value


def _event_times(
    rows: Sequence[dict[str, Any]], columns: InputColumns, arrival_us: int, where: str
) -> list[int] | None:
    name = columns.event_time
    if name is None or not any(name in row for row in rows):
        return None
    times = []
    for index, row in enumerate(rows):
        value = row.get(name) if name in columns.allowed else row.pop(name, None)
        times.append(arrival_us if value is None else parse_event_time(value, f"{where}[{index}].{name}"))
    return times
