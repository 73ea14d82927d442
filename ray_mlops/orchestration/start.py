"""The first steps: a configuration for a data file, and a look at the rows behind a configuration."""

import re
import time
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ray_mlops.config import DataConfig, ProjectConfig, SourceConfig
from ray_mlops.data.contract import ContractReport
from ray_mlops.data.inputs import candidate_features
from ray_mlops.data.schema import check_contract, infer_contract
from ray_mlops.data.source import source_table
from ray_mlops.data.target import TargetEncoder
from ray_mlops.errors import ConfigError, FeatureError

_FEW_VALUES = 20
"""Integers with at most this many distinct values are taken for classes."""


def propose_config(
    path: str, *, target: str, task: str | None = None, event_time: str | None = None, name: str | None = None
) -> dict[str, Any]:
    """Look at a data file and propose a configuration: task, features, event time, contract.

    Args:
        path: Parquet, CSV or JSON lines; a path or URI.
        target: The column to predict.
        task: None goes by the target's values.
        event_time: None takes the only timestamp column, if there is one.
        name: None goes by the file's name.

    Raises:
        SourceError: The file is missing, empty or unreadable.
        ConfigError: There is no such column.
        ContractError: The target cannot be learnt.
    """
    table = source_table(SourceConfig(path=path))
    for column in (target, event_time):
        if column is not None and column not in table.column_names:
            raise ConfigError(f"no column {column!r}", path, f"it has {', '.join(table.column_names)}")
    moment = event_time or _only_timestamp(table)
    source = {"path": path if "://" in path else str(PurePosixPath(path))}
    content: dict[str, Any] = {
        "source": source,
        "task": task or guess_task(table[target]),
        "target": target,
    }
    if moment is not None:
        content["event_time"] = moment
    data = DataConfig.model_validate(content)
    TargetEncoder.fit(table, data)
    content["features"], excluded = _features(table, data)
    if excluded:
        content["exclude"] = excluded
    contract = infer_contract(table, data).to_config().model_dump(mode="json", exclude_unset=True)
    content["contract"] = {"columns": {name: _rule(rule) for name, rule in contract["columns"].items()}}
    return {"name": name or _name_of(path), "data": content}


def guess_task(column: pa.ChunkedArray) -> str:
    """Binary for two values, multiclass for a few or for text, else regression."""
    distinct = pc.count_distinct(column).as_py()
    if distinct <= 2:
        return "binary"
    is_number = pa.types.is_floating(column.type) or pa.types.is_decimal(column.type)
    if is_number or (pa.types.is_integer(column.type) and distinct > _FEW_VALUES):
        return "regression"
    return "multiclass"


def check_data(config: ProjectConfig) -> ContractReport:
    """Read the source without Ray and check the data contract; nothing is quarantined."""
    table = source_table(config.data.source, event_time=config.data.event_time)
    TargetEncoder.fit(table, config.data)
    contract = infer_contract(table, config.data)
    _, report = check_contract(table, contract, config.data, time.time())
    return report


def _features(table: pa.Table, data: DataConfig) -> tuple[list[dict[str, Any]], list[str]]:
    """Features by column, and the columns that cannot be any."""
    excluded: list[str] = []
    while True:
        try:
            chosen = candidate_features(table.schema, data.model_copy(update={"exclude": excluded}))
        except FeatureError as error:
            column = next((n for n in table.column_names if repr(n) in str(error) or n in error.where), None)
            if column is None or column in excluded:
                raise
            excluded.append(column)
            continue
        break
    kept = []
    for feature in chosen:
        values = table[feature.name]
        if values.null_count == len(values) or pc.count_distinct(values).as_py() <= 1:
            excluded.append(feature.name)
        else:
            kept.append({"name": feature.name, "type": feature.type})
    return kept, excluded


def _only_timestamp(table: pa.Table) -> str | None:
    found = [field.name for field in table.schema if pa.types.is_timestamp(field.type) or pa.types.is_date(field.type)]
    return found[0] if len(found) == 1 else None


def _name_of(path: str) -> str:
    stem = PurePosixPath(path.rstrip("/")).name.split(".")[0].lower()
    cleaned = re.sub(r"[^a-z0-9_-]+", "-", stem).strip("-")
    return (cleaned if cleaned[:1].isalpha() else f"model-{cleaned}")[:60] or "model"


def _rule(rule: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in rule.items() if value is not None}
