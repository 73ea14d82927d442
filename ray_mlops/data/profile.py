"""Fit features and freeze the drift reference from one pass over the rows, with Ray Data or without."""

import logging
from collections.abc import Collection, Sequence

import pyarrow as pa
import ray.data

from ray_mlops.config import DataConfig, FeatureConfig, MonitoringConfig
from ray_mlops.data.distributed import STEP_TIMEOUT_S, collect_table, map_tables, within_deadline
from ray_mlops.data.features import FeaturePipeline
from ray_mlops.data.inputs import candidate_features, resolve_inputs
from ray_mlops.data.reference import ColumnReference, LossWindow, ReferenceProfile, build_profile
from ray_mlops.data.statistics_pass import (
    EVENT_US,
    SAMPLE_ROWS,
    PassPlan,
    Statistics,
    block_statistics,
    merge_statistics,
    table_statistics,
    unpack_parts,
)
from ray_mlops.data.vectors import with_fixed_lengths
from ray_mlops.errors import DataError

__all__ = ["ColumnReference", "LossWindow", "ReferenceProfile", "fit_features_and_profile"]

logger = logging.getLogger(__name__)


def fit_features_and_profile(
    rows: pa.Table | ray.data.Dataset,
    data: DataConfig,
    monitoring: MonitoringConfig,
    *,
    features: Sequence[FeatureConfig] | None = None,
    train_column: str | None = None,
    optional: Collection[str] = (),
    sample_rows: int = SAMPLE_ROWS,
    timeout_s: float = STEP_TIMEOUT_S,
) -> tuple[FeaturePipeline, ReferenceProfile, Statistics]:
    """One pass over the rows: a fitted pipeline, the reference, and the statistics both were made of.

    A table and a dataset of the same rows, in any blocks and any order, give the same result to the bit.

    Args:
        rows: All rows of the snapshot that are known: the reference is their newest windows.
        data: Roles of columns, and features where they are listed.
        monitoring: Windows and bins of the reference.
        features: Instead of those in ``data``.
        train_column: A boolean column: the pipeline is fitted on its true rows only. None: on all rows.
        optional: Columns that a request may leave out (``Contract.optional_columns``).
        sample_rows: Above this many rows, quantiles and reference counts come from a sample of about as many.
        timeout_s: Deadline of a step on Ray.

    Raises:
        FeatureError: A column cannot be a feature.
        DataError: There are no rows.
        DeadlineError: Ray did not answer in time.
    """
    is_table = isinstance(rows, pa.Table)
    if is_table:
        rows = with_fixed_lengths(rows)
    schema = rows.schema if is_table else rows.schema().base_schema
    if train_column is not None:
        schema = schema.remove(schema.names.index(train_column))
    infer = features is None and data.features is None
    chosen = list(features) if features is not None else candidate_features(schema, data)
    inputs = resolve_inputs(schema, chosen, optional)
    num_rows = len(rows) if is_table else within_deadline(rows.count, "counting rows", timeout_s)
    if not num_rows:
        raise DataError("there are no rows to fit features on", "data.features", "check the source")
    plan = PassPlan(inputs, data.event_time, num_rows, train_column, sample_rows)
    statistics = table_statistics(rows, plan) if is_table else _dataset_statistics(rows, plan, timeout_s)
    pipeline = FeaturePipeline.from_statistics(inputs, chosen, statistics, infer=infer)
    event_us = statistics.sample[EVENT_US].to_numpy()
    profile = build_profile(pipeline.columns, statistics.sample, event_us, monitoring)
    logger.info("froze reference windows=%d rows=%d exact=%s", len(profile.windows), num_rows, statistics.is_exact)
    return pipeline, profile, statistics


def _dataset_statistics(dataset: ray.data.Dataset, plan: PassPlan, timeout_s: float) -> Statistics:
    def summarise(block: pa.Table) -> pa.Table:
        return block_statistics(block, plan).to_table()

    parts = collect_table(map_tables(dataset, summarise), "fitting features", timeout_s)
    return merge_statistics(unpack_parts(parts), plan)
