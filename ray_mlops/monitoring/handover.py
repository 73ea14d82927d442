"""What a replica hands to the monitor: counts on the reference's bins, and the keys that labels join to."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ray_mlops.config import ColumnContract
from ray_mlops.data.values import category_key
from ray_mlops.monitoring.estimation import expect_windows, with_expectations
from ray_mlops.monitoring.labels import EXPECTED, KEY_COLUMNS, prediction_values, without_repeats
from ray_mlops.statistics.bins import Bins
from ray_mlops.statistics.derivations import NO_DERIVATIONS, Derivations
from ray_mlops.statistics.estimators import Estimator
from ray_mlops.statistics.expected import Expected
from ray_mlops.statistics.table import TableBins, TableCounts

_FEATURE = "features."
SCORE = "prediction"
"""Name of the prediction among the columns that are counted."""
LATENCY = "model_time_us"
"""Name of the time that the champion's own answers took, among the columns that are counted."""


@dataclass(frozen=True, slots=True)
class Reference:
    """The bins in force for one model; ``id`` changes when they do."""

    id: str
    bins: Mapping[str, Bins]
    """By raw input column, number derived from one, ``SCORE`` and ``LATENCY``."""
    window_us: int
    rules: Mapping[str, ColumnContract] = field(default_factory=dict)
    """The declared contract, for hard ranges and closed domains."""
    version: str | None = None
    """The champion: only its own predictions are counted as the score; None counts all."""
    max_ahead_us: int | None = None
    """Rows further ahead of their arrival than this are not counted; None counts all."""
    derivations: Derivations = NO_DERIVATIONS
    """Further columns, computed from the others; their bins are in ``bins``."""
    kept: tuple[str, ...] = ()
    """Raw input columns that the label join keeps, for the slices of a rollout."""
    estimator: Estimator | None = None
    """Performance of the champion without labels."""
    table: TableBins = field(init=False, repr=False, compare=False)
    """The bins, as what counts a whole table."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "table", TableBins(self.bins))

    def count(self, rows: pa.Table) -> TableCounts:
        """Count rows of the prediction log; see ``count_columns``."""
        return count_columns(rows, self.table, self.version, self.derivations)


@dataclass(frozen=True, slots=True)
class Handover:
    """One flush of one replica. A repeat is recognised by its prediction ids."""

    model: str
    replica: str
    sequence: int
    reference: str
    """Id of the reference that the counts were made on."""
    counts: Mapping[int, TableCounts]
    """By window."""
    rows: pa.Table
    """Keys and predictions of the same rows, for the label join."""
    violations: Mapping[int, Mapping[str, int]] = field(default_factory=dict)
    """Values outside the declared range or domain, by window and column; only where there are any."""
    expected: Mapping[int, Expected] = field(default_factory=dict)
    """What the champion's own rows let one expect, by window."""
    unwatched: tuple[str, ...] = ()
    """Logged columns that have no bins."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """The monitor's answer. Unless ``accepted``, count again: on another reference, or without known rows."""

    accepted: bool
    reference: Reference | None = None
    """The reference in force, when the flush was made on another one."""
    known: list[str] = field(default_factory=list)
    """Prediction ids that were handed over before."""


def build_handover(model: str, replica: str, sequence: int, rows: pa.Table, reference: Reference) -> Handover:
    """Count logged rows on the reference's bins, by window of event time.

    Args:
        model: The model's name.
        replica: Who hands over.
        sequence: Number of this flush, rising.
        rows: Rows of the prediction log; of those with one prediction id only the first counts.
        reference: Bins and window. A column that the log leaves out (redacted) is not counted.
    """
    rows = without_repeats(rows)
    sound = without_rows_ahead(rows, reference.max_ahead_us)
    windows = sound["event_time"].cast(pa.int64()).to_numpy() // reference.window_us
    counts: dict[int, TableCounts] = {}
    violations: dict[int, dict[str, int]] = {}
    for index in np.unique(windows).tolist():
        part = sound if (windows == index).all() else sound.filter(pa.array(windows == index))
        counts[index] = reference.count(part)
        violations[index] = count_violations(part, reference.rules)
    rows = with_expectations(rows, reference.estimator, reference.version)
    kept = key_columns(rows, reference.kept)
    unwatched = unwatched_columns(rows, reference)
    expected = expect(kept, reference)
    return Handover(model, replica, sequence, reference.id, counts, kept, violations, expected, unwatched)


def unwatched_columns(rows: pa.Table, reference: Reference) -> tuple[str, ...]:
    """Inputs that are logged and that the reference has no bins of, as far as they hold anything."""
    names = (name for name in rows.column_names if name.startswith(_FEATURE))
    unknown = [name for name in names if name.removeprefix(_FEATURE) not in reference.bins]
    return tuple(name.removeprefix(_FEATURE) for name in unknown if rows[name].null_count < rows.num_rows)


