"""Columns as numbers or as strings, whatever container they come in.

What cannot be read counts as null, and is never an error: traffic may carry anything, and nulls are watched.
"""

import numbers
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

FloatArray = npt.NDArray[np.float64]


def as_numbers(values: Any) -> FloatArray:
    """Return a column of numbers as float64 [n], null as NaN; datetimes become microseconds.

    Text is never parsed: like anything else that is no number it becomes NaN.

    Args:
        values: A numpy array, an Arrow array, or a sequence of numbers and None.

    Example:
        >>> as_numbers([1, None, "2", True]).tolist()
        [1.0, nan, nan, 1.0]
    """
    if isinstance(values, pa.ChunkedArray) and values.type == pa.float64():
        return np.asarray(values.to_numpy(), dtype=np.float64)  # by far the most frequent
    if isinstance(values, np.ndarray) and values.dtype.kind in "fiub":
        return np.asarray(values, dtype=np.float64)
    try:
        return _arrow_numbers(values if isinstance(values, pa.Array | pa.ChunkedArray) else _inferred(values))
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
        return np.array([_number(value) for value in _items(values)], dtype=np.float64)


def as_strings(values: Any) -> pa.Array:
    """Return a column of categories as an Arrow string array [n]; NaN becomes null.

    Args:
        values: An Arrow array, a numpy array, or a sequence of strings (or other scalars) and None.
    """
    if isinstance(values, pa.ChunkedArray):
        values = values.chunk(0) if values.num_chunks == 1 else values.combine_chunks()
    try:
        return _arrow_strings(values if isinstance(values, pa.Array) else _inferred(values))
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
        return pa.array([_word(value) for value in _items(values)], pa.string())


def _arrow_numbers(array: Any) -> FloatArray:
    kind = array.type
    if pa.types.is_dictionary(kind):
        return as_numbers(array.cast(kind.value_type))
    if pa.types.is_timestamp(kind):
        array = array.cast(pa.timestamp("us", kind.tz), safe=False).cast(pa.int64())
    elif pa.types.is_date(kind):
        array = array.cast(pa.timestamp("us")).cast(pa.int64())
    elif not _is_number(kind):
        return np.full(len(array), np.nan)
    floats = array if array.type == pa.float64() else array.cast(pa.float64(), safe=False)
    if isinstance(floats, pa.ChunkedArray):
        return np.asarray(floats.to_numpy(), dtype=np.float64)
    return np.asarray(floats.to_numpy(zero_copy_only=False), dtype=np.float64)


def _arrow_strings(array: pa.Array) -> pa.Array:
    if pa.types.is_floating(array.type):
        array = pc.if_else(pc.is_nan(array), None, array)
    return array if array.type == pa.string() else array.cast(pa.string())


def _is_number(kind: pa.DataType) -> bool:
    types = pa.types
    is_one = (types.is_integer, types.is_floating, types.is_boolean, types.is_decimal)
    return any(test(kind) for test in is_one)


def _inferred(values: Sequence[Any]) -> pa.Array:
    return pa.array(values, from_pandas=True)


def _items(values: Any) -> Iterable[Any]:
    """The values one by one, for columns of several types."""
    return values.to_pylist() if isinstance(values, pa.Array | pa.ChunkedArray) else list(values)


def _number(value: Any) -> float:
    try:
        return float(value) if isinstance(value, numbers.Real | np.bool_) else np.nan
    except OverflowError:
        return np.nan


def _word(value: Any) -> str | None:
    if value is None or value != value:
        return None
    try:
        return str(pa.array([value]).cast(pa.string())[0].as_py())
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
        return str(value)
