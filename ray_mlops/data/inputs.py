"""Which columns are model inputs, and what types they have."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ray_mlops.config import DataConfig, FeatureConfig
from ray_mlops.config.data import ColumnType
from ray_mlops.data.columns import canonical_type, column_type, to_canonical
from ray_mlops.data.functions import ArrayFunction, UserFunction, call_function, find_function, record_function
from ray_mlops.data.vectors import vector_length
from ray_mlops.errors import FeatureError


@dataclass(frozen=True, slots=True)
class InputColumn:
    """One raw input of the model."""

    name: str
    input_type: ColumnType
    """Type of the raw value."""
    type: ColumnType
    """Type of the feature: the raw value's, or that of what the user's function makes of it."""
    role: str = "feature"
    """``calendar`` columns get no drift channel; times never do."""
    required: bool = True
    """Whether a request must have the column; where it need not, absent means missing."""
    function: UserFunction | None = None
    length: int = 0
    """Of a vector: how many numbers it has."""

    @property
    def arrow_type(self) -> pa.DataType:
        """Canonical Arrow type of the raw value."""
        return canonical_type(self.input_type, self.length)

    @property
    def where(self) -> str:
        return f"column {self.name!r}"

    def to_json(self) -> dict[str, Any]:
        recorded = {"path": self.function.path, "source_hash": self.function.source_hash} if self.function else None
        return {
            "name": self.name,
            "input_type": self.input_type,
            "type": self.type,
            "role": self.role,
            "required": self.required,
            "function": recorded,
            **({"length": self.length} if self.length else {}),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "InputColumn":
        function = UserFunction(**content["function"]) if content["function"] else None
        return cls(**{**content, "function": function})


def candidate_features(schema: pa.Schema, data: DataConfig) -> list[FeatureConfig]:
    """The features to fit: those listed, or every column that is not used for something else.

    Raises:
        FeatureError: A column has a type that cannot be a feature, or no column is left.
    """
    if data.features is not None:
        return list(data.features)
    used = {data.target, data.event_time, data.id, data.weight, data.split.key, *data.exclude}
    features = [FeatureConfig(name=name) for name in schema.names if name not in used and not name.startswith("__")]
    for feature in features:
        column_type(schema.field(feature.name).type, feature.name)
    if not features:
        raise FeatureError("no column is left to be a feature", "data.features", f"the rows have {schema.names}")
    return features


def resolve_inputs(
    schema: pa.Schema, features: Sequence[FeatureConfig], optional: Collection[str] = ()
) -> tuple[InputColumn, ...]:
    """Settle the types of features against the rows' schema.

    Args:
        schema: The rows' Arrow schema.
        features: As configured.
        optional: Columns that a request may leave out.

    Raises:
        FeatureError: A column is not there, cannot be a feature, or its function cannot be imported.
    """
    return tuple(_resolve(schema, feature, feature.name not in optional) for feature in features)


def load_functions(inputs: Sequence[InputColumn]) -> dict[str, ArrayFunction]:
    """The user functions of columns that were just configured, by column."""
    return {column.name: find_function(column.function.path, column.where) for column in inputs if column.function}


def canonical_column(table: pa.Table, column: InputColumn) -> pa.Array:
    """A raw input in its canonical Arrow type; an optional column that is absent is all missing.

    Raises:
        FeatureError: The column is absent, or holds values of another type.
    """
    if column.name in table.column_names:
        return to_canonical(table[column.name], column.input_type, column.name, column.length)
    if column.required:
        raise missing_column(column.name)
    return pa.nulls(len(table), column.arrow_type)


def feature_column(raw: pa.Array, column: InputColumn, function: ArrayFunction | None) -> pa.Array:
    """What the encoder sees of a canonical raw input: itself, or what the user's function makes of it."""
    if function is None:
        return raw
    return to_canonical(call_function(function, raw, column.where), column.type, column.name)


def missing_column(name: str) -> FeatureError:
    """The error for a required column that is not there."""
    remedy = "send it (null is allowed), or set its contract to 'required: false'"
    return FeatureError("the column is missing", f"column {name!r}", remedy)


def _resolve(schema: pa.Schema, feature: FeatureConfig, required: bool) -> InputColumn:
    name = feature.name
    if name not in schema.names:
        raise FeatureError("no such column", f"data.features: {name}", f"the rows have {', '.join(schema.names)}")
    arrow = schema.field(name).type
    found = column_type(arrow, name) if feature.type == "auto" or feature.function else feature.type
    length = _length(arrow, name) if found == "vector" else 0
    if feature.function is None:
        _check_options(feature, found)
        return InputColumn(name, found, found, _role(feature, found), required, length=length)
    function = find_function(feature.function, f"column {name!r}")
    result = feature.type
    if result == "auto":
        empty = pa.array([], canonical_type(found, length))
        result = column_type(call_function(function, empty, f"column {name!r}").type, name)
    if result == "vector":
        remedy = "let it return one value for each row, or make the vectors in the source"
        raise FeatureError("a function cannot return vectors", f"data.features: {name}", remedy)
    recorded = record_function(feature.function, f"column {name!r}")
    return InputColumn(name, found, result, _role(feature, found), required, recorded, length)


def _length(arrow: pa.DataType, name: str) -> int:
    """The length of a column's vectors, where its type is one of vectors and says it."""
    where = f"column {name!r}"
    if column_type(arrow, name) != "vector":
        remedy = "give it as lists in Parquet or JSON lines; CSV has none"
        raise FeatureError(f"a column of type {arrow} holds no vectors", where, remedy)
    if not vector_length(arrow):
        remedy = f"say data.contract.columns.{name}: {{type: vector, length: ...}}, or add it to data.exclude"
        raise FeatureError("its lists differ in length, or nobody has looked", where, remedy)
    return vector_length(arrow)


def _check_options(feature: FeatureConfig, kind: ColumnType) -> None:
    """Refuse options that a vector has no use for."""
    chosen = {"scale": feature.scale, "encoding": feature.encoding}
    odd = [f"{name}: {value}" for name, value in chosen.items() if value not in ("standard", "none")]
    odd += [name for name in ("impute", "fill_value", "period") if name in feature.model_fields_set]
    if kind == "vector" and odd:
        remedy = "a vector takes 'scale: standard' or 'none'; a missing one becomes zeros"
        raise FeatureError(f"{', '.join(odd)} cannot be had of a vector", f"data.features: {feature.name}", remedy)


def _role(feature: FeatureConfig, kind: ColumnType) -> str:
    return "calendar" if kind == "datetime" else feature.role
