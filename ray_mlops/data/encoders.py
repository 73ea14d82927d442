"""The arithmetic of features: what a fitted column turns its raw values into.

Every operation is elementwise ``float64`` arithmetic (add, multiply, divide, compare, look up), so that a
value's features do not depend on the rows around it, on the batch size, or on the processor. That is why
sine and cosine are computed here by a polynomial: library versions differ by machine and by vector length.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Floats = npt.NDArray[np.float64]
DATETIME_CYCLES = {"month": 12, "day": 31, "weekday": 7, "hour": 24, "minute": 60}
SCALED_LIMIT = 1e4
"""Scaled numbers stay within this many units: a value far out of range saturates, it never overflows."""
PLAIN_LIMIT = 3e38
_PER_DAY_US = 86_400_000_000
_YEAR_LIMIT = 100.0


def sine_of_turns(turns: Floats) -> Floats:
    """Sine of an angle in whole turns, ``sin(2 pi t)``, within 1e-11.

    Args:
        turns: Finite, any shape.

    Example:
        >>> sine_of_turns(np.array([0.0, 0.25, 1.5])).round(9) + 0.0
        array([0., 1., 0.])
    """
    half = turns - np.floor(turns) - 0.5
    folded = np.where(half > 0.25, 0.5 - half, np.where(half < -0.25, -0.5 - half, half))
    angle = folded * (2 * np.pi)
    square = angle * angle
    series = np.full_like(square, 1 / 355687428096000)
    for coefficient in (-1 / 1307674368000, 1 / 6227020800, -1 / 39916800, 1 / 362880, -1 / 5040, 1 / 120, -1 / 6, 1.0):
        series = series * square + coefficient
    result: Floats = -(series * angle)
    return result


def interpolate(values: Floats, knots: Floats, levels: Floats) -> Floats:
    """Piecewise-linear interpolation [n], constant beyond the knots; one knot gives its level everywhere."""
    if len(knots) == 1:
        return np.full_like(values, levels[0])
    held = np.minimum(np.maximum(values, knots[0]), knots[-1])
    left = np.minimum(np.searchsorted(knots, held, side="right") - 1, len(knots) - 2)
    slopes = (levels[1:] - levels[:-1]) / (knots[1:] - knots[:-1])
    result: Floats = levels[left] + (held - knots[left]) * slopes[left]
    return result


@dataclass(frozen=True, slots=True)
class NumericEncoder:
    """A fitted numeric or boolean column."""

    impute: float
    """What a missing value becomes, in raw units."""
    center: float = 0.0
    scale: float = 1.0
    indicator: bool = False
    """Add a 0/1 input that says the value was missing."""
    limit: float = SCALED_LIMIT
    """Largest magnitude after scaling."""
    knots: tuple[float, ...] = ()
    """Quantiles, increasing, of ``scale: quantile``; empty for the others."""
    levels: tuple[float, ...] = ()
    """What each knot becomes."""
    edges: tuple[float, ...] = ()
    """Edges of the piecewise-linear encoding [pieces + 1], increasing; empty without it."""
    period: float | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "NumericEncoder":
        tuples = {name: tuple(content[name]) for name in ("knots", "levels", "edges")}
        return cls(**{**content, **tuples})

    def extra_names(self, name: str) -> list[str]:
        """Names of the inputs beyond the scaled value and the indicator."""
        pieces = [f"{name}[{index}]" for index in range(len(self.edges) - 1)]
        return pieces + ([f"{name}:sin", f"{name}:cos"] if self.period else [])

    def extras(self, values: Floats) -> Floats:
        """The encodings [n, e] of imputed raw values [n]."""
        if self.edges:
            edges = np.array(self.edges)
            held = np.minimum(np.maximum(values, edges[0]), edges[-1])
            share: Floats = (held[:, None] - edges[:-1]) / (edges[1:] - edges[:-1])
            return np.minimum(np.maximum(share, 0.0), 1.0)
        if self.period:
            reach = self.period * 2.0**52
            turns = np.minimum(np.maximum(values, -reach), reach) / self.period
            return np.stack([sine_of_turns(turns), sine_of_turns(turns + 0.25)], axis=1)
        return np.empty((len(values), 0))


@dataclass(frozen=True, slots=True)
class CategoryEncoder:
    """A fitted categorical column: id 0 is missing, 1 is unknown, 2 onwards are the vocabulary."""

    vocabulary: tuple[str, ...]

    @property
    def size(self) -> int:
        return len(self.vocabulary) + 2

    def to_json(self) -> dict[str, Any]:
        return {"vocabulary": list(self.vocabulary)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "CategoryEncoder":
        return cls(tuple(content["vocabulary"]))

    def lookup(self) -> dict[str | None, int]:
        """Ids by value, missing included; anything else is 1."""
        return {**{word: index + 2 for index, word in enumerate(self.vocabulary)}, None: 0, "": 0}

    def ids(self, words: pa.Array) -> npt.NDArray[np.int64]:
        """Ids [n] of a canonical categorical array."""
        found = pc.index_in(words, value_set=pa.array(self.vocabulary, pa.string())).fill_null(-1)
        ids: npt.NDArray[np.int64] = found.to_numpy(zero_copy_only=False).astype(np.int64) + 2
        ids[np.asarray(words.is_null().to_numpy(zero_copy_only=False), bool)] = 0
        return ids


@dataclass(frozen=True, slots=True)
class DatetimeEncoder:
    """A fitted datetime column: each part a sine and a cosine, both 0 where the time is missing."""

    parts: tuple[str, ...]
    center_year: int
    indicator: bool = False

    def to_json(self) -> dict[str, Any]:
        return {"parts": list(self.parts), "center_year": self.center_year, "indicator": self.indicator}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "DatetimeEncoder":
        return cls(tuple(content["parts"]), content["center_year"], content["indicator"])

    def names(self, name: str) -> list[str]:
        """Names of the inputs, in the order of ``encode``."""
        inputs = [
            input_name
            for part in self.parts
            for input_name in ([f"{name}:year"] if part == "year" else [f"{name}:{part}:sin", f"{name}:{part}:cos"])
        ]
        return inputs + ([f"{name}:missing"] if self.indicator else [])

    def encode(self, times_us: npt.NDArray[np.int64], missing: npt.NDArray[np.bool_]) -> Floats:
        """Inputs [n, k] of times in microseconds since 1970 UTC [n]."""
        times = np.where(missing, 0, times_us)
        columns: list[Floats] = []
        for part in self.parts:
            number = datetime_part(times, part)
            if part == "year":
                years = number.astype(np.float64) - self.center_year
                columns.append(np.minimum(np.maximum(years, -_YEAR_LIMIT), _YEAR_LIMIT))
            else:
                turns = np.arange(DATETIME_CYCLES[part]) / DATETIME_CYCLES[part]
                columns.extend([sine_of_turns(turns)[number], sine_of_turns(turns + 0.25)[number]])
        known = [np.where(missing, 0.0, column) for column in columns]
        flags = [missing.astype(np.float64)] if self.indicator else []
        return np.stack(known + flags, axis=1) if known or flags else np.empty((len(times), 0))


@dataclass(frozen=True, slots=True)
class VectorEncoder:
    """A fitted column of vectors: each of its numbers by itself, all 0 where the vector is missing."""

    centers: tuple[float, ...]
    scales: tuple[float, ...]
    indicator: bool = False
    """Add a 0/1 input that says the vector was missing."""
    limit: float = SCALED_LIMIT
    """Largest magnitude after scaling."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "VectorEncoder":
        return cls(**{**content, "centers": tuple(content["centers"]), "scales": tuple(content["scales"])})

    def names(self, name: str) -> list[str]:
        """Names of the inputs, in the order of ``encode``."""
        numbers = [f"{name}[{index}]" for index in range(len(self.centers))]
        return numbers + ([f"{name}:missing"] if self.indicator else [])

    def encode(self, vectors: Floats) -> Floats:
        """Inputs [n, k] of vectors [n, d]; a vector of NaN is missing."""
        centers, scales = np.array(self.centers), np.array(self.scales)
        reach = self.limit * scales
        scaled = (np.minimum(np.maximum(vectors, centers - reach), centers + reach) - centers) / scales
        missing = np.isnan(vectors[:, :1])
        known = np.where(missing, 0.0, scaled)
        return np.concatenate([known, missing], axis=1) if self.indicator else known


