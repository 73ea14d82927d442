"""Hashes of rows that are the same in every run, on every machine and for every Arrow layout.

A value is hashed by what it says: an integer and the float of the same value, a string and the same string
in a dictionary hash alike. The order of columns does not matter.

References:
    G. L. Steele, D. Lea, C. H. Flood, Fast splittable pseudorandom number generators, OOPSLA 2014,
    doi:10.1145/2660193.2660195 (the mixing function).
"""

from collections.abc import Iterable

import mmh3
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pat

from ray_mlops.data.columns import Column, is_text, numeric_values, one_chunk, time_values
from ray_mlops.statistics.embeddings import is_vector

Hashes = npt.NDArray[np.uint64]
_NULL = np.uint64(0x9E3779B97F4A7C15)
_TIME = np.uint64(0xD1B54A32D192ED03)
_WHOLE = 2**53


def mix(values: Hashes) -> Hashes:
    """Scramble 64-bit integers [n], one to one."""
    mixed = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    result: Hashes = mixed ^ (mixed >> np.uint64(31))
    return result


def hash_text(text: str, seed: int = 0) -> int:
    """A 64-bit hash of a string."""
    return int(mmh3.hash64(text.encode("utf-8", "surrogatepass"), seed & 0xFFFFFFFF, signed=False)[0])


def hash_column(column: Column) -> Hashes:
    """Hash the values of a column [n]."""
    array = one_chunk(column)
    kind = array.type
    missing = np.asarray(array.is_null().to_numpy(zero_copy_only=False), bool)
    if pat.is_boolean(kind):
        hashes = _of_floats(array.cast(pa.uint8()).fill_null(0).to_numpy(zero_copy_only=False).astype(np.float64))
    elif pat.is_integer(kind):
        hashes = _of_integers(array.fill_null(0).to_numpy(zero_copy_only=False))
    elif pat.is_floating(kind) or pat.is_decimal(kind):
        numbers = numeric_values(array, "")
        missing = ~np.isfinite(numbers)
        hashes = _of_floats(np.where(missing, 0.0, numbers))
    elif pat.is_timestamp(kind) or pat.is_date(kind):
        hashes = mix(time_values(array, "").view(np.uint64) ^ _TIME)
    elif is_text(kind):
        hashes = _of_words(array)
    elif is_vector(kind):
        hashes = _of_lists(array)
    else:
        hashes = _of_words(pa.array([repr(value) for value in array.to_pylist()], pa.string()))
    return np.where(missing, _NULL, hashes)


def hash_rows(table: pa.Table, columns: Iterable[str] | None = None, seed: int = 0) -> Hashes:
    """Hash rows [n] by the values of some columns (all of them when None)."""
    total = np.full(len(table), hash_text("row", seed), np.uint64)
    for name in table.column_names if columns is None else columns:
        total += mix(hash_column(table[name]) ^ np.uint64(hash_text(name)))
    return mix(total)


def unit_interval(hashes: Hashes) -> npt.NDArray[np.float64]:
    """Hashes as uniform numbers in [0, 1)."""
    result: npt.NDArray[np.float64] = (hashes >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return result


def _of_floats(numbers: npt.NDArray[np.float64]) -> Hashes:
    return mix((numbers + 0.0).view(np.uint64))  # + 0.0: both zeros alike


def _of_integers(numbers: npt.NDArray[np.integer]) -> Hashes:
    exact = numbers <= _WHOLE if numbers.dtype.kind == "u" else (numbers >= -_WHOLE) & (numbers <= _WHOLE)
    return np.where(exact, _of_floats(numbers.astype(np.float64)), mix(numbers.astype(np.int64).view(np.uint64)))


def _of_lists(array: pa.Array) -> Hashes:
    """Hash lists of numbers by their length and what is at each position; nulls anyhow."""
    lengths = pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    lengths[np.asarray(array.is_null().to_numpy(zero_copy_only=False), bool)] = 0
    ends = np.cumsum(lengths)
    starts = ends - lengths
    place = np.arange(int(lengths.sum())) - np.repeat(starts, lengths)
    parts = mix(hash_column(pc.list_flatten(array)) ^ mix((place + 1).astype(np.uint64)))
    sums = np.concatenate((np.zeros(1, np.uint64), np.cumsum(parts)))  # wraps around, and so do their differences
    return mix((sums[ends] - sums[starts]) ^ mix(lengths.astype(np.uint64)))


def _of_words(array: pa.Array) -> Hashes:
    encoded = array.dictionary_encode()
    words = encoded.dictionary.to_pylist()
    hashes = np.array([hash_text(word) if word is not None else 0 for word in words] + [0], np.uint64)
    result: Hashes = hashes[encoded.indices.fill_null(len(words)).to_numpy(zero_copy_only=False)]
    return result
