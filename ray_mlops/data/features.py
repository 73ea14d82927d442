"""``FeaturePipeline``: the one object that turns raw rows into a model's inputs, wherever that happens.

What becomes of odd values, everywhere alike:

- *missing* (null, NaN, infinity, ``""`` in a category): numbers are imputed, with an indicator where the
  fitted rows had missing values too; categories get id 0; times get zeros in every part.
- *unknown category*: id 1.
- *out of range*: numbers are scaled on linearly up to 10,000 units; quantile and piecewise-linear encodings
  saturate; years stop 100 from the fitted middle.
- *vectors*: a missing one becomes zeros (the mean, where they are scaled), with an indicator as numbers have;
  one of another length, or with a null, NaN or infinity in it, is of the wrong type.
- *wrong type*: ``FeatureError`` naming column and row. Nothing is guessed: ``"12"`` is no number.
- *missing column*: ``FeatureError``, unless its contract says ``required: false``; then all its values are
  missing. *Unknown columns* are ignored here; ``check_columns`` tells of both.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ray_mlops.config import FeatureConfig
from ray_mlops.data import columns as read
from ray_mlops.data.encoders import CategoryEncoder, DatetimeEncoder, NumericEncoder, NumericKernel, VectorEncoder
from ray_mlops.data.fitting import Encoder, fit_encoder, reasons_to_drop
from ray_mlops.data.functions import ArrayFunction, load_trusted
from ray_mlops.data.inputs import InputColumn, canonical_column, feature_column, load_functions, resolve_inputs
from ray_mlops.data.rows import RawValues, Row, RowReader
from ray_mlops.data.statistics_pass import PassPlan, Statistics, table_statistics
from ray_mlops.data.values import MISSING_US
from ray_mlops.data.vectors import vector_matrix, with_fixed_lengths
from ray_mlops.errors import BundleError, FeatureError

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1
_ENCODERS: dict[str, type[Encoder]] = {
    "numeric": NumericEncoder,
    "boolean": NumericEncoder,
    "categorical": CategoryEncoder,
    "datetime": DatetimeEncoder,
    "vector": VectorEncoder,
}


@dataclass(frozen=True, slots=True)
class FeatureMatrix:
    """A model's inputs for n rows."""

    numeric: npt.NDArray[np.float32]
    """[n, d]"""
    categorical: npt.NDArray[np.int64]
    """[n, c]; 0 is missing, 1 unknown, 2 onwards the vocabulary."""

    def __len__(self) -> int:
        return len(self.numeric)

    def take(self, rows: Any) -> "FeatureMatrix":
        """Some rows, by indices, mask or slice."""
        return FeatureMatrix(self.numeric[rows], self.categorical[rows])

    @staticmethod
    def concatenate(parts: Iterable["FeatureMatrix"]) -> "FeatureMatrix":
        """Rows of several matrices, one after the other."""
        found = list(parts)
        numeric = np.concatenate([part.numeric for part in found])
        return FeatureMatrix(numeric, np.concatenate([part.categorical for part in found]))


