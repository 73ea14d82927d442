"""Predictions wait here for their labels, by window of event time.

Rows are keyed by prediction id. A label may come before its prediction has been handed over, twice, or
with another value; each is counted and none is lost. Only what lies within the horizon is held.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ray_mlops.serving.prediction_log.files import unite
from ray_mlops.serving.protocol import LabelRecord
from ray_mlops.statistics.bins import FloatArray

KEY_COLUMNS = (
    "prediction_id",
    "request_id",
    "event_time",
    "arrival_time",
    "arm",
    "version",
    "route_version",
    "routing_key_hash",
    "pinned",
    "weight",
)
"""Columns of the prediction log that the join keeps, besides ``prediction`` or ``prediction.CLASS`` and those that
define slices of a rollout."""
_PROBABILITY = "prediction."
EXPECTED = "expected."
"""What an error model said of a row goes by names that begin with this, and is kept too."""


@dataclass(frozen=True, slots=True)
class WindowLabels:
    """How far one window's labels have come."""

    rows: int
    labelled: int

    @property
    def coverage(self) -> float:
        """Share of rows with a label; 0 without rows."""
        return self.labelled / self.rows if self.rows else 0.0


@dataclass(slots=True)
class _Window:
    parts: list[pa.Table]
    labels: list[float]
    """One for each row in order of arrival; NaN where there is none yet."""


class LabelJoin:
    """Joins labels to predictions of one model.

    Args:
        encode: Turns a label into the number that losses take; raises ValueError on a wrong type.
        window_us: Length of a window, microseconds of event time.
        horizon_us: How long a prediction waits for its label, and a label for its prediction.
    """

    def __init__(self, encode: Callable[[Any], float], window_us: int, horizon_us: int) -> None:
        self._encode = encode
        self._window_us = window_us
        self._horizon_us = horizon_us
        self._windows: dict[int, _Window] = {}
        self._where: dict[str, tuple[int, int]] = {}
        self._early: dict[str, LabelRecord] = {}
        self._since: dict[str, int] = {}
        """Watermark at which an early label without an event time was first seen to wait."""
        self._newest_arrival: int | None = None
        self.counts: Counter[str] = Counter()
        """Labels `accepted`, `duplicate`, `conflicting`, `invalid`, `unknown`; predictions `unlabelled`."""

    def known(self, ids: Iterable[str]) -> list[str]:
        """Those of the ids that the join holds already."""
        return [name for name in ids if name in self._where]

    def add_predictions(self, rows: pa.Table) -> None:
        """Take rows with ``KEY_COLUMNS`` and predictions; ids that are held already must not be among them.

        Of rows with one id the first stays.
        """
        rows = without_repeats(rows)
        event_us = rows["event_time"].cast(pa.int64()).to_numpy()
        windows = event_us // self._window_us
        ids = np.array(rows["prediction_id"].to_pylist(), dtype=object)
        for index in np.unique(windows).tolist():
            mask = windows == index
            window = self._windows.setdefault(index, _Window([], []))
            start = len(window.labels)
            chosen = ids[mask].tolist()
            window.parts.append(rows.filter(pa.array(mask)))
            window.labels.extend([float("nan")] * len(chosen))
            for offset, name in enumerate(chosen):
                self._where[name] = (index, start + offset)
                early = self._early.pop(name, None)
                if early is not None:
                    self._since.pop(name, None)
                    window.labels[start + offset] = self._encode(early.label)

    def add_labels(self, labels: Sequence[LabelRecord]) -> dict[str, int]:
        """Take labels; the first value of an id wins.

        Returns:
            How many were `accepted`, `duplicate` (same value again), `conflicting` (another value) and
            `invalid` (a value that the task does not know).
        """
        taken = Counter({"accepted": 0, "duplicate": 0, "conflicting": 0})
        for record in labels:
            taken[self._add_label(record)] += 1
            self._newest_arrival = max(record.arrival, self._newest_arrival or record.arrival)
        self.counts.update(taken)
        return dict(taken)

    def to_json(self) -> dict[str, Any]:
        """What the logs cannot tell: the counts, and which labels still wait for a prediction."""
        waiting = [[name, self._since.get(name)] for name in self._early]
        return {"counts": dict(self.counts), "early": waiting, "newest_arrival": self._newest_arrival}

    def restore(self, content: Mapping[str, Any], labels: Sequence[LabelRecord]) -> None:
        """Take labels from the log; those up to a checkpoint have been counted, and maybe outlived their prediction.

        Args:
            content: ``to_json`` of the checkpoint.
            labels: In order of arrival. Their predictions, as far as the horizon reaches, have been added before.
        """
        counted, early = content["newest_arrival"], dict(content["early"])
        for record in labels:
            if counted is None or record.arrival > counted:
                self.add_labels([record])
            elif record.id in self._where or record.id in early:
                self._add_label(record)
        self._since.update({name: since for name, since in early.items() if name in self._early and since is not None})
        self._newest_arrival = max((us for us in (counted, self._newest_arrival) if us is not None), default=None)
        self.counts.update(content["counts"])

    def _add_label(self, record: LabelRecord) -> str:
        try:
            value = self._encode(record.label)
        except ValueError:
            return "invalid"
        place = self._where.get(record.id)
        if place is None:
            held = self._early.setdefault(record.id, record)
            if held is record:
                return "accepted"
            return "duplicate" if self._encode(held.label) == value else "conflicting"
        labels = self._windows[place[0]].labels
        present = labels[place[1]]
        if np.isnan(present):
            labels[place[1]] = value
            return "accepted"
        return "duplicate" if present == value else "conflicting"

    def summary(self, window: int) -> WindowLabels:
        """Rows and labelled rows of one window."""
        held = self._windows.get(window)
        if held is None:
            return WindowLabels(0, 0)
        return WindowLabels(len(held.labels), int(np.count_nonzero(~np.isnan(held.labels))))

    def labelled_counts(self, through: int) -> dict[int, int]:
        """Labelled rows of each window up to one, inclusive."""
        return {index: self.summary(index).labelled for index in sorted(self._windows) if index <= through}

    def labelled(self, after: int, through: int) -> pa.Table | None:
        """Labelled rows of the windows in ``(after, through]``, in event order; None where there are none.

        Columns: ``KEY_COLUMNS``, the predictions, ``window`` (int64) and ``label`` (float64). One that was a number
        for one version and text for another is text.
        """
        parts = []
        for index in sorted(self._windows):
            if after < index <= through:
                held = self._windows[index]
                table = unite(held.parts)
                labels = np.array(held.labels)
                table = table.append_column("window", pa.array(np.full(len(labels), index)))
                table = table.append_column("label", pa.array(labels)).filter(pa.array(~np.isnan(labels)))
                parts.append(table.sort_by([("event_time", "ascending"), ("prediction_id", "ascending")]))
        return unite(parts) if parts else None

    def expire(self, watermark_us: int, keep: Collection[int] = ()) -> None:
        """Let go of what the horizon has passed: windows without hope, and labels that nobody predicted."""
        oldest_us = watermark_us - self._horizon_us
        oldest = oldest_us // self._window_us
        for index in [index for index in self._windows if index < oldest and index not in keep]:
            held = self._windows.pop(index)
            self.counts["unlabelled"] += int(np.count_nonzero(np.isnan(held.labels)))
            for part in held.parts:
                for name in part["prediction_id"].to_pylist():
                    self._where.pop(name, None)
        for name in [name for name in self._early if self._waits_since(name, watermark_us) < oldest_us]:
            del self._early[name]
            self._since.pop(name, None)
            self.counts["unknown"] += 1

    def _waits_since(self, name: str, watermark_us: int) -> int:
        """Event time from which an early label waits: its own, or when it was first looked at."""
        time = self._early[name].time
        return time if time is not None else self._since.setdefault(name, watermark_us)

    @property
    def waiting(self) -> Mapping[str, int]:
        """Labels without a prediction so far, and predictions held."""
        return {"early_labels": len(self._early), "predictions": len(self._where)}


