"""How soon, and whether at all, a change of real days is found and the right column named."""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Any

import numpy as np

from jobs.benchmarks import changes
from jobs.benchmarks.figures import Figure, Report
from jobs.benchmarks.flight_days import flight_days
from jobs.benchmarks.monitored_streams import NUM_REFERENCE, Change, permuted_days, verdicts
from jobs.benchmarks.options import Options
from ray_mlops.config import MonitoringConfig
from ray_mlops.monitoring.channels import WindowVerdict

CLEAN = 60
"""Days without a change, after the reference."""
WATCHED = 60
"""Days after the change."""


@dataclass(frozen=True, slots=True)
class Case:
    """One change, and within how many windows it must be found."""

    name: str
    column: str
    change: Change
    within: int


DELAYS = (
    Case("unit x1.6", "distance", changes.times(1.6), 3),
    Case("+10 pp of a category", "carrier", changes.more_of(0.1), 3),
    Case("20 % null", "wind_speed", changes.nulls(0.2), 3),
    Case("+0.25 sd", "dep_delay", changes.plus_deviations(0.25), 8),
)
DETECTIONS = (
    Case("null 20 %", "humid", changes.nulls(0.2), 30),
    Case("null 100 %", "humid", changes.nulls(1.1), 30),
    Case("unseen category", "carrier", changes.more_of(0.05, "ZZ"), 30),
    Case("unit change", "air_time", changes.times(60.0), 30),
    Case("joint shuffle, same marginals", "air_time", changes.shuffled(), 30),
    Case("frozen feature", "dep_delay", changes.frozen(), 30),
)


@dataclass(frozen=True, slots=True)
class Found:
    """What one run gave."""

    delay: float
    """Windows from the change to the alarm or breach; infinite if there was none."""
    named: tuple[str, ...]
    """What it named."""
    is_right: bool
    """Whether the changed column is what is named first."""


def measure(options: Options, report: Report) -> None:
    """Run the cases whose figures are wanted."""
    if options.wants({"delay_windows", "delay_windows_quarter_sd"}):
        rows = [_row(case, _runs(case, 6 if options.quick else 60, options.workers)) for case in DELAYS]
        slowest = max(row["median delay"] for row in rows[:3])
        detail = ", ".join(f"{row['change']}: {row['median delay']:g}" for row in rows)
        report.figures += [
            Figure("delay_windows", slowest, at_most=3, detail=f"slowest of the first three; {detail}"),
            Figure("delay_windows_quarter_sd", rows[3]["median delay"], at_most=8, detail=rows[3]["change"]),
        ]
        report.tables["delay_windows: real days in random order, median windows to an alarm or breach"] = rows
    if options.wants({"detected"}):
        rows = [_row(case, _runs(case, 4 if options.quick else 20, options.workers)) for case in DETECTIONS]
        least = min(rows, key=lambda row: row["right column"])
        detail = f"share of runs with the right column named within 30 windows; least: {least['change']}"
        report.figures.append(Figure("detected", least["right column"], at_least=1.0, detail=detail))
        report.tables["detected: real days in random order"] = rows


def _runs(case: Case, number: int, workers: int) -> list[Found]:
    position = [*DELAYS, *DETECTIONS].index(case)
    with ProcessPoolExecutor(min(workers, 2)) as pool:  # cases go by number: their changes cannot be pickled
        return [found for found in pool.map(partial(find, position), range(number)) if found is not None]


def find(position: int, seed: int) -> Found | None:
    """Run one case on one order of days; None if something was up before the change.

    What breaks on the same day without the change is left out: on one day of 2013 the weather is missing.
    """
    case = [*DELAYS, *DETECTIONS][position]
    rng = np.random.default_rng([seed, position])
    unchanged = permuted_days(flight_days(), rng, NUM_REFERENCE + CLEAN + WATCHED)
    changed = unchanged.changed(case.column, case.change, CLEAN, rng)
    config = MonitoringConfig()
    for verdict, without in zip(verdicts(changed, config), verdicts(unchanged, config), strict=True):
        named = _named(verdict, without.breaches)
        is_up = bool(verdict.alarms) or any(name == case.column for name in named)
        if is_up and verdict.window < CLEAN:
            if verdict.alarms:
                return None
        elif is_up:
            return Found(verdict.window - CLEAN + 1, named, _is_first(case.column, named))
    return Found(inf, (), False)


def _named(verdict: WindowVerdict, anyway: Sequence[str]) -> tuple[str, ...]:
    """Columns of breaches that are not there anyway, then those that explain the alarm."""
    own = [breach for breach in verdict.breaches if breach not in anyway]
    return (*dict.fromkeys(breach.partition(":")[0] for breach in own), *verdict.guilty)


def _is_first(column: str, named: Sequence[str]) -> bool:
    return bool(named) and (column in named[0].split("~"))


def _row(case: Case, runs: Sequence[Found]) -> dict[str, Any]:
    delays = sorted(run.delay for run in runs)
    named = [name for run in runs if not run.is_right for name in run.named[:1]]
    return {
        "change": f"{case.name} ({case.column})",
        "runs": len(runs),
        "found": sum(run.delay <= case.within for run in runs) / max(len(runs), 1),
        "right column": sum(run.is_right and run.delay <= case.within for run in runs) / max(len(runs), 1),
        "median delay": delays[len(delays) // 2] if delays else inf,
        "slowest": delays[-1] if delays else inf,
        "limit": case.within,
        "named instead": ", ".join(sorted(set(named))) or "-",
    }