class FeaturePipeline:
    """Fitted features: made by ``fit_table`` or ``fit_features_and_profile``, then immutable.

    Args:
        columns: The raw inputs, in the order of the model's inputs.
        encoders: The fitted encoder of each.
        functions: The user function of each column that has one.
        dropped: Columns that were left out, with the reason.

    Attributes:
        columns: Raw inputs with their types.
        numeric_names: Names of the numeric inputs [d].
        categorical_names: Names of the categorical inputs [c].
        categorical_sizes: Number of ids of each [c].
        dropped: As given.

    Example:
        >>> table = pa.table({"age": [20, 30, None], "city": ["a", "b", "a"]})
        >>> pipeline = FeaturePipeline.fit_table(table, [FeatureConfig(name="age"), FeatureConfig(name="city")])
        >>> matrix = pipeline.transform_rows([{"age": 25, "city": "elsewhere"}])
        >>> pipeline.numeric_names, matrix.numeric, matrix.categorical
        (('age', 'age:missing'), array([[0., 0.]], dtype=float32), array([[1]]))
    """

    def __init__(
        self,
        columns: Sequence[InputColumn],
        encoders: Sequence[Encoder],
        functions: Mapping[str, ArrayFunction] | None = None,
        dropped: Mapping[str, str] | None = None,
    ) -> None:
        if not columns:
            remedy = f"dropped: {dict(dropped)}" if dropped else ""
            raise FeatureError("no feature is left", "data.features", remedy)
        self.columns = tuple(columns)
        self.dropped = dict(dropped or {})
        self._encoders = tuple(encoders)
        self._functions = dict(functions or {})
        pairs = list(zip(self.columns, self._encoders, strict=True))
        numbers = [(column, encoder) for column, encoder in pairs if isinstance(encoder, NumericEncoder)]
        numbers.sort(key=lambda pair: pair[0].type == "boolean")  # stable: numbers, then booleans
        self._numbers = [column for column, _ in numbers]
        self._words = [(column, encoder) for column, encoder in pairs if isinstance(encoder, CategoryEncoder)]
        self._times = [(column, encoder) for column, encoder in pairs if isinstance(encoder, DatetimeEncoder)]
        self._kernel = NumericKernel([column.name for column in self._numbers], [encoder for _, encoder in numbers])
        self._vectors = [(column, encoder) for column, encoder in pairs if isinstance(encoder, VectorEncoder)]
        times, vectors = [column for column, _ in self._times], [column for column, _ in self._vectors]
        self._reader = RowReader(self._numbers, self._words, times, vectors)
        named = [(name, column.name) for column, encoder in self._times for name in encoder.names(column.name)]
        named += [(name, column.name) for column, encoder in self._vectors for name in encoder.names(column.name)]
        self._owners = [*self._kernel.owners, *(owner for _, owner in named)]
        self.numeric_names: tuple[str, ...] = (*self._kernel.names, *(name for name, _ in named))
        self.categorical_names: tuple[str, ...] = tuple(column.name for column, _ in self._words)
        self.categorical_sizes: tuple[int, ...] = tuple(encoder.size for _, encoder in self._words)

    @classmethod
    def fit_table(
        cls, table: pa.Table, features: Sequence[FeatureConfig], *, optional: Collection[str] = (), infer: bool = False
    ) -> "FeaturePipeline":
        """Fit on a table, without Ray; the same result as the pass over a dataset.

        Args:
            table: The rows to fit on.
            features: As configured, or ``candidate_features(table.schema, data)``.
            optional: Columns that a request may leave out.
            infer: The features were not listed by name: drop those that cannot help.

        Raises:
            FeatureError: A column is not there or cannot be a feature, or none is left.
        """
        table = with_fixed_lengths(table)
        inputs = resolve_inputs(table.schema, features, optional)
        statistics = table_statistics(table, PassPlan(inputs, None, len(table)))
        return cls.from_statistics(inputs, features, statistics, infer=infer)

    @classmethod
    def from_statistics(
        cls, inputs: Sequence[InputColumn], features: Sequence[FeatureConfig], statistics: Statistics, *, infer: bool
    ) -> "FeaturePipeline":
        """Fit from the statistics of a pass; see ``fit_table``."""
        if not statistics.train_rows:
            raise FeatureError("there are no rows to fit features on", "data.features", "check the split")
        dropped = reasons_to_drop(inputs, statistics.columns) if infer else {}
        kept = [(column, config) for column, config in zip(inputs, features, strict=True) if column.name not in dropped]
        encoders = [fit_encoder(config, column, statistics.columns[column.name]) for column, config in kept]
        columns = [column for column, _ in kept]
        logger.info("fitted features columns=%d rows=%d dropped=%s", len(columns), statistics.train_rows, list(dropped))
        return cls(columns, encoders, load_functions(columns), dropped)

    def transform(self, table: pa.Table) -> FeatureMatrix:
        """Features of a table; equal to the bit to ``transform_rows`` of the same rows.

        Raises:
            FeatureError: A value of the wrong type, or a missing column.
        """
        features = {
            column.name: feature_column(canonical_column(table, column), column, self._functions.get(column.name))
            for column in self.columns
        }
        numbers = np.empty((len(table), len(self._numbers)))
        for index, column in enumerate(self._numbers):
            values = read.numeric_values if column.type == "numeric" else read.boolean_values
            numbers[:, index] = values(features[column.name], column.name)
        ids = np.empty((len(table), len(self._words)), np.int64)
        for index, (column, encoder) in enumerate(self._words):
            ids[:, index] = encoder.ids(features[column.name])
        times = [read.time_values(features[column.name], column.name) for column, _ in self._times]
        vectors = [vector_matrix(features[column.name], column.length, column.name) for column, _ in self._vectors]
        return self._encode(RawValues(numbers, ids, times, vectors))

    def transform_rows(self, rows: Sequence[Row]) -> FeatureMatrix:
        """Features of JSON-like rows; the fast path of serving, about 10 microseconds a row.

        Raises:
            FeatureError: A value of the wrong type, a missing column, or a row that is no mapping.
        """
        if self._functions:
            return self.transform(self.to_table(rows))
        return self._encode(self._reader.read(rows))

    def check_columns(self, names: Iterable[str]) -> tuple[list[str], list[str]]:
        """Required columns that are missing from the names, and names that are no inputs."""
        given = list(names)
        found = set(given)
        known = {column.name for column in self.columns}
        missing = [column.name for column in self.columns if column.required and column.name not in found]
        return missing, [name for name in given if name not in known]

    def check_column(self, table: pa.Table, name: str) -> None:
        """Read one raw input of a table, without the others.

        Raises:
            FeatureError: A value of the wrong type.
        """
        column = next(column for column in self.columns if column.name == name)
        feature_column(canonical_column(table, column), column, self._functions.get(name))

    def input_schema(self) -> pa.Schema:
        """Arrow types of the raw inputs, as logs and protocols carry them."""
        return pa.schema([(column.name, column.arrow_type) for column in self.columns])

    def to_table(self, rows: Sequence[Row]) -> pa.Table:
        """JSON-like rows as a table in ``input_schema``; missing values are nulls.

        Raises:
            FeatureError: As ``transform_rows``.
        """
        values = [self._reader.values(row, index) for index, row in enumerate(rows)]
        arrays = [
            read.canonical_from_values(
                [row[column.name] for row in values], column.input_type, column.name, column.length
            )
            for column in self.columns
        ]
        return pa.table(arrays, schema=self.input_schema())

    def canonical_table(self, table: pa.Table) -> pa.Table:
        """The raw inputs of any table in ``input_schema``; other columns are left out.

        Raises:
            FeatureError: As ``transform``.
        """
        arrays = [canonical_column(table, column) for column in self.columns]
        return pa.table(arrays, schema=self.input_schema())

    def input_positions(self, name: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Where a raw column went: its positions among the numeric and among the categorical inputs."""
        numeric = tuple(index for index, owner in enumerate(self._owners) if owner == name)
        return numeric, tuple(index for index, owner in enumerate(self.categorical_names) if owner == name)

    def to_json(self) -> dict[str, Any]:
        """Everything, as plain JSON values."""
        pairs = zip(self.columns, self._encoders, strict=True)
        columns = [{"column": column.to_json(), "encoder": encoder.to_json()} for column, encoder in pairs]
        return {"schema_version": SCHEMA_VERSION, "columns": columns, "dropped": self.dropped}

    @classmethod
    def from_json(cls, content: Mapping[str, Any], trusted: Sequence[str] = ()) -> "FeaturePipeline":
        """Rebuild a pipeline.

        Args:
            content: From ``to_json``.
            trusted: Packages whose modules may be imported for user functions; none by default.

        Raises:
            BundleError: It is damaged, was written by a newer release, or names a function that is not trusted.
            FeatureError: A user function's source has changed.
        """
        version = content.get("schema_version")
        if version != SCHEMA_VERSION:
            raise BundleError(f"schema_version {version!r}, this release reads {SCHEMA_VERSION}", "feature pipeline")
        try:
            columns = [InputColumn.from_json(entry["column"]) for entry in content["columns"]]
            encoders = [
                _ENCODERS[column.type].from_json(entry["encoder"])
                for column, entry in zip(columns, content["columns"], strict=True)
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(f"the stored pipeline is damaged: {error!r}", "feature pipeline") from error
        functions = {
            column.name: load_trusted(column.function, trusted, column.where) for column in columns if column.function
        }
        return cls(columns, encoders, functions, content.get("dropped"))

    @property
    def content_hash(self) -> str:
        """Hash of everything fitted; 16 hexadecimal digits."""
        canonical = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FeaturePipeline) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash(self.content_hash)

    def __reduce__(self) -> tuple[Callable[..., "FeaturePipeline"], tuple[dict[str, Any], list[str]]]:
        modules = [column.function.path.partition(":")[0] for column in self.columns if column.function]
        return FeaturePipeline.from_json, (self.to_json(), modules)

    def _encode(self, raw: RawValues) -> FeatureMatrix:
        numeric = np.empty((len(raw.numbers), len(self.numeric_names)), np.float32)
        self._kernel.encode(raw.numbers, numeric)
        at = len(self._kernel.names)
        for (_, encoder), times in zip(self._times, raw.times, strict=True):
            inputs = encoder.encode(times, times == MISSING_US)
            numeric[:, at : at + inputs.shape[1]] = inputs
            at += inputs.shape[1]
        if self._vectors:
            parts = [scaler.encode(v) for (_, scaler), v in zip(self._vectors, raw.vectors, strict=True)]
            numeric[:, at:] = np.concatenate(parts, axis=1)
        return FeatureMatrix(numeric, raw.ids)
