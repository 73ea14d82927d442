"""A year of flights before the real monitor and the real policy: what it saw, said and did, day by day."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs.benchmarks.retraining_policies import CONFIG, SETTINGS, START_US
from ray_mlops.config import ProjectConfig, load_config
from ray_mlops.demo.flights import departures
from ray_mlops.ledger import LedgerEvent
from ray_mlops.monitoring.policy import RetrainDecision
from ray_mlops.orchestration.backtest.history import History
from ray_mlops.orchestration.backtest.policies import Watched
from ray_mlops.orchestration.backtest.replay import CONFIGURED, Backtest, OnWindow, PolicyReport
from ray_mlops.training.bundle import ModelBundle

QUICK_ROWS = 150
"""Flights of a day in a quick run."""


@dataclass
class Recorder:
    """A policy that does what another does, and keeps what the monitor showed at the close of each window.

    Args:
        watched: The other one.
    """

    watched: Watched
    windows: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    """By window: rows, evidence and distances by feature, as shown when it was closed."""
    performance: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    """By window: realised and estimated loss, as shown when its labels had matured; without labels as shown last."""
    limits: dict[int, float] = field(default_factory=dict)
    """By window: the mean loss up to which nothing is a decay."""
    loss_log_e: dict[int, float] = field(default_factory=dict)
    """By window: evidence at its close that the loss has risen."""
    limit: float = float("nan")
    """Log evidence at which the action level is reached."""
    name: str = field(init=False)
    _matured: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.name = self.watched.name

    def begin(self, champion: ModelBundle, window: int) -> None:
        self.watched.begin(champion, window)

    def decide(self, window: int, rows: History, champion: ModelBundle) -> RetrainDecision | None:
        decision = self.watched.decide(window, rows, champion)
        self.look()
        return decision

    def finish(self, decision: RetrainDecision, champion: ModelBundle | None) -> None:
        self.watched.finish(decision, champion)

    def observe(self, window: int, rows: History, champion: ModelBundle) -> None:
        self.watched.observe(window, rows, champion)

    def look(self) -> None:
        """Take down what is new."""
        view = self.watched.view()
        drift: Mapping[str, Any] = view["drift"]
        self.limit = float(drift["limit"])
        if view["closed_window"] is not None and drift["loss"] is not None:
            self.loss_log_e.setdefault(view["closed_window"], float(drift["loss"]["log_e"]))
            self.limits.setdefault(view["closed_window"], float(drift["loss"]["limit"]))
        for shown in view["windows"]:
            self.windows.setdefault(shown["window"], shown)
        for shown in view["performance"]:
            if shown["window"] not in self._matured:
                self._matured.add(shown["window"])
                self.performance[shown["window"]] = shown
        for shown in view["unlabelled"]:
            self.performance[shown["window"]] = shown


@dataclass(frozen=True)
class WatchedYear:
    """What came of it."""

    config: ProjectConfig
    window_us: int
    first_window: int
    """The first with rows; those before ``start_window`` trained the first model."""
    start_window: int
    end_window: int
    """The last one, exclusive."""
    num_rows: int
    recorder: Recorder
    report: PolicyReport
    events: Sequence[LedgerEvent]
    champion: ModelBundle
    """The model that the year begins with."""
    history: History


def watch_year(directory: Path, is_quick: bool, on_window: OnWindow | None = None) -> WatchedYear:
    """Let the monitor watch the flights of 2013, and the policy retrain.

    Args:
        directory: An empty directory, for the store.
        is_quick: Fewer flights of each day.
        on_window: Progress.
    """
    config = load_config(str(CONFIG), dict(SETTINGS))
    table = departures("2013-01-01", "2013-12-30", QUICK_ROWS if is_quick else None)
    history = History.of_table(table, config)
    backtest = Backtest(config, history, START_US)
    watched = Watched(CONFIGURED, config, history, directory)
    recorder = Recorder(watched)
    report = backtest.run(recorder, on_window)
    recorder.look()
    counts = history.counts()
    return WatchedYear(
        config=config,
        window_us=history.window_us,
        first_window=min(counts),
        start_window=backtest.windows[0],
        end_window=max(counts) + 1,
        num_rows=len(history),
        recorder=recorder,
        report=report,
        events=watched.events(),
        champion=backtest.first,
        history=history,
    )
