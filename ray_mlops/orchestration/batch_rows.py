"""Rows in, predictions out, and what becomes of rows that cannot be predicted. Pure; no Ray, no files."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ray_mlops.data.columns import is_text, one_chunk
from ray_mlops.data.features import FeaturePipeline
from ray_mlops.data.inputs import InputColumn
from ray_mlops.errors import FeatureError
from ray_mlops.orchestration.batch_plan import SOURCE_ROW, BatchPlan, BatchUnit
from ray_mlops.training.bundle import ModelBundle, Prediction

_NUMBER = r"(?i)^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$"
_INFINITE = r"(?i)^[+-]?inf(inity)?$"
"""A missing value, as everywhere."""
_FLAGS = {"true": 1.0, "false": 0.0, "1": 1.0, "0": 0.0, "1.0": 1.0, "0.0": 0.0}


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be predicted."""

    row: int
    """Within the table, from 0."""
    column: str
    """Empty where no single column is at fault."""
    problem: str


@dataclass(frozen=True, slots=True)
class UnitResult:
    """What a unit comes to."""

    predicted: pa.Table
    refused: pa.Table
    """The rows that could not be predicted, as they came, each with its reason; usually empty."""


def predict_unit(table: pa.Table, bundle: ModelBundle, plan: BatchPlan, unit: BatchUnit) -> UnitResult:
    """Predict the rows of a unit, in their order.

    Rows that can be predicted go through the model in the order they have, as one batch (of at most
    ``CHUNK_ROWS``): a service that is sent the same rows at once gives the same bits.

    Args:
        table: The unit's rows.
        bundle: The version.
        plan: Says which columns are carried, and what to do with a bad row.
        unit: Says which rows these are.

    Raises:
        FeatureError: A row cannot be predicted, and the plan is to fail; names file, row and column.
    """
    numbers = pa.array(np.arange(unit.source_row, unit.source_row + len(table)))
    rows = with_free_name(table, SOURCE_ROW, numbers)
    inputs, wrong = read_text(table, bundle.features.columns) if plan.format == "csv" else (table, [])
    bad = {found.row: found for found in [*find_bad_rows(inputs, bundle.features), *wrong]}
    _fail_if_asked(bad, plan, unit)
    good = np.setdiff1d(np.arange(len(table)), np.array(list(bad), np.int64))
    prediction = bundle.predict(inputs if len(good) == len(table) else inputs.take(pa.array(good)))
    finite = np.isfinite(prediction.values.reshape(len(good), -1)).all(axis=1) if len(good) else np.ones(0, bool)
    if not finite.all():
        bad |= {int(row): BadRow(int(row), "", "the prediction is not finite") for row in good[~finite]}
        _fail_if_asked(bad, plan, unit)
        good, prediction = good[finite], prediction.take(finite)
    carried = [*([] if plan.id else [rows.column_names[-1]]), *plan.columns]
    predicted = with_predictions(rows.take(pa.array(good, pa.int64())).select(carried), prediction)
    return UnitResult(predicted, _refused(rows, [bad[row] for row in sorted(bad)]))


def find_bad_rows(table: pa.Table, features: FeaturePipeline) -> list[BadRow]:
    """Rows with a value of the wrong type, the first fault of each; found by halving, so that few are quick to find.

    Raises:
        FeatureError: A column is missing, so that no row can be predicted.
    """
    missing, _ = features.check_columns(table.column_names)
    if missing:
        raise FeatureError("the column is missing", f"column {missing[0]!r}", "is it the data of this model?")
    try:
        features.transform(table)
        return []
    except FeatureError:
        found: dict[int, BadRow] = {}
        for column in features.columns:
            if column.name in table.column_names:
                single = table.select([column.name])
                for row, error in _faults(single, 0, lambda part: features.check_column(part, column.name)):  # noqa: B023
                    found.setdefault(row, BadRow(row, column.name, error.problem))
        if not found:  # no column alone is at fault
            raise
        return list(found.values())


