"""The drift page: which columns moved, when, and how far beyond what no drift would show."""

import asyncio
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from markupsafe import Markup

from ray_mlops.console.address import Visit
from ray_mlops.console.events import describe_event, tone_of
from ray_mlops.console.render import CHART_WIDTH, Screen
from ray_mlops.console.sources import Away, ConsoleData, Document
from ray_mlops.evaluation.charts import Marker, Series, bar_chart, heat_map, line_chart
from ray_mlops.evaluation.svg import RED
from ray_mlops.ledger import LedgerEvent
from ray_mlops.monitoring.attention import attention_words

MAX_WINDOWS = 60
MAX_HISTOGRAMS = 6
FULL_RATIO = 4.0
"""Times the no-drift distance at which a cell of the heat map is at full colour."""
_RECORDED = 30


async def show_drift(data: ConsoleData, visit: Visit) -> Screen:
    """Show what the monitor says of a model's inputs and score."""
    stream = f"{visit.model}/monitor"
    events, document = await asyncio.gather(data.events(stream=stream, limit=_RECORDED), data.monitoring(visit.model))
    return Screen("drift", f"Drift of {visit.model}", partial(build_drift, events, document))


def build_drift(events: Sequence[LedgerEvent], document: Document) -> dict[str, Any]:
    """Return what the page shows.

    Args:
        events: Events of the monitor's stream, newest first.
        document: What the monitor says. Of it ``windows`` (window, start, rows, log_e, limit, alarms, features) and
            ``drift.features.NAME.histogram`` (labels, reference, current) may be absent.
    """
    recorded = [{"event": e, "text": describe_event(e), "tone": tone_of(e)} for e in events]
    if isinstance(document, Away):
        return {"away": document.reason, "recorded": recorded, "view": None}
    drift: Mapping[str, Any] = document.get("drift") or {}
    windows = list(document.get("windows") or ())[-MAX_WINDOWS:]
    features = _by_evidence(drift.get("features") or {})
    alarms = list(document.get("alarms") or ())
    starts = {item.get("window"): str(item.get("start") or "") for item in windows}
    return {
        "away": "",
        "recorded": recorded,
        "view": {
            "alarms": alarms,
            "breaches": list(drift.get("breaches") or ()),
            "guilty": list(drift.get("guilty") or ()),
            "notices": list(drift.get("notices") or ()),
            "attention": attention_words(document),
            "log_e": drift.get("log_e"),
            "limit": drift.get("limit"),
            "fill": _fill(drift.get("log_e"), drift.get("limit")),
            "alpha": drift.get("alpha"),
            "change_point": drift.get("change_point"),
            "change_start": starts.get(drift.get("change_point"), ""),
            "loss": drift.get("loss"),
            **{name: document.get(name) for name in ("version", "watermark", "rows", "late_rows", "closed_window")},
            "features": [_feature(name, column, drift.get("limit")) for name, column in features],
            "has_windows": bool(windows),
            "figures": [*_draw_windows(windows, features), *_draw_now(features, bool(windows))],
            "histograms": _draw_histograms(features),
        },
    }


