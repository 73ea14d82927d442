"""Rows as codes of their distinct values: thousands of streams of windows are cut from them, and counted fast.

Counting a column on bins takes time in proportion to its rows; counting the codes of a window once, and adding
up the counters of the values that share a bin, gives the same counts in a hundredth of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ray_mlops.statistics.bins import Bins, CategoricalBins, ColumnCounts, NumericBins

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class CodedColumn:
    """One column of n rows."""

    values: npt.NDArray[Any]
    """Distinct values [D]: numbers or strings, in any order, repeats allowed."""
    codes: IntArray
    """Position of each row's value [n]; D stands for null."""

    @classmethod
    def of(cls, values: pa.Array | pa.ChunkedArray) -> "CodedColumn":
        """Code a column."""
        array = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
        encoded = pc.dictionary_encode(array)
        distinct = encoded.dictionary.to_numpy(zero_copy_only=False)
        codes = pc.fill_null(encoded.indices, len(distinct)).to_numpy(zero_copy_only=False)
        return cls(distinct, codes.astype(np.int64))

    @property
    def is_numeric(self) -> bool:
        return self.values.dtype.kind == "f"

    def take(self, rows: IntArray) -> "CodedColumn":
        """Return some rows of it."""
        return replace(self, codes=self.codes[rows])

    def with_values(self, changed: npt.NDArray[np.bool_], value_of: npt.NDArray[Any]) -> "CodedColumn":
        """Return it with other values in some rows.

        Args:
            changed: Which rows [n].
            value_of: What stands for each distinct value there [D]; nulls stay.
        """
        size = len(self.values)
        moved = np.where(self.codes == size, 2 * size, self.codes + size)
        codes = np.where(changed, moved, np.where(self.codes == size, 2 * size, self.codes))
        return CodedColumn(np.concatenate((self.values, value_of)), codes)

    def with_nulls(self, changed: npt.NDArray[np.bool_]) -> "CodedColumn":
        """Return it with nulls in some rows."""
        return replace(self, codes=np.where(changed, len(self.values), self.codes))

    def numbers(self) -> npt.NDArray[np.float64]:
        """Return the rows' numbers [n], null as NaN."""
        return np.append(self.values.astype(np.float64), np.nan)[self.codes]

    def tally(self, windows: IntArray, num_windows: int) -> IntArray:
        """Count each value in each window [W, D + 1], null last.

        Args:
            windows: Window of each row [n].
            num_windows: W.
        """
        size = len(self.values) + 1
        flat = np.bincount(windows * size + self.codes, minlength=num_windows * size)
        return flat.reshape(num_windows, size)


def bins_of(column: CodedColumn, tally: IntArray) -> Bins:
    """Freeze bins as the reference profile does.

    Args:
        column: Says what the codes mean.
        tally: Values of the reference's windows [W, D + 1].
    """
    counts = tally[:, :-1].sum(axis=0)
    if column.is_numeric:
        return NumericBins.from_sample(np.repeat(column.values, counts))
    seen: dict[str, int] = {}
    for name, count in zip(column.values.tolist(), counts.tolist(), strict=True):
        seen[name] = seen.get(name, 0) + count
    return CategoricalBins.from_counts({name: count for name, count in seen.items() if count})


def counts_of(bins: Bins, column: CodedColumn, tally: IntArray) -> list[ColumnCounts]:
    """Return what ``ColumnCounts.of`` would for the rows of each window."""
    position = np.append(bins.index(column.values), bins.size - 1)
    counts = tally.astype(np.float64) @ np.eye(bins.size)[position]
    counts, rows = counts.astype(np.int64), tally.sum(axis=1)
    if not column.is_numeric:
        return [ColumnCounts(counts[w], int(rows[w])) for w in range(len(tally))]
    seen, values = tally[:, :-1] > 0, column.values
    total, squares = tally[:, :-1] @ values, tally[:, :-1] @ values**2
    low, high = np.where(seen, values, np.inf).min(axis=1), np.where(seen, values, -np.inf).max(axis=1)
    low, high = np.where(np.isfinite(low), low, np.nan), np.where(np.isfinite(high), high, np.nan)
    return [
        ColumnCounts(counts[w], int(rows[w]), float(total[w]), float(squares[w]), float(low[w]), float(high[w]))
        for w in range(len(tally))
    ]


CodedRows = Mapping[str, CodedColumn]


def take_rows(rows: CodedRows, chosen: IntArray) -> dict[str, CodedColumn]:
    """Return some rows of every column."""
    return {name: column.take(chosen) for name, column in rows.items()}


def most_frequent(column: CodedColumn, among: npt.NDArray[np.bool_]) -> int:
    """Return the code of the most frequent value among some rows."""
    return int(np.bincount(column.codes[among & (column.codes < len(column.values))]).argmax())


def windows_of(lengths: Sequence[int] | IntArray) -> IntArray:
    """Return the window of each row, for windows of these numbers of rows, one after the other."""
    return np.repeat(np.arange(len(lengths)), lengths)
