"""Realised performance by arm, version, slice and group, as sums that add up over windows. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ray_mlops.evaluation.rows import decide_rows
from ray_mlops.serving.slicing import SliceColumn
from ray_mlops.statistics.bins import FloatArray
from ray_mlops.statistics.estimators import LOG_EPSILON
from ray_mlops.statistics.losses import Task, bounded_loss, log_loss_rows

Cell = tuple[str, str]
"""Dimension (`arm`, `version`, `slice`, `group`) and value."""
_COUNTS = ("rows", "labelled", "weight")
SUMS: dict[Task, tuple[str, ...]] = {
    "binary": (
        *_COUNTS, "loss", "log_loss", "hits", "predicted", "chosen", "positives", "true_positives",
        "false_positives",
    ),
    "multiclass": (*_COUNTS, "loss", "log_loss", "hits"),
    "regression": (*_COUNTS, "loss", "error", "absolute", "squared"),
}  # fmt: skip
"""What is summed up over the rows of a cell; after ``_COUNTS``, of labelled rows with a finite prediction."""


@dataclass(frozen=True, slots=True)
class Slicing:
    """By what rows are broken down, besides arm and version."""

    slices: tuple[SliceColumn, ...] = ()
    groups: tuple[SliceColumn, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that rows must bring."""
        return tuple(dict.fromkeys(c.name for c in (*self.slices, *self.groups) if not c.problem))

    @property
    def problems(self) -> dict[str, str]:
        """Why columns have no slices, by name."""
        return {column.name: column.problem for column in (*self.slices, *self.groups) if column.problem}


NO_SLICING = Slicing()


