"""Requests that ask for no predictions: labels, and an operator's commands."""

from collections.abc import Mapping
from typing import Any

from ray_mlops.errors import RequestError
from ray_mlops.serving.http.json_body import parse_json
from ray_mlops.serving.http.parse import (
    Limits,
    check_id,
    list_of_rows,
    members,
    parse_event_time,
    shorten,
)
from ray_mlops.serving.protocol import LabelRecord

_LABEL_KEYS = frozenset({"id", "label", "time", "correction"})


def parse_labels(body: bytes, limits: Limits, arrival_us: int = 0) -> list[LabelRecord]:
    """Check the shape of ``POST /feedback``: ``{"labels": [{"id", "label", "time"?, "correction"?}]}``.

    Args:
        body: What was sent.
        limits: The most labels and nesting.
        arrival_us: When it came, microseconds since 1970 UTC.

    Returns:
        The labels, in order; whether a value fits the model is for ``check_labels`` to say.

    Raises:
        RequestError: Anything that is wrong, with its place.
        PayloadTooLargeError: Too many labels.
    """
    content = members(parse_json(body, limits.depth), {"labels"}, "body")
    labels = []
    for index, row in enumerate(list_of_rows(content, "labels", limits.rows)):
        try:
            labels.append(_label(row, arrival_us))
        except RequestError as error:
            raise RequestError(error.problem, f"labels[{index}]{error.where}", error.remedy) from None
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
    content = members(parse_json(body, limits.depth) if body.strip() else {}, set(allowed), "body")
    for name, value in content.items():
        if value is not None and not isinstance(value, allowed[name]):
            raise RequestError(f"expected a {allowed[name].__name__}, got {shorten(value)}", name)
    return {name: value for name, value in content.items() if value is not None}


def _label(row: dict[str, Any], arrival_us: int) -> LabelRecord:
    """One label; the places in its errors are relative to the row."""
    if not row.keys() <= _LABEL_KEYS:
        members(row, _LABEL_KEYS, "")
    name, label, time = row.get("id"), row.get("label"), row.get("time")
    check_id(name, ".id")
    if label is None:
        raise RequestError("a label is missing", ".label")
    is_correction = row.get("correction", False)
    if not isinstance(is_correction, bool):
        raise RequestError(f"expected true or false, got {shorten(is_correction)}", ".correction")
    return LabelRecord(
        str(name), label, None if time is None else parse_event_time(time, ".time"), arrival_us, is_correction
    )
