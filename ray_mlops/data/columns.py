"""Arrow columns in one canonical form for each column type; ``values`` says what a single value means.

========== ======================== =======================================================================
type       canonical                accepted
========== ======================== =======================================================================
numeric    ``float64``              integers, floats, decimals; NaN and infinities are missing
boolean    ``bool``                 booleans, and the numbers 0 and 1
categorical ``string``              strings; numbers and booleans are written as text; ``""`` is missing
datetime   ``timestamp(us, UTC)``   timestamps, dates, ISO 8601 strings; no zone means UTC
vector     ``double[d]``            lists of d finite numbers (``vectors``)
========== ======================== =======================================================================

Anything else is a wrong type: a ``FeatureError`` that names the column and the row. Text is never parsed
into numbers, and a number is never taken for a time.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pat

from ray_mlops.config.data import ColumnType
from ray_mlops.data.values import MISSING_US, category_key, read_value, time_us, wrong_type
from ray_mlops.data.vectors import read_vector, stack_vectors, vector_array, vector_matrix, vector_type
from ray_mlops.errors import FeatureError
from ray_mlops.statistics.embeddings import is_vector

Column: TypeAlias = pa.Array | pa.ChunkedArray
INPUT_TYPES: dict[ColumnType, pa.DataType] = {
    "numeric": pa.float64(),
    "boolean": pa.bool_(),
    "categorical": pa.string(),
    "datetime": pa.timestamp("us", tz="UTC"),
}
"""Of the columns that hold one value in a row; ``canonical_type`` knows vectors as well."""
_PER_DAY_US = 86_400_000_000
_UNITS_US = {"s": (1_000_000, 1), "ms": (1000, 1), "us": (1, 1), "ns": (1, 1000)}


def column_type(arrow: pa.DataType, name: str) -> ColumnType:
    """The type of a column by its Arrow type.

    Raises:
        FeatureError: Structs, maps, binaries, durations and lists of anything but numbers cannot be features.

    Example:
        >>> column_type(pa.int32(), "age"), column_type(pa.dictionary(pa.int8(), pa.string()), "city")
        ('numeric', 'categorical')
        >>> column_type(pa.list_(pa.float32(), 384), "text_embedding")
        'vector'
    """
    if pat.is_dictionary(arrow):
        return column_type(arrow.value_type, name)
    if pat.is_boolean(arrow):
        return "boolean"
    if pat.is_integer(arrow) or pat.is_floating(arrow) or pat.is_decimal(arrow) or pat.is_null(arrow):
        return "numeric"
    if is_text(arrow):
        return "categorical"
    if pat.is_timestamp(arrow) or pat.is_date(arrow):
        return "datetime"
    if is_vector(arrow):
        return "vector"
    remedy = "list the feature with a 'function' that turns it into one value, or add it to data.exclude"
    raise FeatureError(f"a column of type {arrow} cannot be a feature", f"column {name!r}", remedy)


def canonical_type(kind: ColumnType, length: int = 0) -> pa.DataType:
    """The canonical Arrow type of a column; ``length`` is of vectors."""
    return vector_type(length) if kind == "vector" else INPUT_TYPES[kind]


def is_text(arrow: pa.DataType) -> bool:
    """Whether an Arrow type holds strings."""
    return bool(pat.is_string(arrow) or pat.is_large_string(arrow) or pat.is_string_view(arrow))


def to_canonical(column: Column, kind: ColumnType, name: str, length: int = 0) -> pa.Array:
    """A column in its canonical Arrow type, with one chunk; missing values are nulls.

    Args:
        column: The values.
        kind: What they are to be.
        name: The column's, for errors.
        length: Of vectors.

    Raises:
        FeatureError: A value of another type; names the column and the first such row.
    """
    array = one_chunk(column)
    if kind == "numeric":
        values = numeric_values(array, name)
        return pa.array(values, pa.float64(), mask=~np.isfinite(values))
    if kind == "boolean":
        flags = boolean_values(array, name)
        missing = np.isnan(flags)
        return pa.array(np.where(missing, 0.0, flags) != 0, pa.bool_(), mask=missing)
    if kind == "categorical":
        return category_array(array, name)
    if kind == "vector":
        return vector_array(vector_matrix(array, length, name))
    times = time_values(array, name)
    return pa.array(times, pa.int64(), mask=times == MISSING_US).cast(INPUT_TYPES["datetime"])


def one_chunk(column: Column) -> pa.Array:
    """The column as one array, with dictionaries decoded."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):  # too long for one chunk of its type
        wide = pa.large_list(array.type.value_type) if pat.is_list(array.type) else pa.large_string()
        array = pa.concat_arrays([chunk.cast(wide) for chunk in array.chunks])
    return array.dictionary_decode() if pat.is_dictionary(array.type) else array


def numeric_values(array: pa.Array, name: str) -> npt.NDArray[np.float64]:
    """Numbers [n]; nulls are NaN, infinities stay as they are."""
    kind = array.type
    if pat.is_float64(kind):
        values = array
    elif pat.is_integer(kind) or pat.is_floating(kind):
        values = array.cast(pa.float64(), safe=False)
    elif pat.is_decimal(kind):
        values = pa.array([None if value is None else float(value) for value in array.to_pylist()], pa.float64())
    else:
        _require_nulls(array, name, "a number")
        return np.full(len(array), np.nan)
    return np.asarray(values.to_numpy(zero_copy_only=False), np.float64)