def expect(rows: pa.Table, reference: Reference) -> dict[int, Expected]:
    """What the champion's own rows let one expect, by window; rows from the future are left out."""
    sound = without_rows_ahead(rows, reference.max_ahead_us)
    return expect_windows(sound, reference.estimator, reference.version, reference.window_us)


def without_rows_ahead(rows: pa.Table, max_ahead_us: int | None) -> pa.Table:
    """Leave out rows whose event time is further ahead of their arrival than is believed."""
    if max_ahead_us is None or rows.num_rows == 0:
        return rows
    event_us, arrival_us = (rows[name].cast(pa.int64()).to_numpy() for name in ("event_time", "arrival_time"))
    ahead = event_us - arrival_us > max_ahead_us
    return rows.filter(pa.array(~ahead)) if ahead.any() else rows


def key_columns(rows: pa.Table, kept: Collection[str] = ()) -> pa.Table:
    """The columns of logged rows that the label join keeps.

    Args:
        rows: Rows of the prediction log.
        kept: Raw input columns that it keeps as well, as ``features.NAME``.
    """
    wanted = {*KEY_COLUMNS, *(f"features.{name}" for name in kept)}
    prefixes = ("prediction", EXPECTED.rstrip("."))
    return rows.select([name for name in rows.column_names if name in wanted or name.split(".")[0] in prefixes])


def count_violations(rows: pa.Table, rules: Mapping[str, ColumnContract]) -> dict[str, int]:
    """Count the values of logged rows outside the declared range or domain, by column; nulls are none."""
    found: dict[str, int] = {}
    for name, rule in rules.items():
        column = f"{_FEATURE}{name}"
        if column not in rows.column_names:
            continue
        count = _num_outside(rows[column], rule)
        if count:
            found[name] = count
    return found


def _num_outside(values: pa.ChunkedArray, rule: ColumnContract) -> int:
    bad = pa.chunked_array([np.zeros(len(values), bool)])
    is_number = pa.types.is_floating(values.type) or pa.types.is_integer(values.type)
    if is_number and rule.min is not None:
        bad = pc.or_(bad, pc.less(values, rule.min))
    if is_number and rule.max is not None:
        bad = pc.or_(bad, pc.greater(values, rule.max))
    if rule.allowed is not None:
        bad = pc.or_(bad, pc.invert(pc.is_in(values, _domain(rule.allowed, values.type))))
    return int(pc.sum(pc.and_(bad, pc.invert(pc.is_null(values, nan_is_null=True)))).as_py() or 0)


def _domain(allowed: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """The values of a closed domain that a column of a type can have, as that type."""
    if pa.types.is_boolean(kind):
        return pa.array([bool(value) for value in allowed if value in (0, 1)], kind)
    if pa.types.is_floating(kind) or pa.types.is_integer(kind):
        return pa.array([value for value in allowed if isinstance(value, int | float)], pa.float64()).cast(kind)
    return pa.array([category_key(value) for value in allowed], pa.string()).cast(kind)


def count_columns(
    rows: pa.Table,
    bins: TableBins | Mapping[str, Bins],
    version: str | None = None,
    derivations: Derivations = NO_DERIVATIONS,
) -> TableCounts:
    """Count the columns of logged rows that have bins; under ``SCORE`` and ``LATENCY`` those of a version's answers.

    Args:
        rows: Rows of the prediction log.
        bins: By column.
        version: Whose answers are counted, of requests that were not pinned to it; None counts all.
        derivations: Columns to be computed from the others.
    """
    table = bins if isinstance(bins, TableBins) else TableBins(bins)
    found = {
        name.removeprefix(_FEATURE): column
        for name, column in zip(rows.column_names, rows.itercolumns(), strict=True)
        if name.startswith(_FEATURE)
    }
    columns: dict[str, Any] = {name: found[name] for name in table.bins if name in found}
    columns |= derivations.of(found)
    return table.count(columns | _answer_columns(rows, table.bins, version))


def _answer_columns(rows: pa.Table, bins: Mapping[str, Bins], version: str | None) -> dict[str, Any]:
    """What a version's own answers add to the columns; nothing where it gave none."""
    if SCORE not in bins and LATENCY not in bins:
        return {}
    own = rows if version is None else own_rows(rows, version)
    if own.num_rows == 0:
        return {}
    columns: dict[str, Any] = {}
    if SCORE in bins:
        columns[SCORE] = own["prediction"] if "prediction" in own.column_names else top_score(own)
    if LATENCY in bins and LATENCY in own.column_names:
        columns[LATENCY] = own[LATENCY]
    return columns


def own_rows(rows: pa.Table, version: str) -> pa.Table:
    """The rows that a version answered in the ordinary way: not a candidate's, not pinned."""
    return rows.filter(pc.and_(pc.equal(rows["version"], version), pc.invert(rows["pinned"])))


def top_score(rows: pa.Table) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The probability of the most probable class of each row, for a multiclass model [n]; NaN without any."""
    values = prediction_values(rows, "multiclass")
    return np.asarray(np.fmax.reduce(values, axis=1, initial=np.nan), dtype=np.float64)
