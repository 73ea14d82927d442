"""Watch the year, drill its first model, and write the page."""

import sys
from dataclasses import replace

import numpy as np

from jobs.benchmarks.figures import Figure, Report
from jobs.benchmarks.options import Options
from jobs.benchmarks.retraining_policies import CONFIG, SETTINGS, START_US
from jobs.benchmarks.year_charts import mean_of
from jobs.benchmarks.year_page import write_page
from jobs.benchmarks.year_watch import WatchedYear, watch_year
from ray_mlops.config import load_config
from ray_mlops.monitoring.drill.messages import Told, told_of
from ray_mlops.monitoring.drill.run import Drill
from ray_mlops.orchestration.backtest.candidates import Trainer
from ray_mlops.orchestration.backtest.history import History
from ray_mlops.orchestration.drill import default_plan, run_drill
from ray_mlops.orchestration.past_rows import PastRows, stretch_of_newest

DRILL_END_US = 1370044800_000_000
"""1 June 2013: the drills put the days of five months into random order, so that there is a whole reference."""
DRILL_WINDOWS = 30
"""Longer than the configured drill: labels come 7 days late."""


def measure(options: Options, report: Report) -> None:
    """Measure ``year_alarms``, ``year_retrainings``, ``year_log_loss`` and ``year_estimate_error``."""
    assert options.out is not None
    store = options.directory / "year"
    store.mkdir()
    year = watch_year(store, options.quick, _progress)
    told = tell_drills(year.history, repeats=3 if options.quick else 5)
    page = write_page(year, told, options.out)
    alarms = [event.payload["alarm"] for event in year.events if event.kind == "monitor.alarm"]
    passed = sum(one.became_champion for one in year.report.retrainings)
    count = len(year.report.retrainings)
    report.figures += [
        Figure("year_alarms", len(alarms), detail=f"{', '.join(alarms)}; see {page.name}"),
        Figure("year_retrainings", count, detail=f"{passed} became champion"),
        Figure("year_log_loss", year.report.loss, detail="all rows from March on, each by the champion of its day"),
        estimate_error(year),
    ]
    report.tables["what was told of each drill"] = [
        {
            "fault": one.fault,
            "column": one.column or "-",
            "window": one.delay or "-",
            "title": "; ".join(notice.title for notice in one.notices) or one.nothing,
        }
        for one in told
    ]


def estimate_error(year: WatchedYear) -> Figure:
    """How far the estimate lay from the truth on days that had both, beside the best guess that never changes."""
    shown = [
        (float(day["loss"]), float(day["estimated"]["bounded_loss"]))
        for day in year.recorder.performance.values()
        if day.get("loss") is not None and day["estimated"]["bounded_loss"] is not None
    ]
    truth = [loss for loss, _ in shown]
    constant = mean_of(abs(loss - mean_of(truth)) for loss in truth)
    days = len(year.recorder.performance)
    guess = f"their own mean, known in hindsight, {constant:.4f}"
    detail = f"mean error of the bounded loss on {len(shown)} of {days} days; {guess}"
    return Figure("year_estimate_error", mean_of(abs(loss - told) for loss, told in shown), detail=detail)


def tell_drills(history: History, repeats: int) -> list[Told]:
    """Drill a model of the first two months with every fault; dependence between columns is watched as well."""
    settings = {**SETTINGS, "monitoring.joint_projections": 4}
    config = load_config(str(CONFIG), settings)
    bundle = Trainer(config, history).first(START_US)
    rows = history.part(0, DRILL_END_US)
    unknown = np.full(len(rows), np.nan)
    inputs = bundle.features.canonical_table(rows.rows)
    past = PastRows("snapshot", inputs, rows.event_us, rows.target, unknown)
    plan = replace(default_plan(config), repeats=repeats, windows=DRILL_WINDOWS)
    wanted = config.monitoring.reference_windows + plan.clean + plan.windows
    stretch = stretch_of_newest(past, config, bundle, num_windows=wanted, rows_per_window=300, seed=plan.seed)
    found = run_drill(Drill(bundle, config, stretch, plan), "snapshot")
    return [told_of(fault, config.name, "1") for fault in found.faults]


def _progress(name: str, done: int, total: int) -> None:
    if done % 50 == 0 or done == total:
        print(f"day {done} of {total}", file=sys.stderr, flush=True)
