"""The fast path of serving: JSON-like rows to raw matrices, without Arrow or pandas."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt

from ray_mlops.data.encoders import CategoryEncoder
from ray_mlops.data.inputs import InputColumn, missing_column
from ray_mlops.data.values import read_value
from ray_mlops.data.vectors import Floats, read_vector, stack_vectors
from ray_mlops.errors import FeatureError

Row = Mapping[str, Any]
_NUMBER_TYPES = frozenset({float, int, type(None)})
_BOOLEAN_TYPES = frozenset({bool, type(None)})


@dataclass(frozen=True, slots=True)
class RawValues:
    """What encoders read, for n rows."""

    numbers: npt.NDArray[np.float64]
    """Numbers, then booleans [n, k]; NaN and infinities are missing."""
    ids: npt.NDArray[np.int64]
    """[n, c]"""
    times: Sequence[npt.NDArray[np.int64]]
    """Microseconds since 1970 UTC [n], for each datetime column."""
    vectors: Sequence[npt.NDArray[np.float64]] = ()
    """[n, d] for each column of vectors; a missing vector is NaN throughout."""


class RowReader:
    """Reads rows whose columns are settled.

    Most rows hold just the types that were asked for: that is seen by one set comparison per row, and numpy
    converts the numbers. Anything else is read value by value, to the same effect or to an error.

    Args:
        numbers: Numeric columns, then boolean ones.
        words: Categorical columns with their encoders.
        times: Datetime columns.
        vectors: Columns of vectors.
    """

    def __init__(
        self,
        numbers: Sequence[InputColumn],
        words: Sequence[tuple[InputColumn, CategoryEncoder]],
        times: Sequence[InputColumn],
        vectors: Sequence[InputColumn] = (),
    ) -> None:
        self._numbers, self._times, self._vectors = list(numbers), list(times), list(vectors)
        self._words = [column for column, _ in words]
        self._lookups = [encoder.lookup() for _, encoder in words]
        self._order = [*self._numbers, *self._words, *self._times, *self._vectors]
        self._num_numeric = sum(column.type == "numeric" for column in numbers)
        self._num_scalars = len(self._order) - len(self._vectors)
        self._values_of = itemgetter(*(column.name for column in self._order))

    def read(self, rows: Sequence[Row]) -> RawValues:
        """Read rows.

        Raises:
            FeatureError: A value of the wrong type, a missing column, or a row that is no mapping.
        """
        numbers, words = len(self._numbers), len(self._words)
        raw: list[Sequence[Any]] = []
        ids: list[list[int]] = []
        times: list[list[int]] = []
        after = self._num_scalars
        vectors: list[list[Floats | None]] = []
        for index, row in enumerate(rows):
            values = self._values(row, index)
            raw.append(self._row_numbers(values, index))
            if words:
                ids.append(self._row_ids(values[numbers : numbers + words], index))
            if self._times:
                times.append(self._row_times(values[numbers + words : after], index))
            if self._vectors:
                vectors.append(self._row_vectors(values[after:], index))
        id_matrix = np.array(ids, np.int64).reshape(len(raw), words)
        time_matrix = np.array(times, np.int64).reshape(len(raw), len(self._times))
        found = RawValues(_float_matrix(raw, numbers), id_matrix, list(time_matrix.T))
        if not self._vectors:
            return found
        each = [stack_vectors([row[i] for row in vectors], c.length) for i, c in enumerate(self._vectors)]
        return replace(found, vectors=each)

    def values(self, row: Row, index: int) -> dict[str, Any]:
        """A row's values by input column; an optional column that is absent is None.

        Raises:
            FeatureError: A missing column, or a row that is no mapping.
        """
        if not isinstance(row, Mapping):
            raise FeatureError(f"expected a mapping of columns, got {type(row).__name__}", f"row {index}")
        for column in self._order:
            if column.required and column.name not in row:
                raise missing_column(column.name)
        return {column.name: row.get(column.name) for column in self._order}

    def _values(self, row: Row, index: int) -> tuple[Any, ...]:
        try:
            found = self._values_of(row)
        except (KeyError, TypeError):
            return tuple(self.values(row, index).values())
        return found if len(self._order) > 1 else (found,)

    def _row_numbers(self, values: tuple[Any, ...], index: int) -> Sequence[Any]:
        split, end = self._num_numeric, len(self._numbers)
        numbers, flags = values[:split], values[split:end]
        if _NUMBER_TYPES.issuperset(map(type, numbers)) and _BOOLEAN_TYPES.issuperset(map(type, flags)):
            return values[:end]
        pairs = zip(self._numbers, values[:end], strict=True)
        return [read_value(value, column.type, column.name, index) for column, value in pairs]

    def _row_ids(self, values: tuple[Any, ...], index: int) -> list[int]:
        ids = []
        for position, value in enumerate(values):
            if value is not None and value.__class__ is not str:
                value = read_value(value, "categorical", self._words[position].name, index)
            ids.append(self._lookups[position].get(value, 1))
        return ids

    def _row_times(self, values: tuple[Any, ...], index: int) -> list[int]:
        pairs = zip(self._times, values, strict=True)
        return [read_value(value, "datetime", column.name, index) for column, value in pairs]

    def _row_vectors(self, values: tuple[Any, ...], index: int) -> list[Floats | None]:
        pairs = zip(self._vectors, values, strict=True)
        return [read_vector(value, column.length, column.name, index) for column, value in pairs]


def _float_matrix(raw: list[Sequence[Any]], columns: int) -> npt.NDArray[np.float64]:
    try:
        return np.array(raw, np.float64).reshape(len(raw), columns)
    except OverflowError:  # an integer beyond the range of doubles counts as infinite
        rows = [[read_value(v, "numeric", "", 0) if type(v) is int else v for v in row] for row in raw]
        return np.array(rows, np.float64).reshape(len(raw), columns)
