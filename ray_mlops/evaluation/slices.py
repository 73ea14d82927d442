"""Slices of the holdout: rows that share a value of a column, or a quartile of a number."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ray_mlops.config import EvaluationConfig
from ray_mlops.errors import EvaluationError
from ray_mlops.evaluation.intervals import Interval
from ray_mlops.evaluation.means import mean_interval
from ray_mlops.evaluation.metrics import build_meter
from ray_mlops.evaluation.rows import Floats, Ints, ScoredRows
from ray_mlops.statistics.embeddings import is_vector

MISSING = "(missing)"
NUM_DISTINCT_NUMBERS = 4
"""A number with at most this many distinct values is sliced by value, not by quartile."""


@dataclass(frozen=True, slots=True)
class SliceCodes:
    """Which slice of one column each row belongs to.

    Args:
        labels: What the slices are called.
        codes: Index into ``labels`` of each row, [n]; -1 where the row's slice was left out.
        left_out: How many slices were left out as the smallest.
    """

    column: str
    labels: tuple[str, ...]
    codes: Ints
    left_out: int = 0


@dataclass(frozen=True, slots=True)
class SliceReport:
    """How the model does on one slice."""

    column: str
    label: str
    rows: int
    is_judged: bool
    """Whether it has the support that ``evaluation.min_support`` asks for."""
    loss: Interval
    """Mean bounded loss, in [0, 1]."""
    metrics: dict[str, float] = field(default_factory=dict)


def slice_table(table: pa.Table, columns: Sequence[str], max_slices: int, where: str) -> list[SliceCodes]:
    """Cut a table by each of some columns.

    Args:
        where: The setting that names the columns, for the error.

    Raises:
        EvaluationError: There is no such column.
    """
    for column in columns:
        if column not in table.column_names:
            known = ", ".join(table.column_names)
            raise EvaluationError(f"no column {column!r}", where, f"the columns are: {known}")
        if is_vector(table.schema.field(column).type):
            problem = f"column {column!r} holds vectors, and they have no values to slice by"
            raise EvaluationError(problem, where, "name a column of numbers or categories")
    return [slice_column(column, table.column(column), max_slices) for column in columns]


def slice_column(name: str, values: pa.ChunkedArray | pa.Array, max_slices: int) -> SliceCodes:
    """Cut one column: numbers and times by quartile (by value when they take at most four), all else by value.

    Nulls, NaN and infinities are a slice of their own. Quartile edges are inclusive above: a value equal to an
    edge belongs to the slice below it.

    Example:
        >>> slice_column("city", pa.array(["Rome", None, "Oslo", "Rome"]), max_slices=3)
        SliceCodes(column='city', labels=('Oslo', 'Rome', '(missing)'), codes=array([1, 2, 0, 1]), left_out=0)
    """
    labels, codes = _slice_numbers(values) if _is_number(values.type) else _slice_values(values)
    if (codes < 0).any():
        labels, codes = [*labels, MISSING], np.where(codes < 0, len(labels), codes)
    return _keep_largest(name, labels, codes, max_slices)


def report_slices(
    cuts: Sequence[SliceCodes], scored: ScoredRows, loss: Floats, config: EvaluationConfig
) -> tuple[SliceReport, ...]:
    """Measure each slice of each column; columns in the order given, slices as they are labelled.

    Args:
        loss: Bounded loss of each row, [n].
    """
    reports = []
    for cut in cuts:
        for index, label in enumerate(cut.labels):
            rows = np.flatnonzero(cut.codes == index)
            part = scored.take(rows)
            meter = build_meter(part)
            metrics = dict(zip(meter.names, meter.measure().tolist(), strict=True))
            interval = mean_interval(loss[rows], part.weight, config.confidence)
            is_judged = len(rows) >= config.min_support
            reports.append(SliceReport(cut.column, label, len(rows), is_judged, interval, metrics))
    return tuple(reports)


def _is_number(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_timestamp(kind)
        or pa.types.is_date(kind)
    )


def _slice_numbers(values: pa.ChunkedArray | pa.Array) -> tuple[list[str], Ints]:
    is_time = pa.types.is_timestamp(values.type) or pa.types.is_date(values.type)
    if is_time:
        values = pc.cast(pc.cast(values, pa.timestamp("us")), pa.int64())
    numbers = np.asarray(pc.cast(values, pa.float64(), safe=False).to_numpy(zero_copy_only=False), dtype=np.float64)
    finite = np.isfinite(numbers)
    known = numbers[finite]
    write = _write_time if is_time else _write_number
    codes = np.full(len(numbers), -1, dtype=np.int64)
    distinct = np.unique(known)
    if len(distinct) <= NUM_DISTINCT_NUMBERS:
        codes[finite] = np.searchsorted(distinct, known)
        return [write(value) for value in distinct], codes
    edges = np.unique(np.quantile(known, [0.25, 0.5, 0.75], method="inverted_cdf"))
    edges = edges[edges < distinct[-1]] if edges[0] < distinct[-1] else distinct[-2:-1]
    codes[finite] = np.searchsorted(edges, known, side="left")
    texts = [write(edge) for edge in edges]
    between = [f"{low} to {high}" for low, high in pairwise(texts)]
    return [f"up to {texts[0]}", *between, f"above {texts[-1]}"], codes


def _slice_values(values: pa.ChunkedArray | pa.Array) -> tuple[list[str], Ints]:
    texts = pa.array([None if item is None else str(item) for item in values.to_pylist()], pa.string())
    encoded = texts.dictionary_encode()
    labels = encoded.dictionary.to_pylist()
    order = sorted(range(len(labels)), key=labels.__getitem__)
    rank = np.empty(len(labels), dtype=np.int64)
    rank[order] = np.arange(len(labels))
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    return [labels[index] for index in order], np.where(codes < 0, -1, rank[codes] if len(rank) else -1)


def _keep_largest(name: str, labels: list[str], codes: Ints, max_slices: int) -> SliceCodes:
    if len(labels) <= max_slices:
        return SliceCodes(name, tuple(labels), codes)
    sizes = np.bincount(codes, minlength=len(labels))
    kept = np.sort(np.argsort(-sizes, kind="stable")[:max_slices])
    renumbered = np.full(len(labels), -1, dtype=np.int64)
    renumbered[kept] = np.arange(len(kept))
    return SliceCodes(name, tuple(labels[index] for index in kept), renumbered[codes], len(labels) - max_slices)


def _write_number(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) and abs(value) < 1e6 else f"{value:.4g}"


def _write_time(value: float) -> str:
    moment = datetime.fromtimestamp(value / 1e6, UTC)
    return f"{moment:%Y-%m-%d}" if moment.time() == datetime.min.time() else f"{moment:%Y-%m-%d %H:%M}"
