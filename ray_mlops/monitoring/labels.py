"""Predictions wait here for their labels, by window of event time.

Rows are keyed by prediction id. A label may come before its prediction has been handed over, twice, with
another value, or as a correction; each is counted and none is lost. Only what lies within the horizon is held.
"""

from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ray_mlops.serving.prediction_log.files import unite
from ray_mlops.serving.protocol import LabelRecord
from ray_mlops.statistics.bins import FloatArray
from ray_mlops.statistics.delays import NUM_BINS, Cohort, IntArray, delay_bins

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
    """Rows of one window in order of arrival; times in microseconds since 1970 UTC."""

    parts: list[pa.Table] = field(default_factory=list)
    event_us: "array[int]" = field(default_factory=lambda: array("q"))
    arrival_us: "array[int]" = field(default_factory=lambda: array("q"))
    labels: "array[float]" = field(default_factory=lambda: array("d"))
    """NaN where there is none yet."""
    known_us: "array[int]" = field(default_factory=lambda: array("q"))
    """Event time by which the label was there; without meaning where there is none."""
    arrived: IntArray | None = None
    """Labels by class and delay; None when it must be counted again."""

    def give(self, row: int, value: float, record: LabelRecord) -> None:
        """Set the label of a row that has none."""
        since_us = self.arrival_us[row] if record.time is None else self.event_us[row]
        came_us = record.arrival if record.time is None else record.time
        self.labels[row], self.known_us[row] = value, self.event_us[row] + max(came_us - since_us, 0)
        self.arrived = None

    def labels_by(self, event_us: int | None) -> FloatArray:
        """The labels [n], NaN where there is none, or none was there by a moment of event time."""
        labels = np.array(self.labels)
        if event_us is not None:
            labels[np.array(self.known_us) > event_us] = np.nan
        return labels

    def count(self, num_classes: int) -> IntArray:
        """Labels by class and delay [k, B]."""
        if self.arrived is None:
            labels = np.array(self.labels)
            bins = delay_bins((np.array(self.known_us) - np.array(self.event_us)) / 1e6)
            known = ~np.isnan(labels)
            classes = labels[known].astype(np.int64) if num_classes > 1 else np.zeros(int(known.sum()), np.int64)
            cells = np.bincount(classes * NUM_BINS + bins[known], minlength=num_classes * NUM_BINS)
            self.arrived = cells.reshape(num_classes, NUM_BINS)
        return self.arrived


