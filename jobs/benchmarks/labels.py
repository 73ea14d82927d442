"""Labels a second: taken durably by a gateway's own code, read back with the one in force, and read from files.

Taking is what `POST /feedback` does between the body and the answer: parse, check, append, flush to disk. Importing
is what `ray-mlops labels import` does before a request is sent.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from jobs.benchmarks.figures import Figure, Report
from jobs.benchmarks.options import Options
from ray_mlops.config import ServingConfig
from ray_mlops.data.target import TargetEncoder
from ray_mlops.orchestration.labels_import import import_labels
from ray_mlops.runtime.files import Files
from ray_mlops.serving.client import Client
from ray_mlops.serving.http.parse import Limits
from ray_mlops.serving.http.parse_operations import parse_labels
from ray_mlops.serving.label_log import LabelLog, check_labels, read_labels
from ray_mlops.serving.labels_in_force import known_targets

_REQUEST_LABELS = 2000
_MOMENT = "2026-01-31T12:00:00+00:00"
_ENCODER = TargetEncoder("late", "binary", (0, 1))


def measure(options: Options, report: Report) -> None:
    """Measure on this machine's clock, the disk included."""
    count = 100_000 if options.quick else 1_000_000
    directory = options.directory / "labels"
    directory.mkdir(parents=True)
    files = Files(str(directory))
    bodies = [_body(start, min(start + _REQUEST_LABELS, count)) for start in range(0, count, _REQUEST_LABELS)]
    lines = [
        _line("taken durably", count, lambda: asyncio.run(_take(files, bodies))),
        _line("read from the log", count, lambda: read_labels(files, "m")),
    ]
    labels = read_labels(files, "m")
    lines.append(_line("joined to predictions", count, lambda: known_targets(labels["id"], labels, _ENCODER)))
    for path in _write_files(directory, count):
        lines.append(_line(f"from {path.name} to requests", count, lambda path=path: import_labels(_Nobody(), path)))  # type: ignore[misc]
    report.tables[f"{count:,} labels, labels a second"] = lines
    for key, line in zip(("labels_taken_s", "labels_read_s"), lines, strict=False):
        report.figures.append(Figure(key, float(line["labels_s"]), detail=f"{count:,} labels"))


class _Nobody(Client):
    """Turns labels into a request, and sends it to nobody."""

    def __init__(self) -> None:
        super().__init__("http://nobody")

    def call(self, method: str, path: str, body: Any = None, *, patience_s: float = 0.0) -> dict[str, Any]:
        orjson.dumps(body)
        return {"accepted": len(body["labels"])}


async def _take(files: Files, bodies: Sequence[bytes]) -> None:
    log, limits = LabelLog(files, "replica"), Limits.of(ServingConfig())
    for number, body in enumerate(bodies):
        labels = parse_labels(body, limits, 1_790_000_000_000_000 + number)
        check_labels(_ENCODER, labels)
        await log.append("m", labels)


def _body(start: int, end: int) -> bytes:
    labels = [{"id": f"request-{n}", "label": n % 2, "time": _MOMENT} for n in range(start, end)]
    return orjson.dumps({"labels": labels})


def _write_files(directory: Path, count: int) -> Sequence[Path]:
    table = pa.table({"id": [f"request-{n}" for n in range(count)], "label": np.arange(count) % 2})
    parquet, csv = directory / "labels.parquet", directory / "labels.csv"
    pq.write_table(table, parquet)
    pacsv.write_csv(table, csv)
    return parquet, csv


def _line(name: str, count: int, call: Callable[[], object]) -> Mapping[str, Any]:
    began = time.perf_counter()
    call()
    seconds = time.perf_counter() - began
    return {"labels": name, "seconds": f"{seconds:.2f}", "labels_s": f"{count / seconds:.0f}"}
