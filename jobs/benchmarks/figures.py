"""What a benchmark reports: figures against their limits, as a table for people and as JSON for machines."""

import json
import os
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

Rows = Sequence[Mapping[str, Any]]
"""A table: one mapping a line, all with the same keys."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One number with its limit."""

    key: str
    value: float | None
    """None: it could not be measured; ``detail`` says why."""
    at_least: float | None = None
    at_most: float | None = None
    detail: str = ""

    @property
    def verdict(self) -> str:
        """`met`, `missed`, `not measured`, or empty without a limit."""
        if self.value is None:
            return "not measured"
        if self.at_least is None and self.at_most is None:
            return ""
        is_low = self.at_least is not None and self.value < self.at_least
        is_high = self.at_most is not None and self.value > self.at_most
        return "missed" if is_low or is_high else "met"


@dataclass(slots=True)
class Report:
    """Everything that one run has measured."""

    figures: list[Figure] = field(default_factory=list)
    tables: dict[str, Rows] = field(default_factory=dict)
    """What lies behind the figures, by title."""

    def add(self, other: "Report") -> None:
        """Take what another part has measured."""
        self.figures.extend(other.figures)
        self.tables.update(other.tables)

    def to_json(self) -> dict[str, Any]:
        return {
            "figures": {figure.key: figure.value for figure in self.figures},
            "environment": environment(),
            "details": {figure.key: figure.detail for figure in self.figures},
            "tables": self.tables,
        }

    def write(self, path: Path) -> None:
        """Write the report as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.to_json(), indent=1, default=float) + "\n", encoding="utf-8")

    def text(self) -> str:
        """The figures, then what lies behind them."""
        rows = [
            {
                "figure": figure.key,
                "value": "-" if figure.value is None else f"{figure.value:.4g}",
                "limit": _limit(figure),
                "": figure.verdict,
                "detail": figure.detail,
            }
            for figure in self.figures
        ]
        parts = [f"{title}\n{format_table(rows)}" for title, rows in self.tables.items()]
        return "\n\n".join([*parts, format_table(rows)])


def environment() -> dict[str, Any]:
    """What the numbers depend on besides the code."""
    names = ("ray", "torch", "numpy", "pyarrow", "uvicorn", "orjson")
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "cpu": _cpu_model(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "kernel": platform.release(),
        "python": sys.version.split()[0],
        **{name: version(name) for name in names},
    }


def format_table(rows: Rows) -> str:
    """Align rows of one set of columns.

    Example:
        >>> print(format_table([{"a": 1, "b": "x"}, {"a": 20, "b": "y"}]))
        a   b
        1   x
        20  y
    """
    if not rows:
        return "(nothing)"
    cells = [[str(name) for name in rows[0]], *([str(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    return "\n".join(_aligned(line, widths) for line in cells)


def _aligned(line: Iterable[str], widths: Iterable[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()


def _limit(figure: Figure) -> str:
    bounds = [f">= {figure.at_least:g}" if figure.at_least is not None else ""]
    bounds.append(f"<= {figure.at_most:g}" if figure.at_most is not None else "")
    return " ".join(filter(None, bounds))


def _cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
