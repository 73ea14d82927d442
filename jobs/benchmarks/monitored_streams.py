"""Streams of windows, changed or not, before the monitor as it is: what each window's verdict says."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from jobs.benchmarks.coded_rows import CodedColumn, IntArray, bins_of, counts_of, take_rows, windows_of
from jobs.benchmarks.flight_days import FlightDays
from ray_mlops.config import MonitoringConfig
from ray_mlops.monitoring.channels import DatasetMonitor, WindowVerdict
from ray_mlops.monitoring.feature import FeatureReference
from ray_mlops.statistics.bins import ColumnCounts, NumericBins
from ray_mlops.statistics.projections import fit_projections

NUM_REFERENCE = 60
"""Windows of the reference, as the configuration has it."""

Change = Callable[[CodedColumn, npt.NDArray[np.bool_], np.random.Generator, IntArray], CodedColumn]
"""What becomes of a column: given it, the rows that are changed [n], and the window of each row [n]."""


@dataclass(frozen=True, slots=True, eq=False)
class Stream:
    """Rows in order of windows, the reference's windows first."""

    columns: dict[str, CodedColumn]
    windows: IntArray
    """Window of each row [n], rising from 0."""
    num_reference: int = NUM_REFERENCE

    @property
    def num_windows(self) -> int:
        return int(self.windows[-1]) + 1

    def changed(self, column: str, change: Change, after: int, rng: np.random.Generator) -> "Stream":
        """Return the stream with one column changed from a window on (0 is the first after the reference)."""
        rows = self.windows >= self.num_reference + after
        return replace(self, columns={**self.columns, column: change(self.columns[column], rows, rng, self.windows)})


def permuted_days(days: FlightDays, rng: np.random.Generator, num_windows: int | None = None) -> Stream:
    """Real days in random order: rows of one day are as alike as they are, and no day differs from another."""
    order = rng.permutation(len(days.lengths))[:num_windows]
    lengths, starts = days.lengths[order], days.starts[order]
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return Stream(take_rows(days.columns, np.repeat(starts, lengths) + within), windows_of(lengths))


def independent_rows(
    days: FlightDays, rng: np.random.Generator, num_windows: int, rows: int, num_reference: int = NUM_REFERENCE
) -> Stream:
    """Windows of rows drawn one by one from March."""
    first, last = days.starts[59], days.starts[90]
    drawn = rng.integers(first, last, num_windows * rows)
    return Stream(take_rows(days.columns, drawn), windows_of([rows] * num_windows), num_reference)


def verdicts(stream: Stream, config: MonitoringConfig) -> Iterator[WindowVerdict]:
    """Freeze a reference from the stream's first windows, and test the others one by one."""
    references, counted = _counted(stream, config)
    monitor = DatasetMonitor(references, None, [], config)
    for window in range(stream.num_windows - stream.num_reference):
        yield monitor.update(window, {name: counts[window] for name, counts in counted.items()})


def _counted(stream: Stream, config: MonitoringConfig) -> tuple[list[FeatureReference], dict[str, list[ColumnCounts]]]:
    known, total = stream.num_reference, stream.num_windows
    references, counted = [], {}
    for name, column in stream.columns.items():
        tally = column.tally(stream.windows, total)
        bins = bins_of(column, tally[:known])
        counts = counts_of(bins, column, tally)
        references.append(FeatureReference(name, bins, tuple(counts[:known])))
        counted[name] = counts[known:]
    reference, counts_by_name = _projected(stream, config)
    return references + reference, {**counted, **counts_by_name}


def _projected(
    stream: Stream, config: MonitoringConfig
) -> tuple[list[FeatureReference], dict[str, list[ColumnCounts]]]:
    known = int(np.searchsorted(stream.windows, stream.num_reference))
    numeric = {name: c.numbers() for name, c in stream.columns.items() if c.is_numeric}
    strings = {name: _strings(c) for name, c in stream.columns.items() if not c.is_numeric}
    projections = fit_projections(
        {name: values[:known] for name, values in numeric.items()},
        {name: values[:known] for name, values in strings.items()},
        config.joint_projections,
    )
    derived = projections.of({**numeric, **strings})
    references, counted = [], {}
    for member in projections.members:
        bins = NumericBins.from_sample(derived[member.name][:known], config.bins)
        counts = _count(bins, derived[member.name], stream.windows, stream.num_windows)
        pair = (member.target, *member.explained_by)
        references.append(FeatureReference(member.name, bins, tuple(counts[: stream.num_reference]), derived_from=pair))
        counted[member.name] = counts[stream.num_reference :]
    return references, counted


def _count(bins: NumericBins, values: npt.NDArray[np.float64], windows: IntArray, total: int) -> list[ColumnCounts]:
    counts = np.bincount(windows * bins.size + bins.index(values), minlength=total * bins.size)
    rows = np.bincount(windows, minlength=total)
    firsts = np.cumsum(rows) - rows
    sums, squares = np.add.reduceat(values, firsts), np.add.reduceat(values**2, firsts)
    low, high = np.minimum.reduceat(values, firsts), np.maximum.reduceat(values, firsts)
    numbers = zip(rows.tolist(), *(x.tolist() for x in (sums, squares, low, high)), strict=True)
    table = counts.reshape(total, bins.size)
    return [ColumnCounts(table[window], *of_window) for window, of_window in enumerate(numbers)]


def _strings(column: CodedColumn) -> pa.Array:
    indices = pa.array(column.codes, mask=column.codes == len(column.values))
    return pa.array(column.values.tolist(), pa.string()).take(indices)
