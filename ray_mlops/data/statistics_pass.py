"""Everything that fitting needs to know of the rows, in one pass of statistics that merge.

``PartialStatistics`` of blocks merge to exactly what one block of all rows would have given: sums are exact,
counts are integers, and the sample is chosen by the rows' hashes. So a pipeline is the same to the bit
however the rows were cut into blocks, and whichever block came first.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ray_mlops.data.columns import numeric_values, one_chunk, time_values
from ray_mlops.data.exact import exact_sum, exact_sum_of_squares, mean_and_deviation
from ray_mlops.data.hashing import hash_rows
from ray_mlops.data.inputs import InputColumn, canonical_column, feature_column, load_functions
from ray_mlops.data.vectors import project_vectors, vector_matrix

SAMPLE_ROWS = 200_000
"""About this many rows are kept for quantiles; up to as many, all of them are, and quantiles are exact."""
MAX_DISTINCT = 100_000
"""With more categories than this, they are counted in the sample only."""
EVENT_US, TRAIN, HASH = "__event_us", "__train", "__hash"
_TYPES = {EVENT_US: pa.int64(), TRAIN: pa.bool_(), HASH: pa.uint64()}


@dataclass(frozen=True, slots=True)
class PassPlan:
    """What the pass looks at; travels to the workers."""

    inputs: tuple[InputColumn, ...]
    event_time: str | None
    """Column of event times; without one every row is at time 0."""
    num_rows: int
    """All rows that the pass will see, which sets the share of the sample."""
    train_column: str | None = None
    """Boolean column: rows that features are fitted on. None: all rows."""
    sample_rows: int = SAMPLE_ROWS


@dataclass(frozen=True, slots=True)
class ColumnTally:
    """One feature over the rows it is fitted on."""

    missing: int = 0
    total: int = 0
    """Exact sum of the numbers; see ``exact``."""
    squares: int = 0
    counts: Mapping[str, int] | None = field(default_factory=dict)
    """Rows by category; None when there were too many categories."""
    elements: tuple[tuple[int, int], ...] = ()
    """Of vectors: the exact sum and sum of squares at each position [d]; empty before the first block."""

    def __add__(self, other: "ColumnTally") -> "ColumnTally":
        merged = (self.missing + other.missing, self.total + other.total, self.squares + other.squares)
        elements = self.elements or other.elements
        if self.elements and other.elements:
            pairs = zip(self.elements, other.elements, strict=True)
            elements = tuple((a[0] + b[0], a[1] + b[1]) for a, b in pairs)
        return ColumnTally(*merged, _merge_counts(self.counts, other.counts), elements)


@dataclass(frozen=True, slots=True)
class PartialStatistics:
    """Statistics of some rows."""

    rows: int
    train_rows: int
    columns: Mapping[str, ColumnTally]
    sample: pa.Table
    """Raw inputs in canonical types (of vectors what is counted of them), with event time, a flag for training
    rows, and the rows' hashes."""

    def to_table(self) -> pa.Table:
        """One row of two binary columns: what a worker sends home."""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, self.sample.schema) as writer:
            writer.write_table(self.sample)
        columns = {
            name: [
                tally.missing,
                hex(tally.total),
                hex(tally.squares),
                tally.counts,
                [[hex(total), hex(squares)] for total, squares in tally.elements],
            ]
            for name, tally in self.columns.items()
        }
        content = json.dumps({"rows": self.rows, "train_rows": self.train_rows, "columns": columns})
        return pa.table({"statistics": [content.encode()], "sample": [sink.getvalue().to_pybytes()]})

    @classmethod
    def from_bytes(cls, statistics: bytes, sample: bytes) -> "PartialStatistics":
        content = json.loads(statistics)
        columns = {
            name: ColumnTally(
                missing, int(total, 16), int(squares, 16), counts, tuple((int(a, 16), int(b, 16)) for a, b in elements)
            )
            for name, (missing, total, squares, counts, elements) in content["columns"].items()
        }
        return cls(content["rows"], content["train_rows"], columns, pa.ipc.open_stream(sample).read_all())


@dataclass(frozen=True, slots=True)
class ColumnStatistics:
    """What is known of one feature over the training rows."""

    rows: int
    missing: int
    mean: float
    """NaN for categories, times, and where there is no value."""
    deviation: float
    """Standard deviation, divisor n."""
    values: npt.NDArray[np.float64]
    """Sorted sample of numbers (microseconds, for times) [m]; empty for categories and vectors."""
    counts: Mapping[str, int]
    """Rows by category."""
    distinct: int
    """Distinct categories, or distinct values in the sample; of vectors 1 if all are alike, else their number."""
    elements: tuple[tuple[float, float], ...] = ()
    """Of vectors: mean and standard deviation at each position [d]."""

    @property
    def minimum(self) -> float:
        return float(self.values[0]) if len(self.values) else float("nan")

    @property
    def maximum(self) -> float:
        return float(self.values[-1]) if len(self.values) else float("nan")


@dataclass(frozen=True, slots=True)
class Statistics:
    """The merged result of the pass."""

    rows: int
    train_rows: int
    columns: Mapping[str, ColumnStatistics]
    sample: pa.Table
    """Sorted by hash, so the same whatever the order of the rows was."""

    @property
    def is_exact(self) -> bool:
        """Whether the sample holds every row."""
        return len(self.sample) == self.rows


