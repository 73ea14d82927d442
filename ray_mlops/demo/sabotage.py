"""A bad candidate made on purpose: the champion's rows with the training labels of one group flipped."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ray_mlops.config import DataConfig, ProjectConfig, SabotageConfig
from ray_mlops.data.snapshot import create_snapshot, load_snapshot, snapshot_table
from ray_mlops.data.split import plan_split, split_codes
from ray_mlops.orchestration.dataset import HOLDOUT
from ray_mlops.orchestration.phases import OnPhase, silent
from ray_mlops.orchestration.pipeline import PipelineReport, Purpose, Workplace, read_champion, run_on_snapshot


def flip_labels(
    table: pa.Table, data: DataConfig, sabotage: SabotageConfig, spared: np.ndarray[tuple[int], np.dtype[np.bool_]]
) -> pa.Table:
    """Flip the binary labels of the rows whose column has the sabotaged value.

    Args:
        table: Rows.
        data: Names the target.
        sabotage: Names the group.
        spared: Rows that keep their labels [n]: the holdout, so that the gate judges by the truth.
    """
    labels = table[data.target].cast(pa.bool_())
    chosen = pc.fill_null(pc.equal(table[sabotage.column].cast(pa.string()), str(sabotage.value)), False)
    flipped = pc.if_else(pc.and_(chosen, pa.array(~spared)), pc.invert(labels), labels)
    return table.set_column(table.column_names.index(data.target), data.target, flipped)


def train_sabotaged(config: ProjectConfig, sabotage: SabotageConfig, on_phase: OnPhase = silent) -> PipelineReport:
    """Train on the champion's snapshot with flipped labels; the gate judges it like any other candidate."""
    place = Workplace.open(config)
    champion = read_champion(place)
    assert champion is not None
    record = champion.record
    rows = snapshot_table(load_snapshot(place.files, record["snapshot"]), place.files)
    holdout_start_us = record["purpose"]["holdout_start_us"]
    spared = split_codes(rows, plan_split(rows, config.data, holdout_start_us=holdout_start_us)) == HOLDOUT
    origin = {"kind": "sabotage", "of": record["snapshot"], "column": sabotage.column, "value": sabotage.value}
    table = flip_labels(rows, config.data, sabotage, spared)
    snapshot = create_snapshot(config.data, place.files, table=table, origin=origin)
    purpose = Purpose(
        holdout_start_us=holdout_start_us,
        overrides=record["overrides"],
        note=f"training labels of {sabotage.column} {sabotage.value} flipped",
    )
    return run_on_snapshot(place, snapshot, purpose, on_phase=on_phase)