@dataclass(frozen=True, slots=True, eq=False)
class Breakdown:
    """Sums by cell; those of disjoint rows add up with ``+``."""

    task: Task
    cells: Mapping[Cell, FloatArray]

    def __add__(self, other: "Breakdown") -> "Breakdown":
        cells = dict(self.cells)
        for cell, sums in other.cells.items():
            cells[cell] = cells[cell] + sums if cell in cells else sums
        return Breakdown(self.task, cells)

    def shown(self) -> list[dict[str, Any]]:
        """One line for each cell, by dimension: rows, coverage and metrics."""
        order = ("arm", "version", "slice", "group")
        found = sorted(self.cells.items(), key=lambda item: order.index(item[0][0]))
        return [{"by": by, "value": value, **describe(self.task, sums)} for (by, value), sums in found]

    def to_json(self) -> dict[str, Any]:
        return {
            "task": self.task,
            "cells": [[*cell, *sums.tolist()] for cell, sums in self.cells.items()],
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Breakdown":
        """Rebuild it; cells of a release that summed up other things are left out."""
        task, size = content["task"], len(SUMS[content["task"]])
        return cls(task, {(by, value): np.array(sums) for by, value, *sums in content["cells"] if len(sums) == size})


def total(parts: Iterable[Breakdown], task: Task) -> Breakdown:
    """The sum of all parts of one task."""
    found = Breakdown(task, {})
    for part in parts:
        if part.task == task:
            found = found + part
    return found


def describe(task: Task, sums: FloatArray) -> dict[str, Any]:
    """Rows, labelled rows, coverage, and the metrics of a cell; None where nothing is known."""
    named = dict(zip(SUMS[task], sums.tolist(), strict=True))

    def share(part: str, of: str = "weight") -> float | None:
        return named[part] / named[of] if named[of] > 0.0 else None

    found: dict[str, Any] = {"rows": int(named["rows"]), "labelled": int(named["labelled"])}
    found |= {"coverage": share("labelled", "rows"), "loss": share("loss")}
    if task == "regression":
        squared = share("squared")
        rmse = None if squared is None else float(np.sqrt(squared))
        return {**found, "mae": share("absolute"), "rmse": rmse, "mean_error": share("error")}
    found |= {"log_loss": share("log_loss"), "accuracy": share("hits")}
    if task == "binary":
        named["negatives"] = named["weight"] - named["positives"]
        found |= {"positive_rate": share("positives"), "mean_prediction": share("predicted")}
        found |= {"selection_rate": share("chosen"), "true_positive_rate": share("true_positives", "positives")}
        found["false_positive_rate"] = share("false_positives", "negatives")
    return found


def break_down(
    rows: pa.Table,
    prediction: FloatArray,
    weights: FloatArray,
    task: Task,
    slicing: Slicing,
    *,
    loss_scale: float = 1.0,
    threshold: float = 0.5,
) -> Breakdown:
    """Sum up the rows of a window that were not pinned, by arm and version, and those of its champion by slice.

    Args:
        rows: With ``arm, version, pinned, label`` (NaN without one) and ``features.NAME`` of the sliced columns.
        prediction: Of the rows, [n] or [n, k].
        weights: How each labelled row counts [n].
        task: Of the model.
        slicing: Columns that define slices and groups.
        loss_scale: See ``bounded_loss``.
        threshold: Probability from which a row counts as positive (binary).
    """
    sums = _row_sums(task, prediction, rows["label"].to_numpy(), weights, loss_scale, threshold)
    is_counted = pc.invert(rows["pinned"]).to_numpy()
    is_champions = is_counted & pc.equal(rows["arm"], "champion").to_numpy()
    cells: dict[Cell, FloatArray] = {}
    for by in ("arm", "version"):
        cells |= _by_value(by, rows[by], sums, is_counted)
    for by, columns in (("slice", slicing.slices), ("group", slicing.groups)):
        for column in columns:
            name = f"features.{column.name}"
            if not column.problem and name in rows.column_names:
                cells |= _by_slice(by, column, rows[name].to_pylist(), sums, is_champions)
    return Breakdown(task, cells)


def _row_sums(
    task: Task, prediction: FloatArray, target: FloatArray, weights: FloatArray, loss_scale: float, threshold: float
) -> FloatArray:
    """What each row adds [n, m]."""
    known = np.isfinite(prediction) if prediction.ndim == 1 else np.isfinite(prediction).all(axis=1)
    has_label = ~np.isnan(target)
    judged = np.flatnonzero(known & has_label)
    sums = np.zeros((len(target), len(SUMS[task])))
    sums[:, 0], sums[:, 1] = 1.0, has_label
    if len(judged):
        values, truth = prediction[judged], target[judged]
        columns = _judged_columns(task, values, truth, loss_scale, threshold)
        sums[judged, 2:] = weights[judged, None] * np.column_stack([np.ones(len(judged)), *columns])
    return sums


def _judged_columns(
    task: Task, values: FloatArray, truth: FloatArray, loss_scale: float, threshold: float
) -> list[FloatArray]:
    loss = bounded_loss(task, values, truth, loss_scale)
    if task == "regression":
        error = values - truth
        return [loss, error, np.abs(error), error**2]
    chosen = decide_rows(task, values, threshold)
    found = [loss, log_loss_rows(values, truth, epsilon=LOG_EPSILON), (chosen == truth).astype(np.float64)]
    return found if task == "multiclass" else [*found, values, chosen, truth, chosen * truth, chosen * (1.0 - truth)]


def _by_value(by: str, names: pa.ChunkedArray, sums: FloatArray, is_counted: Any) -> dict[Cell, FloatArray]:
    encoded = names.combine_chunks().dictionary_encode()
    labels = [str(name) for name in encoded.dictionary.to_pylist()]
    return _add_up(by, labels, encoded.indices.to_numpy(zero_copy_only=False), sums, is_counted)


def _by_slice(
    by: str, column: SliceColumn, values: Sequence[Any], sums: FloatArray, is_counted: Any
) -> dict[Cell, FloatArray]:
    return _add_up(by, column.labels, column.codes(values), sums, is_counted)


def _add_up(by: str, labels: Sequence[str], codes: Any, sums: FloatArray, is_counted: Any) -> dict[Cell, FloatArray]:
    found = np.array([np.bincount(codes[is_counted], each[is_counted], len(labels)) for each in sums.T])
    return {(by, label): found[:, code] for code, label in enumerate(labels) if found[0, code]}
