"""Why the loss has risen: other rows, of which more was to be expected, or other truths about the same rows.

The rise of a window's mean loss over the reference's is the sum of two parts: what the scores (or the error model)
let one expect of these rows, and what labels show beyond that. Each is tested by itself, window by window, as the
loss is. Where inputs drift and labels follow them as they always did, the second part stays what it was.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import log, sqrt
from typing import Any, Literal

import numpy as np

from ray_mlops.config import MonitoringConfig
from ray_mlops.monitoring.estimation import Calibration
from ray_mlops.monitoring.loss_channel import LossChannel, LossWindow
from ray_mlops.statistics.gap import GapSums, Moments

Kind = Literal["concept", "covariate", "both", "unclear"]

_KEPT = 30
"""Newest windows whose outcomes by score are kept, for display."""
_SHOWN_BINS = 3
_WORDS: dict[Kind, str] = {
    "concept": "concept drift: labels no longer follow the scores as they did",
    "covariate": "covariate drift: other rows come, and of such rows this loss was to be expected",
    "both": "covariate and concept drift: harder rows come, and labels no longer follow their scores either",
    "unclear": "it is not clear yet whether rows or labels have changed",
}
UNKNOWN_KIND: Mapping[str, Any] = {
    "kind": "unclear",
    "kind_reason": "whether rows or labels have changed cannot be told: this version has no estimator",
}
"""Of a version of an older release."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the rise of the loss."""

    log_e: float
    """Evidence that it has risen."""
    limit: float
    """Log evidence at which that is certain enough to be said."""
    change: float
    """Mean rise over the windows since the loss began to rise."""

    @property
    def is_proven(self) -> bool:
        return self.log_e >= self.limit


@dataclass(frozen=True, slots=True)
class LossKind:
    """What a loss alarm is about."""

    kind: Kind
    reason: str


def decide_kind(concept: Part, covariate: Part) -> LossKind:
    """Say which part of the loss has risen.

    Where only the rows have changed, the probability that `concept` or `both` is ever said is at most that of a false
    alarm of the concept part, whatever the rows.

    Example:
        >>> decide_kind(Part(9.0, 4.6, 0.03), Part(-2.0, 4.6, 0.001)).kind
        'concept'
        >>> decide_kind(Part(1.0, 4.6, 0.01), Part(2.0, 4.6, 0.01)).kind
        'unclear'
    """
    kinds: dict[tuple[bool, bool], Kind] = {
        (True, False): "concept",
        (False, True): "covariate",
        (True, True): "both",
        (False, False): "unclear",
    }
    kind = kinds[concept.is_proven, covariate.is_proven]
    evidence = (
        f"{concept.change:+.4f} beyond what was expected (log e {concept.log_e:.1f} of {concept.limit:.1f}), "
        f"{covariate.change:+.4f} by other rows (log e {covariate.log_e:.1f} of {covariate.limit:.1f})"
    )
    return LossKind(kind, f"{_WORDS[kind]}: {evidence}")


