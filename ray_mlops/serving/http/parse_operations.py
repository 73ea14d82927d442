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


def parse_labels(body: bytes, limits: Limits) -> list[tuple[str, Any, int | None]]:
    """Check the shape of ``POST /feedback``: ``{"labels": [{"id", "label", "time"?}]}``.

    Returns:
        Id, label and event time in microseconds (None when not given) of each label, in order.

    Raises:
        RequestError: Anything that is wrong, with its place.
        PayloadTooLargeError: Too many labels.
    """
    content = members(parse_json(body, limits.depth), {"labels"}, "body")
    labels = []
    for index, row in enumerate(list_of_rows(content, "labels", limits.rows)):
        where = f"labels[{index}]"
        members(row, {"id", "label", "time"}, where)
        check_id(row.get("id"), f"{where}.id")
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
    content = members(parse_json(body, limits.depth) if body.strip() else {}, set(allowed), "body")
    for name, value in content.items():
        if value is not None and not isinstance(value, allowed[name]):
            raise RequestError(f"expected a {allowed[name].__name__}, got {shorten(value)}", name)
    return {name: value for name, value in content.items() if value is not None}