class LabelJoin:
    """Joins labels to predictions of one model.

    Args:
        encode: Turns a label into the number that losses take; raises ValueError on a wrong type.
        window_us: Length of a window, microseconds of event time.
        horizon_us: How long a prediction waits for its label, and a label for its prediction.
        num_classes: What ``encode`` counts to, of a classification: delays are counted by class.
    """

    def __init__(self, encode: Callable[[Any], float], window_us: int, horizon_us: int, num_classes: int = 1) -> None:
        self._encode = encode
        self._window_us = window_us
        self._horizon_us = horizon_us
        self._num_classes = num_classes
        self._windows: dict[int, _Window] = {}
        self._where: dict[str, tuple[int, int]] = {}
        self._early: dict[str, LabelRecord] = {}
        self._since: dict[str, int] = {}
        """Watermark at which an early label without an event time was first seen to wait."""
        self._corrected: dict[str, int] = {}
        """When the correction in force of an id arrived."""
        self._touched: set[int] = set()
        self._newest_arrival: int | None = None
        self.counts: Counter[str] = Counter()
        """Labels `accepted`, `duplicate`, `conflicting`, `corrected`, `invalid`, `unknown`; predictions
        `unlabelled`."""

    def known(self, ids: Iterable[str]) -> list[str]:
        """Those of the ids that the join holds already."""
        return [name for name in ids if name in self._where]

    def add_predictions(self, rows: pa.Table) -> None:
        """Take rows with ``KEY_COLUMNS`` and predictions; ids that are held already must not be among them.

        Of rows with one id the first stays.
        """
        rows = without_repeats(rows)
        event_us, arrival_us = (rows[name].cast(pa.int64()).to_numpy() for name in ("event_time", "arrival_time"))
        windows = event_us // self._window_us
        ids = np.array(rows["prediction_id"].to_pylist(), dtype=object)
        for index in np.unique(windows).tolist():
            mask = windows == index
            window = self._windows.setdefault(index, _Window())
            start = len(window.labels)
            chosen = ids[mask].tolist()
            window.parts.append(rows.filter(pa.array(mask)))
            window.event_us.frombytes(event_us[mask].tobytes())
            window.arrival_us.frombytes(arrival_us[mask].tobytes())
            window.labels.extend([float("nan")] * len(chosen))
            window.known_us.frombytes(event_us[mask].tobytes())
            for offset, name in enumerate(chosen):
                self._where[name] = (index, start + offset)
                early = self._early.pop(name, None)
                if early is not None:
                    self._since.pop(name, None)
                    self._touched.add(index)
                    window.give(start + offset, self._encode(early.label), early)

    def add_labels(self, labels: Sequence[LabelRecord]) -> dict[str, int]:
        """Take labels; the first value of an id stands until a correction comes, of which the newest stands.

        Returns:
            How many were `accepted`, `duplicate` (same value again), `conflicting` (another value), `corrected` and
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
            is_counted = counted is not None and record.arrival <= counted
            if is_counted and (record.id in self._where or record.id in early):
                self._add_label(record)
        self._touched.clear()
        fresh = [record for record in labels if counted is None or record.arrival > counted]
        if fresh:
            self.add_labels(fresh)
        self._since.update({name: since for name, since in early.items() if name in self._early and since is not None})
        self._newest_arrival = max((us for us in (counted, self._newest_arrival) if us is not None), default=None)
        self.counts.update(content["counts"])

    def _add_label(self, record: LabelRecord) -> str:
        try:
            value = self._encode(record.label)
        except ValueError:
            return "invalid"
        if not np.isfinite(value):
            return "invalid"
        held, since = self._value(record.id), self._corrected.get(record.id)
        is_newest = record.is_correction and (since is None or record.arrival >= since)
        if is_newest:
            self._corrected[record.id] = record.arrival
        if held is None:
            self._give(record, value)
            return "accepted"
        if held == value:
            return "duplicate"
        if not is_newest:
            return "conflicting"
        self._correct(record, value)
        return "corrected"

    def _value(self, name: str) -> float | None:
        """The label in force of an id; None where there is none."""
        place = self._where.get(name)
        if place is None:
            early = self._early.get(name)
            return None if early is None else self._encode(early.label)
        value = self._windows[place[0]].labels[place[1]]
        return None if np.isnan(value) else value

    def _give(self, record: LabelRecord, value: float) -> None:
        place = self._where.get(record.id)
        if place is None:
            self._early[record.id] = record
        else:
            self._windows[place[0]].give(place[1], value, record)
            self._touched.add(place[0])

    def _correct(self, record: LabelRecord, value: float) -> None:
        """Set another value; how long the label took is how long its first value took."""
        place = self._where.get(record.id)
        if place is None:
            self._early[record.id] = replace(self._early[record.id], label=record.label)
        else:
            held = self._windows[place[0]]
            held.labels[place[1]], held.arrived = value, None
            self._touched.add(place[0])

    def touched(self, through: int) -> list[int]:
        """Windows up to one, inclusive, whose labels have changed since they were taken in; rising."""
        return sorted(index for index in self._touched if index <= through)

    def take_touched(self, through: int, by_us: int) -> None:
        """Say that labels of windows up to one, inclusive, that were there by a moment of event time are taken in."""
        taken = [i for i in self._touched if i <= through and max(self._windows[i].known_us, default=by_us) <= by_us]
        self._touched.difference_update(taken)

    def cohorts(self, now_us: int) -> list[Cohort]:
        """The windows that are over by a moment of event time, with the delays of their labels."""
        over = [index for index in sorted(self._windows) if (index + 1) * self._window_us <= now_us]
        return [
            Cohort(
                (now_us - (index + 1) * self._window_us) / 1e6,
                len(self._windows[index].labels),
                self._windows[index].count(self._num_classes),
            )
            for index in over
        ]

    def summary(self, window: int, by_us: int | None = None) -> WindowLabels:
        """Rows of one window, and those with a label that was there by a moment of event time; None means by now."""
        held = self._windows.get(window)
        if held is None:
            return WindowLabels(0, 0)
        return WindowLabels(len(held.labels), int(np.count_nonzero(~np.isnan(held.labels_by(by_us)))))

    def labelled_counts(self, through: int) -> dict[int, int]:
        """Labelled rows of each window up to one, inclusive."""
        return {index: self.summary(index).labelled for index in sorted(self._windows) if index <= through}

    def labelled(self, after: int, through: int) -> pa.Table | None:
        """Labelled rows of the windows in ``(after, through]``, in event order; None where there are none.

        Columns: ``KEY_COLUMNS``, the predictions, ``window`` (int64) and ``label`` (float64). One that was a number
        for one version and text for another is text.
        """
        parts = [self.rows(index) for index in sorted(self._windows) if after < index <= through]
        known = [table.filter(pc.invert(pc.is_nan(table["label"]))) for table in parts]
        return unite(known) if known else None

    def rows(self, window: int, by_us: int | None = None) -> pa.Table:
        """All rows of a window that is held, in event order, with columns as ``labelled`` has them.

        Args:
            window: Its index.
            by_us: Event time; labels that were not there yet are NaN, as missing ones are. None means by now.
        """
        held = self._windows[window]
        labels = pa.array(held.labels_by(by_us))
        table = unite(held.parts)
        table = table.append_column("window", pa.array(np.full(len(labels), window))).append_column("label", labels)
        return table.sort_by([("event_time", "ascending"), ("prediction_id", "ascending")])

    def expire(self, watermark_us: int, keep: Collection[int] = ()) -> None:
        """Let go of what the horizon has passed: windows without hope, and labels that nobody predicted."""
        oldest_us = watermark_us - self._horizon_us
        oldest = oldest_us // self._window_us
        for index in [index for index in self._windows if index < oldest and index not in keep]:
            held = self._windows.pop(index)
            self.counts["unlabelled"] += int(np.count_nonzero(np.isnan(np.array(held.labels))))
            self._touched.discard(index)
            for part in held.parts:
                for name in part["prediction_id"].to_pylist():
                    self._where.pop(name, None)
                    self._corrected.pop(name, None)
        for name in [name for name in self._early if self._waits_since(name, watermark_us) < oldest_us]:
            del self._early[name]
            self._since.pop(name, None)
            self._corrected.pop(name, None)
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
