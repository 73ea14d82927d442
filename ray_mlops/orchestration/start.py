"""The first steps: a configuration for a data file, and a look at the rows behind a configuration."""

import re
import time
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa

from ray_mlops.config import DataConfig, ProjectConfig, SourceConfig, build_config
from ray_mlops.data.columns import column_type, missing_values, one_chunk
from ray_mlops.data.contract import ContractReport
from ray_mlops.data.features import FeaturePipeline
from ray_mlops.data.fitting import ID_RATIO, ID_ROWS
from ray_mlops.data.hashing import hash_column
from ray_mlops.data.inputs import candidate_features
from ray_mlops.data.readers import check_columns, normalise_event_time
from ray_mlops.data.schema import check_contract, infer_contract
from ray_mlops.data.source import source_table
from ray_mlops.data.split import split_table
from ray_mlops.data.target import NOTHING_TO_LEARN, TargetEncoder, labelled_rows
from ray_mlops.data.vectors import count_lengths, usual_length, vector_length
from ray_mlops.errors import ConfigError, ContractError, FeatureError

_FEW_VALUES = 20
"""Whole numbers with at most this many distinct values are taken for classes."""
_MIN_TIMES = 3
"""A column with fewer different times cannot part training, validation and holdout."""
_ID_NAME = re.compile(r"(^|[_. -])(id|uuid|guid|key)$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Proposal:
    """A configuration for a data file, and what was decided on the way."""

    content: dict[str, Any]
    """The configuration file's content; valid as it is."""
    notes: tuple[str, ...]
    """Guesses and omissions, for the person who is to check them."""


def propose_config(
    path: str, *, target: str, task: str | None = None, event_time: str | None = None, name: str | None = None
) -> Proposal:
    """Look at a data file and propose a configuration: task, features, event time, identifier, contract.

    Args:
        path: Parquet, CSV or JSON lines; a path or URI.
        target: The column to predict.
        task: None goes by the target's values.
        event_time: None takes the only timestamp column, if there is one.
        name: None goes by the file's name.

    Raises:
        SourceError: The file is missing, empty or unreadable, or the event time is no time.
        ConfigError: There is no such column, or the name is no model's name.
        ContractError: The target cannot be learnt.
    """
    table = source_table(SourceConfig(path=path))
    for column in (target, event_time):
        if column is not None and column not in table.column_names:
            raise ConfigError(f"no column {column!r}", path, f"it has {', '.join(table.column_names)}")
    times = [event_time] if event_time else _times(table, target)
    moment = times[0] if len(times) == 1 else None
    table = normalise_event_time(table, moment, path)
    identifier = _identifier(table, {target, moment})
    roles = {"event_time": moment, "id": identifier}
    content: dict[str, Any] = {
        "source": {"path": path if "://" in path else str(PurePosixPath(path))},
        "task": task or guess_task(table[target], f"data.target: {target}"),
        "target": target,
        **{role: column for role, column in roles.items() if column is not None},
    }
    TargetEncoder.fit(table, DataConfig.model_validate(content))
    used = {target, moment, identifier}
    reasons = {column: _reason_to_exclude(table, column) for column in table.column_names if column not in used}
    excluded = {column: reason for column, reason in reasons.items() if reason}
    if len(excluded) == len(reasons):
        problem = "no column is left to be a feature"
        left_out = "; ".join(f"{column!r} {reason}" for column, reason in excluded.items())
        raise FeatureError(problem, path, f"left out: {left_out}" if left_out else f"it has only {target!r}")
    content["features"] = [{"name": column, "type": "auto"} for column in reasons if column not in excluded]
    if excluded:
        content["exclude"] = list(excluded)
    rules = infer_contract(table, DataConfig.model_validate(content)).to_config()
    rules_by_column = rules.model_dump(mode="json", exclude_unset=True)["columns"]
    # The type of an identifier is left open: prediction ids, which are text, take its place in a retraining.
    content["contract"] = {
        "columns": {column: _rule(r) for column, r in rules_by_column.items() if column != identifier}
    }
    proposed = {"name": name or _name_of(path), "data": content}
    build_config(proposed, {})
    return Proposal(proposed, _notes(moment, times, identifier, excluded))


def guess_task(column: pa.ChunkedArray, where: str = "data.target") -> str:
    """Binary for two values, multiclass for a few or for text, else regression.

    Raises:
        ContractError: The column is empty, holds times or nested values, or has a value of its own in most rows.
    """
    array = one_chunk(column)
    try:
        kind = column_type(array.type, "")
    except FeatureError:
        kind = None
    if kind in (None, "datetime", "vector"):
        remedy = "make it a number or a few classes in the source, or give another target"
        raise ContractError(f"a column of type {array.type} cannot be predicted as it is", where, remedy)
    present = array.filter(pa.array(~missing_values(array)))
    values = present.unique() if len(present) else present
    if len(values) == 0:
        raise ContractError("the target is missing in every row", where, NOTHING_TO_LEARN)
    if len(values) <= 2:
        return "binary"
    if kind == "numeric":
        is_class = len(values) <= _FEW_VALUES and all(float(value).is_integer() for value in values.to_pylist())
        return "multiclass" if is_class else "regression"
    if len(values) > len(present) / 2:
        problem = f"it has {len(values)} different texts in {len(present)} rows"
        raise ContractError(problem, where, "is it an identifier? give another target, or say --task multiclass")
    return "multiclass"


def check_data(config: ProjectConfig) -> ContractReport:
    """Read the source without Ray, check the data contract, and see that features can be made of the rows.

    Nothing is quarantined. Features and the split are only tried where the contract holds.

    Raises:
        SourceError: The source is missing, empty or unreadable.
        ContractError: The target cannot be learnt.
        FeatureError: A feature is absent, or holds values of another type.
        DataError: Training, validation or holdout would have no row.
    """
    data = config.data
    table = source_table(data.source, event_time=data.event_time)
    named = [*config.evaluation.slices, *config.evaluation.fairness.groups]
    check_columns(table.column_names, named, "evaluation.slices, evaluation.fairness.groups")
    TargetEncoder.fit(table, data)
    contract = infer_contract(table, data)
    good, report = check_contract(table, contract, data, time.time())
    if not report.breaches:
        labelled = labelled_rows(good, data)
        features = candidate_features(labelled.schema, data)
        pipeline = FeaturePipeline.fit_table(labelled, features, optional=contract.optional_columns)
        pipeline.transform(labelled)
        split_table(labelled, data)
    return report


def _times(table: pa.Table, target: str) -> list[str]:
    """Columns that could be the event time: timestamps in every row, at several times."""
    found = []
    for field in table.schema:
        if field.name != target and (pa.types.is_timestamp(field.type) or pa.types.is_date(field.type)):
            array = one_chunk(table[field.name])
            if array.null_count == 0 and len(array.unique()) >= _MIN_TIMES:
                found.append(field.name)
    return found


def _identifier(table: pa.Table, used: set[str | None]) -> str | None:
    """The first column that is named like an identifier and has a value of its own in every row."""
    for field in table.schema:
        if field.name in used or not _ID_NAME.search(field.name):
            continue
        if not (
            pa.types.is_integer(field.type) or pa.types.is_string(field.type) or pa.types.is_large_string(field.type)
        ):
            continue
        array = one_chunk(table[field.name])
        if not missing_values(array).any() and len(array.unique()) == len(array) > 1:
            return str(field.name)
    return None


def _reason_to_exclude(table: pa.Table, column: str) -> str:
    """Why a column cannot be a feature; empty where it can."""
    array = one_chunk(table[column])
    if column.startswith("__"):
        return "has a name that is reserved"
    try:
        kind = column_type(array.type, column)
    except FeatureError:
        return f"is of type {array.type}"
    present = array.filter(pa.array(~missing_values(array)))
    if not len(present):
        return "has no value"
    if kind == "vector" and not (vector_length(array.type) or usual_length(count_lengths(array))):
        return f"is of type {array.type}, and its lists differ in length"
    distinct = len(np.unique(hash_column(present))) if kind == "vector" else len(present.unique())
    if distinct == 1 and len(present) == len(array):
        return "is the same in every row"
    if kind == "categorical" and len(present) > ID_ROWS and distinct > ID_RATIO * len(present):
        return f"looks like an identifier: {distinct} different values"
    return ""


def _notes(moment: str | None, times: list[str], identifier: str | None, excluded: dict[str, str]) -> tuple[str, ...]:
    notes = []
    if moment is not None:
        notes.append(f"event time: {moment!r} (split by time, drift by its windows)")
    elif times:
        notes.append(f"no event time was chosen; {', '.join(map(repr, times))} could be it: give --event-time")
    if identifier is not None:
        notes.append(f"identifier: {identifier!r} (no feature)")
    return (*notes, *(f"left out: {column!r} {reason}" for column, reason in excluded.items()))


def _name_of(path: str) -> str:
    stem = PurePosixPath(path.rstrip("/")).name.split(".")[0].lower()
    cleaned = re.sub(r"[^a-z0-9_-]+", "-", stem).strip("-_")
    return (cleaned if cleaned[:1].isalpha() else f"model-{cleaned}".rstrip("-"))[:60]


def _rule(rule: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in rule.items() if value is not None}
