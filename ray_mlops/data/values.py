"""What one raw value means, as it comes in a JSON row; ``columns`` says the same of whole Arrow columns."""

import math
import numbers
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import numpy as np

from ray_mlops.config.data import ColumnType
from ray_mlops.errors import FeatureError

MISSING_US = int(np.iinfo(np.int64).min)
"""A missing time, where times are integers."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_WHOLE = 2.0**53


def numeric_value(value: Any) -> float:
    """A number; None, NaN and infinities are NaN.

    Raises:
        TypeError: It is no number; a boolean is none.
    """
    if value is None:
        return math.nan
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real | Decimal):
        raise TypeError(value)
    try:
        number = float(value)
    except OverflowError:
        return math.nan
    return number if math.isfinite(number) else math.nan


def boolean_value(value: Any) -> float:
    """0.0 or 1.0; None and NaN are NaN.

    Raises:
        TypeError: It is neither a boolean nor 0 nor 1.
    """
    if isinstance(value, bool | np.bool_):
        return float(value)
    number = numeric_value(value)
    if math.isnan(number) or number in (0.0, 1.0):
        return number
    raise TypeError(value)


def category_key(value: Any) -> str | None:
    """The text of a category; None, NaN, infinities and ``""`` are missing.

    A whole number reads the same as an integer and as a float, so that a column which became floats
    because of its nulls still has its categories.

    Raises:
        TypeError: It is no string, number, boolean or time.

    Example:
        >>> category_key(7), category_key(7.0), category_key(True), category_key(0.5), category_key("")
        ('7', '7', 'true', '0.5', None)
    """
    if value is None or isinstance(value, str):
        return str(value) if value else None
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, int | np.integer):
        return str(int(value))
    if isinstance(value, date):
        return value.isoformat()
    if not isinstance(value, numbers.Real | Decimal):
        raise TypeError(value)
    number = float(value)
    if not math.isfinite(number):
        return None
    return str(int(number)) if number.is_integer() and abs(number) < _WHOLE else repr(number)


def time_us(value: Any) -> int:
    """Microseconds since 1970 UTC of an ISO 8601 string, date or datetime; None and ``""`` are ``MISSING_US``.

    Raises:
        TypeError: It is something else, such as a number.
        ValueError: The string is not ISO 8601.

    Example:
        >>> time_us("1970-01-01T00:00:01Z"), time_us("1970-01-01 01:00+01:00")
        (1000000, 0)
    """
    if value is None or value == "":
        return MISSING_US
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    elif not isinstance(value, date):
        raise TypeError(value)
    elif not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    if value != value:  # NaT
        return MISSING_US
    moment = value.replace(tzinfo=UTC) if value.tzinfo is None else value
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


SCALARS: dict[ColumnType, tuple[Callable[[Any], Any], str]] = {
    "numeric": (numeric_value, "a number"),
    "boolean": (boolean_value, "a boolean"),
    "categorical": (category_key, "a string, number or boolean"),
    "datetime": (time_us, "a time (ISO 8601, UTC if it has no zone)"),
}
"""What reads one value of each type, and what it expects."""


def read_value(value: Any, kind: ColumnType, name: str, row: int) -> Any:
    """Read one value of a row.

    Raises:
        FeatureError: A value of another type; names the column and the row.
    """
    read, expected = SCALARS[kind]
    try:
        return read(value)
    except (TypeError, ValueError):
        raise wrong_type(name, row, expected, value) from None


def wrong_type(name: str, row: int, expected: str, value: Any) -> FeatureError:
    """The error for a value of the wrong type."""
    shown = repr(value)
    shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
    problem = f"expected {expected}, got {shown}"
    return FeatureError(problem, f"column {name!r}, row {row}", "send the column's own type")
