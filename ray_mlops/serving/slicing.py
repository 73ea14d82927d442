"""Slices of traffic: which of a column's values are told apart, frozen when a rollout begins.

Every column has its own slices and each row lies in one of them. The definition goes into the route table, so
that all replicas and the reconciler mean the same by a slice, through restarts and changes of the configuration.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import NoneType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from ray_mlops.data.reference import ColumnReference, ReferenceProfile
from ray_mlops.data.values import category_key, numeric_value
from ray_mlops.errors import RayMLOpsError
from ray_mlops.runtime.files import Files
from ray_mlops.statistics.bins import CategoricalBins

OTHER, MISSING = "(other)", "(missing)"
QUANTILES = (0.25, 0.5, 0.75)
"""Where numbers are cut."""
IntArray = npt.NDArray[np.int64]
_PLAIN_NUMBERS, _PLAIN_WORDS = {float, int, NoneType}, {str, NoneType}


@dataclass(frozen=True, slots=True)
class SliceColumn:
    """The slices of one column: its values (or intervals), then `(other)` (categories only), then `(missing)`.

    Example:
        >>> carrier = SliceColumn("carrier", values=("AA", "DL"))
        >>> carrier.labels
        ('carrier=AA', 'carrier=DL', 'carrier=(other)', 'carrier=(missing)')
        >>> carrier.codes(["DL", "ZZ", None, ""]).tolist()
        [1, 2, 3, 3]
        >>> distance = SliceColumn("distance", edges=(500.0,))
        >>> distance.labels, distance.codes([500, 501.0, None]).tolist()
        (('distance up to 500', 'distance above 500', 'distance=(missing)'), [0, 1, 2])
    """

    name: str
    values: tuple[str, ...] = ()
    """Categories with a slice of their own."""
    edges: tuple[float, ...] = ()
    """Where numbers are cut, rising; a number that equals one lies below it. Empty for categories."""
    problem: str = ""
    """Why the column has no slices, if so."""

    @property
    def labels(self) -> tuple[str, ...]:
        """What the slices are called."""
        if self.problem:
            return ()
        if not self.edges:
            return tuple(f"{self.name}={value}" for value in (*self.values, OTHER, MISSING))
        texts = [f"{edge:.6g}" for edge in self.edges]
        between = [f"{self.name} {low} to {high}" for low, high in pairwise(texts)]
        ends = f"{self.name} up to {texts[0]}", f"{self.name} above {texts[-1]}"
        return ends[0], *between, ends[1], f"{self.name}={MISSING}"

    def codes(self, values: Sequence[Any]) -> IntArray:
        """Return the slice of each raw value, an index into ``labels`` [n].

        Null, NaN, infinity, ``""`` and what is not of the column's type are `(missing)`; a category that has no
        slice of its own, seen before or not, is `(other)`.
        """
        return self._interval_codes(values) if self.edges else self._category_codes(values)

    def _interval_codes(self, values: Sequence[Any]) -> IntArray:
        try:
            is_plain = set(map(type, values)) <= _PLAIN_NUMBERS
            numbers = np.array(values if is_plain else [_number(value) for value in values], dtype=np.float64)
        except OverflowError:  # a whole number beyond doubles
            numbers = np.array([_number(value) for value in values], dtype=np.float64)
        codes = np.searchsorted(np.array(self.edges), numbers, side="left")
        return np.where(np.isfinite(numbers), codes, len(self.edges) + 1)

    def _category_codes(self, values: Sequence[Any]) -> IntArray:
        other, missing = len(self.values), len(self.values) + 1
        known = {value: code for code, value in enumerate(self.values)}
        if set(self.values) <= {"true", "false"}:  # a boolean may also come as a number
            known |= {text: known[value] for text, value in (("1", "true"), ("0", "false")) if value in known}
        is_plain = set(map(type, values)) <= _PLAIN_WORDS
        words = values if is_plain else [_category(value) for value in values]
        return np.array([known.get(word, other) if word else missing for word in words], dtype=np.int64)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Rebuild it from its fields, as JSON has them."""
        values, edges = tuple(content["values"]), tuple(content["edges"])
        return cls(content["name"], values, edges, content["problem"])


def slice_labels(columns: Iterable[SliceColumn]) -> tuple[str, ...]:
    """Names of all slices, column by column: a slice's number is its place here."""
    return tuple(label for column in columns for label in column.labels)


def freeze_slices(bundle: str, columns: Sequence[str], max_values: int) -> tuple[SliceColumn, ...]:
    """Define the slices of some columns by the reference of the champion's bundle.

    Args:
        bundle: The bundle's address.
        columns: Names of raw input columns.
        max_values: Categories of a column that get a slice of their own, the most frequent first.
    """
    if not columns:
        return ()
    try:
        profile = ReferenceProfile.from_json(json.loads(Files(bundle).read("profile.json")))
    except (RayMLOpsError, ValueError) as error:
        return tuple(SliceColumn(name, problem=f"the champion's reference cannot be read: {error}") for name in columns)
    return tuple(_freeze(name, profile.columns.get(name), max_values) for name in columns)


def _freeze(name: str, column: ColumnReference | None, max_values: int) -> SliceColumn:
    if column is None:
        return SliceColumn(name, problem="it is not an input of the champion")
    if column.type == "datetime":
        return SliceColumn(name, problem="it holds times; only numbers and categories define slices")
    if column.type == "vector":
        return SliceColumn(name, problem="it holds vectors; only numbers and categories define slices")
    counts = column.total.counts
    if isinstance(column.bins, CategoricalBins):
        order = np.argsort(-counts[: len(column.bins.top)], kind="stable")[:max_values]
        return SliceColumn(name, values=tuple(column.bins.top[index] for index in order))
    inside = np.concatenate(([counts[0]], counts[1:-2])).cumsum()
    if inside[-1] == 0:
        return SliceColumn(name, problem="the champion's reference holds no number of it")
    upper = np.searchsorted(inside, np.array(QUANTILES) * inside[-1])
    edges = np.unique(column.bins.edges[upper])
    inner = edges[edges < column.bins.edges[-1]]
    if not len(inner):
        return SliceColumn(name, problem="it is constant in the champion's reference")
    return SliceColumn(name, edges=tuple(inner.tolist()))


def _number(value: Any) -> float:
    try:
        return numeric_value(value)
    except TypeError:
        return float("nan")


def _category(value: Any) -> str | None:
    try:
        return category_key(value)
    except TypeError:
        return None
