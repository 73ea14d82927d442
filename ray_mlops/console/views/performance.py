"""The performance page: losses that labels have shown, beside those that were expected without them."""

import asyncio
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from markupsafe import Markup

from ray_mlops.console.address import Visit
from ray_mlops.console.render import CHART_WIDTH, Screen
from ray_mlops.console.sources import Away, ConsoleData, Document
from ray_mlops.console.views.drift import window_label
from ray_mlops.evaluation.charts import Marker, Series, line_chart
from ray_mlops.evaluation.svg import GREEN, ORANGE, RED
from ray_mlops.ledger import LedgerEvent
from ray_mlops.monitoring.label_delays import days

MAX_WINDOWS = 120
MAX_MARKS = 8
MAX_CURVES = 6
_BROKEN_DOWN = (
    "loss", "log_loss", "accuracy", "mae", "rmse", "mean_error", "positive_rate", "mean_prediction",
    "selection_rate", "true_positive_rate", "false_positive_rate",
)  # fmt: skip
_METRICS = {"accuracy": "Accuracy", "auc": "Area under the ROC curve", "mae": "Mean absolute error", "rmse": "RMSE"}
_LABEL_WORDS = {
    "accepted": "accepted",
    "duplicate": "repeated",
    "conflicting": "conflicting",
    "corrected": "corrected",
    "invalid": "not a label of this model",
    "unknown": "for no known prediction",
    "unlabelled": "predictions that never got one",
    "early_labels": "waiting for their prediction",
    "predictions": "predictions held for labels",
}


async def show_performance(data: ConsoleData, visit: Visit) -> Screen:
    """Show the realised and the estimated loss of a model."""
    document, epochs, retrainings = await asyncio.gather(
        data.monitoring(visit.model),
        data.events(stream=f"{visit.model}/monitor", kind="monitor.epoch", limit=MAX_MARKS),
        data.events(stream=f"{visit.model}/retrain", kind="retrain.decided", limit=MAX_MARKS),
    )
    build = partial(build_performance, document, epochs, retrainings)
    return Screen("performance", f"Performance of {visit.model}", build)


def build_performance(
    document: Document, epochs: Sequence[LedgerEvent], retrainings: Sequence[LedgerEvent]
) -> dict[str, Any]:
    """Return what the page shows.

    Args:
        document: What the monitor says.
        epochs: When another version came under watch, newest first.
        retrainings: Decisions to retrain, newest first.
    """
    if isinstance(document, Away):
        return {"away": document.reason, "view": None}
    matured: list[Mapping[str, Any]] = list(document.get("performance") or ())
    unlabelled: list[Mapping[str, Any]] = list(document.get("unlabelled") or ())
    windows = sorted((*matured, *unlabelled), key=lambda window: window.get("window") or 0)[-MAX_WINDOWS:]
    loss: Mapping[str, Any] = (document.get("drift") or {}).get("loss") or {}
    marks = _marks(windows, epochs, retrainings, document.get("window_s"))
    newest = next((window for window in reversed(windows) if window.get("loss") is not None), None)
    labels: Mapping[str, Any] = document.get("labels") or {}
    return {
        "away": "",
        "view": {
            "version": document.get("version"),
            "newest": None if newest is None else _row(newest),
            "limit": loss.get("limit"),
            "loss_log_e": loss.get("log_e"),
            "alarm_at": (document.get("drift") or {}).get("limit"),
            "is_alarmed": "loss" in (document.get("alarms") or ()),
            "kind": _kind(document),
            "estimate": _estimate(windows, document.get("estimates") or {}),
            "delays": _delays(document.get("label_delays") or {}),
            "realised": _realised(document.get("realised") or {}),
            "labels": [(words, labels[name]) for name, words in _LABEL_WORDS.items() if name in labels],
            "figures": _draw(windows, loss.get("limit"), marks),
            "windows": [_row(window) for window in reversed(windows)],
        },
    }


