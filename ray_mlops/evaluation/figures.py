"""Which charts an evaluation report has, and what they are drawn from."""

from collections.abc import Iterator
from dataclasses import dataclass

from markupsafe import Markup

from ray_mlops.evaluation.charts import (
    IntervalRow,
    PointSeries,
    heat_map,
    histogram_pair,
    interval_chart,
    xy_chart,
)
from ray_mlops.evaluation.metrics import METRIC_DIRECTION
from ray_mlops.evaluation.report import EvaluationReport
from ray_mlops.evaluation.svg import BLUE, GREEN, RED, format_number

MAX_ROWS = 40
"""An interval chart shows at most this many slices, those with the largest differences."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A chart and the section of the page that it belongs to."""

    section: str
    caption: str
    svg: Markup


def draw_figures(report: EvaluationReport) -> Iterator[Figure]:
    """Yield the charts that the report has data for, in the order of the page."""
    if report.comparison is not None:
        yield from _draw_comparison(report)
    yield from _draw_predictions(report)
    yield from _draw_slices(report)
    yield from _draw_fairness(report)


def _draw_comparison(report: EvaluationReport) -> Iterator[Figure]:
    comparison = report.comparison
    assert comparison is not None
    rows = []
    for name, found in comparison.metrics.items():
        sign = METRIC_DIRECTION[name]
        low, high = sorted((sign * found.difference.low, sign * found.difference.high))
        rows.append(IntervalRow(name, sign * found.difference.value, low, high, _colour(-high, -low)))
    chart = interval_chart(rows, x_label="better than the champion by (signs turned so that right is better)")
    caption = f"Candidate against champion on the same rows, paired {report.confidence:.0%} intervals."
    yield Figure("champion", caption, Markup(chart))


def _draw_predictions(report: EvaluationReport) -> Iterator[Figure]:
    titles = {
        "roc": ("ROC curve", "false positive rate", "true positive rate"),
        "precision_recall": ("Precision and recall", "recall", "precision"),
    }
    for curve in report.curves:
        title, x_label, y_label = titles[curve.name]
        points = [PointSeries(title, curve.x, curve.y)]
        is_roc = curve.name == "roc"
        chart = xy_chart(
            points,
            title=title,
            x_label=x_label,
            y_label=y_label,
            x_range=(0.0, 1.0),
            y_range=(0.0, 1.0),
            has_diagonal=is_roc,
        )
        yield Figure("predictions", "", Markup(chart))
    if report.calibration:
        bins = report.calibration
        names = {
            "binary": ("predicted probability", "share of positives"),
            "multiclass": ("confidence of the predicted class", "accuracy"),
            "regression": ("mean prediction", "mean target"),
        }
        x_label, y_label = names[report.task]
        predicted, observed = [item.predicted for item in bins], [item.observed for item in bins]
        low, high = [item.low for item in bins], [item.high for item in bins]
        points = [PointSeries("holdout", predicted, observed, low, high, has_dots=True)]
        chart = xy_chart(points, title="Calibration", x_label=x_label, y_label=y_label, has_diagonal=True)
        yield Figure("predictions", "", Markup(chart))
    if report.histogram is not None:
        drawn = report.histogram
        chart = histogram_pair(drawn.edges, drawn.series, title=drawn.title, x_label=drawn.x_label)
        yield Figure("predictions", "", Markup(chart))
    if report.confusion is not None:
        labels = report.confusion.labels
        shares = [[cell / sum(row) if sum(row) else float("nan") for cell in row] for row in report.confusion.counts]
        size = min(760.0, 240.0 + 70.0 * len(labels))
        chart = heat_map(
            labels,
            labels,
            shares,
            title="True class (rows) by predicted class",
            x_label="predicted",
            high=1.0,
            has_numbers=True,
            is_share=True,
            width=max(size, 470.0),
            row_height=28,
        )
        yield Figure("predictions", "", Markup(chart))


def _draw_slices(report: EvaluationReport) -> Iterator[Figure]:
    if report.comparison is not None and report.comparison.slices:
        found = [item for item in report.comparison.slices if item.is_judged]
        shown = sorted(found, key=lambda item: -abs(item.difference.value))[:MAX_ROWS]
        rows = [
            IntervalRow(
                f"{item.column} = {item.label}",
                item.difference.value,
                item.difference.low,
                item.difference.high,
                _colour(item.difference.low, item.difference.high),
                f"{item.rows:,} rows, adjusted p {format_number(item.p_worse, 2)}",
            )
            for item in found
            if item in shown
        ]
        if rows:
            chart = interval_chart(rows, x_label="bounded loss, candidate minus champion (right is worse)")
            caption = f"Intervals hold for all {len(found)} judged slices at once ({report.confidence:.0%})."
            yield Figure("slices", caption, Markup(chart))


def _draw_fairness(report: EvaluationReport) -> Iterator[Figure]:
    for gap in report.fairness:
        if not gap.groups:
            continue
        rows = [
            IntervalRow(group.label, group.rate.value, group.rate.low, group.rate.high, note=f"{group.support:,} rows")
            for group in gap.groups
            if group.is_judged
        ]
        if rows:
            title = f"{gap.measure.replace('_', ' ')} by {gap.column}"
            chart = interval_chart(rows, title=title, reference=None, width=470)
            yield Figure("fairness", "", Markup(chart))


def _colour(low: float, high: float) -> int:
    """Red when all of an interval says worse, green when all of it says better, else blue."""
    if low > 0:
        return RED
    return GREEN if high < 0 else BLUE
