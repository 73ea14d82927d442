"""From a snapshot to rows that a model can be trained and judged on, by Ray Data."""

from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ray_mlops.config import DataConfig, ProjectConfig
from ray_mlops.data.contract import Contract, ContractReport
from ray_mlops.data.distributed import collect_table, map_tables, materialise
from ray_mlops.data.features import FeatureMatrix, FeaturePipeline
from ray_mlops.data.hashing import hash_rows
from ray_mlops.data.profile import ReferenceProfile, fit_features_and_profile
from ray_mlops.data.readers import check_columns
from ray_mlops.data.schema import check_contract, infer_contract
from ray_mlops.data.snapshot import Snapshot, snapshot_dataset
from ray_mlops.data.split import SPLIT_COLUMN, SplitPlan, assign_split, check_split, plan_split
from ray_mlops.data.target import TargetEncoder, labelled_rows
from ray_mlops.errors import ContractError
from ray_mlops.runtime.files import Files
from ray_mlops.training.assemble import model_spec
from ray_mlops.training.rows import LabelledRows, PreparedData

TRAIN, VALIDATION, HOLDOUT = 0, 1, 2
"""Codes of ``split_codes``."""
_ORDER = ("__event_us", "__row")
_TRAIN_COLUMN = "__train"


@dataclass(frozen=True, slots=True)
class Dataset:
    """Everything that training, evaluation and the bundle need of the rows."""

    snapshot: Snapshot
    contract: Contract
    contract_report: ContractReport
    features: FeaturePipeline
    profile: ReferenceProfile
    encoder: TargetEncoder
    prepared: PreparedData
    holdout: pa.Table
    """Raw holdout rows that have a target, in order of event time."""
    holdout_target: npt.NDArray[np.float64]

    @property
    def holdout_end_us(self) -> int | None:
        """The newest event time that the model or its judges have seen; a shadow scores only later rows."""
        return None if self.snapshot.event_range is None else self.snapshot.event_range[1]

    @property
    def baseline(self) -> npt.NDArray[np.float64] | float:
        """What always predicting the same would predict: the training rows' mean, or class shares [k]."""
        target = self.prepared.train.target
        if self.encoder.task != "multiclass":
            return float(target.mean())
        return np.bincount(target.astype(int), minlength=len(self.encoder.classes)) / len(target)


def prepare_dataset(
    config: ProjectConfig,
    snapshot: Snapshot,
    files: Files,
    *,
    now: float,
    contract: Contract | None = None,
    encoder: TargetEncoder | None = None,
    features: FeaturePipeline | None = None,
    holdout_start_us: int | None = None,
) -> Dataset:
    """Validate, split, fit features and reference in one pass, and transform.

    Args:
        config: The run's configuration.
        snapshot: The rows.
        files: The store.
        now: Unix seconds: the clock, or the as-of time of a retraining.
        contract: The contract in force; None infers one from these rows.
        encoder: The target's classes as they are in force; None finds them.
        features: A pipeline that is kept as it is (fine-tuning); None fits one.
        holdout_start_us: Where the holdout begins (a retraining's); None goes by the configured shares.

    Raises:
        ContractError: The rows break the contract, or the target is missing or constant.
        DataError: Training, validation or holdout has no row.
        DeadlineError: A step did not end in time; says what was free.
    """
    data, timeout_s = config.data, config.cluster.step_timeout_s
    rows = snapshot_dataset(snapshot, files)
    check_target(snapshot, data)
    groups = [*config.evaluation.slices, *config.evaluation.fairness.groups]
    check_columns(snapshot.schema, groups, "evaluation.slices or evaluation.fairness.groups")
    contract = contract or infer_contract(rows, data)
    good, report = check_contract(rows, contract, data, now, files=files, snapshot_id=snapshot.id, timeout_s=timeout_s)
    report.raise_if_broken()
    labelled = materialise(map_tables(good, _KeepLabelled(data)), "reading labelled rows", timeout_s)
    keys = _split_columns(data)
    columns = collect_table(labelled.select_columns(keys) if keys else labelled, "reading split columns", timeout_s)
    encoder = encoder or TargetEncoder.fit(columns, data)
    plan = plan_split(columns, data, holdout_start_us=holdout_start_us)
    parted = materialise(map_tables(labelled, _Assign(plan)), "splitting", timeout_s)
    fitted, profile, _ = fit_features_and_profile(
        map_tables(parted, _mark_train),
        data,
        config.monitoring,
        train_column=_TRAIN_COLUMN,
        optional=contract.optional_columns,
        timeout_s=timeout_s,
    )
    features = features or fitted
    newest_us = snapshot.event_range[1] if snapshot.event_range else 0
    transform = _Transform(features, encoder, data, config.retraining.half_life, newest_us)
    blocks = map_tables(parted, transform)
    train, validation = _collect_matrices(collect_table(blocks, "transforming", timeout_s))
    prepared = PreparedData(train, validation, model_spec(features, encoder))
    holdout = _sorted_rows(collect_table(map_tables(parted, _holdout_rows), "reading the holdout", timeout_s), data)
    check_split(np.array([len(train), len(validation), len(holdout)]), plan)
    target = encoder.encode(holdout[data.target])
    return Dataset(snapshot, contract, report, features, profile, encoder, prepared, holdout, target)


