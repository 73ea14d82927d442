"""Columns of vectors (embeddings): lists of finite numbers, all of one length, or null.

In memory they are ``fixed_size_list<double>[d]``: the type says the length wherever a schema travels, and doubles
keep what JSON sent and what ``float32`` files hold alike, so that a row has the same features whichever way it came.
In Parquet they are lists (``runtime.parquet``). A vector with a null, NaN or infinity in it is wrong as a whole:
which of its numbers are missing says nothing to a model that reads them together.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pat

from ray_mlops.data.values import numeric_value, wrong_type
from ray_mlops.errors import FeatureError
from ray_mlops.statistics.embeddings import EmbeddingProjection, is_vector

Floats: TypeAlias = npt.NDArray[np.float64]
Mask: TypeAlias = npt.NDArray[np.bool_]
USUAL_SHARE = 0.9
"""Lists of which at least this share has one length are vectors."""
_PLAIN = frozenset({float, int})
_LISTS = (list, tuple)


def is_list(arrow: pa.DataType) -> bool:
    """Whether an Arrow type holds lists of anything."""
    return bool(pat.is_list(arrow) or pat.is_large_list(arrow) or pat.is_fixed_size_list(arrow))


def vector_type(length: int) -> pa.DataType:
    """The canonical Arrow type of vectors of a length."""
    return pa.list_(pa.float64(), length)


def vector_length(arrow: pa.DataType) -> int:
    """How long the vectors of an Arrow type are; 0 where the type does not say."""
    return int(arrow.list_size) if pat.is_fixed_size_list(arrow) else 0


def count_lengths(array: pa.Array) -> dict[int, int]:
    """Lists by length, nulls left out."""
    tally = pc.value_counts(pc.list_value_length(array.filter(array.is_valid())))
    pairs = zip(tally.field("values").to_pylist(), tally.field("counts").to_pylist(), strict=True)
    return {length: count for length, count in pairs if length is not None}


def usual_length(lengths: Mapping[int, int]) -> int | None:
    """The length that nearly all lists have; None where there is none.

    Example:
        >>> usual_length({3: 95, 2: 5}), usual_length({1: 5, 2: 5}), usual_length({})
        (3, None, None)
    """
    length = max(lengths, key=lambda found: (lengths[found], found), default=0)
    is_usual = length > 0 and lengths[length] >= USUAL_SHARE * sum(lengths.values())
    return length if is_usual else None


def read_vector(value: Any, length: int, name: str, row: int) -> Floats | None:
    """Read one vector of a row; None is missing.

    Raises:
        FeatureError: It is no list of so many finite numbers; names the column and the row.
    """
    if value is None:
        return None
    if isinstance(value, np.ndarray):
        value = value.tolist()
    expected = f"a list of {length} finite numbers"
    if not isinstance(value, _LISTS):
        raise wrong_type(name, row, expected, value)
    if len(value) != length:
        raise _wrong(name, row, f"expected {expected}, got {len(value)} of them")
    if _PLAIN.issuperset(map(type, value)):
        try:
            numbers = np.array(value, np.float64)
        except OverflowError:  # a whole number beyond doubles
            numbers = np.array([numeric_value(item) for item in value])
    else:
        numbers = _read_numbers(value, expected, name, row)
    if not np.isfinite(numbers).all():
        at = int(np.argmin(np.isfinite(numbers)))
        raise _wrong(name, row, f"expected {expected}, got {value[at]!r} at position {at}")
    return numbers


def stack_vectors(vectors: Sequence[Floats | None], length: int) -> Floats:
    """One row for each vector [n, length], NaN where it is missing."""
    missing = np.full(length, np.nan)
    rows = [missing if vector is None else vector for vector in vectors]
    return np.array(rows, np.float64).reshape(len(rows), length)


def vector_array(matrix: Floats) -> pa.Array:
    """The canonical array of vectors [n, length]; a row that begins with NaN is missing."""
    missing = np.isnan(matrix[:, 0])
    flat = np.where(missing[:, None], 0.0, matrix).reshape(-1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), matrix.shape[1], mask=pa.array(missing))


def parse_vectors(array: pa.Array, length: int) -> tuple[Floats, dict[str, Mask]]:
    """Read lists of numbers.

    Args:
        array: Of a type that ``is_vector``, or of nulls.
        length: How long each must be.

    Returns:
        Vectors [n, length], NaN where missing or wrong; and the wrong ones [n] by what is wrong.
    """
    matrix = np.full((len(array), length), np.nan)
    if pat.is_null(array.type):
        return matrix, {}
    present = np.asarray(array.is_valid().to_numpy(zero_copy_only=False), bool)
    lengths = pc.list_value_length(array).fill_null(length).to_numpy(zero_copy_only=False)
    fits = present & (lengths == length)
    flat = pc.list_flatten(array.filter(pa.array(fits)))
    numbers = np.asarray(flat.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False), np.float64)
    numbers = numbers.reshape(-1, length)
    holes = np.asarray(flat.is_null().to_numpy(zero_copy_only=False), bool).reshape(-1, length).any(axis=1)
    finite = np.isfinite(numbers).all(axis=1)
    rows = np.flatnonzero(fits)
    matrix[rows[finite]] = numbers[finite]
    wrong = {
        f"not {length} numbers": present & ~fits,
        "a null inside": _mask(rows[holes], len(array)),
        "a number inside is not finite": _mask(rows[~finite & ~holes], len(array)),
    }
    return matrix, {reason: mask for reason, mask in wrong.items() if mask.any()}


def vector_matrix(array: pa.Array, length: int, name: str) -> Floats:
    """Vectors [n, length] of an Arrow column, NaN where missing.

    Raises:
        FeatureError: A value is no vector of this length; names the column and the first such row.
    """
    if not is_vector(array.type):
        if array.null_count == len(array):
            return np.full((len(array), length), np.nan)
        row = int(np.argmax(np.asarray(array.is_valid().to_numpy(zero_copy_only=False))))
        raise wrong_type(name, row, f"a list of {length} finite numbers", array[row].as_py())
    matrix, wrong = parse_vectors(array, length)
    if wrong:
        row = int(np.argmax(np.any(list(wrong.values()), axis=0)))
        read_vector(array[row].as_py(), length, name, row)  # says what is wrong with it
    return matrix


def with_fixed_lengths(table: pa.Table) -> pa.Table:
    """The table with lists of numbers that all have one length as vectors; what is no such column stays."""
    for index, field in enumerate(table.schema):
        if not is_vector(field.type) or vector_length(field.type):
            continue
        lengths = list(count_lengths(table[field.name].combine_chunks()))
        if len(lengths) == 1 and lengths[0]:
            fixed = pa.list_(field.type.value_type, *lengths)
            table = table.set_column(index, field.name, table[field.name].cast(fixed))
    return table


def projection_of(name: str, length: int) -> EmbeddingProjection:
    """What is counted of a column's vectors: the same numbers for every reference of such a column."""
    return EmbeddingProjection(name, length)