def without_repeats(rows: pa.Table) -> pa.Table:
    """Of rows with one prediction id only the first: a label joins to one of them."""
    ids = rows["prediction_id"].to_pylist()
    if len(set(ids)) == len(ids):
        return rows
    _, first = np.unique(np.array(ids), return_index=True)
    return rows.take(pa.array(np.sort(first)))


def finite_rows(prediction: FloatArray) -> npt.NDArray[np.bool_]:
    """Which rows have a prediction that is a number, for every class [n]."""
    finite = np.isfinite(prediction)
    return np.asarray(finite if prediction.ndim == 1 else finite.all(axis=1), dtype=np.bool_)


def prediction_values(table: pa.Table, task: str, classes: Sequence[str] = ()) -> FloatArray:
    """The predictions of rows, which versions with other classes or of another task may have answered.

    Args:
        table: Rows with ``prediction``, or ``prediction.CLASS``.
        task: How they are read.
        classes: Names in the order of the probabilities (multiclass); none takes the columns' order.

    Returns:
        Values [n], or [n, k] for multiclass. A class that a row's version did not know has probability 0; a row
        without any prediction of this kind is NaN.
    """
    if task != "multiclass":
        return column_numbers(table, "prediction")
    names = [f"{_PROBABILITY}{name}" for name in classes]
    names = names or [name for name in table.column_names if name.startswith(_PROBABILITY)]
    if not names:
        return np.full((table.num_rows, 0), np.nan)
    values = np.column_stack([column_numbers(table, name) for name in names])
    is_unknown = np.column_stack([_nulls(table, name) for name in names])
    says_nothing = np.all(is_unknown, axis=1, keepdims=True)
    values[is_unknown & ~says_nothing] = 0.0
    return values


def column_numbers(table: pa.Table, name: str) -> FloatArray:
    """A column of numbers [n]; NaN where there is none."""
    if name not in table.column_names:
        return np.full(table.num_rows, np.nan)
    return np.asarray(table[name].to_numpy(), dtype=np.float64)


def _nulls(table: pa.Table, name: str) -> npt.NDArray[np.bool_]:
    """Where a column says nothing [n]; NaN is what a model answered."""
    if name not in table.column_names:
        return np.ones(table.num_rows, dtype=np.bool_)
    return np.asarray(table[name].is_null().to_numpy(), dtype=np.bool_)