def block_statistics(table: pa.Table, plan: PassPlan) -> PartialStatistics:
    """Statistics of one block of rows."""
    functions = load_functions(plan.inputs)
    train = _train_mask(table, plan)
    raw = {column.name: canonical_column(table, column) for column in plan.inputs}
    columns = {}
    for column in plan.inputs:
        feature = feature_column(raw[column.name], column, functions.get(column.name))
        columns[column.name] = _tally(feature if train.all() else feature.filter(pa.array(train)), column)
    hashes = hash_rows(table)
    extra = {EVENT_US: event_times(table, plan.event_time), TRAIN: train, HASH: hashes}
    rows = pa.table({**raw, **{name: pa.array(values, _TYPES[name]) for name, values in extra.items()}})
    if plan.num_rows > plan.sample_rows:
        limit = np.uint64(int(plan.sample_rows / plan.num_rows * 2**64))
        rows = rows.filter(pa.array(hashes < limit))
    sample = project_vectors(rows, [column for column in plan.inputs if column.name not in functions])
    return PartialStatistics(len(table), int(train.sum()), columns, sample)


def merge_statistics(parts: Iterable[PartialStatistics], plan: PassPlan) -> Statistics:
    """Merge the statistics of all blocks; their order does not matter."""
    found = list(parts)
    sample = pa.concat_tables([part.sample for part in found])
    sample = sample.take(pa.array(np.argsort(sample[HASH].to_numpy(), kind="stable"))).combine_chunks()
    functions = load_functions(plan.inputs)
    rows = sum(part.train_rows for part in found)
    train = sample.filter(sample[TRAIN])
    columns = {}
    for column in plan.inputs:
        tally = sum((part.columns[column.name] for part in found), ColumnTally())
        values = one_chunk(train[column.name])
        feature = values if column.type == "vector" else feature_column(values, column, functions.get(column.name))
        columns[column.name] = _finish(tally, feature, column, rows)
    return Statistics(sum(part.rows for part in found), rows, columns, sample)


def table_statistics(table: pa.Table, plan: PassPlan) -> Statistics:
    """The pass over a table, without Ray."""
    return merge_statistics([block_statistics(table, plan)], plan)


def event_times(table: pa.Table, event_time: str | None) -> npt.NDArray[np.int64]:
    """Event times in microseconds since 1970 UTC [n]; 0 everywhere without a column of them."""
    if event_time is None:
        return np.zeros(len(table), np.int64)
    return time_values(one_chunk(table[event_time]), event_time)


def count_categories(words: pa.Array) -> dict[str, int]:
    """Rows by category, nulls left out."""
    tally = pc.value_counts(words)
    pairs = zip(tally.field("values").to_pylist(), tally.field("counts").to_pylist(), strict=True)
    return {word: count for word, count in pairs if word is not None}


def _train_mask(table: pa.Table, plan: PassPlan) -> npt.NDArray[np.bool_]:
    if plan.train_column is None:
        return np.ones(len(table), bool)
    return np.asarray(one_chunk(table[plan.train_column]).to_numpy(zero_copy_only=False), bool)


def _tally(feature: pa.Array, column: InputColumn) -> ColumnTally:
    if column.type == "categorical":
        counts = count_categories(feature)
        return ColumnTally(feature.null_count, counts=counts if len(counts) <= MAX_DISTINCT else None)
    if column.type == "datetime":
        return ColumnTally(feature.null_count)
    if column.type == "vector":
        matrix = vector_matrix(feature.drop_null(), column.length, column.name)
        sums = tuple((exact_sum(values), exact_sum_of_squares(values)) for values in np.ascontiguousarray(matrix.T))
        return ColumnTally(feature.null_count, elements=sums)
    values = feature_numbers(feature, column)
    return ColumnTally(feature.null_count, exact_sum(values), exact_sum_of_squares(values))


def feature_numbers(feature: pa.Array, column: InputColumn) -> npt.NDArray[np.float64]:
    """The non-missing values of a canonical numeric, boolean or datetime column, as numbers [m]."""
    present = feature.drop_null()
    if column.type == "boolean":
        return np.asarray(present.cast(pa.uint8()).cast(pa.float64()).to_numpy(zero_copy_only=False), np.float64)
    if column.type == "datetime":
        return time_values(present, column.name).astype(np.float64)
    return numeric_values(present, column.name)


def _finish(tally: ColumnTally, feature: pa.Array, column: InputColumn, rows: int) -> ColumnStatistics:
    if column.type == "categorical":
        counts = count_categories(feature) if tally.counts is None else dict(tally.counts)
        nothing = np.empty(0)
        return ColumnStatistics(rows, tally.missing, np.nan, np.nan, nothing, counts, len(counts))
    if column.type == "vector":
        present = rows - tally.missing
        elements = tuple(mean_and_deviation(total, squares, present) for total, squares in tally.elements)
        distinct = 0 if not present else present if any(deviation for _, deviation in elements) else 1
        return ColumnStatistics(rows, tally.missing, np.nan, np.nan, np.empty(0), {}, distinct, elements)
    values = np.sort(feature_numbers(feature, column))
    distinct = 1 + int(np.count_nonzero(np.diff(values))) if len(values) else 0
    mean = deviation = float("nan")
    if column.type != "datetime":
        mean, deviation = mean_and_deviation(tally.total, tally.squares, rows - tally.missing)
    return ColumnStatistics(rows, tally.missing, mean, deviation, values, {}, distinct)


def _merge_counts(left: Mapping[str, int] | None, right: Mapping[str, int] | None) -> Mapping[str, int] | None:
    if left is None or right is None:
        return None
    merged = dict(left)
    for word, count in right.items():
        merged[word] = merged.get(word, 0) + count
    return merged if len(merged) <= MAX_DISTINCT else None


def unpack_parts(table: pa.Table) -> Sequence[PartialStatistics]:
    """Read the rows that ``PartialStatistics.to_table`` wrote."""
    pairs: Any = zip(table["statistics"].to_pylist(), table["sample"].to_pylist(), strict=True)
    return [PartialStatistics.from_bytes(statistics, sample) for statistics, sample in pairs]
