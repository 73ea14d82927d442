"""``ReferenceProfile``: what the rows looked like before a version took traffic, window by window.

It is a reference, not the training split: the newest windows of event time before promotion, in time order.
Bins are frozen from them, and everything that is served later is counted on the same bins. Scores and losses
come from rows that the model was not trained on.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ray_mlops.config import MonitoringConfig
from ray_mlops.config.data import ColumnType
from ray_mlops.data.columns import Column
from ray_mlops.data.inputs import InputColumn
from ray_mlops.data.values import MISSING_US
from ray_mlops.data.vectors import project_vectors, projection_of
from ray_mlops.errors import BundleError, DataError
from ray_mlops.statistics.bins import CategoricalBins, ColumnCounts, NumericBins, bins_from_json
from ray_mlops.statistics.derivations import Derivations
from ray_mlops.statistics.embeddings import EmbeddingProjection, is_vector, vector_norms
from ray_mlops.statistics.estimators import Estimator, estimator_from_json
from ray_mlops.statistics.projections import NO_PROJECTIONS, Projections, fit_projections

SCHEMA_VERSION = 1
_KINDS_WITH_NUMBERS = ("numeric",)
_KINDS_WITH_CATEGORIES = ("categorical", "boolean")
Bins = NumericBins | CategoricalBins
Times = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ColumnReference:
    """One column (or the score) over the reference windows; of a column of vectors, their norms."""

    bins: Bins
    windows: Mapping[int, ColumnCounts]
    """Counts by window index, in time order."""
    type: ColumnType = "numeric"
    role: str = "feature"
    """``calendar`` columns get no drift channel."""

    @property
    def total(self) -> ColumnCounts:
        """All windows together."""
        return sum(self.windows.values(), ColumnCounts.empty(self.bins))

    def to_json(self) -> dict[str, Any]:
        windows = {str(window): counts.to_json() for window, counts in self.windows.items()}
        return {"bins": self.bins.to_json(), "windows": windows, "type": self.type, "role": self.role}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "ColumnReference":
        windows = {int(window): ColumnCounts.from_json(counts) for window, counts in content["windows"].items()}
        return cls(bins_from_json(content["bins"]), dict(sorted(windows.items())), content["type"], content["role"])


@dataclass(frozen=True, slots=True)
class LossWindow:
    """Losses in [0, 1] of one window. Windows of disjoint rows add up with ``+``."""

    n: int
    total: float
    total_squares: float

    def __add__(self, other: "LossWindow") -> "LossWindow":
        return LossWindow(self.n + other.n, self.total + other.total, self.total_squares + other.total_squares)


@dataclass(frozen=True, slots=True)
class JointReference:
    """How the columns hang together: remainders of some of them, as further columns."""

    projections: Projections
    columns: Mapping[str, ColumnReference]
    """By the projections' names."""

    def without(self, names: Collection[str]) -> "JointReference":
        """Leave out what is computed from certain columns."""
        kept = tuple(member for member in self.projections.members if member.columns.isdisjoint(names))
        columns = {member.name: self.columns[member.name] for member in kept}
        return JointReference(replace(self.projections, members=kept), columns)

    def to_json(self) -> dict[str, Any]:
        columns = {name: column.to_json() for name, column in self.columns.items()}
        return {"projections": self.projections.to_json(), "columns": columns}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "JointReference":
        columns = {name: ColumnReference.from_json(column) for name, column in content["columns"].items()}
        return cls(Projections.from_json(content["projections"]), columns)


NO_JOINT = JointReference(NO_PROJECTIONS, {})


@dataclass(frozen=True, slots=True)
class VectorReference:
    """Where the vectors of some columns point, as further columns of numbers."""

    projections: tuple[EmbeddingProjection, ...]
    columns: Mapping[str, ColumnReference]
    """By the names of the projections' directions."""

    def without(self, names: Collection[str]) -> "VectorReference":
        """Leave out certain columns of vectors."""
        kept = tuple(found for found in self.projections if found.column not in names)
        return VectorReference(kept, {name: self.columns[name] for found in kept for name in found.directions})

    def to_json(self) -> dict[str, Any]:
        columns = {name: column.to_json() for name, column in self.columns.items()}
        return {"projections": [found.to_json() for found in self.projections], "columns": columns}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "VectorReference":
        columns = {name: ColumnReference.from_json(column) for name, column in content["columns"].items()}
        return cls(tuple(EmbeddingProjection.from_json(found) for found in content["projections"]), columns)


