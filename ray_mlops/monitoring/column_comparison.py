"""One column of two tables: what was counted on bins of the first, and what that means."""

from dataclasses import dataclass
from math import isnan
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from ray_mlops.config import MonitoringConfig
from ray_mlops.monitoring.magnitudes import Magnitude, Magnitudes
from ray_mlops.statistics.bins import CategoricalBins, ColumnCounts, NumericBins, tally_words
from ray_mlops.statistics.columns import as_numbers, as_strings
from ray_mlops.statistics.embeddings import EmbeddingProjection, is_vector
from ray_mlops.statistics.table import bin_sums
from ray_mlops.statistics.two_sample import two_sample_p

_LEAST_VISIBLE = 0.1
"""Total variation that must be visible (or twice the tolerance, where that is more) to call two columns alike."""

Kind = Literal["numeric", "categorical", "boolean", "datetime", "embedding", "unknown"]
Verdict = Literal["no drift", "tolerated", "drift", "fault", "undecided"]


@dataclass(frozen=True, slots=True)
class Side:
    """What one of the tables has of a column."""

    rows: int
    nulls: int
    mean: float | None = None
    sd: float | None = None
    minimum: float | None = None
    maximum: float | None = None

    @property
    def null_ratio(self) -> float:
        return self.nulls / self.rows if self.rows else 0.0


@dataclass(frozen=True, slots=True)
class ColumnComparison:
    """One column of the report."""

    name: str
    kind: Kind
    verdict: Verdict
    reason: str
    reference: Side
    current: Side
    unseen_ratio: float | None = None
    """Share of the current rows whose category the reference did not know; None for numbers."""
    outside_ratio: float | None = None
    """Share of the current rows outside the reference's range; None for categories."""
    p_value: float | None = None
    """Chi-squared, for independent rows; None where nothing could be tested."""
    labels: tuple[str, ...] = ()
    """Names of the counters."""
    reference_counts: tuple[int, ...] = ()
    current_counts: tuple[int, ...] = ()
    magnitudes: tuple[Magnitude, ...] = ()
    """Distances, each beside what chance alone gives."""

    def magnitude(self, name: str) -> Magnitude:
        """The distance of a name, such as ``psi``.

        Raises:
            KeyError: It was not measured for this column.
        """
        for found in self.magnitudes:
            if found.name == name:
                return found
        raise KeyError(name)


ColumnPair = tuple[str, Kind, Any, Any]
"""Name, kind, and the column's values in the reference and in the current table; None where it is not there."""


def column_pairs(name: str, reference: pa.Table, current: pa.Table) -> list[ColumnPair]:
    """What is compared of one column: itself, or the norm and the directions of vectors."""
    before = reference[name] if name in reference.column_names else None
    after = current[name] if name in current.column_names else None
    if before is None or after is None:
        return [(name, "unknown", before, after)]
    kind = _kind(before.type)
    if kind == "unknown" and pa.types.is_null(before.type):
        return [(name, kind, before, after)]
    if kind == "embedding" and is_vector(after.type):
        projection = EmbeddingProjection.from_sample(name, before)
        found = zip(projection.names, projection.apply(before).values(), projection.apply(after).values(), strict=True)
        return [(part, kind, first, second) for part, first, second in found]
    is_alike = kind == _kind(after.type) or pa.types.is_null(after.type)
    return [(name, kind if is_alike else "unknown", before, after)]


def _kind(arrow: pa.DataType) -> Kind:
    types = pa.types
    if types.is_dictionary(arrow):
        return _kind(arrow.value_type)
    if types.is_boolean(arrow):
        return "boolean"
    if types.is_integer(arrow) or types.is_floating(arrow) or types.is_decimal(arrow):
        return "numeric"
    if types.is_string(arrow) or types.is_large_string(arrow) or types.is_string_view(arrow):
        return "categorical"
    if types.is_timestamp(arrow) or types.is_date(arrow):
        return "datetime"
    return "embedding" if is_vector(arrow) else "unknown"


def compare_column(
    name: str, kind: Kind, before: Any, after: Any, config: MonitoringConfig, level: float
) -> ColumnComparison:
    if before is None or after is None or kind == "unknown":
        return _not_comparable(name, before, after)
    if kind in ("categorical", "boolean"):
        return _compare_words(name, kind, before, after, config, level)
    return _compare_numbers(name, kind, before, after, config, level)


def _not_comparable(name: str, before: Any, after: Any) -> ColumnComparison:
    sides = [Side(0, 0) if part is None else Side(len(part), part.null_count) for part in (before, after)]
    verdict: Verdict = "fault"
    if before is None:
        verdict, reason = "undecided", "the reference lacks the column"
    elif after is None:
        reason = "the column is gone"
    elif pa.types.is_null(before.type):
        verdict, reason = "undecided", "the reference has no value"
    elif before.type == after.type:
        verdict, reason = "undecided", f"columns of type {before.type} are not compared"
    else:
        reason = f"the type was {before.type} and is {after.type}"
    return ColumnComparison(name, "unknown", verdict, reason, sides[0], sides[1])


