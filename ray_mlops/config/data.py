"""Rows: where they come from, what they must look like, how they are split and turned into features."""

from typing import Any, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from ray_mlops.config.section import DottedPath, Duration, Section

ColumnType = Literal["numeric", "categorical", "boolean", "datetime", "vector"]
Task = Literal["binary", "multiclass", "regression"]
Scalar = bool | int | float | str


class SourceConfig(Section):
    """Where rows come from: files at a path or URI, or a Python function."""

    format: Literal["auto", "parquet", "csv", "jsonl", "function"] = "auto"
    """`auto` goes by the file's ending."""
    path: str | list[str] | None = None
    """A file, directory, glob or pyarrow/fsspec URI, or a list of them."""
    function: DottedPath | None = None
    """``package.module:function`` returning an Arrow table, or an iterator of them."""
    arguments: dict[str, Any] = {}
    """Keyword arguments of the function."""

    @model_validator(mode="after")
    def _one_of_path_and_function(self) -> Self:
        if (self.path is None) == (self.function is None):
            raise ValueError("give exactly one of 'path' and 'function'")
        if self.format == "function" and self.function is None:
            raise ValueError("format 'function' needs 'function'")
        return self


class FeatureConfig(Section):
    """One input column of the model, and how it is prepared."""

    name: str
    type: ColumnType | Literal["auto"] = "auto"
    """`auto` goes by the column's Arrow type."""
    role: Literal["feature", "calendar"] = "feature"
    """`calendar` columns feed the model but get no drift channel: they move by themselves."""
    impute: Literal["median", "mean", "constant"] = "median"
    """What a null, NaN or infinite number becomes; a missing category has an id of its own."""
    fill_value: float = 0.0
    """The constant of ``impute: constant``."""
    indicator: bool = True
    """Add a 0/1 input saying that the number was missing (only where the fitted rows had any)."""
    scale: Literal["standard", "robust", "quantile", "none"] = "standard"
    """`quantile` maps ranks to a normal distribution by the fitted quantiles; a vector takes `standard`, each of its
    numbers by itself, or `none`."""
    encoding: Literal["none", "piecewise_linear", "periodic"] = "none"
    """Extra inputs for the model: piecewise-linear over quantile bins, or sine and cosine of a period."""
    encoding_bins: PositiveInt = 8
    """Number of pieces of the piecewise-linear encoding."""
    period: float | None = Field(None, gt=0)
    """Length of one cycle, for ``encoding: periodic``, in the column's own unit."""
    max_categories: PositiveInt = 1000
    """The most frequent this many categories get ids; the rest count as unknown."""
    min_count: PositiveInt = 2
    """A category seen less often in the fitted rows counts as unknown."""
    parts: list[Literal["year", "month", "day", "weekday", "hour", "minute"]] = ["month", "weekday", "hour"]
    """Parts of a datetime; each becomes a sine and a cosine (the year a number)."""
    function: DottedPath | None = None
    """A user function from an Arrow array to an Arrow array of the same length, applied first."""

    @model_validator(mode="after")
    def _periodic_has_period(self) -> Self:
        if self.encoding == "periodic" and self.period is None:
            raise ValueError("encoding 'periodic' needs 'period'")
        return self


class ColumnContract(Section):
    """What one column must look like. What is left out is not checked."""

    type: ColumnType | None = None
    length: PositiveInt | None = None
    """How many numbers each vector has; None takes the length that the first snapshot's rows have."""
    required: bool = True
    """The column must be there."""
    max_null_ratio: float = Field(1.0, ge=0, le=1)
    """Share of nulls (or NaN) above which the contract is broken; 0 quarantines each row with a null."""
    min: float | None = None
    """Numbers below this are bad rows."""
    max: float | None = None
    """Numbers above this are bad rows."""
    allowed: list[Scalar] | None = None
    """A closed domain: any other value is a bad row. None leaves the domain open."""
    unique: bool = False
    """No value may occur twice; of duplicates the first row stays."""

    @model_validator(mode="after")
    def _rules_fit_the_type(self) -> Self:
        if self.length is not None and self.type not in (None, "vector"):
            raise ValueError(f"'length' is of vectors, the type is '{self.type}'")
        is_vector = self.type == "vector" or self.length is not None
        given = [name for name in ("min", "max", "allowed") if getattr(self, name) is not None]
        if is_vector and (given or self.unique):
            raise ValueError(f"{' and '.join([*given, *['unique'] * self.unique])} cannot be asked of a vector")
        return self


class ContractConfig(Section):
    """The data contract: what rows must look like before anything is trained on them."""

    infer: bool = True
    """Infer types and null ratios from the first snapshot for columns not listed here."""
    columns: dict[str, ColumnContract] = {}
    min_rows: PositiveInt = 100
    """Fewer good rows than this is a broken contract."""
    freshness: Duration | None = None
    """The newest event time may be at most this much older than now (or the run's as-of time)."""
    max_quarantine_ratio: float = Field(0.05, ge=0, le=1)
    """More bad rows than this share is a broken contract; fewer are set aside and counted."""


class SplitConfig(Section):
    """Training, validation (early stopping, calibration) and holdout (the gate) rows."""

    by: Literal["time", "key", "hash"] | None = None
    """`time` needs data.event_time; `key` keeps rows of one key together; `hash` is a seeded hash of the row.
    None means time where there is an event time, else hash."""
    key: str | None = None
    """The column of ``by: key``."""
    validation: float = Field(0.15, gt=0, lt=0.5)
    holdout: float = Field(0.15, gt=0, lt=0.5)
    seed: int = 0

    @model_validator(mode="after")
    def _key_is_named(self) -> Self:
        if self.by == "key" and self.key is None:
            raise ValueError("split by key needs 'key'")
        return self


class DataConfig(Section):
    """The dataset."""

    source: SourceConfig
    task: Task
    target: str
    """The column to predict. Rows without it are not trained on."""
    positive: Scalar | None = None
    """The value of a binary target that counts as 1; None means True, 1, or the later of two in sort order."""
    event_time: str | None = None
    """Timestamp column (UTC if it has no zone); drives windows, splits and monitoring. None: arrival time."""
    id: str | None = None
    """A column that identifies a row; None numbers rows by content hash."""
    weight: str | None = None
    """A column of non-negative training weights."""
    features: list[FeatureConfig] | None = None
    """Model inputs; None means every column but target, event time, id, weight and `exclude`."""
    exclude: list[str] = []
    """Columns that are never model inputs (known only afterwards, say)."""
    contract: ContractConfig = ContractConfig()
    split: SplitConfig = SplitConfig()

    @model_validator(mode="after")
    def _features_are_inputs(self) -> Self:
        names = [feature.name for feature in self.features or []]
        if len(set(names)) != len(names):
            raise ValueError("a feature is listed twice")
        if self.target in names:
            raise ValueError(f"the target {self.target!r} cannot be a feature")
        if self.split.by == "time" and self.event_time is None:
            raise ValueError("split.by 'time' needs 'event_time'")
        return self
