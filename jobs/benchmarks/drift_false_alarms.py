"""How often the action level is ever reached where nothing has changed, or no more than is tolerated."""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from scipy.stats import beta

from jobs.benchmarks.figures import Figure, Report
from jobs.benchmarks.flight_days import CATEGORIES, NUMBERS, flight_days
from jobs.benchmarks.monitored_streams import Stream, independent_rows, permuted_days, verdicts
from jobs.benchmarks.options import Options
from ray_mlops.config import MonitoringConfig, ReferenceConfig
from ray_mlops.monitoring.channels import DatasetMonitor
from ray_mlops.monitoring.loss_channel import LossWindow

CONFIG = MonitoringConfig()
WINDOWS = 200
"""Windows after the reference; of real days, all that there are."""
ROWS = 500
FEW = 30
"""Windows of the reference for the row-level fallback, which acts below ``min_windows``."""
ROW_LEVEL = CONFIG.model_copy(update={"reference": ReferenceConfig(windows=400, min_windows=400)})
"""The fallback acts for good: no window is ever enough."""


@dataclass(frozen=True, slots=True)
class Quiet:
    """One run without a change."""

    alarm: int | None
    """Window of the first alarm at the action level."""
    notice: int | None
    """Window of the first notice."""
    windows: int
    """Windows that were tested."""
    named: str = ""
    """What was blamed."""


def measure(options: Options, report: Report) -> None:
    """Run each kind of stream many times."""
    number = 20 if options.quick else 500
    with ProcessPoolExecutor(min(options.workers, 2)) as pool:
        rows = [_row(name, list(pool.map(partial(run, name), range(number), chunksize=4))) for name in STREAMS]
    worst = max(rows, key=lambda row: row["alarmed"])
    proven = max(row["95 % above"] for row in rows)
    detail = f"worst of {len(rows)} kinds of streams, {number} runs each: {worst['streams']}; 95 % above {proven:.4f}"
    limit = 1.5 * CONFIG.alpha if proven <= CONFIG.alpha else 0.0  # a proof of too many is a miss, whatever the share
    report.figures.append(Figure("false_alarms", worst["alarmed"], at_most=limit, detail=detail))
    report.tables[f"false_alarms: runs with an alarm at alpha {CONFIG.alpha:g}, no change"] = rows


def run(name: str, seed: int) -> Quiet:
    """One run of one kind of stream."""
    return STREAMS[name](np.random.default_rng([seed, list(STREAMS).index(name)]))


def _independent(rng: np.random.Generator) -> Quiet:
    return monitored(independent_rows(flight_days(), rng, 60 + WINDOWS, ROWS), CONFIG)


def _days(rng: np.random.Generator) -> Quiet:
    return monitored(permuted_days(flight_days(), rng), CONFIG)


def _rows_at_tolerance(rng: np.random.Generator) -> Quiet:
    """Rows of every column are ``tolerance`` away from the reference's distribution, in total variation."""
    return monitored(_all_at_tolerance(rng, FEW), ROW_LEVEL)


def _warming_up_at_tolerance(rng: np.random.Generator) -> Quiet:
    """The same from a short reference: windows at the tolerance join it, and then the window is the unit."""
    return monitored(_all_at_tolerance(rng, CONFIG.reference.min_windows // 2), CONFIG)


def _all_at_tolerance(rng: np.random.Generator, num_reference: int) -> Stream:
    stream = independent_rows(flight_days(), rng, num_reference + WINDOWS, ROWS, num_reference)
    for column in (*NUMBERS, *CATEGORIES):
        stream = _at_tolerance(stream, column, rng)
    return stream


def _at_tolerance(stream: Stream, column: str, rng: np.random.Generator) -> Stream:
    """A share of the rows takes one value, at random the most frequent or any other."""
    coded = stream.columns[column]
    present = coded.codes[coded.codes < len(coded.values)]
    share = np.bincount(present, minlength=len(coded.values)) / len(coded.codes)
    value = int(share.argmax() if rng.random() < 0.5 else rng.choice(np.flatnonzero(share > 0.0)))
    moved = CONFIG.tolerance / (1.0 - share[value])  # total variation: what was that value already does not move
    rows = stream.windows >= stream.num_reference
    chosen = rows & (rng.random(len(rows)) < moved)
    return replace(
        stream, columns={**stream.columns, column: replace(coded, codes=np.where(chosen, value, coded.codes))}
    )


def _loss_at_tolerance(rng: np.random.Generator) -> Quiet:
    """The mean loss is ``loss_tolerance`` above what it was; days differ by more than that."""
    losses = [_losses(rng, 0.12 + (CONFIG.loss_tolerance if window >= 60 else 0.0)) for window in range(60 + WINDOWS)]
    monitor = DatasetMonitor([], None, losses[:60], CONFIG.model_copy(update={"alpha": 2.0 * CONFIG.alpha}))
    for window, loss in enumerate(losses[60:]):  # half of alpha belongs to the loss, so twice of it makes alpha
        monitor.update_loss(window, loss)
        if monitor.alarms():
            return Quiet(window, None, window + 1, "loss")
    return Quiet(None, None, WINDOWS)


def _losses(rng: np.random.Generator, mean: float) -> LossWindow:
    """Losses of a day: two kinds of rows, and a day's own share of the worse kind."""
    number = int(rng.integers(300, 700))
    share = (mean - 0.05) / 0.45
    worse = rng.beta(40.0 * share, 40.0 * (1.0 - share))
    drawn = np.where(rng.random(number) < worse, 0.5, 0.05)
    return number, float(drawn.sum()), float((drawn**2).sum())


STREAMS = {
    "independent rows of March": _independent,
    "real days in random order": _days,
    "rows at the tolerance, fallback": _rows_at_tolerance,
    "rows at the tolerance, warming up": _warming_up_at_tolerance,
    "loss at the tolerance": _loss_at_tolerance,
}
"""By the name in the table."""


def monitored(stream: Stream, config: MonitoringConfig) -> Quiet:
    """Watch a stream until an alarm, or to its end."""
    notice = None
    for verdict in verdicts(stream, config):
        if notice is None and verdict.notices:
            notice = verdict.window
        if verdict.alarms:
            return Quiet(verdict.window, notice, verdict.window + 1, verdict.guilty[0])
    return Quiet(None, notice, stream.num_windows - stream.num_reference)


def _row(name: str, runs: Sequence[Quiet]) -> dict[str, Any]:
    alarms = [run for run in runs if run.alarm is not None]
    noticed = [run.notice + 1 for run in runs if run.notice is not None]
    quiet = sum(noticed) + sum(run.windows for run in runs if run.notice is None)
    return {
        "streams": name,
        "runs": len(runs),
        "windows": max(run.windows for run in runs),
        "alarmed": round(len(alarms) / len(runs), 4),
        "95 % above": round(lower_bound(len(alarms), len(runs)), 4),
        "95 % below": round(float(beta.ppf(0.95, len(alarms) + 1, max(len(runs) - len(alarms), 1))), 4),
        "windows to a notice": "-" if not noticed else round(quiet / len(noticed)),
        "blamed": ", ".join(sorted({run.named for run in alarms})) or "-",
    }


def lower_bound(hits: int, number: int) -> float:
    """Clopper-Pearson, one-sided, 95 %."""
    return float(beta.ppf(0.05, hits, number - hits + 1)) if hits else 0.0
