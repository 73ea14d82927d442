"""Exact counts on bins that are frozen from a reference.

A column of any length becomes a short vector of integers. Vectors of the same bins add up, in any
order and from any number of processes, to what one process would have counted.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import nan, sqrt
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ray_mlops.statistics.columns import as_numbers, as_strings

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

LARGEST = float(np.finfo(np.float64).max)
"""The largest finite number."""
_FEW = 8192


@dataclass(frozen=True, slots=True, eq=False)
class NumericBins:
    """K intervals of the line, with counters for what lies outside and for nulls.

    Bin i holds ``edges[i] <= x < edges[i + 1]``; the last one also holds its right edge. Counts are laid
    out as ``[below, bin 0, ..., bin K-1, above, null]``. NaN and both infinities count as null. Two equal
    edges are allowed at the end only: ``[v, v]`` is the one bin of a constant column.

    Args:
        edges: Rising edges [K + 1], finite, K >= 1.

    Example:
        >>> NumericBins([0.0, 1.0, 2.0]).count([-5.0, 0.0, 1.0, 2.0, 3.0, float("nan")]).tolist()
        [1, 1, 2, 1, 1]
    """

    edges: FloatArray
    _search: FloatArray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        edges = np.array(self.edges, dtype=np.float64)
        steps = np.diff(edges)
        rising = len(edges) >= 2 and (steps[:-1] > 0).all() and steps[-1] >= 0
        if edges.ndim != 1 or not rising or not np.isfinite(edges).all():
            raise ValueError(f"edges must be at least two finite, rising numbers, got {edges.tolist()}")
        edges.flags.writeable = False
        object.__setattr__(self, "edges", edges)
        # With these, one search also tells -inf (before the first) and +inf and NaN (after the last) apart.
        inner = edges.copy()
        inner[-1] = np.nextafter(edges[-1], np.inf)
        object.__setattr__(self, "_search", np.concatenate(([-LARGEST], inner, [np.inf])))

    @classmethod
    def from_sample(cls, values: Any, bins: int = 32) -> Self:
        """Choose at most ``bins`` bins of about equal mass.

        A value that is frequent enough to fill a bin gets one of its own, and the rest is shared among the
        others. With no more distinct values than bins each value has its own. Edges lie halfway between
        neighbouring values. A sample without a single number gives the edges ``[0, 0]``.

        Args:
            values: Numbers [n]; nulls are ignored.
            bins: Largest number of bins.

        Example:
            >>> NumericBins.from_sample([0.0] * 97 + [1.0, 2.0, 3.0]).edges.tolist()
            [0.0, 0.5, 1.5, 2.5, 3.0]
        """
        return cls.from_sorted(np.sort(as_numbers(values)), bins)

    @classmethod
    def from_sorted(cls, numbers: FloatArray, bins: int = 32) -> Self:
        """``from_sample`` of numbers [n] that are already sorted as numpy does it, NaN last."""
        finite = numbers[numbers.searchsorted(-LARGEST) : numbers.searchsorted(np.inf)]
        if not len(finite):
            return cls(np.zeros(2))
        ends = np.append(np.flatnonzero(finite[1:] != finite[:-1]), len(finite) - 1) + 1
        distinct = finite[ends - 1]
        starts = _bin_starts(ends, bins)[1:]
        left, right = distinct[starts - 1], distinct[starts]
        middle = left / 2 + right / 2
        inner = np.where((middle > left) & (middle <= right), middle, right)
        return cls(np.concatenate((distinct[:1], inner, distinct[-1:])))

    @property
    def size(self) -> int:
        """Length of the counts, K + 3."""
        return len(self.edges) + 2

    @property
    def labels(self) -> tuple[str, ...]:
        """A name for each counter."""
        inner = [f"[{low:.6g}, {high:.6g})" for low, high in zip(self.edges[:-1], self.edges[1:], strict=True)]
        return "below", *inner[:-1], inner[-1][:-1] + "]", "above", "null"

    def index(self, values: Any) -> IntArray:
        """Return the position of each value in the counts [n]."""
        found = np.searchsorted(self._search, as_numbers(values), side="right")
        return np.where(found == 0, self.size - 1, found - 1)

    def count(self, values: Any) -> IntArray:
        """Count values [n] into int64 counts [size]."""
        return self.count_sorted(np.sort(as_numbers(values)))

    def count_sorted(self, numbers: FloatArray) -> IntArray:
        """Count numbers [n] that are already sorted as numpy does it, NaN last.

        Sorting and looking up the edges is several times faster than looking up each number.
        """
        counts = np.empty(self.size, dtype=np.int64)
        self.count_into(numbers, counts)
        return counts

    def count_into(self, numbers: FloatArray, counts: IntArray) -> tuple[int, int]:
        """The same into ``counts`` [size]; returns where the finite numbers begin and end."""
        below = numbers.searchsorted(self._search)
        np.subtract(below[1:], below[:-1], out=counts[:-1])
        first, last = int(below[0]), int(below[-1])
        counts[-1] = len(numbers) - last + first
        return first, last

    def to_json(self) -> dict[str, Any]:
        return {"kind": "numeric", "edges": self.edges.tolist()}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NumericBins) and np.array_equal(self.edges, other.edges)

    def __hash__(self) -> int:
        return hash(self.edges.tobytes())

    def __reduce__(self) -> tuple[type["NumericBins"], tuple[FloatArray]]:
        return type(self), (self.edges,)


@dataclass(frozen=True, slots=True)
class CategoricalBins:
    """One counter for each frequent category, and three for the rest.

    Counts are laid out as ``[top..., other, unseen, null]``: `other` is a category that the reference knew
    but that is not among its most frequent, `unseen` one that it did not know. What is not a string is
    cast to one, as Arrow does it (booleans become ``true`` and ``false``); NaN counts as null.

    Args:
        top: The categories with counters of their own.
        vocabulary: Every category that is known, ``top`` included.

    Example:
        >>> CategoricalBins(("a",), frozenset("ab")).count(["a", "a", "b", "c", None]).tolist()
        [2, 1, 1, 1]
    """

    top: tuple[str, ...]
    vocabulary: frozenset[str]
    _codes: dict[str | None, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "top", tuple(self.top))
        object.__setattr__(self, "vocabulary", frozenset(self.vocabulary) | frozenset(self.top))
        if len(set(self.top)) != len(self.top):
            raise ValueError("a category is listed twice")
        codes: dict[str | None, int] = dict.fromkeys(self.vocabulary, len(self.top))
        codes |= {name: code for code, name in enumerate(self.top)}
        codes[None] = len(self.top) + 2
        object.__setattr__(self, "_codes", codes)

    @classmethod
    def from_sample(cls, values: Any, top: int = 32, max_vocabulary: int = 10_000) -> Self:
        """Choose the most frequent categories; ties go to the first in sort order.

        Args:
            values: Categories [n]; nulls are ignored.
            top: How many get counters of their own.
            max_vocabulary: How many are remembered at all; the rarest beyond that count as unseen.
        """
        tally = tally_words(as_strings(values))
        return cls.from_counts({name: count for name, count in tally.items() if name is not None}, top, max_vocabulary)

    @classmethod
    def from_counts(cls, counts: Mapping[str, int], top: int = 32, max_vocabulary: int = 10_000) -> Self:
        """Choose the most frequent categories from how often each occurs."""
        ranked = sorted(counts, key=lambda name: (-counts[name], name))[:max_vocabulary]
        return cls(tuple(ranked[:top]), frozenset(ranked))

    @property
    def size(self) -> int:
        """Length of the counts, ``len(top) + 3``."""
        return len(self.top) + 3

    @property
    def labels(self) -> tuple[str, ...]:
        """A name for each counter."""
        return *self.top, "other", "unseen", "null"

    def index(self, values: Any) -> IntArray:
        """Return the position of each value in the counts [n]."""
        encoded = pc.dictionary_encode(as_strings(values))
        codes = np.append(self._positions(encoded.dictionary.to_pylist()), self.size - 1)
        indices = pc.fill_null(encoded.indices, len(codes) - 1).to_numpy(zero_copy_only=False)
        positions: IntArray = codes[indices]
        return positions

    def count(self, values: Any) -> IntArray:
        """Count values [n] into int64 counts [size]."""
        tally = pc.value_counts(as_strings(values))
        return self.tallied(tally.field(0).to_pylist(), tally.field(1).to_numpy())

    def tallied(self, names: Sequence[str | None], rows: IntArray) -> IntArray:
        """Counts [size] of categories [k] that are known to occur this often [k]; None is null."""
        # Sums of doubles are exact up to 2**53 rows, and bincount takes no other weights.
        return np.bincount(self._positions(names), rows, minlength=self.size).astype(np.int64)

    def to_json(self) -> dict[str, Any]:
        return {"kind": "categorical", "top": list(self.top), "vocabulary": sorted(self.vocabulary)}

    def _positions(self, names: Iterable[str | None]) -> IntArray:
        unseen = len(self.top) + 1
        return np.array([self._codes.get(name, unseen) for name in names], dtype=np.int64)


def tally_words(words: pa.Array) -> dict[str | None, int]:
    """How often each string occurs, null among them."""
    tally = pc.value_counts(words)
    return dict(zip(tally.field(0).to_pylist(), tally.field(1).to_pylist(), strict=True))


Bins = NumericBins | CategoricalBins


def bins_from_json(content: Mapping[str, Any]) -> Bins:
    """Rebuild bins from their ``to_json``.

    Raises:
        ValueError: The kind is neither `numeric` nor `categorical`.
    """
    if content["kind"] == "numeric":
        return NumericBins(content["edges"])
    if content["kind"] == "categorical":
        return CategoricalBins(tuple(content["top"]), frozenset(content["vocabulary"]))
    raise ValueError(f"unknown kind of bins {content['kind']!r}")


@dataclass(frozen=True, slots=True, eq=False)
class ColumnCounts:
    """What is known about some rows of one column. Counts of disjoint rows add up with ``+``.

    The sums are for display: unlike the counts, their last bits depend on the order of addition.
    """

    counts: IntArray
    """Counts [size], laid out as the bins say; the last is null."""
    n: int
    """Rows, nulls included."""
    total: float = 0.0
    """Sum of the finite numbers; 0 for categories."""
    total_squares: float = 0.0
    """Sum of their squares."""
    minimum: float = nan
    """Smallest finite number; NaN where there is none."""
    maximum: float = nan

    @classmethod
    def of(cls, bins: Bins, values: Any) -> Self:
        """Count values [n] on bins."""
        if isinstance(bins, CategoricalBins):
            counts = bins.count(values)
            return cls(counts, int(counts.sum()))
        return cls.of_sorted(bins, np.sort(as_numbers(values)))

    @classmethod
    def of_sorted(cls, bins: NumericBins, numbers: FloatArray) -> Self:
        """Count numbers [n] that are already sorted as numpy does it, NaN last."""
        counts = np.empty(bins.size, dtype=np.int64)
        first, last = bins.count_into(numbers, counts)
        if first == last:
            return cls(counts, len(numbers))
        finite = numbers[first:last]
        with np.errstate(over="ignore"):
            total, squares = _capped(finite.sum()), _capped(sum_of_squares(finite))
        return cls(counts, len(numbers), total, squares, float(finite[0]), float(finite[-1]))

    @classmethod
    def empty(cls, bins: Bins) -> Self:
        """No rows at all."""
        return cls(np.zeros(bins.size, dtype=np.int64), 0)

    def __add__(self, other: "ColumnCounts") -> "ColumnCounts":
        return ColumnCounts(
            self.counts + other.counts,
            self.n + other.n,
            _capped(self.total + other.total),
            _capped(self.total_squares + other.total_squares),
            float(np.fmin(self.minimum, other.minimum)),
            float(np.fmax(self.maximum, other.maximum)),
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ColumnCounts) and self.to_json() == other.to_json()

    __hash__ = None  # type: ignore[assignment]

    @property
    def nulls(self) -> int:
        return int(self.counts[-1])

    @property
    def null_ratio(self) -> float:
        """Share of nulls; NaN without rows."""
        return self.nulls / self.n if self.n else nan

    @property
    def mean(self) -> float:
        """Mean of the finite numbers; NaN where there is none."""
        present = self.n - self.nulls
        return self.total / present if present else nan

    @property
    def sd(self) -> float:
        """Standard deviation of the finite numbers (divisor n); NaN where there is none."""
        present = self.n - self.nulls
        return sqrt(max(self.total_squares / present - self.mean**2, 0.0)) if present else nan

    def to_json(self) -> dict[str, Any]:
        return {
            "counts": self.counts.tolist(),
            "n": self.n,
            "total": self.total,
            "total_squares": self.total_squares,
            "minimum": None if self.minimum != self.minimum else self.minimum,
            "maximum": None if self.maximum != self.maximum else self.maximum,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        limits = [nan if content[name] is None else content[name] for name in ("minimum", "maximum")]
        counts = np.array(content["counts"], dtype=np.int64)
        return cls(counts, content["n"], content["total"], content["total_squares"], *limits)


def _bin_starts(cumulative: IntArray, bins: int) -> IntArray:
    """Return where each bin starts among the distinct values, for bins of about equal mass."""
    starts = [0]
    total = cumulative[-1]
    while len(starts) < bins and starts[-1] + 1 < len(cumulative):
        begin = starts[-1]
        done = cumulative[begin - 1] if begin else 0
        target = done + (total - done) / (bins - len(starts) + 1)
        end = int(np.searchsorted(cumulative, target))  # the value that fills the bin
        overshoots = end > begin and cumulative[end] - target > target - cumulative[end - 1]
        starts.append(max(end if overshoots else end + 1, begin + 1))
    inside = [start for start in starts if start < len(cumulative)]
    return np.array(inside, dtype=np.int64)


def sum_of_squares(numbers: FloatArray) -> float:
    """Sum the squares of numbers [n].

    Many not by ``dot``: for more than ten thousand numbers BLAS takes several threads, which wait for each other in
    a loop; on a machine that has other work this took ten times as long. For few it is the quickest.
    """
    if len(numbers) <= _FEW:
        return float(numbers.dot(numbers))
    return float(np.einsum("i,i->", numbers, numbers))


def _capped(sum: float) -> float:
    """A sum that JSON can hold: values beyond 1e154 have squares that are infinite."""
    return float(np.clip(sum, -LARGEST, LARGEST))
