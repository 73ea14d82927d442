"""Counts of many columns at once: one vector for a whole table, so that a thousand replicas add up in no time.

``TableBins`` counts rows, ``TableCounts`` is what came of them. Both are made of what ``bins`` says of one column.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ray_mlops.statistics.bins import LARGEST, Bins, CategoricalBins, ColumnCounts, NumericBins, sum_of_squares
from ray_mlops.statistics.columns import as_numbers, as_strings

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_NO_MOMENTS = (0.0, 0.0, np.inf, -np.inf)


class TableCounts(Mapping[str, ColumnCounts]):
    """Counts of some rows of several columns. Those of disjoint rows add up with ``+``, in any order.

    Counts, rows, minima and maxima of the sum do not depend on the order; sums agree but for rounding.

    Args:
        names: The columns.
        sizes: Counters of each column.
        counts: Counts of all columns, one after the other [sum of sizes].
        rows: Rows of each column, nulls included [d].
        moments: Sum, sum of squares, smallest and largest finite number of each column [4, d]; without a
            finite number 0, 0, +inf and -inf.

    Example:
        >>> table = TableBins({"x": NumericBins([0.0, 1.0, 2.0])})
        >>> both = table.count({"x": [0.5, 9.0]}) + table.count({"x": [1.5, None]})
        >>> both["x"].counts.tolist(), both["x"].maximum
        ([0, 1, 1, 1, 1], 9.0)
    """

    __slots__ = ("counts", "moments", "names", "rows", "sizes")

    def __init__(
        self, names: tuple[str, ...], sizes: tuple[int, ...], counts: IntArray, rows: IntArray, moments: FloatArray
    ) -> None:
        self.names, self.sizes = names, sizes
        self.counts, self.rows, self.moments = counts, rows, moments

    @classmethod
    def of_columns(cls, columns: Mapping[str, ColumnCounts]) -> Self:
        """Pack counts of single columns."""
        found = list(columns.values())
        moments = [(c.total, c.total_squares, np.fmin(c.minimum, np.inf), np.fmax(c.maximum, -np.inf)) for c in found]
        return cls(
            tuple(columns),
            tuple(len(c.counts) for c in found),
            np.concatenate([c.counts for c in found]) if found else np.zeros(0, np.int64),
            np.array([c.n for c in found], dtype=np.int64),
            np.array(moments, dtype=np.float64).reshape(-1, 4).T.copy(),
        )

    @classmethod
    def merged(cls, parts: Iterable["TableCounts"]) -> "TableCounts":
        """Add up any number of tables, in the memory of one.

        Raises:
            ValueError: There is no table.
        """
        total: TableCounts | None = None
        for part in parts:
            if total is None:
                total = part.copy()
            elif total.names == part.names and total.sizes == part.sizes:
                total._add_alike(part)
            else:
                total = total._united(part)
        if total is None:
            raise ValueError("there are no counts to merge")
        return total

    def copy(self) -> "TableCounts":
        """The same in memory of its own."""
        return TableCounts(self.names, self.sizes, self.counts.copy(), self.rows.copy(), self.moments.copy())

    def __add__(self, other: "TableCounts") -> "TableCounts":
        return TableCounts.merged((self, other))

    @property
    def nbytes(self) -> int:
        """Bytes of the counts and sums."""
        return int(self.counts.nbytes + self.rows.nbytes + self.moments.nbytes)

    def __getitem__(self, name: str) -> ColumnCounts:
        try:
            index = self.names.index(name)
        except ValueError:
            raise KeyError(name) from None
        start = sum(self.sizes[:index])
        total, squares, low, high = self.moments[:, index].tolist()
        counts, rows = self.counts[start : start + self.sizes[index]], int(self.rows[index])
        is_empty = low > high
        return ColumnCounts(counts, rows, total, squares, np.nan if is_empty else low, np.nan if is_empty else high)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __reduce__(self) -> tuple[Any, ...]:
        return TableCounts, (self.names, self.sizes, self.counts, self.rows, self.moments)

    def _add_alike(self, other: "TableCounts") -> None:
        self.counts += other.counts
        self.rows += other.rows
        sums, limits = self.moments, other.moments
        with np.errstate(over="ignore"):
            np.clip(sums[:2] + limits[:2], -LARGEST, LARGEST, out=sums[:2])
        np.minimum(sums[2], limits[2], out=sums[2])
        np.maximum(sums[3], limits[3], out=sums[3])

    def _united(self, other: "TableCounts") -> "TableCounts":
        """Add tables whose columns differ: a column that one of them lacks has the other's rows only."""
        columns: dict[str, ColumnCounts] = dict(self)
        for name, column in other.items():
            columns[name] = columns[name] + column if name in columns else column
        return TableCounts.of_columns(columns)


