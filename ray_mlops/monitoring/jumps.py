"""Jumps of a numeric column from one window to the next, such as a change of unit makes, and seasons do not."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import exp, inf, log
from statistics import median
from typing import Any, Self

from ray_mlops.statistics.bins import ColumnCounts

_RECENT = 7
"""Windows that a jump is measured from."""
_SMALLEST_FACTOR = 1.25
"""A change of unit multiplies by at least this, or divides."""
_SLACK = 1.25
"""How much further than ever before is a jump."""
_ROUNDING = 0.02
"""Log factor by which statistics that never move may differ."""
_MEAN, _SD = 0, 1


@dataclass(frozen=True, slots=True)
class Jumps:
    """How a column's windows have moved so far: those of the reference, and all later ones without a jump.

    The statistics of a window are its mean, standard deviation, least and largest value. They are compared
    with their medians over the recent windows.
    """

    num_windows: int = 0
    recent: tuple[tuple[float, ...], ...] = ()
    """Statistics of the newest windows [<= 7, 4], oldest first."""
    low: float = inf
    high: float = -inf
    """The range of all values."""
    largest_shift: float = 0.0
    """Furthest that a window's mean ever lay from that median."""
    largest_changes: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)
    """Furthest that the log of each statistic ever did; infinite where it once was 0 or changed its sign."""

    @property
    def centre(self) -> float:
        """The mean of recent windows."""
        return self._usual()[_MEAN]

    def extended(self, counts: ColumnCounts) -> "Jumps":
        """Take one more window that is no jump."""
        now = _statistics(counts)
        shift = 0.0
        changes: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)
        if self.recent:
            shift = abs(now[_MEAN] - self.centre)
            changes = tuple(abs(inf if change is None else change) for change in self._changes(now))
        return Jumps(
            self.num_windows + 1,
            (*self.recent, now)[-_RECENT:],
            min(self.low, counts.minimum),
            max(self.high, counts.maximum),
            max(self.largest_shift, shift),
            tuple(max(pair) for pair in zip(self.largest_changes, changes, strict=True)),
        )

    def multiplied(self, counts: ColumnCounts) -> str:
        """Say so if all statistics were multiplied by one factor, as far as they can tell.

        The factor is read off the statistic that moved least in the past; each of the others must have changed
        by it, give or take what it usually moves. A storm leaves some of them where they were.
        """
        changes = self._changes(_statistics(counts))
        usual = [_SLACK * largest + _ROUNDING for largest in self.largest_changes]
        if any(change is None for change in changes):
            return ""
        known = [(limit, change) for limit, change in zip(usual, changes, strict=True) if change is not None]
        limit, factor = min(known, key=lambda pair: pair[0])
        is_jump = abs(factor) > max(limit, log(_SMALLEST_FACTOR))
        is_stretch = abs(known[_SD][1]) > known[_SD][0]
        is_common = all(abs(change - factor) <= limit for limit, change in known)
        return f"all values were multiplied by about {exp(factor):.3g}" if is_jump and is_stretch and is_common else ""

    def displaced(self, counts: ColumnCounts) -> str:
        """Say so if a window has nothing in common with any before, and lies further off than any ever moved."""
        low, high = counts.minimum, counts.maximum
        is_apart = low > self.high or high < self.low
        if not is_apart or abs(counts.mean - self.centre) <= _SLACK * self.largest_shift:
            return ""
        return f"values jumped to [{low:.4g}, {high:.4g}], all before lay in [{self.low:.4g}, {self.high:.4g}]"

    def to_json(self) -> dict[str, Any]:
        return {name: _finite(value) for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        if not content["num_windows"]:
            return cls()
        recent = tuple(tuple(window) for window in content["recent"])
        changes = tuple(inf if change is None else change for change in content["largest_changes"])
        return cls(**{**content, "recent": recent, "largest_changes": changes})

    def _usual(self) -> tuple[float, ...]:
        return tuple(float(median(values)) for values in zip(*self.recent, strict=True))

    def _changes(self, now: tuple[float, ...]) -> list[float | None]:
        """Return by how much the log of each statistic changed: 0 if it is and was 0, None if only one of them."""
        changes: list[float | None] = []
        for after, before in zip(now, self._usual(), strict=True):
            if after == before:
                changes.append(0.0 if after == 0.0 else log(after / before))
            else:
                changes.append(log(after / before) if after * before > 0.0 else None)
        return changes


def _statistics(counts: ColumnCounts) -> tuple[float, ...]:
    return counts.mean, counts.sd, counts.minimum, counts.maximum


def _finite(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_finite(item) for item in value]
    return None if value in (inf, -inf) else value