def _by_evidence(features: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
    """Columns that are tested with most evidence first, then the others."""
    return sorted(features.items(), key=lambda item: (item[1].get("status") == "calendar", -_log_e(item[1]), item[0]))


def _log_e(column: Mapping[str, Any]) -> float:
    value = column.get("log_e")
    return float(value) if value is not None and math.isfinite(value) else 0.0


def _fill(log_e: float | None, limit: float | None) -> float:
    if log_e is None or not limit or math.isnan(log_e):
        return 0.0
    return round(100 * min(max(log_e / limit, 0.0), 1.0), 1)


def distance_ratio(column: Mapping[str, Any]) -> float:
    """Return total variation in units of what no drift gives; NaN where it is not known.

    Example:
        >>> distance_ratio({"total_variation": 0.3, "expected": 0.1}), distance_ratio({})
        (2.9999999999999996, nan)
    """
    value, expected = column.get("total_variation"), column.get("expected")
    return float(value) / float(expected) if value is not None and expected else math.nan


def _feature(name: str, column: Mapping[str, Any], limit: float | None) -> dict[str, Any]:
    return {
        "name": name,
        "is_score": bool(column.get("is_score")),
        "status": str(column.get("status") or "").replace("_", " "),
        "weight": column.get("weight"),
        "log_e": column.get("log_e"),
        "fill": _fill(column.get("log_e"), limit),
        "total_variation": column.get("total_variation"),
        "expected": column.get("expected"),
        "ratio": distance_ratio(column),
        "is_noise": column.get("is_noise", True),
        "null_ratio": column.get("null_ratio"),
        "caveat": str(column.get("caveat") or ""),
        "channels": dict(column.get("channels") or {}),
        "magnitudes": list((column.get("magnitudes") or {}).values()),
        "breaches": list(column.get("breaches") or ()),
    }


def _draw_windows(
    windows: Sequence[Mapping[str, Any]], features: Sequence[tuple[str, Mapping[str, Any]]]
) -> list[dict[str, Any]]:
    if not windows:
        return []
    names = [name for name, column in features if column.get("status") != "calendar"]
    labels = [window_label(window) for window in windows]
    seen: list[Mapping[str, Any]] = [window.get("features") or {} for window in windows]
    ratios = [[distance_ratio(found.get(name) or {}) for found in seen] for name in names]
    evidence = [[max(_log_e(found[name]), 0.0) if name in found else math.nan for found in seen] for name in names]
    limit = next((window["limit"] for window in reversed(windows) if window.get("limit")), None)
    titles = ("Distance from the reference, by window", "Log evidence of drift, by window")
    moved = heat_map(names, labels, ratios, title=titles[0], high=FULL_RATIO, x_label="window", width=CHART_WIDTH)
    known = heat_map(names, labels, evidence, title=titles[1], high=limit, x_label="window", width=CHART_WIDTH)
    said = "Total variation in units of what no drift gives: 1 is chance, above 2 is more than noise."
    figures = [{"svg": Markup(moved), "caption": said}]
    said = "Full colour is the action level for all columns together. Empty cells: too few rows to test."
    figures.append({"svg": Markup(known), "caption": said})
    totals = [math.nan if window.get("log_e") is None else float(window["log_e"]) for window in windows]
    if any(map(math.isfinite, totals)) and limit:
        lines = [Series("all columns", totals), Series("action level", [limit] * len(labels), None, None, True, RED)]
        chart = line_chart(
            lines, labels, markers=_alarm_marks(windows), title="Log evidence of drift", width=CHART_WIDTH
        )
        figures.append({"svg": Markup(chart), "caption": ""})
    return figures


def _alarm_marks(windows: Sequence[Mapping[str, Any]]) -> list[Marker]:
    """Where each alarm was first up."""
    marks, known = [], set[str]()
    for index, window in enumerate(windows):
        fresh = [name for name in window.get("alarms") or () if name not in known]
        known.update(fresh)
        if fresh:
            marks.append(Marker(index, f"alarm: {', '.join(fresh)}", RED))
    return marks


def window_label(window: Mapping[str, Any]) -> str:
    """Name a window by its start, or by its number.

    Example:
        >>> window_label({"window": 7, "start": "2013-06-03T00:00:00Z"}), window_label({"window": 7})
        ('2013-06-03', '7')
    """
    start = str(window.get("start") or "")
    if not start:
        return str(window.get("window"))
    return start[:10] if start[11:19] == "00:00:00" else start[5:16].replace("T", " ")


def _draw_now(features: Sequence[tuple[str, Mapping[str, Any]]], has_windows: bool) -> list[dict[str, Any]]:
    """The newest window alone, where the monitor does not tell of those before it."""
    found = [(name, column) for name, column in features if math.isfinite(distance_ratio(column))]
    if has_windows or not found:
        return []
    bars = [
        Series("newest window", [float(column["total_variation"]) for _, column in found]),
        Series("no drift", [float(column["expected"]) for _, column in found]),
    ]
    title = "Distance from the reference in the newest window, total variation"
    return [
        {"svg": Markup(bar_chart([name for name, _ in found], bars, title=title, width=CHART_WIDTH)), "caption": ""}
    ]


def _draw_histograms(features: Sequence[tuple[str, Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Reference against current of the columns with most evidence."""
    figures: list[dict[str, Any]] = []
    for name, column in features:
        histogram = column.get("histogram")
        if histogram and len(figures) < MAX_HISTOGRAMS:
            counts = {key: list(histogram[key]) for key in ("reference", "current")}
            totals = {key: sum(values) or 1.0 for key, values in counts.items()}
            bars = [Series(key, [value / totals[key] for value in values]) for key, values in counts.items()]
            labels = [str(label) for label in histogram["labels"]]
            chart = bar_chart(labels, bars, title=name, is_share=True, width=CHART_WIDTH / 2 - 14, height=260)
            figures.append({"svg": Markup(chart), "caption": ""})
    return figures