class LossParts:
    """Tests the parts of the loss, and with them the estimates, over one reference epoch.

    Args:
        reference: Gaps of the reference's windows, of rows that the model was not trained on; not empty.
        labels: Names of the score bins.
        config: Level and tolerance: each part has half of the loss's.
    """

    def __init__(self, reference: Sequence[GapSums], labels: Sequence[str], config: MonitoringConfig) -> None:
        known = [gap for gap in reference if gap.excess.n]
        half = config.loss_tolerance / 2.0
        self._labels = tuple(labels)
        self._limit = log(1.0 / config.alpha)
        everything = [gap.expected for gap in known]
        self._usual = sum(part.total for part in everything) / sum(part.n for part in everything)
        self._channels = {
            "covariate": LossChannel([_as_loss(gap.expected) for gap in known], half),
            "concept": LossChannel([_unit(gap.excess) for gap in known], half / 2.0),
            "better": LossChannel([_unit(gap.excess, -1.0) for gap in known], half / 2.0),
        }
        if known[0].surprise.n:
            self._channels["above"] = LossChannel([_unit(gap.surprise) for gap in known], half / 2.0)
            self._channels["below"] = LossChannel([_unit(gap.surprise, -1.0) for gap in known], half / 2.0)
        self._newest: deque[tuple[int, GapSums]] = deque(maxlen=_KEPT)
        self._windows = 0

    def update(self, window: int, gap: GapSums) -> None:
        """Take one matured window, in order of time."""
        if not gap.excess.n:
            return
        self._windows += 1
        self._newest.append((window, gap))
        self._channels["covariate"].update(window, _as_loss(gap.expected))
        self._channels["concept"].update(window, _unit(gap.excess))
        self._channels["better"].update(window, _unit(gap.excess, -1.0))
        if "above" in self._channels and gap.surprise.n:
            self._channels["above"].update(window, _unit(gap.surprise))
            self._channels["below"].update(window, _unit(gap.surprise, -1.0))

    def kind(self, since: int | None) -> LossKind:
        """What a rise of the loss since a window is about."""
        return decide_kind(*self.parts(since))

    def parts(self, since: int | None) -> tuple[Part, Part]:
        """The concept part and the covariate part."""
        gap = self._since(since)
        expected = gap.expected.total / gap.expected.n - self._usual if gap is not None else 0.0
        excess = gap.excess.total / gap.excess.n if gap is not None else 0.0
        concept, covariate = self._channels["concept"], self._channels["covariate"]
        return Part(concept.log_e, self._limit, excess), Part(covariate.log_e, self._limit, expected)

    def describe(self, since: int | None) -> dict[str, Any]:
        """Kind, reason and evidence, for the payload of an alarm."""
        concept, covariate = self.parts(since)
        found = decide_kind(concept, covariate)
        parts = {"concept": asdict(concept), "covariate": asdict(covariate)}
        return {"kind": found.kind, "kind_reason": found.reason, "parts": parts, "score_bins": self.bins(since)}

    def calibration(self) -> Calibration:
        """What labels say about the estimates: the mean evidence of all ways in which they can be off."""
        tested = [self._channels[name] for name in self._channels if name != "covariate"]
        evidence = np.array([channel.log_e for channel in tested])
        log_e = float(np.logaddexp.reduce(evidence) - log(len(tested)))
        if log_e < self._limit:
            return Calibration(self._windows, log_e, self._limit)
        since = tested[int(evidence.argmax())].change_window()
        gap = self._since(since)
        off = "" if gap is None else f"the loss was {gap.excess.total / gap.excess.n:+.4f} beyond what was expected, "
        reason = f"{off}log e {log_e:.1f} of {self._limit:.1f}"
        return Calibration(self._windows, log_e, self._limit, since, reason)

    def bins(self, since: int | None) -> list[dict[str, Any]]:
        """Score bins whose outcomes (or losses) are furthest from what was expected, for their number of rows."""
        gap = self._since(since)
        if gap is None:
            return []
        rows, seen, expected = gap.bins
        used = np.flatnonzero(rows > 0)
        order = sorted(used.tolist(), key=lambda k: -abs(seen[k] - expected[k]) / sqrt(rows[k]))[:_SHOWN_BINS]
        return [
            {
                "score": self._labels[k],
                "rows": int(rows[k]),
                "seen": seen[k] / rows[k],
                "expected": expected[k] / rows[k],
            }
            for k in order
        ]

    def _since(self, since: int | None) -> GapSums | None:
        """The sum of the newest windows from one on; of all that are kept where none is so new."""
        chosen = [gap for window, gap in self._newest if since is None or window >= since]
        chosen = chosen or [gap for _, gap in self._newest]
        return sum(chosen[1:], chosen[0]) if chosen else None

    def view(self, since: int | None) -> dict[str, Any]:
        """For people; the kind says something only beside a loss alarm."""
        calibration = self.calibration()
        return {**self.describe(since), "windows": self._windows, "calibration_log_e": calibration.log_e}

    def to_json(self) -> dict[str, Any]:
        return {
            "channels": {name: channel.to_json() for name, channel in self._channels.items()},
            "newest": [[window, gap.to_json()] for window, gap in self._newest],
            "windows": self._windows,
        }

    def restore(self, content: Mapping[str, Any]) -> None:
        """Take up a state that was stored for the same reference."""
        for name, state in content["channels"].items():
            self._channels[name].restore(state)
        self._newest.clear()
        self._newest.extend((window, GapSums.from_json(gap)) for window, gap in content["newest"])
        self._windows = content["windows"]


def _as_loss(part: Moments) -> LossWindow:
    return part.n, part.total, part.squares


def _unit(part: Moments, sign: float = 1.0) -> LossWindow:
    """Numbers in [-1, 1], or their opposites, brought to [0, 1]."""
    total = sign * part.total
    return part.n, (part.n + total) / 2.0, (part.n + 2.0 * total + part.squares) / 4.0
