"""Columns as numbers or as strings, whatever container they come in."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

FloatArray = npt.NDArray[np.float64]


def as_numbers(values: Any) -> FloatArray:
    """Return a column of numbers as float64 [n], null as NaN; datetimes become microseconds.

    Args:
        values: A numpy array, an Arrow array, or a sequence of numbers and None.
    """
    if isinstance(values, pa.ChunkedArray) and values.type == pa.float64():
        return np.asarray(values.to_numpy(), dtype=np.float64)  # by far the most frequent
    if isinstance(values, np.ndarray) and values.dtype.kind in "fiub":
        return np.asarray(values, dtype=np.float64)
    array = values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values, from_pandas=True)
    if pa.types.is_timestamp(array.type):
        array = array.cast(pa.timestamp("us", array.type.tz), safe=False).cast(pa.int64())
    numbers = array if array.type == pa.float64() else array.cast(pa.float64(), safe=False)
    if isinstance(numbers, pa.ChunkedArray):
        return np.asarray(numbers.to_numpy(), dtype=np.float64)
    return np.asarray(numbers.to_numpy(zero_copy_only=False), dtype=np.float64)


def as_strings(values: Any) -> pa.Array:
    """Return a column of categories as an Arrow string array [n]; NaN becomes null.

    Args:
        values: An Arrow array, a numpy array, or a sequence of strings (or other scalars) and None.
    """
    if isinstance(values, pa.ChunkedArray):
        values = values.chunk(0) if values.num_chunks == 1 else values.combine_chunks()
    array = values if isinstance(values, pa.Array) else _infer_array(values)
    if pa.types.is_floating(array.type):
        array = pc.if_else(pc.is_nan(array), None, array)
    return array if array.type == pa.string() else array.cast(pa.string())


def _infer_array(values: Sequence[Any]) -> pa.Array:
    try:
        return pa.array(values, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError):  # values of several types
        return pa.array([as_strings([value])[0].as_py() for value in values], pa.string())