def dataset_of_table(
    config: ProjectConfig,
    table: pa.Table,
    snapshot: Snapshot,
    *,
    encoder: TargetEncoder,
    features: FeaturePipeline | None = None,
    holdout_start_us: int | None = None,
) -> Dataset:
    """What ``prepare_dataset`` makes, of a table in memory and without Ray; the same rows give the same bits.

    Raises:
        ContractError: The rows break what the contract declares.
        DataError: Training, validation or holdout has no row.
    """
    data = config.data
    newest_us = int(event_times_us(table, data.event_time).max(initial=0))
    contract = infer_contract(table, data)
    good, report = check_contract(table, contract, data, newest_us / 1e6)
    report.raise_if_broken()
    labelled = labelled_rows(good, data)
    plan = plan_split(labelled, data, holdout_start_us=holdout_start_us)
    parted = assign_split(labelled, plan)
    fitted, profile, _ = fit_features_and_profile(
        _mark_train(parted),
        data,
        config.monitoring,
        train_column=_TRAIN_COLUMN,
        optional=contract.optional_columns,
    )
    features = features or fitted
    transform = _Transform(features, encoder, data, config.retraining.half_life, newest_us)
    train, validation = _collect_matrices(transform(parted))
    prepared = PreparedData(train, validation, model_spec(features, encoder))
    holdout = _sorted_rows(_holdout_rows(parted), data)
    check_split(np.array([len(train), len(validation), len(holdout)]), plan)
    target = encoder.encode(holdout[data.target])
    return Dataset(snapshot, contract, report, features, profile, encoder, prepared, holdout, target)


def check_target(snapshot: Snapshot, data: DataConfig) -> None:
    """See that the target is among a snapshot's columns.

    Raises:
        ContractError: It is not; names the columns there are.
    """
    if data.target not in snapshot.schema:
        problem = f"no column {data.target!r} in the source"
        raise ContractError(problem, "data.target", f"it has {', '.join(snapshot.schema)}")


def _split_columns(data: DataConfig) -> list[str] | None:
    if data.event_time is not None and data.split.by in (None, "time"):
        return [data.event_time, data.target]
    if data.split.by == "key" and data.split.key is not None:
        return [data.split.key, data.target]
    return None


class _KeepLabelled:
    """Drops rows without a target: nothing can be learnt from them."""

    def __init__(self, data: DataConfig) -> None:
        self._data = data

    def __call__(self, table: pa.Table) -> pa.Table:
        return labelled_rows(table, self._data)


class _Assign:
    """Adds the column that says which part a row belongs to."""

    def __init__(self, plan: SplitPlan) -> None:
        self._plan = plan

    def __call__(self, table: pa.Table) -> pa.Table:
        return assign_split(table, self._plan)


