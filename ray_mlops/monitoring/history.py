"""The past, for people: windows that roll up into hours and hours into days, in bounded memory.

Every row of a closed window is in exactly one slot, so any stretch of the past is a sum. Counts belong to the
bins of one epoch; of epochs before only what was shown is kept.
"""

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ray_mlops.config import HistoryConfig
from ray_mlops.errors import MonitoringError
from ray_mlops.statistics.distances import expected_total_variation, total_variation
from ray_mlops.statistics.table import TableCounts

HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US
_SCHEMA_VERSION = 1


class _Level(NamedTuple):
    name: str
    unit_us: int
    keep: int


@dataclass(frozen=True, slots=True)
class Stretch:
    """A sum over the past."""

    start_us: int
    end_us: int
    """The stretch that is covered: that of all slots which touch what was asked for."""
    counts: TableCounts


class History:
    """Counts of closed windows of one model, newest in most detail.

    Args:
        window_us: Length of a window, microseconds.
        config: How many windows, hours and days are kept.
    """

    def __init__(self, window_us: int, config: HistoryConfig) -> None:
        coarser = [_Level("hour", HOUR_US, config.hours), _Level("day", DAY_US, config.days)]
        fitting = [level for level in coarser if level.unit_us > window_us and level.unit_us % window_us == 0]
        self._levels = [_Level("window", window_us, config.windows), *fitting]
        self._slots: list[dict[int, TableCounts]] = [{} for _ in self._levels]
        self._cuts: list[int | None] = [None] * len(self._levels)
        self._reference: Mapping[str, Any] = {}
        self._epoch = ""
        self._past: list[dict[str, Any]] = []
        self._shown: dict[tuple[int, int], dict[str, Any]] = {}
        self._through: int | None = None
        self.forgotten_rows = 0
        """Late rows of what is no longer held."""

    def begin(self, epoch: str, reference: Mapping[str, Any]) -> None:
        """Go on with an epoch, or begin another: of the one before only what is shown remains.

        Args:
            epoch: Id of the reference.
            reference: Its counts by column [size], for distances.
        """
        if self._epoch and epoch != self._epoch:
            self._past = self.slots(self._most)
            self._slots = [{} for _ in self._levels]
        self._epoch, self._reference = epoch, reference
        self._shown.clear()

    @property
    def window_us(self) -> int:
        """Length of a window, microseconds."""
        return self._levels[0].unit_us

    @property
    def through(self) -> int | None:
        """The newest window that was closed; None before the first."""
        return self._through

    def close(self, window: int, counts: TableCounts | None) -> None:
        """Take a window that is closed now, None without rows; one taken before a restart is not counted again."""
        if self._through is None or window > self._through:
            self._through = window
            if counts is not None:
                self.add(window, counts)

    def add(self, window: int, counts: TableCounts) -> None:
        """Add late rows of a closed window to whatever holds their time by now."""
        start = window * self._levels[0].unit_us
        newest = max((start, *(index * self._levels[0].unit_us for index in self._slots[0])))
        self._roll(newest + self._levels[0].unit_us)
        for depth, cut in enumerate(self._cuts):
            if cut is not None and start >= cut:
                self._put(depth, start, counts)
                return
        self.forgotten_rows += int(counts.rows.max(initial=0))

    def past(self, start_us: int, end_us: int) -> Stretch | None:
        """Sum what lies in a stretch of event time, of this epoch; None where nothing does."""
        found = [
            (self._bounds(depth, index), counts)
            for depth, slots in enumerate(self._slots)
            for index, counts in slots.items()
        ]
        touched = [(bounds, counts) for bounds, counts in found if bounds[0] < end_us and bounds[1] > start_us]
        if not touched:
            return None
        starts, ends = zip(*(bounds for bounds, _ in touched), strict=True)
        return Stretch(min(starts), max(ends), TableCounts.merged(counts for _, counts in touched))

    def slots(self, newest: int | None = None) -> list[dict[str, Any]]:
        """Slots as one line each for people, oldest first: rows, and by column mean, nulls and distance.

        Args:
            newest: How many are made, of the newest; None makes all.
        """
        shown = len(self._levels)  # the depth of what is known of earlier epochs as lines only
        found = [(line["start_us"], shown, place) for place, line in enumerate(self._past)]
        found += [(self._bounds(depth, i)[0], depth, i) for depth, slots in enumerate(self._slots) for i in slots]
        found.sort(key=lambda slot: (slot[0], -slot[1]))
        chosen = found if newest is None else found[max(len(found) - newest, 0) :]
        return [self._past[index] if depth == shown else self._line(depth, index) for _, depth, index in chosen]

    @property
    def nbytes(self) -> int:
        """Bytes of all counts that are held."""
        return sum(counts.nbytes for slots in self._slots for counts in slots.values())

    def to_bytes(self) -> bytes:
        """All of it, to be stored."""
        slots = [
            [depth, index, _packed(counts)] for depth, held in enumerate(self._slots) for index, counts in held.items()
        ]
        content = {
            "schema_version": _SCHEMA_VERSION,
            "levels": [list(level) for level in self._levels],
            "epoch": self._epoch,
            "reference": {name: np.asarray(counts).tolist() for name, counts in self._reference.items()},
            "cuts": self._cuts,
            "through": self._through,
            "forgotten_rows": self.forgotten_rows,
            "past": self._past,
            "slots": slots,
        }
        return zlib.compress(json.dumps(content).encode(), 1)

    def restore(self, stored: bytes) -> None:
        """Take up what was stored; with another window or retention begin anew, since its slots do not fit.

        Raises:
            MonitoringError: A newer release wrote it.
        """
        content = json.loads(zlib.decompress(stored))
        if content["schema_version"] > _SCHEMA_VERSION:
            problem = f"history is of version {content['schema_version']}, this release reads {_SCHEMA_VERSION}"
            raise MonitoringError(problem, "monitor history")
        self._past = content["past"]
        if content["levels"] != [list(level) for level in self._levels]:
            return
        self._epoch, self._cuts, self._through = content["epoch"], content["cuts"], content["through"]
        # The slots are on this reference's bins; that of the present epoch, which has others, comes with `begin`.
        self._reference = {name: np.array(counts) for name, counts in content.get("reference", {}).items()}
        self._shown.clear()
        self.forgotten_rows = content["forgotten_rows"]
        for depth, index, packed in content["slots"]:
            self._slots[depth][index] = _unpacked(packed)

    @property
    def _most(self) -> int:
        return sum(level.keep for level in self._levels)

    def _put(self, depth: int, start_us: int, counts: TableCounts) -> None:
        index = start_us // self._levels[depth].unit_us
        held = self._slots[depth].get(index)
        self._slots[depth][index] = counts if held is None else held + counts
        self._shown.pop((depth, index), None)

    def _roll(self, end_us: int) -> None:
        """Move what has become old to the next level, and forget what is older than the last."""
        for depth, level in enumerate(self._levels):
            end_us = (end_us - level.keep * level.unit_us) // level.unit_us * level.unit_us
            before = self._cuts[depth]
            cut = end_us if before is None else max(end_us, before)
            self._cuts[depth] = end_us = cut
            old = [index for index in self._slots[depth] if index * level.unit_us < cut]
            for index in sorted(old):
                counts = self._slots[depth].pop(index)
                self._shown.pop((depth, index), None)
                if depth + 1 < len(self._levels):
                    self._put(depth + 1, index * level.unit_us, counts)

    def _bounds(self, depth: int, index: int) -> tuple[int, int]:
        """Where a slot begins and ends; what a finer level still holds is not part of it."""
        unit_us = self._levels[depth].unit_us
        start, end = index * unit_us, (index + 1) * unit_us
        finer = self._cuts[depth - 1] if depth else None
        return start, end if finer is None else min(end, max(finer, start + 1))

    def is_due(self, window: int) -> bool:
        """Whether to store it after the close of a window: once an hour of event time is enough."""
        window_us = self._levels[0].unit_us
        return (window + 1) * window_us // HOUR_US > window * window_us // HOUR_US

    def _line(self, depth: int, index: int) -> dict[str, Any]:
        if (depth, index) not in self._shown:
            counts = self._slots[depth][index]
            start, end = self._bounds(depth, index)
            self._shown[depth, index] = {
                "level": self._levels[depth].name,
                "start_us": start,
                "end_us": end,
                "epoch": self._epoch,
                "rows": int(counts.rows.max(initial=0)),
                "columns": {name: self._summary(name, counts) for name in counts},
            }
        return self._shown[depth, index]

    def _summary(self, name: str, counts: TableCounts) -> dict[str, Any]:
        column, reference = counts[name], self._reference.get(name)
        summary: dict[str, Any] = {
            "mean": None if np.isnan(column.mean) else _short(column.mean),
            "null_ratio": _short(column.null_ratio) if column.n else None,
        }
        if reference is not None and column.n:
            summary["total_variation"] = _short(total_variation(column.counts, reference))
            summary["expected"] = _short(expected_total_variation(reference, column.n, int(np.sum(reference))))
        return summary


def _short(value: float) -> float:
    """Five digits: enough for people, and a third of the text."""
    return float(f"{value:.5g}")


def _packed(counts: TableCounts) -> dict[str, Any]:
    parts: Sequence[Any] = (counts.counts, counts.rows, counts.moments)
    packed = [base64.b64encode(part.tobytes()).decode() for part in parts]
    return {"names": list(counts.names), "sizes": list(counts.sizes), "arrays": packed}


def _unpacked(content: Mapping[str, Any]) -> TableCounts:
    counts, rows, moments = (base64.b64decode(part) for part in content["arrays"])
    return TableCounts(
        tuple(content["names"]),
        tuple(content["sizes"]),
        np.frombuffer(counts, np.int64).copy(),
        np.frombuffer(rows, np.int64).copy(),
        np.frombuffer(moments, np.float64).reshape(4, -1).copy(),
    )