class TableBins:
    """Bins of several columns, which are counted together.

    Args:
        bins: By column.
    """

    def __init__(self, bins: Mapping[str, Bins]) -> None:
        self.bins = dict(bins)
        self._layouts: dict[tuple[str, ...], tuple[tuple[int, ...], tuple[int, ...]]] = {}

    def count(self, columns: Mapping[str, Any]) -> TableCounts:
        """Count columns of values (see ``as_numbers`` and ``as_strings``); those without bins are left out.

        Args:
            columns: By name, as a mapping or an Arrow table. They may differ in length.
        """
        found = _by_name(columns)
        names = tuple(name for name in self.bins if name in found)
        sizes, starts = self._layout(names)
        counts = np.zeros(starts[-1], dtype=np.int64)
        rows, moments = np.empty(len(names), dtype=np.int64), []
        with np.errstate(over="ignore"):
            for index, name in enumerate(names):
                bins, out = self.bins[name], counts[starts[index] : starts[index + 1]]
                if isinstance(bins, NumericBins):
                    numbers = np.sort(as_numbers(found[name]))
                    rows[index] = len(numbers)
                    moments.append(_count_numbers(bins, numbers, out))
                else:
                    rows[index] = _count_words(bins, found[name], out)
                    moments.append(_NO_MOMENTS)
        table = np.array(moments, dtype=np.float64).reshape(-1, 4).T.copy()
        return TableCounts(names, sizes, counts, rows, table)

    def _layout(self, names: tuple[str, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        if names not in self._layouts:
            sizes = tuple(self.bins[name].size for name in names)
            self._layouts[names] = sizes, (0, *accumulate(sizes))
        return self._layouts[names]


def _by_name(columns: Any) -> Mapping[str, Any]:
    """A table's columns by name; looking them up one by one takes three times as long."""
    if isinstance(columns, pa.Table):
        return dict(zip(columns.column_names, columns.itercolumns(), strict=True))
    found: Mapping[str, Any] = columns
    return found


def _count_numbers(bins: NumericBins, numbers: FloatArray, out: IntArray) -> tuple[float, float, float, float]:
    """Count sorted numbers into ``out``; returns the moments of the finite ones."""
    first, last = bins.count_into(numbers, out)
    if first == last:
        return _NO_MOMENTS
    finite = numbers[first:last]
    total, squares = float(np.add.reduce(finite)), sum_of_squares(finite)
    if not squares < LARGEST:  # beyond 1e154 squares are infinite, and JSON has no infinity
        total, squares = max(min(total, LARGEST), -LARGEST), LARGEST
    return total, squares, float(finite[0]), float(finite[-1])


def _count_words(bins: CategoricalBins, values: Any, out: IntArray) -> int:
    words = as_strings(values)
    tally = pc.value_counts(words)
    out += bins.tallied(tally.field(0).to_pylist(), tally.field(1).to_numpy())
    return len(words)


def bin_sums(sorted_numbers: FloatArray, counts: Sequence[int] | IntArray) -> FloatArray:
    """Sum the numbers of each bin [size - 1], nulls left out.

    Args:
        sorted_numbers: As ``NumericBins.count_sorted`` takes them.
        counts: What it returned [size].
    """
    inside = np.asarray(counts)[:-1]
    first = int(np.searchsorted(sorted_numbers, -LARGEST))
    finite = sorted_numbers[first : first + int(inside.sum())]
    sums, used = np.zeros(len(inside)), inside > 0
    if used.any():
        starts = np.cumsum(inside) - inside
        sums[used] = np.add.reduceat(finite, starts[used])
    return sums
