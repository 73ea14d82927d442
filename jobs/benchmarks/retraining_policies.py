"""What a retraining buys: the configured policy against calendars with as many retrainings, on a year of flights.

Labels come 7 days late; March to December are served with the demo's features, and every retraining really trains.
All policies begin with the same model and ask the same gate, so that they differ in nothing but their dates.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy import stats

from jobs.benchmarks.figures import Figure, Report
from jobs.benchmarks.options import Options
from ray_mlops.config import ProjectConfig, load_config
from ray_mlops.demo.flights import departures
from ray_mlops.monitoring.policy import NoRetrain, RetrainDecision, RetrainHistory
from ray_mlops.orchestration.backtest.history import History
from ray_mlops.orchestration.backtest.policies import Calendar, concluded, decide_now
from ray_mlops.orchestration.backtest.replay import CONFIGURED, Backtest, PolicyReport
from ray_mlops.training.bundle import ModelBundle

CONFIG = Path(__file__).parents[2] / "configs" / "flights.yaml"
SETTINGS: Mapping[str, Any] = {
    "monitoring.labels.delay": "7d",
    "retraining.cool_down": "14d",
    "retraining.budget": {"count": 40, "per": "365d"},
}
"""What differs from the demo, which retrains twice a year at most."""
START_US = 1362096000_000_000
"""1 March 2013."""
PHASES = 5
BLOCK_WINDOWS = 7
RESAMPLES = 2000
SIGNIFICANCE = 0.05


@dataclass
class AnyColumn:
    """Retrains when a two-sample test finds any column of yesterday changed, but not within the cool-down.

    Args:
        config: Features, label delay, cool-down.
        history: All rows.
    """

    config: ProjectConfig
    history: History
    name: str = "any column"
    alarm_windows: int = 0
    _past: RetrainHistory = field(default_factory=RetrainHistory)
    _reference: pa.Table | None = None

    def begin(self, champion: ModelBundle, window: int) -> None:
        self._reference = self.history.part(0, window * self.history.window_us).rows

    def decide(self, window: int, rows: History, champion: ModelBundle) -> RetrainDecision | None:
        yesterday = self.history.window(window - 1)
        if not len(yesterday) or not self._has_drifted(yesterday.rows):
            return None
        self.alarm_windows += 1
        last = self._past.decisions[-1].as_of_us if self._past.decisions else None
        cool_down_us = self.config.retraining.cool_down // timedelta(microseconds=1)
        if last is not None and window * self.history.window_us - last < cool_down_us:
            return None
        outcome = decide_now(self.config, self.history.counts(), window, self._past)
        return None if isinstance(outcome, NoRetrain) else outcome

    def finish(self, decision: RetrainDecision, champion: ModelBundle | None) -> None:
        self._past = concluded(self._past, decision, champion)
        if champion is not None:
            self._reference = self.history.part(decision.train_start_us, decision.train_end_us).rows

    def observe(self, window: int, rows: History, champion: ModelBundle) -> None:
        """Yesterday is looked at tomorrow."""

    def _has_drifted(self, rows: pa.Table) -> bool:
        assert self._reference is not None
        features = [feature for feature in self.config.data.features or [] if feature.role != "calendar"]
        return any(
            changed(self._reference[feature.name], rows[feature.name], feature.type == "categorical")
            for feature in features
        )


def changed(reference: pa.ChunkedArray, current: pa.ChunkedArray, is_categorical: bool) -> bool:
    """Whether the Kolmogorov-Smirnov test, or chi-squared, finds a column changed; nulls are left out."""
    before, now = (column.drop_null() for column in (reference, current))
    if not len(before) or not len(now):
        return len(before) != len(now)
    if not is_categorical:
        numbers = [column.cast(pa.float64()).to_numpy() for column in (before, now)]
        return bool(stats.ks_2samp(*numbers, method="asymp").pvalue < SIGNIFICANCE)
    counts = [dict(zip(*_value_counts(column), strict=True)) for column in (before, now)]
    names = sorted(set(counts[0]) | set(counts[1]))
    table = np.array([[each.get(name, 0) for name in names] for each in counts])
    return len(names) > 1 and bool(stats.chi2_contingency(table).pvalue < SIGNIFICANCE)


def _value_counts(column: pa.ChunkedArray) -> tuple[list[Any], list[int]]:
    found = column.value_counts()
    return found.field("values").to_pylist(), found.field("counts").to_pylist()


def measure(options: Options, report: Report) -> None:
    """Measure ``loss_per_retrain``."""
    config = load_config(str(CONFIG), dict(SETTINGS))
    table = departures("2013-01-01", "2013-12-30", 300 if options.quick else None)
    backtest = Backtest(config, History.of_table(table, config), START_US)
    ours, never = backtest.compare([CONFIGURED, "never"])
    count = len(ours.retrainings)
    same = [backtest.run(policy) for policy in same_number(backtest, count, 2 if options.quick else PHASES)]
    others = [] if options.quick else [*backtest.compare(["monthly", "weekly"]), backtest.run(any_column(backtest))]
    mean = np.mean([each.losses for each in same], axis=0) if same else np.array(never.losses)
    difference = ours.loss - float(np.average(mean, weights=ours.rows))
    low, high = block_interval(np.array(ours.losses) - mean, np.array(ours.rows, dtype=np.float64))
    verdict = "a tie" if low <= 0.0 <= high else "better" if high < 0.0 else "worse"
    detail = (
        f"log-loss {ours.loss:.5f} with {count} retrainings, minus the mean of {len(same)} phases of a calendar "
        f"with as many; 95 % of block bootstraps {low:+.5f} to {high:+.5f}: {verdict}"
    )
    report.figures.append(Figure("loss_per_retrain", difference, at_most=0.0, detail=detail))
    report.tables["a year of flights under each policy, labels 7 days late"] = [
        row(each, never) for each in (ours, never, *same, *others)
    ]
    report.tables["what the configured policy did"] = [
        {
            "as of": each.as_of[:10],
            "trigger": each.trigger,
            "champion": "yes" if each.became_champion else "no",
            "because": each.reason,
        }
        for each in ours.retrainings
    ]


def same_number(backtest: Backtest, count: int, phases: int) -> list[Calendar]:
    """Calendars with as many retrainings, evenly spread, at several phases."""
    if not count:
        return []
    days = len(backtest.windows) / count
    counts = backtest.history.counts()
    return [
        Calendar(
            f"every {days:.1f} d, phase {phase + 1}",
            timedelta(days=days),
            backtest.config,
            counts,
            phase=-timedelta(days=days * (phase + 0.5) / phases),
            at_most=count,
        )
        for phase in range(phases)
    ]


def any_column(backtest: Backtest) -> AnyColumn:
    """The rule of most tools, kept from storming by the cool-down."""
    return AnyColumn(backtest.config, backtest.history)


def block_interval(differences: npt.NDArray[np.float64], weights: npt.NDArray[np.float64]) -> tuple[float, float]:
    """A 95 % interval of a weighted mean of windows [w], by resampling blocks of a week: days are dependent."""
    generator = np.random.default_rng(0)
    num_blocks = -(-len(differences) // BLOCK_WINDOWS)
    starts = generator.integers(0, len(differences), (RESAMPLES, num_blocks))
    chosen = (starts[:, :, None] + np.arange(BLOCK_WINDOWS)) % len(differences)
    chosen = chosen.reshape(RESAMPLES, -1)[:, : len(differences)]
    means = (differences[chosen] * weights[chosen]).sum(axis=1) / weights[chosen].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def row(report: PolicyReport, never: PolicyReport) -> Mapping[str, Any]:
    """A line of the table."""
    retrainings: Sequence[Any] = report.retrainings
    return {
        "policy": report.policy,
        "retrainings": len(retrainings),
        "refused": sum(not each.became_champion for each in retrainings),
        "log-loss": f"{report.loss:.5f}",
        "against never": f"{report.loss - never.loss:+.5f}",
        "training s": f"{report.seconds:.0f}",
    }
