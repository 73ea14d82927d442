"""The serving benchmark: speed against others, what a request costs, and how well rollouts decide.

    python jobs/benchmarks/serving.py [--quick] [--json PATH] [--only KEY,...] [--environments DIRECTORY]

Prints a table and writes ``{"figures": {key: value}, "environment": {...}}``. Each part runs in a process of its
own, because Ray reads its settings when it is imported, and one part after the other, because all measure the
same machine. Needs ``wrk`` (Debian: ``apt-get install wrk``); without it our own, slower client loads.
"""

import argparse
import multiprocessing
import os
import sys
import tempfile
import traceback
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from pathlib import Path

from jobs.benchmarks.figures import Figure, Report
from jobs.benchmarks.options import Options

PARTS: dict[str, tuple[str, ...]] = {
    "jobs.benchmarks.operating_characteristics": (
        *("false_rollback", "false_promotion", "requests_to_rollback"),
        *("false_rollback_slices", "false_rollback_loss"),
        *("requests_to_rollback_slice", "requests_to_rollback_slice_without"),
    ),
    "jobs.benchmarks.hot_path": ("hot_path_us",),
    "jobs.benchmarks.throughput": (
        *("rps_vs_bare", "cpu_vs_bare", "cpu_vs_bare_canary10"),
        *("rps_vs_stock_serve", "rps_vs_fastapi", "rps_vs_litserve", "rps_vs_bentoml", "rps_vs_mlflow"),
    ),
    "jobs.benchmarks.tabular": (),
    "jobs.benchmarks.weight_changes": ("weight_change_ms",),
    "jobs.benchmarks.faults": ("failed_requests",),
}
"""Modules, and their figures; one without figures runs when everything is wanted."""
KEYS = tuple(key for keys in PARTS.values() for key in keys)


def run_part(module: str, options: Options) -> Report:
    """Measure one part; a part that breaks leaves its figures out and says why."""
    report = Report()
    try:
        import_module(module).measure(options, report)
    except Exception as error:  # what is measured already, and the other parts, are worth having
        traceback.print_exc()
        lost = options.keys.intersection(PARTS[module]) - {figure.key for figure in report.figures}
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        report.figures.extend(Figure(key, None, detail=reason) for key in sorted(lost))
    return report


def main(arguments: list[str] | None = None) -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="shorter and rougher, for development")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--only", default=",".join(KEYS), help="figures, separated by commas")
    default = Path("~/.cache/ray-mlops-benchmarks")
    parser.add_argument("--environments", type=Path, default=default, help="where the peers are installed")
    given = parser.parse_args(arguments)
    keys = frozenset(given.only.split(","))
    if unknown := keys - set(KEYS):
        parser.error(f"no figure {min(unknown)!r}; there are {', '.join(KEYS)}")
    report = Report()
    # A short path: sockets of Ray lie below it. Not in the working directory, which may be on a slow disk.
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        workers = len(os.sched_getaffinity(0))
        options = Options(keys, given.quick, Path(directory), given.environments.expanduser(), workers)
        for module, part_keys in PARTS.items():
            if options.wants(part_keys) or (not part_keys and keys == frozenset(KEYS)):
                print(f"measuring {', '.join(sorted(keys & set(part_keys))) or module}", file=sys.stderr, flush=True)
                report.add(_in_own_process(module, options))
    report.figures.sort(key=lambda figure: KEYS.index(figure.key))
    print(report.text())
    if given.json is not None:
        report.write(given.json)


def _in_own_process(module: str, options: Options) -> Report:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(run_part, module, options).result()


if __name__ == "__main__":
    main()
