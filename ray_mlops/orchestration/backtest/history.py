"""Labelled rows of the past in order of event time: what a backtest replays."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ray_mlops.config import ProjectConfig
from ray_mlops.data.source import source_table
from ray_mlops.data.target import TargetEncoder
from ray_mlops.errors import DataError
from ray_mlops.monitoring.policy import RetrainDecision
from ray_mlops.orchestration.retraining_rows import logged_rows, unite
from ray_mlops.runtime.files import Files

_ALWAYS_US = 253_402_300_799_000_000  # the year 9999


@dataclass(frozen=True)
class History:
    """Rows with a target, in order of event time."""

    rows: pa.Table
    """As the source has them; ``data.id`` is a string where there is one."""
    event_us: npt.NDArray[np.int64]
    """Microseconds since 1970 UTC [n], rising."""
    encoder: TargetEncoder
    target: npt.NDArray[np.float64]
    """Encoded [n]."""
    window_us: int

    @classmethod
    def of_table(cls, table: pa.Table, config: ProjectConfig) -> "History":
        """Order the labelled rows of a table.

        Raises:
            DataError: There is no event time to go by, or no labelled row.
        """
        data = config.data
        if data.event_time is None:
            raise DataError("a backtest needs event times", "data.event_time", "name the column that has them")
        for name in filter(None, (data.event_time, data.target, data.id)):
            if name not in table.column_names:
                raise DataError(f"no column {name!r}", "history", f"it has {', '.join(table.column_names)}")
        table = table.filter(pc.and_(pc.is_valid(table[data.target]), pc.is_valid(table[data.event_time])))
        if table.num_rows == 0:
            raise DataError("no row has a label and an event time", "history", "give it rows of the past")
        table = table.sort_by([(data.event_time, "ascending")]).combine_chunks()
        stamps = table[data.event_time].cast(pa.timestamp("us", tz="UTC"))
        table = table.set_column(table.column_names.index(data.event_time), data.event_time, stamps)
        encoder = TargetEncoder.fit(table, data)
        window_us = round(config.monitoring.window.total_seconds() * 1e6)
        return cls(table, stamps.cast(pa.int64()).to_numpy(), encoder, encoder.encode(table[data.target]), window_us)

    def __len__(self) -> int:
        return len(self.event_us)

    def part(self, start_us: int, end_us: int) -> "History":
        """The rows of a range of event time, its end exclusive."""
        first, last = np.searchsorted(self.event_us, [start_us, end_us])
        return self._cut(int(first), int(last))

    def window(self, index: int) -> "History":
        """The rows of one monitoring window."""
        return self.part(index * self.window_us, (index + 1) * self.window_us)

    def counts(self) -> dict[int, int]:
        """Rows by window."""
        windows, counts = np.unique(self.event_us // self.window_us, return_counts=True)
        return dict(zip(windows.tolist(), counts.tolist(), strict=True))

    def head(self, count: int) -> "History":
        """The first rows."""
        return self._cut(0, count)

    def tail(self, first: int) -> "History":
        """The rows from one on."""
        return self._cut(first, len(self))

    def _cut(self, first: int, last: int) -> "History":
        rows = self.rows.slice(first, last - first)
        return History(rows, self.event_us[first:last], self.encoder, self.target[first:last], self.window_us)


def read_history(config: ProjectConfig) -> History:
    """The source's rows united with the prediction log and its labels; of rows with one id the logged one counts.

    Raises:
        DataError: There is no event time, or no labelled row.
    """
    data = config.data
    sourced = source_table(data.source, event_time=data.event_time)
    if data.target not in sourced.column_names:
        raise DataError(f"no column {data.target!r}", "data.source", f"it has {', '.join(sourced.column_names)}")
    everything = RetrainDecision("backtest", config.name, _ALWAYS_US, 0, 0, _ALWAYS_US, "full", "manual", "", "", "")
    encoder = TargetEncoder.fit(sourced, data)
    logged = logged_rows(everything, data, encoder, Files(config.store.root_uri))
    united = unite(logged, sourced, data)
    return History.of_table(sourced if united is None else united, config)
