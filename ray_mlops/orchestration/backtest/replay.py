"""Replay a history under a policy: who would have answered each row, how well, and at what cost."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ray_mlops.config import ProjectConfig
from ray_mlops.config.data import Task
from ray_mlops.config.section import parse_schedule
from ray_mlops.errors import ConfigError, DataError
from ray_mlops.orchestration.backtest.candidates import Trainer
from ray_mlops.orchestration.backtest.history import History
from ray_mlops.orchestration.backtest.policies import Calendar, Policy, Watched
from ray_mlops.statistics.losses import log_loss_rows
from ray_mlops.training.bundle import ModelBundle

OnWindow = Callable[[str, int, int], None]
"""Called with a policy's name, how many windows are done, and how many there are."""
CALENDARS = {"never": None, "weekly": timedelta(days=7), "monthly": timedelta(days=30)}
CONFIGURED = "configured"


@dataclass(frozen=True, slots=True)
class Retraining:
    """One retraining of a backtest."""

    as_of: str
    """Event time, ISO."""
    trigger: str
    action: str
    became_champion: bool
    reason: str
    seconds: float


@dataclass(frozen=True, slots=True)
class PolicyReport:
    """What a policy would have come to."""

    policy: str
    retrainings: tuple[Retraining, ...]
    rows: tuple[int, ...]
    """By window [w]."""
    losses: tuple[float, ...]
    """Mean loss by window [w]: log-loss, or squared error."""
    windows: tuple[int, ...]
    """Indices [w]."""

    @property
    def loss(self) -> float:
        """Mean over all rows."""
        return float(np.average(self.losses, weights=self.rows))

    @property
    def seconds(self) -> float:
        """Wall-clock time of all trainings."""
        return sum(retraining.seconds for retraining in self.retrainings)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        summary = {"loss": self.loss, "seconds": self.seconds, "num_retrainings": len(self.retrainings)}
        return {**asdict(self), **summary}


@dataclass
class Backtest:
    """Replays one history under any number of policies; all begin with the same model.

    Args:
        config: The configuration.
        history: Labelled rows.
        start_us: Event time from which rows are served; those before train the first model. None begins after
            ``retraining.window``.
    """

    config: ProjectConfig
    history: History
    start_us: int | None = None
    trainer: Trainer = field(init=False)
    first: ModelBundle = field(init=False)
    windows: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        counts, window_us = self.history.counts(), self.history.window_us
        start_us = self.start_us
        if start_us is None:
            start_us = int(self.history.event_us[0]) + round(self.config.retraining.window.total_seconds() * 1e6)
        first_window = -(-start_us // window_us)
        self.windows = tuple(window for window in sorted(counts) if window >= first_window)
        if not self.windows:
            last = iso(int(self.history.event_us[-1]))
            raise DataError(f"no row from {iso(start_us)} on", "history", f"the last is of {last}; begin earlier")
        self.trainer = Trainer(self.config, self.history)
        self.first = self.trainer.first(first_window * window_us)

    def run(self, policy: Policy, on_window: OnWindow | None = None) -> PolicyReport:
        """Replay all windows under a policy."""
        champion, retrainings, losses, sizes = self.first, [], [], []
        policy.begin(champion, self.windows[0])
        for done, window in enumerate(self.windows, 1):
            rows = self.history.window(window)
            decision = policy.decide(window, rows, champion)
            if decision is not None:
                candidate = self.trainer.candidate(decision, champion)
                policy.finish(decision, candidate.bundle if candidate.passed else None)
                if candidate.passed and candidate.bundle is not None:
                    champion = candidate.bundle
                reason = f"{decision.reason}; {candidate.reason}"
                retrainings.append(
                    Retraining(
                        iso(decision.as_of_us),
                        decision.trigger,
                        decision.action,
                        candidate.passed,
                        reason,
                        candidate.seconds,
                    )
                )
            losses.append(float(row_losses(champion.task, champion.predict(rows.rows).values, rows.target).mean()))
            sizes.append(len(rows))
            policy.observe(window, rows, champion)
            if on_window is not None:
                on_window(policy.name, done, len(self.windows))
        return PolicyReport(policy.name, tuple(retrainings), tuple(sizes), tuple(losses), self.windows)

    def compare(self, names: Sequence[str], on_window: OnWindow | None = None) -> list[PolicyReport]:
        """Replay the configured policy and calendars.

        Args:
            names: ``configured``, ``never``, ``weekly``, ``monthly``, a duration like ``10d`` or a cron expression.
            on_window: Progress.

        Raises:
            ConfigError: A name is none of them.
        """
        check_policies(names)
        with tempfile.TemporaryDirectory(prefix="ray-mlops-backtest-") as directory:
            policies = [self.policy(name, Path(directory) / str(index)) for index, name in enumerate(names)]
            return [self.run(policy, on_window) for policy in policies]

    def policy(self, name: str, directory: Path) -> Policy:
        """The policy of a name; see ``compare``."""
        if name == CONFIGURED:
            directory.mkdir()
            return Watched(name, self.config, self.history, directory)
        schedule = CALENDARS[name] if name in CALENDARS else parse_schedule(name)
        return Calendar(name, schedule, self.config, self.history.counts())


def check_policies(names: Sequence[str]) -> None:
    """See that policies are known, before anything is trained.

    Raises:
        ConfigError: One is not.
    """
    for name in names:
        if name == CONFIGURED or name in CALENDARS:
            continue
        try:
            parse_schedule(name)
        except ValueError as error:
            known = f"take one of {', '.join([CONFIGURED, *CALENDARS])}, a duration or a cron expression"
            raise ConfigError(f"no policy {name!r}: {error}", "--policy", known) from None


def row_losses(task: Task, values: npt.NDArray[np.float64], target: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Log-loss, or squared error, of each row [n]."""
    return (values - target) ** 2 if task == "regression" else log_loss_rows(values, target)


def iso(event_us: int) -> str:
    """An event time for people."""
    return datetime.fromtimestamp(event_us / 1e6, UTC).isoformat(timespec="minutes")