def datetime_part(times_us: npt.NDArray[np.int64], part: str) -> npt.NDArray[np.int64]:
    """One part of a UTC time [n]; all but the year count from 0 (Monday, midnight, January, the first).

    Example:
        >>> datetime_part(np.array([0]), "weekday"), datetime_part(np.array([0]), "year")
        (array([3]), array([1970]))
    """
    days = times_us // _PER_DAY_US
    if part == "weekday":
        return (days + 3) % 7
    if part == "hour":
        return times_us // 3_600_000_000 % 24
    if part == "minute":
        return times_us // 60_000_000 % 60
    months = days.astype("datetime64[D]").astype("datetime64[M]")
    if part == "day":
        first = months.astype("datetime64[D]").astype(np.int64)
        return days - first
    since: npt.NDArray[np.int64] = months.astype(np.int64)
    return since % 12 if part == "month" else since // 12 + 1970


class NumericKernel:
    """All numeric and boolean columns at once: a raw matrix in, the model's numeric inputs out.

    The order of the inputs: every scaled value, then the missing indicators, then the encodings.

    Attributes:
        names: Of the inputs.
        owners: The raw column of each input.
    """

    def __init__(self, names: Sequence[str], encoders: Sequence[NumericEncoder]) -> None:
        self.num_columns = len(encoders)
        self._impute = np.array([encoder.impute for encoder in encoders])
        self._center = np.array([encoder.center for encoder in encoders])
        self._scale = np.array([encoder.scale for encoder in encoders])
        reach = np.array([encoder.limit for encoder in encoders]) * self._scale
        self._low, self._high = self._center - reach, self._center + reach
        self._flagged = np.array([i for i, encoder in enumerate(encoders) if encoder.indicator], np.intp)
        pairs = list(enumerate(encoders))
        self._quantile = [
            (i, np.array(encoder.knots), np.array(encoder.levels)) for i, encoder in pairs if encoder.knots
        ]
        self._extra = [(i, encoder) for i, encoder in pairs if encoder.edges or encoder.period]
        flags = [(f"{names[i]}:missing", names[i]) for i in self._flagged]
        extras = [(name, names[i]) for i, encoder in self._extra for name in encoder.extra_names(names[i])]
        self.names = [*names, *(name for name, _ in flags + extras)]
        self.owners = [*names, *(owner for _, owner in flags + extras)]

    def encode(self, raw: Floats, out: npt.NDArray[np.float32]) -> None:
        """Fill ``out`` [n, len(names)] from raw numbers [n, num_columns]; NaN and infinities are missing."""
        columns = self.num_columns
        finite = np.isfinite(raw)
        whole = bool(finite.all())
        values = raw if whole else np.where(finite, raw, self._impute)
        out[:, :columns] = (np.minimum(np.maximum(values, self._low), self._high) - self._center) / self._scale
        for index, knots, levels in self._quantile:
            out[:, index] = interpolate(values[:, index], knots, levels)
        at = columns + len(self._flagged)
        if len(self._flagged):
            out[:, columns:at] = 0.0 if whole else ~finite[:, self._flagged]
        for index, encoder in self._extra:
            extras = encoder.extras(values[:, index])
            out[:, at : at + extras.shape[1]] = extras
            at += extras.shape[1]
