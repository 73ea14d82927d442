"""A watched year as charts that stand one below the other on one axis of days."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

from jobs.benchmarks.year_watch import WatchedYear
from ray_mlops.evaluation.charts import Marker, Series, Shade, heat_map, line_chart
from ray_mlops.evaluation.lanes import lane_chart
from ray_mlops.evaluation.svg import BLUE, GREEN, ORANGE, PURPLE, RED, text_width
from ray_mlops.ledger import LedgerEvent

WIDTH = 1180.0
FULL_RATIO = 4.0
"""Times the no-drift distance at which a cell is at full colour."""
_SCORE = "prediction"
_OFF = {
    "labels contradict": ("estimate off: labels contradict it", RED),
    "of what it rests on": ("estimate off: rows unlike those it was fitted on", PURPLE),
}
"""Why an estimate is not shown: by words of the reason, the name of that and its colour."""


@dataclass(frozen=True, slots=True)
class Happening:
    """An alarm or a retraining, by the name that it has in the charts and in the tables."""

    name: str
    window: int
    colour: int


@dataclass(frozen=True)
class YearAxis:
    """The days of a year as places of a chart."""

    first_window: int
    end_window: int
    window_us: int
    left: float

    @property
    def windows(self) -> range:
        return range(self.first_window, self.end_window)

    @property
    def days(self) -> list[str]:
        """ISO dates, for tips."""
        return [str(self._date(window).date()) for window in self.windows]

    @property
    def months(self) -> dict[int, str]:
        """Where each month begins."""
        return {
            window - self.first_window: f"{self._date(window):%b}"
            for window in self.windows
            if self._date(window).day == 1
        }

    def place(self, window: int) -> int:
        return window - self.first_window

    def shade(self, first: int, last: int, label: str, colour: int | str = "muted", opacity: float = 0.12) -> Shade:
        """Windows ``first`` to ``last``, inclusive."""
        return Shade(self.place(first) - 0.5, self.place(last) + 0.5, label, colour, opacity)

    def _date(self, window: int) -> datetime:
        return datetime.fromtimestamp(window * self.window_us / 1e6, UTC)


def axis_of(year: WatchedYear) -> YearAxis:
    """The axis of all charts of a year."""
    names = [_written(year, name) for name in row_names(year)]
    left = 16 + max((text_width(name, 12) for name in names), default=100.0)
    return YearAxis(year.first_window, year.end_window, year.window_us, left)


def draw_year(year: WatchedYear, happened: Sequence[Happening]) -> dict[str, str]:
    """Draw all charts, by name of file.

    Args:
        year: What was seen.
        happened: What is marked on the axis.
    """
    axis = axis_of(year)
    marks = [Marker(axis.place(one.window), one.name, one.colour) for one in happened]
    return {
        "distance": _distances(year, axis, marks),
        "evidence": _evidence(year, axis, marks),
        "loss": _losses(year, axis, marks),
        "versions": _versions(year, axis),
    }


def row_names(year: WatchedYear) -> list[str]:
    """The columns: the score, those with most evidence in the year, calendar columns last."""
    calendar = {feature.name for feature in year.config.data.features or [] if feature.role == "calendar"}
    most: dict[str, float] = {}
    for window in year.recorder.windows.values():
        for name, found in window["features"].items():
            most[name] = max(most.get(name, -math.inf), found.get("log_e") or 0.0)
    return sorted(most, key=lambda name: (name != _SCORE, name in calendar, -most[name], name))


def _by_day(year: WatchedYear, axis: YearAxis, marks: Sequence[Marker]) -> dict[str, Any]:
    """How a heat map is laid on the axis that all charts share."""
    return {
        "markers": marks,
        "shades": [_training(year, axis)],
        "ticks": axis.months,
        "left": axis.left,
        "width": WIDTH,
        "row_height": 17,
    }


def _distances(year: WatchedYear, axis: YearAxis, marks: Sequence[Marker]) -> str:
    names = row_names(year)
    values = [[_ratio(_feature(year, window, name)) for window in axis.windows] for name in names]
    return heat_map(
        [_written(year, name) for name in names],
        axis.days,
        values,
        title="How far each column is from the reference, by day",
        high=FULL_RATIO,
        x_label="times the distance that no drift would show: 1 is chance, above 2 is more than noise",
        **_by_day(year, axis, marks),
    )


def _evidence(year: WatchedYear, axis: YearAxis, marks: Sequence[Marker]) -> str:
    calendar = {feature.name for feature in year.config.data.features or [] if feature.role == "calendar"}
    names = [name for name in row_names(year) if name not in calendar]
    limit, recorder = year.recorder.limit, year.recorder
    totals = [_positive((recorder.windows.get(window) or {}).get("log_e")) / limit for window in axis.windows]
    losses = [_positive(recorder.loss_log_e.get(window)) / limit for window in axis.windows]
    columns = [
        [_positive(_feature(year, window, name).get("log_e")) / limit for window in axis.windows] for name in names
    ]
    return heat_map(
        ["all columns", "loss (labels)", *(_written(year, name) for name in names)],
        axis.days,
        [totals, losses, *columns],
        title="Evidence that it has moved, by day",
        high=1.0,
        is_share=True,
        x_label="share of the action level, log scale: full colour is an alarm where all columns together reach it",
        **_by_day(year, axis, marks),
    )


def _losses(year: WatchedYear, axis: YearAxis, marks: Sequence[Marker]) -> str:
    known = [year.recorder.performance.get(window) or {} for window in axis.windows]
    bands: list[Mapping[str, Any]] = [_estimated(shown) for shown in known]
    realised = Series("realised, from labels", [_number(shown.get("loss")) for shown in known])
    estimated = Series(
        "estimated without them",
        [_number(band.get("value")) for band in bands],
        [_number(band.get("lower")) for band in bands],
        [_number(band.get("upper")) for band in bands],
        colour=ORANGE,
    )
    limits = [_number(year.recorder.limits.get(window)) for window in axis.windows]
    limit = Series("no decay up to", limits, is_dashed=True, colour=GREEN)
    return line_chart(
        [realised, estimated, limit],
        axis.days,
        title="Realised and estimated loss, by day",
        y_label="mean bounded loss",
        markers=marks,
        shades=[_training(year, axis), *(axis.shade(*span) for span in off_spans(year))],
        ticks=axis.months,
        left=axis.left,
        width=WIDTH,
        height=380,
        y_range=(0.0, 0.0),
    )


def _versions(year: WatchedYear, axis: YearAxis) -> str:
    epochs = [event for event in year.events if event.kind == "monitor.epoch"]
    lanes: dict[str, list[Shade]] = {}
    for index, event in enumerate(epochs):
        start = _start(event, year)
        end = _start(epochs[index + 1], year) if index + 1 < len(epochs) else year.end_window
        first, last = event.payload["reference_windows"]
        lanes[f"version {event.payload['version']}"] = [
            axis.shade(first, last, "its reference", "muted", 0.3),
            axis.shade(start, end - 1, "champion, watched", BLUE, 0.45),
        ]
    return lane_chart(
        lanes,
        len(axis.windows),
        ticks=axis.months,
        left=axis.left,
        width=WIDTH,
        title="Which version was watched, and against which days",
    )


def off_spans(year: WatchedYear) -> list[tuple[int, int, str, int, float]]:
    """Stretches of days whose estimate is not shown: first and last window, why, colour and opacity."""
    days = [(window, _off(year, window)) for window in sorted(year.recorder.performance)]
    return [
        (span[0][0], span[-1][0], *why, 0.13)
        for why, group in groupby(days, key=lambda day: day[1])
        if why is not None and (span := list(group))
    ]


def off_reasons(year: WatchedYear) -> list[dict[str, Any]]:
    """The same for people: from, to, days, why, and the words of the last day."""
    found = []
    for first, last, label, _, _ in off_spans(year):
        words = str(year.recorder.performance[last]["estimated"]["reason"])
        found.append({"from": first, "to": last, "days": last - first + 1, "why": label, "words": words})
    return found


def _off(year: WatchedYear, window: int) -> tuple[str, int] | None:
    estimated = year.recorder.performance[window].get("estimated") or {}
    if estimated.get("is_shown", True):
        return None
    reason = str(estimated.get("reason"))
    return next((why for words, why in _OFF.items() if words in reason), ("estimate off: too few rows", ORANGE))


def _training(year: WatchedYear, axis: YearAxis) -> Shade:
    return axis.shade(year.first_window, year.start_window - 1, "reference, training")


def _start(epoch: LedgerEvent, year: WatchedYear) -> int:
    start = epoch.payload["start_window"]
    return year.start_window if start is None else int(start)


def _feature(year: WatchedYear, window: int, name: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = (year.recorder.windows.get(window) or {}).get("features", {}).get(name) or {}
    return found


def _written(year: WatchedYear, name: str) -> str:
    calendar = {feature.name for feature in year.config.data.features or [] if feature.role == "calendar"}
    return f"{name} (calendar)" if name in calendar else f"{name} (score)" if name == _SCORE else name


def _ratio(found: Mapping[str, Any]) -> float:
    value, expected = found.get("total_variation"), found.get("expected")
    return float(value) / float(expected) if value is not None and expected else math.nan


def _estimated(shown: Mapping[str, Any]) -> Mapping[str, Any]:
    metrics: Mapping[str, Any] = (shown.get("estimated") or {}).get("metrics") or {}
    return metrics.get("bounded_loss") or {}


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _positive(value: Any) -> float:
    """Evidence against is none."""
    return math.nan if value is None else max(float(value), 0.0)


def mean_of(values: Iterable[float]) -> float:
    """Mean of the numbers; NaN without any."""
    found = [value for value in values if math.isfinite(value)]
    return sum(found) / len(found) if found else math.nan
