"""From facts to a page of HTML: the templates, and how numbers and times are written."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from ray_mlops.evaluation.charts import CHART_CSS
from ray_mlops.evaluation.svg import format_number

DASH = "\u2013"
CHART_WIDTH = 1034.0
"""Pixels inside a card of full width."""


@dataclass(frozen=True, slots=True)
class Screen:
    """A page that has its facts and waits to be drawn."""

    template: str
    title: str
    build: Callable[[], Mapping[str, Any]]
    """Computes what the template shows; takes milliseconds, so it is not for the event loop."""
    is_live: bool = True
    """Whether it refreshes by itself."""
    status: int = 200


def render(screen: Screen, frame: Mapping[str, Any]) -> bytes:
    """Draw a page.

    Args:
        screen: The page.
        frame: What every page shows: links, models, the model and the page that are open.
    """
    template = _environment().get_template(f"{screen.template}.html")
    now = datetime.now(UTC)
    page = template.render(**frame, **screen.build(), title=screen.title, is_live=screen.is_live, now=now)
    return page.encode("utf-8", "replace")


def write_number(value: Any, digits: int = 4) -> str:
    """Write a number; a dash for what is none.

    Example:
        >>> write_number(None), write_number(0.25), write_number(True)
        ('–', '0.25', '–')
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return DASH
    return format_number(value, digits)


def write_share(value: Any) -> str:
    """Write a share as per cent; a dash for what is none.

    Example:
        >>> write_share(0.9), write_share(0.0125), write_share(None)
        ('90%', '1.25%', '–')
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return DASH
    return f"{format_number(value * 100, 3)}%"


def write_clock(seconds: Any) -> str:
    """Write unix seconds as UTC; a dash for what is none, or is no time.

    Example:
        >>> write_clock(0)
        '1970-01-01 00:00:00'
    """
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        return DASH
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return DASH


def write_event_time(microseconds: Any) -> str:
    """Write event time (microseconds since 1970 UTC); a dash for what is none."""
    if isinstance(microseconds, bool) or not isinstance(microseconds, int | float):
        return DASH
    return write_clock(microseconds / 1e6)


def write_value(value: Any) -> str:
    """Write whatever a payload may hold."""
    if value is None:
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return format_number(value)
    return (
        value if isinstance(value, str) else write_json(value, None) if isinstance(value, dict | list) else str(value)
    )


def write_json(value: Any, indent: int | None = 2) -> str:
    """Write a payload for people."""
    return json.dumps(value, indent=indent, ensure_ascii=False, default=str)


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": write_number,
        "share": write_share,
        "clock": write_clock,
        "event_time": write_event_time,
        "value": write_value,
        "json": write_json,
    }
    environment.globals["chart_css"] = Markup(CHART_CSS)
    return environment