class VectorColumn(Protocol):
    """What must be known of a column; ``data.inputs.InputColumn`` is one."""

    @property
    def name(self) -> str: ...

    @property
    def length(self) -> int:
        """Of its vectors; 0 where it holds none."""


def project_vectors(table: pa.Table, columns: Iterable[VectorColumn]) -> pa.Table:
    """The table with numbers in place of vectors: their norm under the column's name, then their directions."""
    for column in columns:
        if column.length and not pat.is_floating(table.schema.field(column.name).type):
            numbers = projection_of(column.name, column.length).columns_of(table[column.name])
            for name, values in numbers.items():
                array = pa.array(values, mask=np.isnan(values))
                at = table.column_names.index(name) if name in table.column_names else None
                table = table.append_column(name, array) if at is None else table.set_column(at, name, array)
    return table


def _read_numbers(value: Sequence[Any], expected: str, name: str, row: int) -> Floats:
    numbers = np.empty(len(value))
    for at, item in enumerate(value):
        try:
            numbers[at] = numeric_value(item)
        except TypeError:
            raise _wrong(name, row, f"expected {expected}, got {item!r:.60} at position {at}") from None
    return numbers


def _wrong(name: str, row: int, problem: str) -> FeatureError:
    remedy = "send every number of the vector, or null for the whole of it"
    return FeatureError(problem, f"column {name!r}, row {row}", remedy)


def _mask(rows: npt.NDArray[np.intp], count: int) -> Mask:
    mask = np.zeros(count, bool)
    mask[rows] = True
    return mask