def _compare_words(
    name: str, kind: Kind, before: Any, after: Any, config: MonitoringConfig, level: float
) -> ColumnComparison:
    tally = tally_words(as_strings(before))
    present = {word: count for word, count in tally.items() if word is not None}
    bins = CategoricalBins.from_counts(present, config.top_categories)
    counts = bins.tallied(list(tally), np.array(list(tally.values()), dtype=np.int64))
    reference, current = ColumnCounts(counts, int(counts.sum())), ColumnCounts.of(bins, after)
    unseen = float(current.counts[-2] / current.n) if current.n else None
    is_stuck = current.n > 1 and max(current.counts[:-3], default=0) == current.n - current.nulls
    was_stuck = int((reference.counts[:-1] > 0).sum()) <= 1
    measured = Magnitudes(bins, [reference]).measure(current) if reference.n and current.n else []
    found = _Found(name, kind, bins.labels, reference, current, tuple(measured), is_stuck and not was_stuck)
    return _judged(found, config, level, unseen=unseen)


def _compare_numbers(
    name: str, kind: Kind, before: Any, after: Any, config: MonitoringConfig, level: float
) -> ColumnComparison:
    first, second = np.sort(as_numbers(before)), np.sort(as_numbers(after))
    bins = NumericBins.from_sorted(first, config.bins)
    reference, current = ColumnCounts.of_sorted(bins, first), ColumnCounts.of_sorted(bins, second)
    measured: list[Magnitude] = []
    if reference.n and current.n:
        sums = bin_sums(second, current.counts), bin_sums(first, reference.counts)
        measured = Magnitudes(bins, [reference]).measure(current, sums)
    outside = float(current.counts[[0, -2]].sum() / current.n) if current.n else None
    is_stuck = current.n - current.nulls > 1 and current.minimum == current.maximum
    is_newly_stuck = is_stuck and reference.minimum < reference.maximum
    found = _Found(name, kind, bins.labels, reference, current, tuple(measured), is_newly_stuck)
    return _judged(found, config, level, outside=outside)


@dataclass(frozen=True, slots=True)
class _Found:
    """What was counted of one column."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    reference: ColumnCounts
    current: ColumnCounts
    magnitudes: tuple[Magnitude, ...]
    is_newly_stuck: bool
    """All values are one and the same, and in the reference they were not."""


def _judged(
    found: _Found,
    config: MonitoringConfig,
    level: float,
    *,
    unseen: float | None = None,
    outside: float | None = None,
) -> ColumnComparison:
    p_value = two_sample_p(found.current.counts, found.reference.counts) if found.magnitudes else None
    verdict, reason = _verdict(found, config, level, p_value)
    if verdict == "drift":
        reason = "; ".join([reason, *_moves(found, unseen, outside)])
    return ColumnComparison(
        name=found.name,
        kind=found.kind,
        verdict=verdict,
        reason=reason,
        reference=_side(found.reference),
        current=_side(found.current),
        unseen_ratio=unseen,
        outside_ratio=outside,
        p_value=p_value,
        labels=found.labels,
        reference_counts=tuple(found.reference.counts.tolist()),
        current_counts=tuple(found.current.counts.tolist()),
        magnitudes=found.magnitudes,
    )


def _verdict(found: _Found, config: MonitoringConfig, level: float, p_value: float | None) -> tuple[Verdict, str]:
    reference, current = found.reference, found.current
    if not reference.n or reference.nulls == reference.n:
        return "undecided", "the reference has no value"
    if not current.n:
        return "undecided", "the current table has no row"
    if current.nulls == current.n:
        return "fault", "every value is null"
    if found.is_newly_stuck:
        return "fault", "the column is stuck at one value"
    distance = found.magnitudes[0]
    said = f"total variation {distance.value:.3g}, chance gives {distance.expected:.2g}"
    assert p_value is not None
    if p_value <= level and not distance.is_noise:
        return ("drift", said) if distance.value > config.tolerance else ("tolerated", said)
    # A value that never came in m rows may have a share of 3 / m: a constant sample is no proof of a constant.
    visible = max(2.0 * distance.expected, 3.0 / min(reference.n, current.n))
    if visible > max(2.0 * config.tolerance, _LEAST_VISIBLE):
        rows = min(reference.n, current.n)
        return "undecided", f"{said}; {rows} rows are too few to see a difference below {visible:.2g}"
    return "no drift", f"{said}; a difference above {visible:.2g} would show"


def _moves(found: _Found, unseen: float | None, outside: float | None) -> list[str]:
    """Say in words what moved most."""
    reference, current = found.reference, found.current
    said = []
    if abs(current.null_ratio - reference.null_ratio) > 0.01:
        said.append(f"nulls from {reference.null_ratio:.1%} to {current.null_ratio:.1%}")
    if unseen is not None and unseen > 0.001:
        said.append(f"{unseen:.1%} of categories that the reference did not know")
    if outside is not None and outside > 0.001:
        said.append(f"{outside:.1%} outside the reference's range")
    if outside is not None and not isnan(current.mean) and found.kind != "datetime":
        said.append(f"mean from {reference.mean:.4g} to {current.mean:.4g}")
    if outside is None:
        change = current.counts / current.n - reference.counts / reference.n
        most = int(np.argmax(np.abs(change)))
        said.append(f"{found.labels[most]!r} {change[most] * 100:+.1f} points")
    return said


def _side(counts: ColumnCounts) -> Side:
    numbers = (counts.mean, counts.sd, counts.minimum, counts.maximum)
    if isnan(counts.minimum):
        return Side(counts.n, counts.nulls)
    return Side(counts.n, counts.nulls, *numbers)