def _delays(found: Mapping[str, Any]) -> dict[str, Any]:
    """How long labels take: a line for each class, the curves, and what they say of the configuration."""
    by_class: Mapping[str, Mapping[str, Any]] = found.get("delays_s") or {}
    curve: Sequence[Mapping[str, Any]] = found.get("curve") or ()
    lines = [
        {"name": name, "labels": known["labels"], "delays": [(q, days(s)) for q, s in known.items() if q != "labels"]}
        for name, known in by_class.items()
    ]
    if not curve:
        return {"advice": found.get("advice") or "", "lines": lines, "figures": []}
    shown = [name for name in by_class if name != "all"][:MAX_CURVES] or ["all"]
    series = [Series(f"labels that come, {name}", [point["arrived"][name] for point in curve]) for name in shown]
    series.append(Series("rows with a label", [_number(point["coverage"]) for point in curve], colour=GREEN))
    chart = line_chart(
        series,
        [days(point["age_s"]) for point in curve],
        title="Labels by age of the row",
        y_range=(0.0, 1.0),
        is_share=True,
        width=CHART_WIDTH,
        height=240,
    )
    return {"advice": found.get("advice") or "", "lines": lines, "figures": [{"svg": Markup(chart), "caption": ""}]}


def _realised(found: Mapping[str, Any]) -> dict[str, Any]:
    """Performance by arm, version, slice and group: the metrics that there are, and a row for each."""
    cells: Sequence[Mapping[str, Any]] = found.get("total") or ()
    names = [name for name in _BROKEN_DOWN if any(cell.get(name) is not None for cell in cells)]
    return {
        "windows": len(found.get("windows") or ()),
        "names": [name.replace("_", " ") for name in names],
        "cells": [{**cell, "metrics": [cell.get(name) for name in names]} for cell in cells],
        "problems": found.get("problems") or {},
    }


def _kind(document: Mapping[str, Any]) -> str:
    """Say what a loss alarm is about; nothing without one."""
    if "loss" not in (document.get("alarms") or ()):
        return ""
    parts: Mapping[str, Any] = (document.get("drift") or {}).get("loss_parts") or {}
    return str(parts.get("kind_reason") or "")


