"""Twelve columns of flights, mixed: the data of the monitoring benchmark."""

from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc

from ray_mlops.demo.flights import departures
from ray_mlops.statistics.bins import Bins, CategoricalBins, NumericBins

NUMBERS = ("departure_minute", "arr_delay", "distance", "temp", "humid", "wind_speed", "plane_year", "pressure")
WORDS = ("carrier", "origin", "dest", "manufacturer")
COLUMNS = (*NUMBERS, *WORDS)


def flights(first: tuple[int, int], last: tuple[int, int]) -> pa.Table:
    """Departures from the first (month, day) of 2013 to the last one, inclusive; all columns of the source."""
    start, end = (datetime(2013, month, day, tzinfo=UTC).date().isoformat() for month, day in (first, last))
    return departures(start, end).combine_chunks()


def reference_table() -> pa.Table:
    """January and February, the twelve columns."""
    return flights((1, 1), (2, 28)).select(COLUMNS)


def current_table() -> pa.Table:
    """July, the twelve columns."""
    return flights((7, 1), (7, 31)).select(COLUMNS)


def freeze_bins(reference: pa.Table) -> dict[str, Bins]:
    """Bins of each column, frozen from a reference."""
    bins: dict[str, Bins] = {name: NumericBins.from_sample(reference[name]) for name in NUMBERS}
    return bins | {name: CategoricalBins.from_sample(reference[name]) for name in WORDS}


def repeated(table: pa.Table, rows: int) -> pa.Table:
    """The table again and again, up to a number of rows."""
    times = -(-rows // table.num_rows)
    return pa.concat_tables([table] * times).slice(0, rows).combine_chunks()


def as_logged(table: pa.Table) -> pa.Table:
    """The columns as the prediction log names them, with scores of one version beside them."""
    rows = table.rename_columns([f"features.{name}" for name in table.column_names])
    score = pc.divide(pc.cast(table["departure_minute"], pa.float64()), 1440.0)
    return rows.append_column("prediction", score)
