"""A bad candidate made on purpose: the champion's rows with the labels of one group flipped."""

import pyarrow as pa
import pyarrow.compute as pc

from ray_mlops.config import DataConfig, ProjectConfig, SabotageConfig
from ray_mlops.data.snapshot import create_snapshot, load_snapshot, snapshot_table
from ray_mlops.orchestration.fit import OnPhase, silent
from ray_mlops.orchestration.pipeline import PipelineReport, Purpose, Workplace, read_champion, run_on_snapshot


def flip_labels(table: pa.Table, data: DataConfig, sabotage: SabotageConfig) -> pa.Table:
    """Flip the binary labels of the rows whose column has the sabotaged value."""
    labels = table[data.target].cast(pa.bool_())
    chosen = pc.equal(table[sabotage.column].cast(pa.string()), str(sabotage.value))
    flipped = pc.if_else(pc.fill_null(chosen, False), pc.invert(labels), labels)
    return table.set_column(table.column_names.index(data.target), data.target, flipped)


def train_sabotaged(config: ProjectConfig, sabotage: SabotageConfig, on_phase: OnPhase = silent) -> PipelineReport:
    """Train on the champion's snapshot with flipped labels; the gate judges it like any other candidate."""
    place = Workplace.open(config)
    champion = read_champion(place)
    assert champion is not None
    rows = snapshot_table(load_snapshot(place.files, champion.record["snapshot"]), place.files)
    origin = {"kind": "sabotage", "of": champion.record["snapshot"], "column": sabotage.column, "value": sabotage.value}
    snapshot = create_snapshot(config.data, place.files, table=flip_labels(rows, config.data, sabotage), origin=origin)
    purpose = Purpose(overrides=champion.record["overrides"], note=f"labels of {sabotage.column} flipped")
    return run_on_snapshot(place, snapshot, purpose, on_phase=on_phase)