def read_text(table: pa.Table, columns: Sequence[InputColumn]) -> tuple[pa.Table, list[BadRow]]:
    """Read numbers and flags where a CSV column came as text, because some of its fields are neither.

    Returns:
        The table with such columns as numbers, and the rows whose fields could not be read.
    """
    bad: dict[int, BadRow] = {}
    for column in columns:
        read = {"numeric": _read_numbers, "boolean": _read_flags}.get(column.input_type)
        if read is None or column.name not in table.column_names or not is_text(table[column.name].type):
            continue
        text = one_chunk(table[column.name])
        values, wrong = read(text)
        expected = "a number" if column.input_type == "numeric" else "true or false"
        for row in np.flatnonzero(wrong).tolist():
            bad.setdefault(row, BadRow(row, column.name, f"expected {expected}, got {_shown(text[row].as_py())}"))
        table = table.set_column(table.column_names.index(column.name), column.name, values)
    return table, list(bad.values())


def with_predictions(table: pa.Table, prediction: Prediction) -> pa.Table:
    """The rows with their predictions: ``prediction`` and ``label``, or a probability for each class.

    A column of the rows keeps its name; ours is called ``predicted_label``, say, where the rows have a ``label``.
    """
    columns: dict[str, Any] = {}
    if prediction.task == "multiclass":
        for index, name in enumerate(prediction.classes):
            columns[f"prediction.{name}"] = pa.array(prediction.values[:, index])
    else:
        columns["prediction"] = pa.array(prediction.values)
    if prediction.task != "regression":
        columns["label"] = pa.array(prediction.labels(), pa.array(list(prediction.classes)).type)
    for name, values in columns.items():
        table = with_free_name(table, name, values)
    return table


def with_free_name(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    """The table with one more column, which gives way where the name is taken."""
    while name in table.column_names:
        name = f"predicted_{name}"
    return table.append_column(name, values)


def _fail_if_asked(bad: Mapping[int, BadRow], plan: BatchPlan, unit: BatchUnit) -> None:
    if bad and plan.on_error == "fail":
        first = bad[min(bad)]
        place = f"{unit.name}, row {unit.first_row + first.row}"
        where = f"{place}, column {first.column!r}" if first.column else place
        raise FeatureError(first.problem, where, "mend it, or set such rows aside with --on-error skip")


def _refused(rows: pa.Table, bad: Sequence[BadRow]) -> pa.Table:
    taken = rows.take(pa.array([found.row for found in bad], pa.int64()))
    taken = with_free_name(taken, "error_column", pa.array([found.column or None for found in bad], pa.string()))
    return with_free_name(taken, "error", pa.array([found.problem for found in bad], pa.string()))


def _faults(table: pa.Table, first: int, check: Callable[[pa.Table], None]) -> "list[tuple[int, FeatureError]]":
    """Row and error of each single row that does not pass; halves what fails until one row is left."""
    try:
        check(table)
        return []
    except FeatureError as error:
        if len(table) == 1:
            return [(first, error)]
    half = len(table) // 2
    return [*_faults(table.slice(0, half), first, check), *_faults(table.slice(half), first + half, check)]


def _read_numbers(text: pa.Array) -> tuple[pa.Array, npt.NDArray[np.bool_]]:
    text = pc.utf8_trim_whitespace(text)
    is_number = pc.match_substring_regex(text, _NUMBER)
    numbers = pc.if_else(is_number, text, pa.scalar(None, text.type)).cast(pa.float64())
    is_missing = pc.match_substring_regex(text, _INFINITE)
    return numbers, _are_true(pc.invert(pc.or_(is_number, is_missing)))


def _read_flags(text: pa.Array) -> tuple[pa.Array, npt.NDArray[np.bool_]]:
    read = [None if word is None else _FLAGS.get(word.strip().lower()) for word in text.to_pylist()]
    flags = pa.array(read, pa.float64())
    return flags, _are_true(pc.and_(text.is_valid(), flags.is_null()))


def _are_true(flags: pa.Array) -> npt.NDArray[np.bool_]:
    return np.asarray(pc.fill_null(flags, False).to_numpy(zero_copy_only=False), bool)


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."
