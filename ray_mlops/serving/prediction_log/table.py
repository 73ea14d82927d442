"""Rows of the prediction log: what a request leaves behind, and the Arrow table that it becomes."""

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from types import NoneType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ray_mlops.config.data import ColumnType, Task
from ray_mlops.data.columns import canonical_from_values, column_type
from ray_mlops.data.values import category_key
from ray_mlops.data.vectors import vector_length
from ray_mlops.errors import FeatureError
from ray_mlops.serving.protocol import LOG_COLUMNS, ArmName, Outcome

DAY_US = 86_400_000_000
_TYPES = dict(LOG_COLUMNS)
_NUMBERS, _WORDS = {float, int, NoneType}, {str, NoneType}


@dataclass(frozen=True, slots=True, eq=False)
class LogFormat:
    """How one model's rows are written while one set of its versions is loaded."""

    model: str
    bundle: str
    """Address of the champion's bundle: with it a spool can be read by another process."""
    schema: pa.Schema
    """Raw inputs of the champion, then those that only another loaded version has."""
    task: Task
    classes: tuple[str, ...] = ()
    """Names of the classes of a multiclass model."""
    redact: Mapping[str, Literal["drop", "hash"]] = field(default_factory=dict)
    secret: bytes = b""
    """Key of the hash of redacted values."""

    def redacted(self, rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, list[str | None]]]:
        """Take redacted values out of rows; returns the rows, and the hashes by column."""
        if not self.redact:
            return rows, {}
        hashes = {
            name: [_keyed_hash(self.secret, row.get(name)) for row in rows]
            for name, how in self.redact.items()
            if how == "hash"
        }
        return [{name: None if name in self.redact else value for name, value in row.items()} for row in rows], hashes


@dataclass(slots=True)
class LogRecord:
    """What one request leaves behind: references, no copies. (Not frozen: that would take 2 us of each request.)"""

    format: LogFormat
    request_id: str
    ids: list[str]
    rows: list[dict[str, Any]]
    hashes: dict[str, list[str | None]]
    event_us: list[int] | None
    """Event time of each row; None: the arrival."""
    arrival_us: int
    arm: ArmName
    version: str
    route_version: int
    routing_key_hash: int | None
    pinned: bool
    outcome: Outcome
    weight: float
    model_us: int
    latency_us: int
    values: npt.NDArray[np.float64]
    """Predictions [n], or [n, k] for k classes."""
    sample_weight: float = 1.0
    """How many rows each of these stands for: above 1 where the log had to take a sample."""

    def select(self, indices: Sequence[int]) -> "LogRecord":
        """A record of some of the rows."""
        return replace(
            self,
            ids=[self.ids[i] for i in indices],
            rows=[self.rows[i] for i in indices],
            hashes={name: [values[i] for i in indices] for name, values in self.hashes.items()},
            event_us=None if self.event_us is None else [self.event_us[i] for i in indices],
            values=self.values[list(indices)],
        )

    def to_json(self) -> dict[str, Any]:
        """Everything but the format, for the spool."""
        return {name: getattr(self, name) for name in self.__slots__ if name != "format"}

    @classmethod
    def from_json(cls, content: Mapping[str, Any], format: LogFormat) -> "LogRecord":
        """Rebuild what ``to_json`` wrote."""
        return cls(**{**content, "values": np.asarray(content["values"], np.float64), "format": format})


def build_table(records: Sequence[LogRecord]) -> pa.Table:
    """Write records of one model and bundle as one table, in order, in the newest record's format.

    Returns:
        Columns ``LOG_COLUMNS``, then ``features.NAME``, then ``prediction`` or ``prediction.CLASS``.
    """
    style = records[-1].format
    counts = [len(record.ids) for record in records]
    columns = _request_columns(records, counts)
    columns.update(_feature_columns(style, records))
    columns.update(_prediction_columns(style, records))
    return pa.table(columns)


