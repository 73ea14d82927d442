"""Candidates of a backtest: trained in this process, and judged by all of the gate that needs no running replica."""

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass

from ray_mlops.config import ProjectConfig
from ray_mlops.data.manifest import Snapshot
from ray_mlops.errors import DataError, TrainingError
from ray_mlops.evaluation import decide_gate, evaluate
from ray_mlops.monitoring.policy import RetrainDecision
from ray_mlops.orchestration.backtest.history import History
from ray_mlops.orchestration.dataset import Dataset, dataset_of_table
from ray_mlops.orchestration.fit import Fitted, fit_bundle, recalibrate_bundle
from ray_mlops.orchestration.pipeline import STARTS_FROM_CHAMPION
from ray_mlops.training.bundle import ModelBundle
from ray_mlops.training.here import train_here

NEEDS_REPLICA = ("parity", "load", "replay", "approval")
"""Checks of the gate that a backtest cannot make."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """What a retraining came to."""

    bundle: ModelBundle | None
    """None where it could not be trained."""
    passed: bool
    reason: str
    seconds: float
    """Wall-clock time of training and judging."""


class Trainer:
    """Trains candidates; the same rows, action and champion are trained once, however many policies ask.

    Args:
        config: The configuration.
        history: All rows.
    """

    def __init__(self, config: ProjectConfig, history: History) -> None:
        self._config, self._history = config, history
        self._known: dict[tuple[object, ...], Candidate] = {}

    def first(self, end_us: int) -> ModelBundle:
        """The model that a history begins with: trained on everything before a moment.

        Raises:
            DataError: There is nothing before it to train on.
        """
        rows = self._history.part(0, end_us)
        if not len(rows):
            raise DataError("no row before the backtest begins", "history", "begin later")
        return self._fit(self._dataset(rows, None, None), "full", None).bundle

    def candidate(self, decision: RetrainDecision, champion: ModelBundle) -> Candidate:
        """Train what a decision asks for, and judge it against the champion."""
        span = (decision.train_start_us, decision.train_end_us, decision.holdout_end_us)
        key = (*span, decision.action, champion.hash)
        if key not in self._known:
            started = time.monotonic()
            bundle, passed, reason = self._try(decision, champion)
            self._known[key] = Candidate(bundle, passed, reason, time.monotonic() - started)
        return self._known[key]

    def _try(self, decision: RetrainDecision, champion: ModelBundle) -> tuple[ModelBundle | None, bool, str]:
        initial = champion if decision.action in STARTS_FROM_CHAMPION else None
        rows = self._history.part(decision.train_start_us, decision.holdout_end_us)
        try:
            dataset = self._dataset(rows, initial, decision.train_end_us)
            fitted = self._fit(dataset, decision.action, initial)
        except (DataError, TrainingError) as error:
            return None, False, str(error)
        report = evaluate(
            fitted.prediction,
            dataset.holdout,
            dataset.holdout_target,
            self._config.evaluation,
            model=self._config.name,
            bundle_hash=fitted.bundle.hash,
            champion=champion.predict(dataset.holdout),
            champion_hash=champion.hash,
            baseline=dataset.baseline,
            loss_scale=fitted.bundle.loss_scale,
        )
        decided = decide_gate(report, None, self._config.gate)
        failed = [
            check.name for check in decided.checks if not check.passed and check.name.split(":")[0] not in NEEDS_REPLICA
        ]
        return fitted.bundle, not failed, f"the gate refused it: {', '.join(failed)}" if failed else "passed the gate"

    def _dataset(self, rows: History, initial: ModelBundle | None, holdout_start_us: int | None) -> Dataset:
        return dataset_of_table(
            self._config,
            rows.rows,
            snapshot_of(rows),
            encoder=self._history.encoder,
            features=None if initial is None else initial.features,
            holdout_start_us=holdout_start_us,
        )

    def _fit(self, dataset: Dataset, action: str, initial: ModelBundle | None) -> Fitted:
        if action == "recalibrate" and initial is not None:
            return recalibrate_bundle(self._config, dataset, initial)
        return fit_bundle(self._config, dataset, _NoRun(), name="backtest", initial=initial, train=train_here)


class _NoRun:
    """A run that nobody looks at."""

    run_id = "backtest"

    def log_metrics(self, metrics: Mapping[str, float | None], step: int = 0) -> None:
        """Keep nothing."""


def snapshot_of(rows: History) -> Snapshot:
    """A snapshot that is named after its span and never stored."""
    span = (int(rows.event_us[0]), int(rows.event_us[-1]))
    name = hashlib.sha256(json.dumps([*span, len(rows)]).encode()).hexdigest()[:16]
    types = {field.name: str(field.type) for field in rows.rows.schema}
    return Snapshot(name, len(rows), types, (), {"kind": "backtest"}, event_range=span)
