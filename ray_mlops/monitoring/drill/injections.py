"""Known faults: what each does to a column, the labels or the latencies of a stretch of a stream."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ray_mlops.config import FaultName
from ray_mlops.data.hashing import hash_column
from ray_mlops.data.inputs import InputColumn
from ray_mlops.data.reference import ReferenceProfile
from ray_mlops.data.vectors import vector_array, vector_length, vector_matrix
from ray_mlops.monitoring.drill.stream import Stretch
from ray_mlops.statistics.columns import as_numbers, as_strings
from ray_mlops.statistics.embeddings import is_vector

UNIT_FACTOR = 1.6
"""Miles that are kilometres now."""
SHIFT_SD = 0.5
VECTOR_SHIFT_SD = 1.0
"""Of the vectors' products with the direction that they move in."""
CATEGORY_SHARE = 0.1
NULL_SHARE = 0.2
LATENCY_FACTOR = 2.0

Inject = Callable[[Stretch, str, Stretch, np.random.Generator], Stretch]
"""What becomes of a stretch: given it, a column, the stretch before it, and a source of chance."""


@dataclass(frozen=True, slots=True)
class Injection:
    """One fault."""

    name: FaultName
    about: str
    """For people."""
    inject: Inject
    on: Literal["any", "numbers", "categories", "dependent", "slice", "none"]
    """Which columns it can befall: `dependent` those whose dependence on others is watched, `slice` those that
    define a slice whose labels are changed, `none` no column at all."""

    @property
    def names_column(self) -> bool:
        """Whether there is a column that an alarm should name."""
        return self.on not in ("slice", "none")


def _null_column(stretch: Stretch, column: str, before: Stretch, rng: np.random.Generator) -> Stretch:
    kind = stretch.inputs.schema.field(column).type
    return stretch.with_column(column, pa.nulls(len(stretch.window), kind))


def _nulls(stretch: Stretch, column: str, before: Stretch, rng: np.random.Generator) -> Stretch:
    lost = pa.array(rng.random(len(stretch.window)) < NULL_SHARE)
    values = stretch.inputs[column].combine_chunks()
    return stretch.with_column(column, pc.if_else(lost, pa.scalar(None, values.type), values))


def _unit_change(stretch: Stretch, column: str, before: Stretch, rng: np.random.Generator) -> Stretch:
    if is_vector(stretch.inputs[column].type):
        return stretch.with_column(column, vector_array(_vectors(stretch, column) * UNIT_FACTOR))
    return stretch.with_column(column, pc.multiply(stretch.inputs[column], UNIT_FACTOR))


def _mean_shift(stretch: Stretch, column: str, before: Stretch, rng: np.random.Generator) -> Stretch:
    if is_vector(stretch.inputs[column].type):
        return stretch.with_column(column, _shifted_vectors(stretch, column, before, rng))
    deviation = float(np.nanstd(as_numbers(before.inputs[column])))
    return stretch.with_column(column, pc.add(stretch.inputs[column], SHIFT_SD * deviation))


def _shifted_vectors(stretch: Stretch, column: str, before: Stretch, rng: np.random.Generator) -> pa.Array:
    """All vectors move one way, by as much as they differ from each other on that way, and keep their lengths."""
    vectors, known = _vectors(stretch, column), _vectors(before, column)
    drawn = np.asarray(rng.standard_normal(vectors.shape[1]))
    direction = drawn / np.linalg.norm(drawn)
    moved = vectors + VECTOR_SHIFT_SD * float(np.nanstd(known @ direction)) * direction
    before_norm, after_norm = (np.linalg.norm(found, axis=1, keepdims=True) for found in (vectors, moved))
    return vector_array(moved * (before_norm / np.maximum(after_norm, 1e-300)))


def _vectors(stretch: Stretch, column: str) -> npt.NDArray[np.float64]:
    values = stretch.inputs[column].combine_chunks()
    return vector_matrix(values, vector_length(values.type), column)


def _category_shift(stretch: Stretch, column: str, before: Stretch, rng: np.random.Generator) -> Stretch:
    chosen = pa.array(rng.random(len(stretch.window)) < CATEGORY_SHARE)
    values = stretch.inputs[column].combine_chunks()
    return stretch.with_column(column, pc.if_else(chosen, pa.scalar(_most_frequent(before, column)), values))


def _frozen_feature(stretch: Stretch, column: str, before: Stretch, rng: np.random.Generator) -> Stretch:
    known = before.inputs[column].combine_chunks().drop_null()
    return stretch.with_column(column, pa.repeat(known[len(known) - 1], len(stretch.window)))


