"""Counting a stream on frozen bins: rows a second on one core, memory, and merging.

The floor is the least that any program must do with numpy and Arrow: for numbers ``searchsorted`` and
``bincount``, for words ``index_in`` and ``bincount``; no sums, minima, unseen categories or infinities. Counted
is processor time, which other processes disturb less than the clock.
"""

import gc
import statistics
import time
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.benchmarks.figures import Figure, Report
from jobs.benchmarks.flight_columns import NUMBERS, WORDS, current_table, freeze_bins, reference_table, repeated
from jobs.benchmarks.options import Options
from ray_mlops.statistics.bins import Bins, NumericBins
from ray_mlops.statistics.embeddings import EmbeddingProjection
from ray_mlops.statistics.table import TableBins, TableCounts

BUFFERS = (1_000, 8_192, 29_000)
NUM_REPLICAS, NUM_FEATURES = 1_000, 100
NUM_WINDOWS = 200


def measure(options: Options, report: Report) -> None:
    """Measure in one thread."""
    pa.set_cpu_count(1)
    bins = freeze_bins(reference_table())
    rows = repeated(current_table(), (3 if options.quick else 10) * BUFFERS[-1])
    _measure_ingest(bins, rows, 5 if options.quick else 15, report)
    report.figures.append(_measure_bytes(TableBins(bins), rows))
    report.figures.append(_measure_merge(bins, rows, 5 if options.quick else 15))


def _measure_ingest(bins: Mapping[str, Bins], rows: pa.Table, repetitions: int, report: Report) -> None:
    table, lines = TableBins(bins), []
    for size in BUFFERS:
        buffers = _buffers(rows, size)
        counted = sum(buffer.num_rows for buffer in buffers)
        ours, floor = _interleaved(
            [_over(table.count, buffers), _over(_floor(bins), buffers)],
            repetitions,
        )
        lines.append(_line(size, counted, ours, floor))
    report.tables["ingest by buffer, millions of rows a second on one core (median, slowest to fastest)"] = lines
    rate, ratio = float(lines[0]["rows_s"]), float(lines[0]["vs_floor"])
    detail = f"{len(bins)} columns, buffers of {BUFFERS[0]} rows, median of {repetitions}"
    report.figures.append(Figure("ingest_rows_s", rate * 1e6, at_least=3e6, detail=detail))
    report.figures.append(Figure("ingest_vs_floor", ratio, at_least=0.7, detail="interleaved with the floor"))
    report.tables["other kinds of columns, ns a row"] = _other_kinds(repetitions)


def _line(size: int, counted: int, ours: Sequence[float], floor: Sequence[float]) -> dict[str, Any]:
    rates = sorted(counted / seconds / 1e6 for seconds in ours)
    bare = sorted(counted / seconds / 1e6 for seconds in floor)
    return {
        "buffer": size,
        "rows_s": f"{statistics.median(rates):.3f}",
        "range": f"{rates[0]:.2f} to {rates[-1]:.2f}",
        "floor": f"{statistics.median(bare):.3f}",
        "floor range": f"{bare[0]:.2f} to {bare[-1]:.2f}",
        "vs_floor": f"{statistics.median(a / b for a, b in zip(floor, ours, strict=True)):.3f}",
    }


def _floor(bins: Mapping[str, Bins]) -> Callable[[pa.Table], None]:
    edges = {name: found.edges for name, found in bins.items() if isinstance(found, NumericBins)}
    known = {name: pa.array(found.top) for name, found in bins.items() if not isinstance(found, NumericBins)}

    def count(buffer: pa.Table) -> None:
        for name in NUMBERS:
            places = np.searchsorted(edges[name], buffer[name].to_numpy(), side="right")
            np.bincount(places, minlength=len(edges[name]) + 1)
        for name in WORDS:
            codes = pc.index_in(buffer[name], known[name]).fill_null(len(known[name])).to_numpy()
            np.bincount(codes, minlength=len(known[name]) + 1)

    return count


def _other_kinds(repetitions: int) -> list[dict[str, Any]]:
    """What a time and a vector of 128 numbers cost."""
    generator = np.random.default_rng(0)
    times = pa.table({"time": pa.array(generator.integers(0, 2**50, 10_000)).cast(pa.timestamp("us", "UTC"))})
    vectors = generator.standard_normal((10_000, 128))
    column = pa.FixedSizeListArray.from_arrays(vectors.ravel(), 128)
    projection = EmbeddingProjection("vector", 128)
    derived = projection.apply(column)
    embedded = TableBins({name: NumericBins.from_sample(values) for name, values in derived.items()})
    clock = TableBins({"time": NumericBins.from_sample(times["time"])})
    jobs: dict[str, Callable[[], object]] = {
        "datetime": lambda: clock.count(times),
        "embedding, 128 numbers as a norm and 16 directions": lambda: embedded.count(projection.apply(column)),
    }
    found = _interleaved(list(jobs.values()), repetitions)
    return [
        {"column": name, "ns": f"{statistics.median(seconds) / 10_000 * 1e9:.0f}"}
        for name, seconds in zip(jobs, found, strict=True)
    ]


def _measure_bytes(table: TableBins, rows: pa.Table) -> Figure:
    """Memory of many open windows, objects and all, over features and windows."""
    buffers = _buffers(rows, 100)[:NUM_WINDOWS]
    table.count(buffers[0])
    gc.collect()
    tracemalloc.start()
    held = [table.count(buffer).copy() for buffer in buffers]
    gc.collect()
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    each = used / (len(held) * len(table.bins))
    detail = f"{len(held)} windows of {len(table.bins)} columns; {held[0].nbytes / len(table.bins):.0f} are counts"
    return Figure("bytes_per_feature_window", each, at_most=1024, detail=detail)


def _measure_merge(bins: Mapping[str, Bins], rows: pa.Table, repetitions: int) -> Figure:
    names = [f"{name}_{copy}" for copy in range(NUM_FEATURES) for name in bins][:NUM_FEATURES]
    wide = TableBins({name: bins[name.rpartition("_")[0]] for name in names})
    buffers = _buffers(rows, 29)
    parts = []
    for replica in range(NUM_REPLICAS):
        buffer = buffers[replica % len(buffers)]
        parts.append(wide.count({name: buffer[name.rpartition("_")[0]] for name in names}))
    (seconds,) = _interleaved([lambda: TableCounts.merged(parts)], repetitions)
    spread = f"{min(seconds) * 1e3:.1f} to {max(seconds) * 1e3:.1f}"
    detail = f"{NUM_REPLICAS} replicas x {NUM_FEATURES} features, median of {repetitions}, {spread}"
    return Figure("merge_ms", statistics.median(seconds) * 1e3, at_most=50, detail=detail)


def _over(count: Callable[[pa.Table], object], buffers: Sequence[pa.Table]) -> Callable[[], object]:
    def run() -> None:
        for buffer in buffers:
            count(buffer)

    return run


def _buffers(rows: pa.Table, size: int) -> list[pa.Table]:
    whole = range(0, rows.num_rows - size + 1, size)
    return [rows.slice(start, size).combine_chunks() for start in whole]


def _interleaved(jobs: Sequence[Callable[[], object]], repetitions: int) -> list[list[float]]:
    """Processor seconds of each job, one after the other in turn, after a turn that warms up."""
    seconds: list[list[float]] = [[] for _ in jobs]
    for turn in range(repetitions + 1):
        for job, found in zip(jobs, seconds, strict=True):
            start = time.process_time()
            job()
            if turn:
                found.append(time.process_time() - start)
    return seconds