def split_by_file(records: Sequence[LogRecord]) -> dict[tuple[str, str, str], list[LogRecord]]:
    """Group rows by what shares a file: model, bundle and UTC day of event time, in order of first sight."""
    groups: dict[tuple[str, str, int], list[LogRecord]] = {}
    for record in records:
        days = [time // DAY_US for time in record.event_us or [record.arrival_us]]
        for day in dict.fromkeys(days):
            is_whole = days.count(day) == len(days)
            part = record if is_whole else record.select([i for i, own in enumerate(days) if own == day])
            groups.setdefault((record.format.model, record.format.bundle, day), []).append(part)
    return {(model, bundle, _day(day)): part for (model, bundle, day), part in groups.items()}


def _request_columns(records: Sequence[LogRecord], counts: Sequence[int]) -> dict[str, pa.Array]:
    repeated: dict[str, list[Any]] = {
        "request_id": [r.request_id for r in records],
        "arrival_time": [r.arrival_us for r in records],
        "arm": [r.arm for r in records],
        "version": [r.version for r in records],
        "route_version": [r.route_version for r in records],
        "routing_key_hash": [r.routing_key_hash for r in records],
        "pinned": [r.pinned for r in records],
        "outcome": [r.outcome for r in records],
        "weight": [r.weight for r in records],
        "model_time_us": [r.model_us for r in records],
        "latency_us": [r.latency_us for r in records],
        "sample_weight": [r.sample_weight for r in records],
    }
    index = pa.array(np.repeat(np.arange(len(records)), counts))
    columns = {name: pa.array(values, _TYPES[name]).take(index) for name, values in repeated.items()}
    times = [time for r in records for time in (r.event_us or [r.arrival_us] * len(r.ids))]
    columns["event_time"] = pa.array(times, _TYPES["event_time"])
    columns["prediction_id"] = pa.array([name for r in records for name in r.ids], pa.string())
    return {name: columns[name] for name, _ in LOG_COLUMNS}


def _feature_columns(style: LogFormat, records: Sequence[LogRecord]) -> dict[str, pa.Array]:
    rows = [row for record in records for row in record.rows]
    columns = {}
    for item in style.schema:
        how = style.redact.get(item.name)
        if how is None:
            columns[f"features.{item.name}"] = _column(rows, item)
        elif how == "hash":
            hashes = [value for record in records for value in record.hashes.get(item.name, [None] * len(record.ids))]
            columns[f"features.{item.name}"] = pa.array(hashes, pa.string())
    return columns


def _column(rows: Sequence[Mapping[str, Any]], field: pa.Field) -> pa.Array:
    name, kind, length = field.name, column_type(field.type, field.name), vector_length(field.type)
    values = [row.get(name) for row in rows]
    try:
        plain = _plain_column(values, kind)
        return canonical_from_values(values, kind, name, length) if plain is None else plain
    except FeatureError:
        # A version that lacks this input answered, and did not look at it.
        fitting = [value if _fits(value, kind, name, length) else None for value in values]
        return canonical_from_values(fitting, kind, name, length)


def _plain_column(values: Sequence[Any], kind: ColumnType) -> pa.Array | None:
    """``canonical_from_values`` for numbers and words as JSON has them, at a sixth of its time; None for others."""
    kinds = set(map(type, values))
    try:
        if kind == "numeric" and kinds <= _NUMBERS:
            floats = np.array(values, np.float64)
            return pa.array(floats, mask=~np.isfinite(floats))
        if kind == "categorical" and kinds <= _WORDS:
            return pa.array([value or None for value in values], pa.string())
    except (OverflowError, UnicodeEncodeError):  # a whole number beyond doubles, half of a surrogate pair
        return None
    return None


def _fits(value: Any, kind: ColumnType, name: str, length: int) -> bool:
    try:
        canonical_from_values([value], kind, name, length)
    except FeatureError:
        return False
    return True


def _prediction_columns(style: LogFormat, records: Sequence[LogRecord]) -> dict[str, pa.Array]:
    values = np.concatenate([record.values for record in records])
    if style.task != "multiclass":
        return {"prediction": pa.array(values, pa.float64())}
    return {f"prediction.{name}": pa.array(values[:, i], pa.float64()) for i, name in enumerate(style.classes)}


def _keyed_hash(secret: bytes, value: Any) -> str | None:
    try:
        text = category_key(value)
    except TypeError:
        text = repr(value)
    return None if text is None else hmac.digest(secret, text.encode("utf-8", "surrogatepass"), "sha256").hex()[:32]


def _day(number: int) -> str:
    return str(date(1970, 1, 1) + timedelta(days=number))
