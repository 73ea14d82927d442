"""What the benchmarks have in common: parts in processes of their own, one table, one file of figures."""

import argparse
import multiprocessing
import os
import sys
import tempfile
import traceback
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from importlib import import_module
from pathlib import Path

from jobs.benchmarks.figures import Figure, Report
from jobs.benchmarks.options import Options

Parts = Mapping[str, tuple[str, ...]]
"""Modules, and their figures; one without figures runs when everything is wanted."""


def run_suite(
    description: str | None, parts: Parts, arguments: list[str] | None = None, *, draws: bool = False
) -> None:
    """Run what is asked for on the command line, print the table and write the figures.

    Each part runs in a process of its own, because Ray reads its settings when it is imported, and one part after
    the other, because all measure the same machine. With ``draws`` there is a directory to be named, for pictures.
    """
    keys = tuple(key for part in parts.values() for key in part)
    given = _parse(description, keys, arguments, draws)
    wanted = frozenset(given.only.split(","))
    report = Report()
    # A short path: sockets of Ray lie below it. Not in the working directory, which may be on a slow disk.
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as directory:
        out = given.out.expanduser() if draws else None
        workers = len(os.sched_getaffinity(0))
        options = Options(wanted, given.quick, Path(directory), given.environments.expanduser(), workers, out)
        for module, part_keys in parts.items():
            if options.wants(part_keys) or (not part_keys and wanted == frozenset(keys)):
                print(f"measuring {', '.join(sorted(wanted & set(part_keys))) or module}", file=sys.stderr, flush=True)
                report.add(_in_own_process(module, part_keys, options))
                if given.json is not None:
                    report.write(given.json)  # an hour's figures outlive a part that is killed
    report.figures.sort(key=lambda figure: keys.index(figure.key))
    print(report.text())
    if given.json is not None:
        report.write(given.json)


def run_part(module: str, keys: tuple[str, ...], options: Options) -> Report:
    """Measure one part; a part that breaks leaves its figures out and says why."""
    report = Report()
    try:
        import_module(module).measure(options, report)
    except Exception as error:  # what is measured already, and the other parts, are worth having
        traceback.print_exc()
        lost = options.keys.intersection(keys) - {figure.key for figure in report.figures}
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        report.figures.extend(Figure(key, None, detail=reason) for key in sorted(lost))
    return report


def _parse(
    description: str | None, keys: tuple[str, ...], arguments: list[str] | None, draws: bool
) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="shorter and rougher, for development")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--only", default=",".join(keys), help="figures, separated by commas")
    if draws:
        parser.add_argument("--out", type=Path, required=True, help="directory for pages and pictures")
    default = Path("~/.cache/ray-mlops-benchmarks")
    parser.add_argument("--environments", type=Path, default=default, help="where the peers are installed")
    given = parser.parse_args(arguments)
    if unknown := set(given.only.split(",")) - set(keys):
        parser.error(f"no figure {min(unknown)!r}; there are {', '.join(keys)}")
    return given


def _in_own_process(module: str, keys: tuple[str, ...], options: Options) -> Report:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(run_part, module, keys, options).result()
        except BrokenProcessPool:  # the part was killed: the others are worth having
            lost = sorted(options.keys.intersection(keys))
            return Report([Figure(key, None, detail="its process was killed") for key in lost])
