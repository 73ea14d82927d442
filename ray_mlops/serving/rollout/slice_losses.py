"""Losses of labelled units, slice by slice."""

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

from ray_mlops.serving.rollout.evidence import LossEvidence
from ray_mlops.serving.slicing import SliceColumn


def losses_by_slice(
    labelled: pa.Table, columns: Sequence[SliceColumn], gather: Callable[[pa.Table], LossEvidence]
) -> tuple[LossEvidence, ...]:
    """Gather losses in each slice, in the order of ``slice_labels``.

    A routing key that comes to several slices is a unit in each of them, by its rows there.

    Args:
        labelled: Rows as ``MonitorView.labelled`` gives them; without a column they say nothing about its slices.
        columns: The slices, as they were frozen.
        gather: Turns rows into losses of units.
    """
    found: list[LossEvidence] = []
    for column in columns:
        name, num_slices = f"features.{column.name}", len(column.labels)
        if not num_slices:
            continue
        if name not in labelled.column_names:
            found += [LossEvidence(problem=f"labelled rows do not tell {column.name}")] * num_slices
            continue
        codes = column.codes(labelled[name].to_pylist())
        for number in range(num_slices):
            rows = labelled.take(np.flatnonzero(codes == number))
            found.append(gather(rows) if rows.num_rows else LossEvidence())
    return tuple(found)