def _estimate(windows: Sequence[Mapping[str, Any]], record: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the newest estimate assumes, why it is shown or not, how good estimates were; None without one."""
    newest: Mapping[str, Any] | None = next((w["estimated"] for w in reversed(windows) if w.get("estimated")), None)
    if newest is None:
        return None
    coverage = newest.get("coverage")
    return {
        "assumes": str(newest.get("assumes") or ""),
        "is_shown": bool(newest.get("is_shown", True)),
        "reason": str(newest.get("reason") or ""),
        "band": coverage if isinstance(coverage, float) else None,
        "record": str(record.get("words") or ""),
    }


def _row(window: Mapping[str, Any]) -> dict[str, Any]:
    estimated = window.get("estimated") or {}
    errors: Mapping[str, Any] = window.get("estimate_error") or {}
    return {
        "label": window_label(window),
        "rows": window.get("rows") or 0,
        "labelled": window.get("labelled") or 0,
        "coverage": coverage(window),
        "loss": window.get("loss"),
        "estimated_loss": estimated.get("bounded_loss"),
        "log_loss": window.get("log_loss"),
        "estimated_log_loss": estimated.get("log_loss"),
        "error": errors.get("bounded_loss"),
        "log_loss_error": errors.get("log_loss"),
        "judged": bool(window.get("judged")),
    }


def coverage(window: Mapping[str, Any]) -> float:
    """Return the share of a window's rows that has a label; NaN for a window without rows.

    Example:
        >>> coverage({"rows": 8, "labelled": 6})
        0.75
    """
    rows = window.get("rows") or 0
    return (window.get("labelled") or 0) / rows if rows else math.nan


def _draw(windows: Sequence[Mapping[str, Any]], limit: float | None, marks: Sequence[Marker]) -> list[dict[str, Any]]:
    labels = [window_label(window) for window in windows]
    if not labels:
        return []
    figures = [_losses(windows, labels, "Mean bounded loss", "loss", "bounded_loss", limit, marks)]
    if any(window.get("log_loss") is not None for window in windows):
        figures.append(_losses(windows, labels, "Mean log loss, nats", "log_loss", "log_loss", None, marks))
    figures += [_metric(windows, labels, name, title, marks) for name, title in _METRICS.items() if _has(windows, name)]
    shares = Series("rows with a label", [coverage(window) for window in windows], colour=GREEN)
    chart = line_chart(
        [shares], labels, title="Label coverage", y_range=(0.0, 1.0), is_share=True, width=CHART_WIDTH, height=220
    )
    return [*figures, {"svg": Markup(chart), "caption": ""}]


def _losses(
    windows: Sequence[Mapping[str, Any]],
    labels: Sequence[str],
    title: str,
    realised: str,
    estimated: str,
    limit: float | None,
    marks: Sequence[Marker],
) -> dict[str, Any]:
    lines = [Series("realised, from labels", [_number(window.get(realised)) for window in windows])]
    guesses = [_number((window.get("estimated") or {}).get(estimated)) for window in windows]
    if any(map(math.isfinite, guesses)):
        lines.append(_banded(windows, guesses, estimated))
    if limit is not None:
        lines.append(Series("no decay up to", [limit] * len(labels), is_dashed=True, colour=RED))
    chart = line_chart(lines, labels, markers=marks, title=title, width=CHART_WIDTH)
    return {"svg": Markup(chart), "caption": ""}


def _metric(
    windows: Sequence[Mapping[str, Any]], labels: Sequence[str], name: str, title: str, marks: Sequence[Marker]
) -> dict[str, Any]:
    """One metric of the version's own rows: realised and estimated."""
    lines = []
    realised = [_number((window.get("realised") or {}).get(name)) for window in windows]
    if any(map(math.isfinite, realised)):
        lines.append(Series("realised, from labels", realised))
    guesses = _bounds(windows, name, "value")
    if any(map(math.isfinite, guesses)):
        lines.append(_banded(windows, guesses, name))
    chart = line_chart(lines, labels, markers=marks, title=title, width=CHART_WIDTH, height=240)
    return {"svg": Markup(chart), "caption": ""}


def _banded(windows: Sequence[Mapping[str, Any]], guesses: Sequence[float], name: str) -> Series:
    low, high = (_bounds(windows, name, end) for end in ("lower", "upper"))
    return Series("estimated without labels", guesses, low, high, is_dashed=True, colour=ORANGE)


def _bounds(windows: Sequence[Mapping[str, Any]], name: str, end: str) -> list[float]:
    """The value or an end of the band of an estimated metric, by window; NaN where it is not shown."""
    metrics = [(window.get("estimated") or {}).get("metrics") or {} for window in windows]
    return [_number((found.get(name) or {}).get(end)) for found in metrics]


def _has(windows: Sequence[Mapping[str, Any]], name: str) -> bool:
    """Whether any window has a metric, realised or estimated."""
    shown = [*_bounds(windows, name, "value"), *(_number((w.get("realised") or {}).get(name)) for w in windows)]
    return any(map(math.isfinite, shown))


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _marks(
    windows: Sequence[Mapping[str, Any]],
    epochs: Sequence[LedgerEvent],
    retrainings: Sequence[LedgerEvent],
    window_s: float | None,
) -> list[Marker]:
    """New versions and decisions to retrain, where they lie between the first window shown and the last."""
    places = {window.get("window"): index for index, window in enumerate(windows)}
    marks = []
    for event in epochs:
        place = places.get(event.payload.get("start_window"))
        if place is not None:
            marks.append(Marker(place - 0.5, f"version {event.payload.get('version')}", GREEN))
    for event in retrainings:
        as_of_us = event.payload.get("as_of_us")
        place = places.get(int(as_of_us // (window_s * 1e6)) - 1) if as_of_us and window_s else None
        if place is not None:
            marks.append(Marker(place + 0.5, "retraining decided"))
    return sorted(marks, key=lambda mark: mark.position)
