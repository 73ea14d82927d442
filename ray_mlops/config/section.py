"""What every section of the configuration has in common: frozen, strict, durations with units."""

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from cronsim import CronSim, CronSimError
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, PlainSerializer, WithJsonSchema

_DURATION = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)\s*$")
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_DOTTED_PATH = re.compile(r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$")


class Section(BaseModel):
    """A part of the configuration: frozen, no unknown keys, finite numbers, a docstring on each field."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )


def parse_duration(value: Any) -> Any:
    """Turn ``'90s'``, ``'2h'`` or ``'7d'`` into a timedelta; leave timedeltas alone.

    Example:
        >>> parse_duration("36h")
        datetime.timedelta(days=1, seconds=43200)
    """
    if isinstance(value, timedelta):
        return value
    match = _DURATION.match(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"expected a duration like '30s', '2h' or '7d', got {value!r}")
    try:
        return timedelta(seconds=float(match[1]) * _UNIT_S[match[2]])
    except OverflowError:
        raise ValueError(f"expected at most {timedelta.max.days}d, got {value!r}") from None


def format_duration(value: timedelta) -> str:
    """Write a duration in the largest unit that divides it.

    Example:
        >>> format_duration(timedelta(days=14))
        '14d'
    """
    total_ms = round(value.total_seconds() * 1000)
    for unit, size_ms in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)):
        if total_ms and total_ms % size_ms == 0:
            return f"{total_ms // size_ms}{unit}"
    return f"{total_ms}ms"


def parse_schedule(value: Any) -> Any:
    """Turn ``'30d'`` into a timedelta, and accept cron expressions of five fields as they are.

    Example:
        >>> parse_schedule("30d"), parse_schedule("0 3 * * 1")
        (datetime.timedelta(days=30), '0 3 * * 1')
    """
    if isinstance(value, str) and len(value.split()) == 5:
        try:
            CronSim(value, datetime(2000, 1, 1, tzinfo=UTC))
        except CronSimError as error:
            raise ValueError(f"{value!r} is no cron expression: {error}; Mondays at 3 are '0 3 * * 1'") from None
        return value
    try:
        return parse_duration(value)
    except ValueError:
        problem = f"expected a duration like '30d', or a cron expression like '0 3 * * 1', got {value!r}"
        raise ValueError(problem) from None


def check_dotted_path(value: str) -> str:
    """Accept ``package.module:name`` and nothing else."""
    if not _DOTTED_PATH.match(value):
        raise ValueError(f"expected a dotted path like 'package.module:function', got {value!r}")
    return value


Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"type": "string", "pattern": _DURATION.pattern, "examples": ["30s", "2h", "7d"]}),
]
"""A length of time, written with its unit: ``250ms``, ``30s``, ``5m``, ``2h``, ``7d``, ``4w``."""

Schedule = Annotated[
    timedelta | str,
    BeforeValidator(parse_schedule),
    PlainSerializer(lambda value: value if isinstance(value, str) else format_duration(value), return_type=str),
    WithJsonSchema({"type": "string", "examples": ["30d", "0 3 * * 1"]}),
]
"""How often (``30d``), or when, as cron writes it: minute, hour, day of the month, month, day of the week."""

DottedPath = Annotated[str, AfterValidator(check_dotted_path)]
"""Something importable, written ``package.module:name``."""
