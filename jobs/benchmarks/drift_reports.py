"""A full report of a reference and a current table, beside what others take for the same columns.

Both read the same files first. Timed is the report alone, warm, without imports and loading; ours before and
after each peer's, so that a machine which changes its pace shows.
"""

import json
import os
import statistics
import subprocess
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.benchmarks.environments import InstallError, ensure_environment
from jobs.benchmarks.figures import Figure, Report
from jobs.benchmarks.flight_columns import COLUMNS, current_table, reference_table
from jobs.benchmarks.options import Options
from ray_mlops.monitoring.comparison import compare

PROGRAMS = Path(__file__).resolve().parent / "peer_reports"
PEERS = {"evidently": 40.0, "whylogs": 30.0, "nannyml": 5.0, "scipy": 3.0}
"""How many times faster we must be."""
PEER_TIMEOUT_S = 600.0


def measure(options: Options, report: Report) -> None:
    """Measure us and each peer that is wanted."""
    tables = {"reference": reference_table(), "current": current_table()}
    paths = [options.directory / f"{name}.parquet" for name in tables]
    for path, table in zip(paths, tables.values(), strict=True):
        pq.write_table(table, path)
    before, after = (pq.read_table(path).combine_chunks() for path in paths)
    repetitions = 3 if options.quick else 9
    lines, shown = [], compare(before, after)
    for peer, limit in PEERS.items():
        if options.wants((f"report_vs_{peer}",)):
            figure, line = _measure_peer(peer, limit, paths, (before, after), repetitions, options)
            report.figures.append(figure)
            lines += [line] if line else []
    title = f"a report of {before.num_rows:,} and {after.num_rows:,} rows x {len(COLUMNS)} columns, seconds"
    report.tables[title] = lines
    report.tables["what it says"] = [
        {"column": column.name, "verdict": column.verdict, "reason": column.reason} for column in shown.columns
    ]


def _measure_peer(
    peer: str, limit: float, paths: list[Path], tables: tuple[pa.Table, pa.Table], repetitions: int, options: Options
) -> tuple[Figure, dict[str, str] | None]:
    key = f"report_vs_{peer}"
    ours = _ours(tables, repetitions)
    try:
        version, theirs = _theirs(peer, paths, repetitions, options.environments)
    except (InstallError, subprocess.SubprocessError, OSError) as error:
        return Figure(key, None, at_least=limit, detail=" ".join(str(error).split())[-200:]), None
    ours += _ours(tables, repetitions)
    ratio = statistics.median(theirs) / statistics.median(ours)
    line = {
        "peer": f"{peer} {version}",
        "theirs": _summary(theirs),
        "ours": _summary(ours),
        "times faster": f"{ratio:.1f}",
    }
    return Figure(key, ratio, at_least=limit, detail=f"{line['theirs']} s against {line['ours']} s"), line


def _ours(tables: tuple[pa.Table, pa.Table], repetitions: int) -> list[float]:
    compare(*tables)
    seconds = []
    for _ in range(repetitions):
        start = time.perf_counter()
        compare(*tables)
        seconds.append(time.perf_counter() - start)
    return seconds


def _theirs(peer: str, paths: list[Path], repetitions: int, environments: Path) -> tuple[str, list[float]]:
    python = ensure_environment(peer, environments) / "python"
    command = [str(python), str(PROGRAMS / f"{peer}_report.py"), *map(str, paths), str(repetitions)]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "RAY_"))}
    quiet = {"NML_DISABLE_USAGE_LOGGING": "1", "DO_NOT_TRACK": "1", "WHYLOGS_NO_ANALYTICS": "True"}
    result = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=PEER_TIMEOUT_S,
        check=False,
        env={**kept, **quiet},
        cwd=paths[0].parent,
    )
    if result.returncode:
        raise subprocess.SubprocessError(result.stderr.strip()[-400:])
    found = json.loads(result.stdout.strip().splitlines()[-1])
    return found["version"], found["seconds"]


def _summary(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.4f} ({min(seconds):.4f} to {max(seconds):.4f})"
