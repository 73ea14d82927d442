"""Between Ray Tune's thread and the one that waits for a search: what trials gave, and when to stop."""

import math
import queue
import time
from dataclasses import dataclass
from typing import Any

from ray import tune

from ray_mlops.config import SpaceConfig
from ray_mlops.training.space import to_overrides

METRIC = "best_loss"
"""Least validation loss of a trial so far."""


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """One trial."""

    number: int
    overrides: dict[str, Any]
    """What it changed, by dotted path of the configuration."""
    loss: float
    """Least validation loss; infinite where it failed before the first epoch ended."""
    epochs: int
    error: str = ""

    def metrics(self) -> dict[str, float]:
        """For an experiment tracker."""
        return {"validation_loss": self.loss, "epochs": float(self.epochs)} if math.isfinite(self.loss) else {}


class Watch:
    """What Ray Tune's thread tells the one that waits: when a trial last reported, and which have ended."""

    def __init__(self, space: dict[str, SpaceConfig]) -> None:
        self._space = space
        self._ended = 0
        self.records: queue.SimpleQueue[TrialRecord] = queue.SimpleQueue()
        self.last_report = time.monotonic()

    def reported(self) -> None:
        self.last_report = time.monotonic()

    def ended(self, trial: Any, error: str) -> None:
        self.reported()
        last, number = trial.last_result or {}, self._ended
        self._ended += 1
        loss, epochs = last.get(METRIC, math.inf), int(last.get("epoch", 0))
        self.records.put(TrialRecord(number, to_overrides(trial.config, self._space), loss, epochs, error))


WATCHES: dict[str, Watch] = {}
"""Searches that somebody in this process waits for. Ray Tune pickles its callbacks, and keeps the old ones when it
restores a search: they can hold no more than the name by which to look their watch up."""


class TellWatch(tune.Callback):
    """Runs in Ray Tune's thread of the process that called ``search``."""

    def __init__(self, run_name: str) -> None:
        self._run_name = run_name

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        if watch := WATCHES.get(self._run_name):
            watch.reported()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        if watch := WATCHES.get(self._run_name):
            watch.ended(trial, "")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        if watch := WATCHES.get(self._run_name):
            watch.ended(trial, "failed")


class StopUnwatched(tune.Stopper):
    """Ends a search that nobody waits for any more, so that it gives its CPUs back."""

    def __init__(self, run_name: str) -> None:
        self._run_name = run_name

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return self.stop_all()

    def stop_all(self) -> bool:
        return self._run_name not in WATCHES
