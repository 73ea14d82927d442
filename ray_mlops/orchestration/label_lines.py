"""What ``ray-mlops labels show`` prints: how labels come, and what they say, by arm, version, slice and group."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ray_mlops.monitoring.label_delays import days

_COUNTS = ("accepted", "duplicate", "conflicting", "corrected", "invalid", "unknown", "unlabelled", "early_labels")
_METRICS = ("loss", "log_loss", "accuracy", "mae", "rmse", "mean_error", "positive_rate", "mean_prediction")
_MORE = ("selection_rate", "true_positive_rate", "false_positive_rate")
_NEWEST = 10


def label_lines(view: Mapping[str, Any]) -> list[str]:
    """Put the labels' part of ``GET /monitoring`` into lines.

    Args:
        view: The document.
    """
    counts = view.get("labels") or {}
    told = ", ".join(f"{counts[name]} {name.replace('_', ' ')}" for name in _COUNTS if counts.get(name))
    lines = [f"labels of {view.get('model', '')}: {told or 'none yet'}"]
    delays: Mapping[str, Any] = view.get("label_delays") or {}
    lines += [_delay_line(name, found) for name, found in (delays.get("delays_s") or {}).items()]
    if delays.get("advice"):
        lines.append(f"note: {delays['advice']}")
    lines += _coverage_lines(view.get("performance") or (), view.get("unlabelled") or ())
    realised: Mapping[str, Any] = view.get("realised") or {}
    lines += _realised_lines(realised.get("total") or (), len(realised.get("windows") or ()))
    lines += [f"not broken down by {name}: {problem}" for name, problem in (realised.get("problems") or {}).items()]
    return lines


def _delay_line(name: str, found: Mapping[str, Any]) -> str:
    shown = ", ".join(f"{float(q):.0%} by {days(found[q])}" for q in found if q != "labels")
    return f"  delay, {name}: {found['labels']} labels{', ' if shown else ''}{shown}"


def _coverage_lines(matured: Sequence[Mapping[str, Any]], waiting: Sequence[Mapping[str, Any]]) -> list[str]:
    windows = [*matured, *waiting][-_NEWEST:]
    if not windows:
        return []
    lines = ["window                  rows  labelled  coverage  loss"]
    for window in windows:
        rows, labelled = window.get("rows") or 0, window.get("labelled") or 0
        covered = f"{labelled / rows:.0%}" if rows else "-"
        loss = window.get("loss")
        shown = "waits for labels" if "judged" not in window else "-" if loss is None else f"{loss:.4f}"
        if "judged" in window and not window["judged"]:
            shown += " (not tested)"
        lines.append(f"{window['start']}  {rows:>6}  {labelled:>8}  {covered:>8}  {shown}")
    return lines


def _realised_lines(cells: Sequence[Mapping[str, Any]], num_windows: int) -> list[str]:
    if not cells:
        return []
    names = [name for name in (*_METRICS, *_MORE) if any(cell.get(name) is not None for cell in cells)]
    table = [["by", "value", "rows", "labelled", *(name.replace("_", " ") for name in names)]]
    table += [
        [cell["by"], cell["value"], str(cell["rows"]), str(cell["labelled"]), *(_number(cell.get(n)) for n in names)]
        for cell in cells
    ]
    return [f"realised, newest {num_windows} windows with labels due:", *_aligned(table)]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _aligned(table: Sequence[Sequence[str]]) -> Iterable[str]:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        cells = [
            text.ljust(w) if place < 2 else text.rjust(w)
            for place, (text, w) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  " + "  ".join(cells).rstrip()
