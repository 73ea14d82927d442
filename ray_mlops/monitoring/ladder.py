"""Which retraining is the cheapest that may help: a pure decision over the trigger and what was tried before."""

from collections.abc import Sequence
from typing import Literal

from ray_mlops.config.monitoring import RetrainAction

Trigger = Literal["inputs", "score", "loss", "schedule", "manual"]


def choose_rung(ladder: Sequence[RetrainAction], trigger: Trigger, num_tried: int) -> RetrainAction | None:
    """Choose a rung; None where none helps.

    A recalibration moves the level of the predictions and nothing else: it may answer a loss that has risen or
    scores that have moved, not inputs that lie where the model has hardly learnt.

    Args:
        ladder: Actions, cheapest first.
        trigger: Why a model shall be renewed.
        num_tried: Candidates since the champion was promoted that did not replace it.

    Example:
        >>> ladder = ["recalibrate", "fine_tune", "full"]
        >>> [choose_rung(ladder, "loss", tried) for tried in range(4)]
        ['recalibrate', 'fine_tune', 'full', 'full']
        >>> choose_rung(ladder, "inputs", 0), choose_rung(["recalibrate"], "inputs", 0)
        ('fine_tune', None)
    """
    useful = [action for action in ladder if not (action == "recalibrate" and trigger == "inputs")]
    return useful[min(num_tried, len(useful) - 1)] if useful else None