class _Transform:
    """Turns raw rows into features, target and weight, with what it takes to put them in order again."""

    def __init__(
        self,
        features: FeaturePipeline,
        encoder: TargetEncoder,
        data: DataConfig,
        half_life: timedelta | None,
        newest_us: int,
    ) -> None:
        self._features, self._encoder, self._data = features, encoder, data
        self._half_life, self._newest_us = half_life, newest_us

    def __call__(self, table: pa.Table) -> pa.Table:
        matrix = self._features.transform(table)
        event_us = event_times_us(table, self._data.event_time)
        columns = {
            "numeric": _as_lists(matrix.numeric, pa.float32()),
            "categorical": _as_lists(matrix.categorical, pa.int64()),
            "target": pa.array(self._encoder.encode(table[self._data.target])),
            "weight": pa.array(self._weights(table, event_us)),
            SPLIT_COLUMN: table[SPLIT_COLUMN],
            _ORDER[0]: pa.array(event_us),
            _ORDER[1]: pa.array(hash_rows(table)),
        }
        return pa.table(columns)

    def _weights(self, table: pa.Table, event_us: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        named = self._data.weight
        weights = np.ones(len(table)) if named is None else table[named].cast(pa.float64()).to_numpy().copy()
        if self._half_life is not None and len(event_us):
            age = (event_us - self._newest_us) / (self._half_life.total_seconds() * 1e6)
            weights = weights * np.exp2(age)
        return weights


def _mark_train(table: pa.Table) -> pa.Table:
    marked = pc.equal(table[SPLIT_COLUMN], _code(table, TRAIN))
    return table.drop_columns([SPLIT_COLUMN]).append_column(_TRAIN_COLUMN, marked)


def _holdout_rows(table: pa.Table) -> pa.Table:
    return table.filter(pc.equal(table[SPLIT_COLUMN], _code(table, HOLDOUT))).drop_columns([SPLIT_COLUMN])


def _code(table: pa.Table, code: int) -> pa.Scalar:
    return pa.scalar(code, table[SPLIT_COLUMN].type)


def event_times_us(table: pa.Table, event_time: str | None) -> npt.NDArray[np.int64]:
    """Event times, microseconds since 1970 UTC [n]; zeros without an event time."""
    if event_time is None:
        return np.zeros(len(table), dtype=np.int64)
    return np.asarray(table[event_time].cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).to_numpy())


def _as_lists(matrix: npt.NDArray[np.float32] | npt.NDArray[np.int64], item: pa.DataType) -> pa.Array:
    rows, width = matrix.shape
    if width == 0:
        return pa.array([[]] * rows, pa.list_(item))
    offsets = np.arange(0, (rows + 1) * width, width, dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, pa.array(np.ascontiguousarray(matrix).ravel(), item))


def _as_matrix(column: pa.ChunkedArray, rows: int, dtype: type) -> npt.NDArray[np.generic]:
    values = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return np.ascontiguousarray(values, dtype=dtype).reshape(rows, -1 if rows and len(values) else 0)


def _collect_matrices(table: pa.Table) -> tuple[LabelledRows, LabelledRows]:
    """Put the rows in one order, whatever order their blocks came in, and part them."""
    table = table.sort_by([(name, "ascending") for name in _ORDER]).combine_chunks()
    parts = []
    for code in (TRAIN, VALIDATION):
        part = table.filter(pc.equal(table[SPLIT_COLUMN], _code(table, code))).combine_chunks()
        numeric = _as_matrix(part["numeric"], len(part), np.float32)
        categorical = _as_matrix(part["categorical"], len(part), np.int64)
        weight = part["weight"].to_numpy()
        parts.append(
            LabelledRows(
                FeatureMatrix(numeric, categorical),  # type: ignore[arg-type]
                part["target"].to_numpy(),
                None if (weight == 1.0).all() else weight,
            )
        )
    return parts[0], parts[1]


def _sorted_rows(table: pa.Table, data: DataConfig) -> pa.Table:
    """Rows in order of event time; ties by content."""
    keyed = table.append_column(_ORDER[0], pa.array(event_times_us(table, data.event_time)))
    keyed = keyed.append_column(_ORDER[1], pa.array(hash_rows(table)))
    return keyed.sort_by([(name, "ascending") for name in _ORDER]).drop_columns(list(_ORDER)).combine_chunks()