def _joint_shuffle(stretch: Stretch, column: str, before: Stretch, rng: np.random.Generator) -> Stretch:
    """Values change places within their window: the column's own distribution stays to the last digit."""
    order = np.lexsort((rng.random(len(stretch.window)), stretch.window))
    return stretch.with_column(column, stretch.inputs[column].take(pa.array(order)))


def _label_flip(stretch: Stretch, column: str, before: Stretch, rng: np.random.Generator) -> Stretch:
    """In one slice a class is called the next one; a number lies as far on the other side of the mean."""
    inside = slice_mask(stretch, column, before)
    truth = stretch.target
    if stretch.num_classes:
        return replace(stretch, target=np.where(inside, (truth + 1.0) % stretch.num_classes, truth))
    middle = float(np.nanmean(before.target))
    return replace(stretch, target=np.where(inside, 2.0 * middle - truth, truth))


def _latency(stretch: Stretch, column: str, before: Stretch, rng: np.random.Generator) -> Stretch:
    return replace(stretch, latency_us=stretch.latency_us * LATENCY_FACTOR)


INJECTIONS: Mapping[FaultName, Injection] = {
    injection.name: injection
    for injection in (
        Injection("null_column", "every value of a column is null", _null_column, "any"),
        Injection("nulls", f"{NULL_SHARE:.0%} of a column's values are null", _nulls, "any"),
        Injection("unit_change", f"a number is {UNIT_FACTOR} times what it was", _unit_change, "numbers"),
        Injection(
            "category_shift", f"{CATEGORY_SHARE:.0%} of the rows get one category", _category_shift, "categories"
        ),
        Injection(
            "mean_shift", f"a number rises by {SHIFT_SD} standard deviations, or vectors move", _mean_shift, "numbers"
        ),
        Injection("label_flip", "labels of one slice are swapped", _label_flip, "slice"),
        Injection("latency", f"answers take {LATENCY_FACTOR:g} times as long", _latency, "none"),
        Injection("frozen_feature", "a column repeats its last value", _frozen_feature, "any"),
        Injection("joint_shuffle", "a column's values change places within a window", _joint_shuffle, "dependent"),
    )
}


def slice_mask(stretch: Stretch, column: str, before: Stretch) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """The slice that a column defines: its most frequent category, or its numbers above the median."""
    values = stretch.inputs[column]
    if pa.types.is_floating(values.type) or pa.types.is_integer(values.type):
        middle = float(np.nanmedian(as_numbers(before.inputs[column])))
        return np.asarray(as_numbers(values) > middle)
    frequent = pc.cast(pa.scalar(_most_frequent(before, column)), pa.string())
    return np.asarray(pc.fill_null(pc.equal(as_strings(values), frequent), False))


def eligible_columns(
    injection: Injection, columns: Sequence[InputColumn], profile: ReferenceProfile, before: Stretch
) -> list[str]:
    """The columns that a fault can befall so that there is something to see, the most important first.

    Args:
        injection: The fault.
        columns: The model's raw inputs.
        profile: Says which are watched, how important they are, and whose dependence is watched.
        before: Rows without a fault; a column that has one value there cannot be frozen or scaled.

    Returns:
        Names; one empty name for a fault that befalls no column.
    """
    if injection.on == "none":
        return [""]
    watched = [c for c in columns if c.name in profile.columns and c.role == "feature"]
    joint = {name for member in profile.joint.projections.members for name in (member.target, *member.explained_by)}
    kinds = {
        "any": ("numeric", "categorical", "boolean", "vector"),
        "numbers": ("numeric", "vector"),
        "categories": ("categorical",),
        "slice": ("categorical", "boolean"),
        "dependent": ("numeric", "categorical", "boolean"),
    }[injection.on]
    fit = [c.name for c in watched if c.input_type in kinds and (injection.on != "dependent" or c.name in joint)]
    if injection.on == "slice" and not fit:
        fit = [c.name for c in watched if c.input_type == "numeric"]
    varied = [name for name in fit if _is_varied(before.inputs[name])]
    return sorted(varied, key=lambda name: (-profile.importance.get(name, 0.0), name))


def _is_varied(values: pa.ChunkedArray) -> bool:
    if is_vector(values.type):
        return len(np.unique(hash_column(values.drop_null()))) > 1
    return bool(pc.count_distinct(values).as_py() > 1)


def _most_frequent(before: Stretch, column: str) -> object:
    tally = pc.value_counts(before.inputs[column].drop_null())
    most = int(np.argmax(tally.field("counts").to_numpy(zero_copy_only=False)))
    return tally.field("values")[most].as_py()
