"""Embeddings as numbers that can be binned: their norm, and a few directions drawn once for all.

A change of where vectors point moves almost every random direction, so sixteen histograms stand for a space of
any dimension, and add up as all histograms do.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

FloatArray = npt.NDArray[np.float64]

NUM_DIRECTIONS = 16
_DIRECTION_BITS = 24
"""Digits of a product: a matrix product's last ones depend on how rows are cut into batches."""
_NORM_BITS = 12
"""Digits of a norm: those of normalised vectors are all 1, but for noise that a histogram would take for a change."""


@dataclass(frozen=True, slots=True)
class EmbeddingProjection:
    """Turns vectors into their norm and their products with random directions.

    Args:
        column: The column of vectors.
        dimension: Length of a vector; one of another length counts as null.
        seed: Fixes the directions, for ever.

    Example:
        >>> found = EmbeddingProjection("v", 2).apply(np.array([[3.0, 4.0], [np.nan, 1.0]]))
        >>> sorted(found)[:2], found["v.norm"].tolist()
        (['v.direction_00', 'v.direction_01'], [5.0, nan])
    """

    column: str
    dimension: int
    seed: int = 0
    _directions: FloatArray = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # The legacy generator, because its stream never changes from one release of numpy to the next.
        drawn = np.random.RandomState(self.seed).standard_normal((NUM_DIRECTIONS, self.dimension))
        object.__setattr__(self, "_directions", drawn / np.linalg.norm(drawn, axis=1, keepdims=True))

    @classmethod
    def from_sample(cls, column: str, values: Any, seed: int = 0) -> Self:
        """Take the dimension from a reference: the length that most of its vectors have; 1 without any."""
        if isinstance(values, np.ndarray):
            return cls(column, values.shape[1], seed)
        return cls(column, _usual_length(values), seed)

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that ``apply`` makes."""
        return f"{self.column}.norm", *(f"{self.column}.direction_{k:02}" for k in range(NUM_DIRECTIONS))

    def apply(self, values: Any) -> dict[str, FloatArray]:
        """Return norm and products of each vector [n], by name; NaN for null, odd length or a number that is none.

        Args:
            values: An Arrow array of lists, or a matrix [n, dimension].
        """
        matrix = values if isinstance(values, np.ndarray) else _matrix(values, self.dimension)
        if matrix.ndim != 2 or matrix.shape[1] != self.dimension:
            matrix = np.full((len(matrix), self.dimension), np.nan)
        with np.errstate(over="ignore", invalid="ignore"):
            products = _rounded(self._directions @ matrix.T, _DIRECTION_BITS)
        norms = _norms(matrix)
        return dict(zip(self.names, (norms, *products), strict=True))

    @property
    def directions(self) -> tuple[str, ...]:
        """The columns that are further numbers of the vectors, the norm aside."""
        return self.names[1:]

    def columns_of(self, values: Any) -> dict[str, FloatArray]:
        """What is counted of a column of vectors: its norms under its own name, and its directions.

        Whatever is wrong with the column as a whole (it is null, it is gone, its unit has changed) shows in its norms.
        """
        norms, *products = self.apply(values).values()
        return dict(zip((self.column, *self.directions), (norms, *products), strict=True))

    def to_json(self) -> dict[str, Any]:
        return {"column": self.column, "dimension": self.dimension, "seed": self.seed}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        return cls(content["column"], content["dimension"], content["seed"])

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.column, self.dimension, self.seed)


def vector_norms(values: pa.Array) -> FloatArray:
    """Return the norms of lists of numbers, all of one length [n]; NaN for null, as ``EmbeddingProjection`` does."""
    return _norms(_matrix(values, _usual_length(values)))


def _usual_length(values: Any) -> int:
    """The length that most lists have; 1 without any."""
    lengths = pc.value_counts(pc.list_value_length(values).drop_null())
    tally = {entry["values"]: entry["counts"] for entry in lengths.to_pylist() if entry["values"]}
    return max(tally, key=lambda length: (tally[length], length), default=1)


def _matrix(values: Any, dimension: int) -> FloatArray:
    """Lists as rows [n, dimension]; NaN for null and for those of another length."""
    matrix = np.full((len(values), dimension), np.nan)
    if not is_vector(values.type):
        return matrix
    array = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks)
    fits = pc.equal(pc.list_value_length(array), dimension).fill_null(False)
    flat = pc.list_flatten(array.filter(fits)).cast(pa.float64(), safe=False)
    matrix[fits.to_numpy(zero_copy_only=False)] = flat.to_numpy(zero_copy_only=False).reshape(-1, dimension)
    return matrix


def _norms(matrix: FloatArray) -> FloatArray:
    with np.errstate(over="ignore", invalid="ignore"):
        return _rounded(np.sqrt(np.einsum("ij,ij->i", matrix, matrix)), _NORM_BITS)


def _rounded(numbers: FloatArray, bits: int) -> FloatArray:
    """Return numbers to so many binary digits."""
    mantissa, exponent = np.frexp(numbers)
    return np.ldexp(np.rint(np.ldexp(mantissa, bits)), exponent - bits)


def is_vector(kind: pa.DataType) -> bool:
    """Whether an Arrow type holds lists of numbers."""
    types = pa.types
    if not (types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)):
        return False
    return bool(types.is_floating(kind.value_type) or types.is_integer(kind.value_type))