def boolean_values(array: pa.Array, name: str) -> npt.NDArray[np.float64]:
    """0.0 or 1.0 [n]; nulls are NaN."""
    if pat.is_boolean(array.type):
        return np.asarray(array.cast(pa.uint8()).cast(pa.float64()).to_numpy(zero_copy_only=False), np.float64)
    if not (pat.is_integer(array.type) or pat.is_floating(array.type) or pat.is_decimal(array.type)):
        _require_nulls(array, name, "a boolean")
        return np.full(len(array), np.nan)
    values = numeric_values(array, name)
    values = np.where(np.isfinite(values), values, np.nan)
    wrong = ~(np.isnan(values) | (values == 0) | (values == 1))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise wrong_type(name, row, "a boolean", array[row].as_py())
    return values


def category_array(array: pa.Array, name: str) -> pa.Array:
    """Strings [n]; nulls and empty strings are null."""
    if is_text(array.type):
        text = array.cast(pa.string())
        return pc.replace_with_mask(text, pc.fill_null(pc.equal(text, ""), False), pa.scalar(None, pa.string()))
    if pat.is_null(array.type):
        return pa.nulls(len(array), pa.string())
    try:
        encoded = array.dictionary_encode()
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        raise wrong_type(name, 0, "a string, number or boolean", array.type) from None
    try:
        words = pa.array([category_key(value) for value in encoded.dictionary.to_pylist()], pa.string())
    except TypeError:
        raise wrong_type(name, 0, "a string, number or boolean", array.type) from None
    return words.take(encoded.indices)


def time_values(array: pa.Array, name: str) -> npt.NDArray[np.int64]:
    """Microseconds since 1970 UTC [n]; nulls are ``MISSING_US``."""
    kind = array.type
    if pat.is_timestamp(kind):
        times, per_us = _UNITS_US[kind.unit]
        return _scaled_times(array.cast(pa.int64()), times, per_us)
    if pat.is_date32(kind):
        return _scaled_times(array.cast(pa.int32()).cast(pa.int64()), _PER_DAY_US, 1)
    if pat.is_date64(kind):
        return _scaled_times(array.cast(pa.int64()), 1000, 1)
    if is_text(kind):
        return _parsed_times(array, name)
    _require_nulls(array, name, "a time (ISO 8601, UTC if it has no zone)")
    return np.full(len(array), MISSING_US)


def missing_values(array: pa.Array) -> npt.NDArray[np.bool_]:
    """Where a value is null, NaN, infinite or ``""`` [n]."""
    missing = np.array(array.is_null().to_numpy(zero_copy_only=False), bool)
    if pa.types.is_floating(array.type):
        missing |= ~np.isfinite(numeric_values(array, ""))
    elif is_text(array.type):
        missing |= np.asarray(pc.equal(array, "").fill_null(False).to_numpy(zero_copy_only=False), bool)
    return missing


def parse_times(array: pa.Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Read ISO 8601 strings: microseconds [n], and whether each non-null one could not be read [n]."""
    fast = _arrow_times(array)
    if fast is not None:
        return time_values(fast, ""), np.zeros(len(array), bool)
    encoded = array.dictionary_encode()
    words = encoded.dictionary.to_pylist()
    times = np.full(len(words) + 1, MISSING_US)
    wrong = np.zeros(len(words) + 1, bool)
    for index, word in enumerate(words):
        try:
            times[index] = MISSING_US if word is None or word == "" else time_us(word)
        except ValueError:
            wrong[index] = True
    rows = encoded.indices.fill_null(len(words)).to_numpy(zero_copy_only=False)
    return times[rows], wrong[rows]


def canonical_from_values(values: Sequence[Any], kind: ColumnType, name: str, length: int = 0) -> pa.Array:
    """A canonical array from the values of rows; see ``to_canonical``."""
    if kind == "vector":
        vectors = [read_vector(value, length, name, row) for row, value in enumerate(values)]
        return vector_array(stack_vectors(vectors, length))
    read = [read_value(value, kind, name, row) for row, value in enumerate(values)]
    if kind == "categorical":
        try:
            return pa.array(read, pa.string())
        except UnicodeEncodeError:
            row = next(row for row, word in enumerate(read) if word and any("\ud800" <= c <= "\udfff" for c in word))
            raise wrong_type(name, row, "text that is valid Unicode", values[row]) from None
    if kind == "datetime":
        times = np.array(read, np.int64)
        return pa.array(times, pa.int64(), mask=times == MISSING_US).cast(INPUT_TYPES[kind])
    floats = np.array(read, np.float64)
    mask = np.isnan(floats)
    return pa.array(floats, mask=mask) if kind == "numeric" else pa.array(np.where(mask, 0, floats) != 0, mask=mask)


def _require_nulls(array: pa.Array, name: str, expected: str) -> None:
    if array.null_count < len(array):
        row = int(np.argmax(np.asarray(array.is_valid().to_numpy(zero_copy_only=False))))
        raise wrong_type(name, row, expected, array[row].as_py())


def _scaled_times(array: pa.Array, times: int, per_us: int) -> npt.NDArray[np.int64]:
    missing = np.asarray(array.is_null().to_numpy(zero_copy_only=False), bool)
    whole = array.fill_null(0).to_numpy(zero_copy_only=False)
    return np.where(missing, MISSING_US, whole * times // per_us)


def _parsed_times(array: pa.Array, name: str) -> npt.NDArray[np.int64]:
    times, wrong = parse_times(array)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise wrong_type(name, row, "a time (ISO 8601, UTC if it has no zone)", array[row].as_py())
    return times


def _arrow_times(array: pa.Array) -> pa.Array | None:
    """Arrow's own, fast reading; None where a value needs the slower one."""
    for kind in (pa.timestamp("us"), pa.timestamp("us", tz="UTC")):
        try:
            return array.cast(kind)
        except pa.ArrowInvalid:
            continue
    return None
