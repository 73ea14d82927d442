"""Everything that is asked after an alarm, at once: the classifier, the attribution, the slices; in words."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ray_mlops.monitoring.diagnosis.classifier_test import ClassifierTest, density_ratios, tell_apart
from ray_mlops.monitoring.diagnosis.loss_attribution import LARGEST_RATIO, LossAttribution, attribute_loss
from ray_mlops.monitoring.diagnosis.moved_slices import Change, MovedSlice, Side, moved_slices

_SHOWN = 8
_LEAST_EFFECTIVE = 0.1
_LEAST_LABELLED = 50


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What was found."""

    classifier: ClassifierTest | None
    """None where there are too few windows."""
    attribution: LossAttribution | None
    """None without enough labelled rows on both sides."""
    slices: tuple[MovedSlice, ...]
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "classifier": None if self.classifier is None else self.classifier.to_json(),
            "attribution": None if self.attribution is None else self.attribution.to_json(),
            "slices": [found.to_json() for found in self.slices],
            "notes": list(self.notes),
        }


def diagnose(
    reference: Side, current: Side, columns: Sequence[str], *, max_rows: int = 5_000, seed: int = 0
) -> Diagnosis:
    """Compare rows of now with those of the reference in every way that needs no more than them.

    Args:
        reference: Rows of then, with the model's losses.
        current: Rows of now.
        columns: The model's inputs that are watched; what moves by itself (a calendar) is left to the caller.
        max_rows: For the classifier, of each side.
        seed: The same seed gives the same diagnosis.
    """
    notes = []
    by_window = min(len(np.unique(side.windows)) for side in (reference, current)) >= 2
    if not by_window:
        notes.append("There is a single window on one side: rows count as independent, which they rarely are.")
    windows = (reference.windows, current.windows) if by_window else (None, None)
    classifier = None
    if min(len(reference.windows), len(current.windows)):
        classifier = tell_apart(reference.rows, current.rows, *windows, columns=columns, max_rows=max_rows, seed=seed)
    attribution = _attribution(reference, current, columns, max_rows, seed)
    if attribution is None:
        notes.append(f"Fewer than {_LEAST_LABELLED} labelled rows on one side: the loss cannot be attributed yet.")
    return Diagnosis(classifier, attribution, moved_slices(reference, current, columns), tuple(notes))


def _attribution(
    reference: Side, current: Side, columns: Sequence[str], max_rows: int, seed: int
) -> LossAttribution | None:
    rng, sides = np.random.default_rng(seed), []
    for side in (reference, current):
        known = np.flatnonzero(np.isfinite(side.loss))
        if len(known) < _LEAST_LABELLED:
            return None
        chosen = known if len(known) <= max_rows else np.sort(rng.choice(known, max_rows, replace=False))
        sides.append((side.rows.select(list(columns)).take(chosen), side.windows[chosen], side.loss[chosen]))
    (then, old_windows, old_loss), (now, new_windows, new_loss) = sides
    by_window = min(len(np.unique(old_windows)), len(np.unique(new_windows))) >= 2
    windows = (old_windows, new_windows) if by_window else (None, None)
    ratio = density_ratios(then, now, *windows, largest=LARGEST_RATIO, seed=seed)
    return attribute_loss(then, now, old_loss, new_loss, joint_ratio=ratio, columns=columns, seed=seed)


def diagnosis_lines(found: Diagnosis) -> list[str]:
    """The diagnosis for people."""
    lines: list[str] = []
    if found.classifier is not None:
        lines += _classifier_lines(found.classifier)
    if found.attribution is not None:
        lines += ["", *_attribution_lines(found.attribution)]
    lines += ["", *_slice_lines(found.slices), *found.notes]
    return lines


def _classifier_lines(test: ClassifierTest) -> list[str]:
    verdict = "can be told apart" if test.p_value < 0.01 else "cannot safely be told apart"
    lines = [
        f"Rows of now {verdict} from the reference: a classifier's AUC is {test.auc:.3f} (0.5: not at all), "
        f"p = {test.p_value:.2g} over {test.units} {test.unit}.",
    ]
    telling = [(name, drop) for name, drop in test.features if drop > 0.001][:_SHOWN]
    if telling:
        lines.append("  by these columns (what the AUC loses without each):")
        lines += [f"    {name:24} {drop:.3f}" for name, drop in telling]
    return lines


def _attribution_lines(found: LossAttribution) -> list[str]:
    lines = [
        f"Mean loss {found.reference_loss:.4f} then, {found.current_loss:.4f} now: {found.change:+.4f}. It comes from"
    ]
    lines += [f"    {name:28} {part:+.4f}" for name, part in found.parts[:_SHOWN]]
    rest = sum(part for _, part in found.parts[_SHOWN:])
    lines += [f"    {'all others':28} {rest:+.4f}"] if len(found.parts) > _SHOWN else []
    if found.effective_share < _LEAST_EFFECTIVE:
        share = f"{found.effective_share:.1%}"
        lines.append(f"  Only {share} of the reference's rows resemble those of now: take the parts as hints.")
    if found.unsupported > 0.05:
        lines.append(f"  {found.unsupported:.0%} of the rows of now have a value that the reference never had.")
    return lines


def _slice_lines(slices: Sequence[MovedSlice]) -> list[str]:
    clear = [s for s in slices if s.share.is_clear or (s.loss is not None and s.loss.is_clear)]
    if not clear:
        return ["No slice has clearly moved, in its share or its loss."]
    lines = ["Slices that moved most (intervals of the change hold together with 95 %):"]
    for found in clear[:_SHOWN]:
        loss = "" if found.loss is None else f"; loss {_change(found.loss, '.4f')}"
        lines.append(f"    {found.name:32} share {_change(found.share, '.1%')}{loss}")
    return lines


def _change(change: Change, form: str) -> str:
    moved = f"{change.before:{form}} → {change.now:{form}}"
    if change.lower != change.lower:
        return f"{moved} (too few windows for an interval)"
    sure = "" if change.is_clear else ", not clear"
    return f"{moved} [{change.lower:+{form}}, {change.upper:+{form}}{sure}]"
