"""What can happen to a column of a stream."""

import numpy as np
import numpy.typing as npt

from jobs.benchmarks.coded_rows import CodedColumn, IntArray, most_frequent
from jobs.benchmarks.monitored_streams import Change

Rows = npt.NDArray[np.bool_]


def times(factor: float) -> Change:
    """A change of unit."""
    return lambda column, rows, rng, windows: column.with_values(rows, column.values * factor)


def plus_deviations(deviations: float) -> Change:
    """A shift by so many standard deviations of the rows before it."""

    def shifted(column: CodedColumn, rows: Rows, rng: np.random.Generator, windows: IntArray) -> CodedColumn:
        amount = deviations * float(np.nanstd(column.numbers()[~rows]))
        return column.with_values(rows, column.values + amount)

    return shifted


def more_of(share: float, name: str | None = None) -> Change:
    """A share of the rows becomes one category: a named one, or the most frequent."""

    def moved(column: CodedColumn, rows: Rows, rng: np.random.Generator, windows: IntArray) -> CodedColumn:
        category = column.values[most_frequent(column, ~rows)] if name is None else name
        chosen = rows & (rng.random(len(rows)) < share)
        return column.with_values(chosen, np.full(len(column.values), category, dtype=object))

    return moved


def nulls(share: float) -> Change:
    """A share of the values is lost."""
    return lambda column, rows, rng, windows: column.with_nulls(rows & (rng.random(len(rows)) < share))


def frozen() -> Change:
    """The column repeats its last value."""

    def stuck(column: CodedColumn, rows: Rows, rng: np.random.Generator, windows: IntArray) -> CodedColumn:
        known = column.codes[~rows & (column.codes < len(column.values))]
        return column.with_values(rows, np.full(len(column.values), column.values[known[-1]], column.values.dtype))

    return stuck


def shuffled() -> Change:
    """Values change places within their window: the column's own distribution stays to the last digit."""

    def mixed(column: CodedColumn, rows: Rows, rng: np.random.Generator, windows: IntArray) -> CodedColumn:
        order = np.lexsort((rng.random(len(rows)), windows))  # rows of a window lie together
        return CodedColumn(column.values, np.where(rows, column.codes[order], column.codes))

    return mixed
