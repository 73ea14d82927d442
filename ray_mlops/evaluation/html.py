"""The evaluation report as one page that needs nothing beside it."""

import math
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import jinja2
from markupsafe import Markup

from ray_mlops.evaluation.charts import CHART_CSS
from ray_mlops.evaluation.figures import Figure, draw_figures
from ray_mlops.evaluation.gate import GateDecision
from ray_mlops.evaluation.intervals import Interval
from ray_mlops.evaluation.metrics import METRIC_DIRECTION
from ray_mlops.evaluation.report import EvaluationReport
from ray_mlops.evaluation.svg import format_interval, format_number

METRIC_TITLES = {
    "auc": "Area under the ROC curve",
    "log_loss": "Log loss, nats",
    "brier": "Brier score",
    "accuracy": "Accuracy",
    "average_precision": "Average precision",
    "ece": "Expected calibration error",
    "macro_f1": "Macro F1",
    "rmse": "Root mean squared error",
    "mae": "Mean absolute error",
    "r2": "R²",
    "medae": "Median absolute error",
}

_LOADER = jinja2.FileSystemLoader(Path(__file__).parent / "templates")


def render_report(report: EvaluationReport, gate: GateDecision | None = None) -> str:
    """Return the report as one HTML page: no script, nothing to load, light and dark.

    Args:
        gate: The decision made from it; None leaves its part out.
    """
    figures: dict[str, list[Figure]] = {}
    for figure in draw_figures(report):
        figures.setdefault(figure.section, []).append(figure)
    return (
        _environment()
        .get_template("report.html")
        .render(
            report=report,
            gate=gate,
            figures=figures,
            metrics=list(metric_rows(report)),
            slice_columns=slice_metrics(report),
        )
    )


def render_page(template: Path, **values: object) -> str:
    """Return a page in the style of the reports.

    Args:
        template: A file of Jinja2; it includes ``style.html`` within its ``style`` element.
        values: What it shows.
    """
    environment = _environment().overlay()
    environment.loader = jinja2.ChoiceLoader([jinja2.FileSystemLoader(template.parent), _LOADER])
    return environment.get_template(template.name).render(values)


def metric_rows(report: EvaluationReport) -> Iterator[dict[str, object]]:
    """Yield one row of the table of metrics: the candidate beside baseline and champion."""
    compared = report.comparison.metrics if report.comparison else {}
    for name, interval in report.metrics.items():
        direction = METRIC_DIRECTION[name]
        difference = compared[name].difference if name in compared else None
        tone = ""
        if difference is not None and direction * difference.low > 0 and direction * difference.high > 0:
            tone = "good"
        elif difference is not None and direction * difference.low < 0 and direction * difference.high < 0:
            tone = "bad"
        yield {
            "title": METRIC_TITLES[name],
            "name": name,
            "arrow": "↑" if direction > 0 else "↓",
            "interval": interval,
            "baseline": report.baseline.metrics.get(name, math.nan),
            "champion": compared[name].champion if name in compared else math.nan,
            "difference": difference,
            "tone": tone,
        }


def slice_metrics(report: EvaluationReport) -> list[str]:
    """Return the metrics that the table of slices shows: the first three that any slice has."""
    return list(report.slices[0].metrics)[:3] if report.slices else []


def write_interval(interval: Interval, is_signed: bool = False) -> Markup:
    """Write a value with its interval in muted type."""
    value, low, high = format_interval(interval.value, interval.low, interval.high, is_signed=is_signed)
    if math.isnan(interval.value):
        return Markup("{}").format(value)
    return Markup('{} <span class="muted">[{}, {}]</span>').format(value, low, high)


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=_LOADER,
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["chart_css"] = Markup(CHART_CSS)
    environment.filters["number"] = format_number
    environment.filters["interval"] = write_interval
    return environment
