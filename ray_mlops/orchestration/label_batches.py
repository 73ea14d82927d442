"""Rows of label files as the service takes them, in batches; what it would not take is told apart here already."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from itertools import islice
from typing import Any

from ray_mlops.data.values import boolean_value, category_key, numeric_value
from ray_mlops.errors import DataError, RequestError, SourceError
from ray_mlops.orchestration.label_files import Row, is_unicode
from ray_mlops.serving.http.parse import check_id, parse_event_time, shorten

BATCH_ROWS = 2000
Label = dict[str, Any]
"""A label as the service takes it."""
Place = Callable[[int], str]
"""Says where a row is, for people."""


@dataclass(frozen=True, slots=True)
class Reject:
    """A row that cannot be taken, and why."""

    row: int
    place: str
    id: str
    reason: str


@dataclass(slots=True)
class LabelBatch:
    """Neighbouring rows."""

    last: int = 0
    labels: list[tuple[int, Label]] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    missing: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    """What the service said."""

    def add(self, number: int, label: Label | None) -> None:
        """Take a row, whose label may be missing."""
        if label is None:
            self.missing += 1
        else:
            self.labels.append((number, label))

    def ids(self) -> set[str]:
        """Prediction ids."""
        return {label["id"] for _, label in self.labels}


class LabelRows:
    """Turns rows of files into labels as the service takes them."""

    def __init__(self, place: Place, has_time: bool, has_correction: bool, all_correct: bool) -> None:
        self._place, self._all_correct = place, all_correct
        self._time_at = 2 if has_time else None
        self._correction_at = (3 if has_time else 2) if has_correction else None

    def batches(self, rows: Iterator[tuple[int, Row]], goes_on: bool) -> Iterator[LabelBatch]:
        """Rows in batches; one that cannot be taken is set aside, or (not ``goes_on``) an error.

        Raises:
            SourceError, RequestError: Names the row.
        """
        while some := list(islice(rows, BATCH_ROWS)):
            batch = LabelBatch(last=some[-1][0])
            for number, row in some:
                try:
                    batch.add(number, self._label(row))
                except (SourceError, RequestError) as error:
                    batch.rejects.append(self._set_aside(number, row, error, goes_on))
            yield batch

    def _set_aside(self, number: int, row: Row, error: SourceError | RequestError, goes_on: bool) -> Reject:
        place = self._place(number)
        if goes_on:
            return reject_of(number, place, None if isinstance(row, SourceError) else row[0], error)
        where = f"{place}: {error.where}" if error.where else place
        raise type(error)(error.problem, where, error.remedy) from error

    def _label(self, row: Row) -> Label | None:
        """One label; None for a row without one. The places in errors are names of what the service takes."""
        if isinstance(row, SourceError):
            raise row
        value = _value(row[1])
        if value is None:
            return None
        label: Label = {"id": _id(row[0]), "label": value}
        if self._time_at is not None:
            label["time"] = _time(row[self._time_at])
        if self._all_correct or (self._correction_at is not None and _is_true(row[self._correction_at])):
            label["correction"] = True
        return label


def reject_of(number: int, place: str, name: Any, error: DataError | RequestError) -> Reject:
    """Set a row aside for an error."""
    reason = f"{error.where.rpartition('.')[2]}: {error.problem}" if error.where else error.problem
    shown = "" if name is None else str(name)
    return Reject(number, place, shown if is_unicode(shown) else ascii(shown), reason)


def _id(value: Any) -> str:
    try:
        key = category_key(value)
    except TypeError:
        key = None
    if key is None:
        raise SourceError(f"a label without an id, got {value!r}", "", "give every label an id")
    check_id(key, "id")
    return key


def _value(value: Any) -> str | int | float | bool | None:
    """A label as JSON has it; None is missing."""
    if isinstance(value, str):
        if not is_unicode(value):
            raise SourceError(f"the text {value!a} is not UTF-8", "label", "convert the file")
        return value
    if value is None or isinstance(value, bool | int):
        return value
    if not isinstance(value, float | Decimal):
        raise SourceError(f"a label must be a string, number or boolean, got {type(value).__name__}", "label")
    number = float(value)
    if number != number:
        return None
    if numeric_value(number) != number:
        raise SourceError(f"a label must be finite, got {number}", "label")
    return number


def _time(value: Any) -> str | None:
    if value is None or value == "":
        return None
    if isinstance(value, date):
        return value.isoformat()
    parse_event_time(value, "time")
    return str(value)


def _is_true(value: Any) -> bool:
    try:
        return boolean_value(value) == 1.0
    except TypeError:
        raise RequestError(f"expected true or false, got {shorten(value)}", "correction") from None
