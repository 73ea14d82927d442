"""Two tables, one report: what differs, by how much, and whether chance would do as much.

For a question that is asked once. A stream that is watched needs ``DatasetMonitor``: rows of one day are
alike, and a test that is repeated finds something in the end.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from ray_mlops.config import MonitoringConfig
from ray_mlops.monitoring.column_comparison import ColumnComparison, Verdict, column_pairs, compare_column
from ray_mlops.monitoring.comparison_text import report_lines

__all__ = ["ColumnComparison", "DriftReport", "compare"]


@dataclass(frozen=True, slots=True)
class DriftReport:
    """Every column of two tables, compared."""

    columns: tuple[ColumnComparison, ...]
    alpha: float
    """Probability that any column of two tables of one distribution is called drifted."""
    tolerance: float
    """Total variation up to which a difference is tolerated."""

    def named(self, verdict: Verdict) -> tuple[str, ...]:
        """Columns with a verdict."""
        return tuple(column.name for column in self.columns if column.verdict == verdict)

    @property
    def drifted(self) -> tuple[str, ...]:
        """Columns that have drifted."""
        return self.named("drift")

    @property
    def faults(self) -> tuple[str, ...]:
        """Columns that look broken: gone, empty, of another type, or stuck at one value."""
        return self.named("fault")

    def __getitem__(self, name: str) -> ColumnComparison:
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(name)

    def to_json(self) -> dict[str, Any]:
        content = asdict(self)
        return {"schema_version": 1, "drifted": list(self.drifted), "faults": list(self.faults), **content}

    def text(self) -> str:
        """The report as a table for people."""
        return "\n".join(report_lines(self))


def compare(
    reference: pa.Table,
    current: pa.Table,
    config: MonitoringConfig | None = None,
    columns: Sequence[str] | None = None,
) -> DriftReport:
    """Compare every column of two tables, on bins made of the reference.

    A column has drifted when three things hold: chance is excluded (chi-squared at ``alpha`` over the number of
    columns), the total variation is at least twice what chance gives, and it is above ``tolerance``. Where there are
    too few rows to see a difference of 0.1 (or of twice the tolerance), the verdict is `undecided`, and never
    `no drift`.

    Args:
        reference: What was expected.
        current: What came.
        config: ``alpha``, ``tolerance``, ``bins`` and ``top_categories``; None takes the defaults.
        columns: Only these; None takes all of either table.

    Example:
        >>> before, after = (pa.table({"x": pa.array(range(start, start + 5000))}) for start in (0, 1000))
        >>> compare(before, after).drifted
        ('x',)
    """
    settings = config or MonitoringConfig()
    names = list(dict.fromkeys([*reference.column_names, *current.column_names])) if columns is None else columns
    pairs = [pair for name in names for pair in column_pairs(name, reference, current)]
    level = settings.alpha / max(len(pairs), 1)
    found = tuple(compare_column(*pair, settings, level) for pair in pairs)
    return DriftReport(found, settings.alpha, settings.tolerance)
