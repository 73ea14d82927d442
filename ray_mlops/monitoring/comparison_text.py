"""A comparison of two tables as lines for people."""

from typing import Any

_ORDER = ("fault", "drift", "undecided", "tolerated", "no drift")
_SHOWN = {
    "total_variation": "TV",
    "psi": "PSI",
    "jensen_shannon": "JS",
    "hellinger": "Hellinger",
    "kolmogorov_smirnov": "KS",
    "wasserstein": "W1/sd",
}


def report_lines(report: Any) -> list[str]:
    """A ``DriftReport`` as an aligned table, what matters most first.

    Each distance stands beside what chance gives: ``0.21 (0.008)``.
    """
    columns = sorted(report.columns, key=lambda column: _ORDER.index(column.verdict))
    head = ["column", "kind", "verdict", "rows", "null", "unseen", "outside", *_SHOWN.values(), ""]
    cells = [head, *(_cells(column) for column in columns)]
    widths = [max(len(line[index]) for line in cells) for index in range(len(head))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    counted = [f"{len(report.named(verdict))} {verdict}" for verdict in _ORDER if report.named(verdict)]
    return [*lines, "", f"{', '.join(counted) or 'nothing to compare'} (in brackets: what chance alone gives)"]


def _cells(column: Any) -> list[str]:
    measured = {found.name: found for found in column.magnitudes}
    unit = {"wasserstein": column.reference.sd or 1.0}
    return [
        column.name,
        column.kind,
        column.verdict,
        f"{column.reference.rows}/{column.current.rows}",
        f"{column.reference.null_ratio:.1%}/{column.current.null_ratio:.1%}",
        "" if column.unseen_ratio is None else f"{column.unseen_ratio:.1%}",
        "" if column.outside_ratio is None else f"{column.outside_ratio:.1%}",
        *(_distance(measured.get(name), unit.get(name, 1.0)) for name in _SHOWN),
        column.reason,
    ]


def _distance(found: Any, unit: float) -> str:
    return "" if found is None else f"{found.value / unit:.2g} ({found.expected / unit:.1g})"
