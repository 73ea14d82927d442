"""The data contract: what rows must look like. Pure; ``inspection`` holds rows against it, ``schema`` datasets.

Two kinds of trouble. A *bad row* (a null where none may be, a value out of range or outside a closed domain,
a duplicate of something unique, text that is no number) is set aside with its reasons. A *breach* is trouble
with the dataset (a column is missing or of the wrong type, too many nulls, too few rows, too old, too many
bad rows): nothing is trained on it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
from pydantic import ValidationError

from ray_mlops.config import ColumnContract, ContractConfig, DataConfig
from ray_mlops.config.data import ColumnType
from ray_mlops.data.columns import column_type
from ray_mlops.data.vectors import usual_length, vector_length
from ray_mlops.errors import ContractError, DataError, FeatureError

SCHEMA_VERSION = 1
NULL_SLACK = 0.05
"""An inferred contract allows twice the null ratio that was seen, plus this."""


@dataclass(frozen=True, slots=True)
class Contract:
    """What rows must look like."""

    columns: Mapping[str, ColumnContract]
    min_rows: int = 1
    freshness_s: float | None = None
    max_quarantine_ratio: float = 1.0
    event_time: str | None = None
    """Rows without an event time are bad rows."""

    @property
    def optional_columns(self) -> frozenset[str]:
        """Columns that rows and requests may leave out."""
        return frozenset(name for name, rule in self.columns.items() if not rule.required)

    def to_config(self) -> ContractConfig:
        """The same as a section of the configuration, with nothing left to infer."""
        return ContractConfig(
            infer=False,
            columns=dict(self.columns),
            min_rows=self.min_rows,
            freshness=f"{self.freshness_s:f}s" if self.freshness_s is not None else None,
            max_quarantine_ratio=self.max_quarantine_ratio,
        )

    def to_json(self) -> dict[str, Any]:
        columns = {name: rule.model_dump(mode="json", exclude_unset=True) for name, rule in self.columns.items()}
        return {
            "schema_version": SCHEMA_VERSION,
            "columns": columns,
            "min_rows": self.min_rows,
            "freshness_s": self.freshness_s,
            "max_quarantine_ratio": self.max_quarantine_ratio,
            "event_time": self.event_time,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Contract":
        version = content.get("schema_version")
        if version != SCHEMA_VERSION:
            raise DataError(f"schema_version {version!r}, this release reads {SCHEMA_VERSION}", "contract")
        columns = {name: ColumnContract(**rule) for name, rule in content["columns"].items()}
        rest = {name: value for name, value in content.items() if name not in ("schema_version", "columns")}
        return cls(columns, **rest)


@dataclass(frozen=True, slots=True)
class ContractReport:
    """What a check found."""

    rows: int
    good: int
    quarantined: int
    reasons: Mapping[str, int]
    """Bad rows by reason; a row with several counts in each."""
    breaches: tuple[str, ...]
    null_ratios: Mapping[str, float] = field(default_factory=dict)
    newest_us: int | None = None
    """Greatest event time of the good rows."""
    quarantine: str = ""
    """Directory of the bad rows, relative to the store; empty where there are none."""

    def raise_if_broken(self) -> None:
        """Raise when the contract is broken.

        Raises:
            ContractError: Lists every breach.
        """
        if self.breaches:
            remedy = "mend the source; if the data are right, change data.contract"
            raise ContractError("; ".join(self.breaches), "data.contract", remedy)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "ContractReport":
        return cls(**{**content, "breaches": tuple(content["breaches"])})


def infer_contract(
    schema: pa.Schema,
    null_counts: Mapping[str, int],
    rows: int,
    data: DataConfig,
    lengths: Mapping[str, Mapping[int, int]] | None = None,
) -> Contract:
    """The contract of a first snapshot, under what the configuration says.

    Types and null ratios come from the rows, with slack; ranges and domains are never closed by inference.
    The identifier is unique, weights are non-negative numbers.

    Args:
        schema: Of the rows.
        null_counts: Missing values by column; see ``count_nulls``.
        rows: How many there are.
        data: Roles of columns, and ``contract``, whose fields win where they are set.
        lengths: Of columns of lists: how many are how long; see ``count_list_lengths``.

    Raises:
        ContractError: What is declared of a column does not fit what it was found to be.
    """
    config = data.contract
    columns: dict[str, ColumnContract] = {}
    names = schema.names if data.features is None else [*(feature.name for feature in data.features), *_roles(data)]
    for name in schema.names if config.infer else ():
        if name in names and not name.startswith("__"):
            ratio = null_counts.get(name, 0) / max(rows, 1)
            length = usual_length((lengths or {}).get(name, {}))
            columns[name] = _inferred(schema.field(name), ratio, name not in data.exclude, length)
    for name in _roles(data):
        columns.setdefault(name, ColumnContract())
    if data.id is not None:
        columns[data.id] = _merged(columns.get(data.id), ColumnContract(unique=True, max_null_ratio=0))
    if data.weight is not None:
        rule = ColumnContract(type="numeric", min=0, max_null_ratio=0)
        columns[data.weight] = _merged(columns.get(data.weight), rule)
    for name, declared in config.columns.items():
        try:
            columns[name] = _merged(columns.get(name), declared)
        except ValidationError as error:
            problem = "; ".join(str(item["msg"]).removeprefix("Value error, ") for item in error.errors())
            raise ContractError(problem, f"data.contract.columns.{name}", "see what the column holds") from None
    freshness = None if config.freshness is None else config.freshness.total_seconds()
    return Contract(columns, config.min_rows, freshness, config.max_quarantine_ratio, data.event_time)


def dataset_breaches(
    contract: Contract, rows: int, good: int, null_counts: Mapping[str, int], newest_us: int | None, now: float
) -> list[str]:
    """Breaches that only all rows together can show.

    Args:
        contract: The contract.
        rows: All rows.
        good: Rows with nothing against them.
        null_counts: Missing values by column.
        newest_us: Greatest event time of good rows, microseconds.
        now: Unix seconds: the clock, or the as-of time of a retraining.
    """
    if not rows:
        return ["there are no rows"]
    limits = {name: rule.max_null_ratio for name, rule in contract.columns.items()}
    breaches = [
        f"column {name!r}: {count / rows:.4f} of the values are missing, at most {limits[name]:g} may be"
        for name, count in null_counts.items()
        if 0 < limits[name] < count / rows
    ]
    if good < contract.min_rows:
        breaches.append(f"{good} good rows, at least {contract.min_rows} are needed")
    if (rows - good) / rows > contract.max_quarantine_ratio:
        share = f"{(rows - good) / rows:.4f}"
        breaches.append(f"{rows - good} bad rows are {share} of all, at most {contract.max_quarantine_ratio:g}")
    if contract.freshness_s is not None and newest_us is not None and now - newest_us / 1e6 > contract.freshness_s:
        age = now - newest_us / 1e6
        breaches.append(f"the newest row is {age:.0f} s old, at most {contract.freshness_s:.0f} s")
    return breaches


def _roles(data: DataConfig) -> list[str]:
    names: Sequence[str | None] = (data.target, data.event_time, data.id, data.weight, data.split.key)
    return [name for name in names if name is not None]


def _inferred(field: pa.Field, ratio: float, required: bool, length: int | None) -> ColumnContract:
    try:
        kind: ColumnType | None = column_type(field.type, field.name)
    except FeatureError:  # a list or struct: nothing to check but that it is there
        kind = None
    if pa.types.is_null(field.type):
        kind = None
    found: dict[str, Any] = {}
    if kind == "vector":
        length = vector_length(field.type) or length
        kind = "vector" if length and required else None  # lists of many lengths, or that nobody uses
        found = {"length": length} if kind else {}
    null_ratio = round(min(1.0, 2 * ratio + NULL_SLACK), 4)
    return ColumnContract(type=kind, **found, required=required, max_null_ratio=null_ratio)


def _merged(known: ColumnContract | None, declared: ColumnContract) -> ColumnContract:
    """What was declared, over what was inferred."""
    chosen = {name: getattr(declared, name) for name in declared.model_fields_set}
    inferred = {name: getattr(known, name) for name in known.model_fields_set} if known else {}
    return ColumnContract(**{**inferred, **chosen})