NO_VECTORS = VectorReference((), {})


@dataclass(frozen=True, slots=True)
class ReferenceProfile:
    """The reference of one version."""

    window_us: int
    """Length of a window; a row's window is its event time divided by this, rounded down."""
    columns: Mapping[str, ColumnReference]
    """Raw inputs of the model."""
    importance: Mapping[str, float] = field(default_factory=dict)
    """Weight of each column, summing to 1; equal until training fills it in."""
    score: ColumnReference | None = None
    """Predictions on rows that were not trained on; None before ``with_scores``."""
    losses: Mapping[int, LossWindow] = field(default_factory=dict)
    """Losses on rows that were not trained on, by window, in time order."""
    joint: JointReference = NO_JOINT
    """Not in profiles of older releases."""
    estimator: Estimator | None = None
    """Performance without labels; not in profiles of older releases."""
    vectors: VectorReference = NO_VECTORS
    """Not in profiles of older releases."""

    @property
    def counted(self) -> dict[str, ColumnReference]:
        """Every column that rows are counted by: raw inputs, and the numbers that are computed from them."""
        return {**self.columns, **self.joint.columns, **self.vectors.columns}

    @property
    def derivations(self) -> Derivations:
        """What computes those numbers."""
        return Derivations(self.joint.projections, self.vectors.projections)

    def without(self, names: Collection[str]) -> "ReferenceProfile":
        """Leave out certain raw inputs, and all that is computed from them."""
        return replace(
            self,
            columns={name: column for name, column in self.columns.items() if name not in names},
            importance={name: weight for name, weight in self.importance.items() if name not in names},
            joint=self.joint.without(names),
            vectors=self.vectors.without(names),
        )

    @property
    def windows(self) -> tuple[int, ...]:
        """Window indices of the inputs, in time order."""
        return tuple(sorted({window for column in self.columns.values() for window in column.windows}))

    def count(self, inputs: pa.Table) -> dict[str, ColumnCounts]:
        """Count rows on the reference's bins.

        Args:
            inputs: Raw inputs in canonical types (``FeaturePipeline.canonical_table`` or ``to_table``).
        """
        return {
            name: ColumnCounts.of(column.bins, binned_values(inputs[name], column.type))
            for name, column in self.columns.items()
        }

    def with_importance(self, importance: Mapping[str, float]) -> "ReferenceProfile":
        """The same with weights of columns; negative ones count as 0, and all zero means equal.

        Raises:
            DataError: A column is unknown.
        """
        unknown = sorted(set(importance) - set(self.columns))
        if unknown:
            raise DataError(f"importance of unknown columns {unknown}", "reference profile")
        weights = {name: max(float(importance.get(name, 0.0)), 0.0) for name in self.columns}
        total = sum(weights.values())
        shared = (
            {name: weight / total for name, weight in weights.items()} if total > 0 else equal_weights(self.columns)
        )
        return replace(self, importance=shared)

    def with_scores(
        self,
        scores: npt.NDArray[np.float64],
        event_us: Times,
        losses: npt.NDArray[np.float64] | None = None,
        *,
        monitoring: MonitoringConfig,
    ) -> "ReferenceProfile":
        """The same with scores and losses of rows that the model was not trained on.

        Args:
            scores: One number per row [n]: the probability of the positive class or of the predicted class,
                or the value.
            event_us: Event times [n]; zeros without event time.
            losses: In [0, 1] [n]; None leaves them out.
            monitoring: Number of bins, and of windows to keep.
        """
        windows = newest_windows(event_us, self.window_us, monitoring.reference_windows)
        inside = np.isin(window_of(event_us, self.window_us), windows)
        bins = NumericBins.from_sample(scores[inside], monitoring.bins)
        score = count_windows(bins, scores, event_us, windows, self.window_us)
        found: dict[int, LossWindow] = {}
        for window in windows if losses is not None else ():
            chosen = np.asarray(losses)[window_of(event_us, self.window_us) == window]
            found[window] = LossWindow(len(chosen), float(chosen.sum()), float((chosen * chosen).sum()))
        return replace(self, score=ColumnReference(bins, score), losses=found)

    def from_counts(
        self,
        columns: Mapping[int, Mapping[str, ColumnCounts]],
        scores: Mapping[int, ColumnCounts] | None = None,
        losses: Mapping[int, LossWindow] | None = None,
        *,
        num_windows: int,
    ) -> "ReferenceProfile":
        """A new reference on the same bins, from windows that were monitored.

        Args:
            columns: Counts by window, then column; of columns that are absent there is no count.
            scores: Counts of scores by window; None keeps the score's reference.
            losses: By window; None keeps the losses.
            num_windows: The newest this many are kept.

        Raises:
            DataError: Counts do not fit the bins, or there is no window.
        """
        if not columns:
            raise DataError("there are no windows to make a reference of", "reference profile")
        kept = sorted(columns)[-num_windows:]
        rebuilt = {}
        for name, column in self.columns.items():
            windows = {window: columns[window][name] for window in kept if name in columns[window]}
            rebuilt[name] = _with_windows(name, column, windows)
        score, found = self.score, self.losses
        if scores is not None and self.score is not None:
            score = _with_windows(
                "score", self.score, {window: scores[window] for window in sorted(scores)[-num_windows:]}
            )
        if losses is not None:
            found = {window: losses[window] for window in sorted(losses)[-num_windows:]}
        return replace(self, columns=rebuilt, score=score, losses=found)

    def to_json(self) -> dict[str, Any]:
        estimator = {} if self.estimator is None else {"estimator": self.estimator.to_json()}
        vectors = {"vectors": self.vectors.to_json()} if self.vectors.projections else {}
        return {
            "schema_version": SCHEMA_VERSION,
            "window_us": self.window_us,
            "columns": {name: column.to_json() for name, column in self.columns.items()},
            "importance": dict(self.importance),
            "score": self.score.to_json() if self.score else None,
            "losses": {str(window): [loss.n, loss.total, loss.total_squares] for window, loss in self.losses.items()},
            "joint": self.joint.to_json(),
            **estimator,
            **vectors,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "ReferenceProfile":
        """Rebuild a profile.

        Raises:
            BundleError: It is damaged, or was written by a newer release.
        """
        version = content.get("schema_version")
        if version != SCHEMA_VERSION:
            raise BundleError(f"schema_version {version!r}, this release reads {SCHEMA_VERSION}", "reference profile")
        try:
            columns = {name: ColumnReference.from_json(column) for name, column in content["columns"].items()}
            score = ColumnReference.from_json(content["score"]) if content["score"] else None
            losses = {int(window): LossWindow(*loss) for window, loss in content["losses"].items()}
            joint = JointReference.from_json(content["joint"]) if "joint" in content else NO_JOINT
            losses = dict(sorted(losses.items()))
            estimator = estimator_from_json(content["estimator"]) if "estimator" in content else None
            vectors = VectorReference.from_json(content["vectors"]) if "vectors" in content else NO_VECTORS
            return cls(content["window_us"], columns, content["importance"], score, losses, joint, estimator, vectors)
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(f"the stored profile is damaged: {error!r}", "reference profile") from error


def build_profile(
    columns: Sequence[InputColumn], sample: pa.Table, event_us: Times, monitoring: MonitoringConfig
) -> ReferenceProfile:
    """Freeze bins from the newest windows of some rows, and count those windows on them.

    Args:
        columns: The model's raw inputs.
        sample: Their canonical columns [n]; of vectors, or what ``project_vectors`` makes of them.
        event_us: Event times [n]; rows without one are left out. Without event time all are 0: one window.
        monitoring: Length and number of windows, bins, top categories.
    """
    window_us = window_length(monitoring)
    windows = newest_windows(event_us, window_us, monitoring.reference_windows)
    inside = np.isin(window_of(event_us, window_us), windows) & (event_us != MISSING_US)
    kept, times = project_vectors(sample.filter(pa.array(inside)), columns), event_us[inside]
    references = {}
    for column in columns:
        values = binned_values(kept[column.name], column.input_type)
        if column.input_type in ("categorical", "boolean"):
            bins: Bins = CategoricalBins.from_sample(values, monitoring.top_categories)
        else:
            bins = NumericBins.from_sample(values, monitoring.bins)
        counts = count_windows(bins, values, times, windows, window_us)
        references[column.name] = ColumnReference(bins, counts, column.input_type, column.role)
    joint = _joint_reference(columns, kept, times, windows, monitoring)
    vectors = _vector_reference(columns, kept, times, windows, monitoring)
    return ReferenceProfile(window_us, references, equal_weights(references), joint=joint, vectors=vectors)


def _vector_reference(
    columns: Sequence[InputColumn], rows: pa.Table, times: Times, windows: Sequence[int], monitoring: MonitoringConfig
) -> VectorReference:
    found = tuple(projection_of(c.name, c.length) for c in columns if c.length and c.role == "feature")
    references = {}
    for name in (name for projection in found for name in projection.directions):
        if any(name == column.name for column in columns):
            raise DataError("a column has the name of a direction of the vectors", f"column {name!r}", "rename it")
        bins = NumericBins.from_sample(rows[name], monitoring.bins)
        references[name] = ColumnReference(
            bins, count_windows(bins, rows[name].combine_chunks(), times, windows, window_length(monitoring))
        )
    return VectorReference(found, references)


def _joint_reference(
    columns: Sequence[InputColumn], rows: pa.Table, times: Times, windows: Sequence[int], monitoring: MonitoringConfig
) -> JointReference:
    """Calendar columns move by themselves, and what they explain moves with them: they have no part in it."""
    watched = [column for column in columns if column.role == "feature"]
    values = {column.name: binned_values(rows[column.name], column.input_type) for column in watched}
    numeric = {c.name: values[c.name] for c in watched if c.input_type in _KINDS_WITH_NUMBERS}
    categorical = {c.name: values[c.name] for c in watched if c.input_type in _KINDS_WITH_CATEGORIES}
    projections = fit_projections(numeric, categorical, monitoring.joint_projections)
    window_us = window_length(monitoring)
    found = {}
    for name, derived in projections.of(values).items():
        bins = NumericBins.from_sample(derived, monitoring.bins)
        found[name] = ColumnReference(bins, count_windows(bins, derived, times, windows, window_us))
    return JointReference(projections, found)


def count_windows(
    bins: Bins, values: Any, event_us: Times, windows: Sequence[int], window_us: int
) -> dict[int, ColumnCounts]:
    """Counts of each window, in the windows' order."""
    rows = window_of(event_us, window_us)
    if isinstance(values, np.ndarray):
        return {window: ColumnCounts.of(bins, values[rows == window]) for window in windows}
    return {window: ColumnCounts.of(bins, values.filter(pa.array(rows == window))) for window in windows}


def window_length(monitoring: MonitoringConfig) -> int:
    """Microseconds of a window."""
    return int(monitoring.window.total_seconds() * 1e6)


def newest_windows(event_us: Times, window_us: int, count: int) -> tuple[int, ...]:
    """Indices of the newest windows that have rows, in time order."""
    found = np.unique(window_of(event_us[event_us != MISSING_US], window_us))
    return tuple(found[-count:].tolist())


def window_of(event_us: Times, window_us: int) -> Times:
    """Window index of each event time [n]."""
    return event_us // window_us


def binned_values(column: Column, kind: ColumnType) -> pa.Array:
    """What bins count of a canonical raw column: numbers, microseconds, norms, or text (``true``, ``false``)."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if kind == "boolean":
        return array.cast(pa.string())
    if is_vector(array.type):
        norms = vector_norms(array)
        return pa.array(norms, mask=np.isnan(norms))
    return array.cast(pa.int64()).cast(pa.float64(), safe=False) if kind == "datetime" else array


def equal_weights(columns: Mapping[str, Any]) -> dict[str, float]:
    """The same weight for each column, summing to 1."""
    return {name: 1.0 / len(columns) for name in columns}


def _with_windows(name: str, column: ColumnReference, windows: Mapping[int, ColumnCounts]) -> ColumnReference:
    for window, counts in windows.items():
        if len(counts.counts) != column.bins.size:
            problem = f"window {window} has {len(counts.counts)} counts, its bins {column.bins.size}"
            raise DataError(problem, f"reference profile: {name}", "count with the bins of this version")
    return replace(column, windows=dict(windows))
