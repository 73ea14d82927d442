"""The demo's report page: one self-contained file, which works offline."""

from importlib.resources import files
from pathlib import Path

import jinja2
from markupsafe import Markup

from ray_mlops.config import ReplayConfig
from ray_mlops.demo.outcome import Outcome
from ray_mlops.demo.table import summary_lines
from ray_mlops.evaluation.charts import CHART_CSS, Marker, Series, line_chart
from ray_mlops.runtime.files import write_atomically


def render_page(outcome: Outcome, replay: ReplayConfig) -> str:
    """Render what happened, with the loop against never retraining by month."""
    months = [month.month for month in outcome.months]
    markers = _markers(outcome, months)
    charts = []
    for name, title in (("auc", "AUC (higher is better)"), ("log_loss", "Log-loss (lower is better)")):
        loop = Series("the loop", [month.loop[name] for month in outcome.months])
        never = Series("never retrained", [month.never[name] for month in outcome.months], is_dashed=True)
        charts.append(Markup(line_chart([loop, never], months, markers=markers, title=title)))
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: (files("ray_mlops.demo") / "templates" / name).read_text("utf-8")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("demo.html").render(
        outcome=outcome,
        replay=replay,
        charts=charts,
        chart_css=Markup(CHART_CSS),
        summary=summary_lines(outcome),
        broken=outcome.broken_promises(),
    )


def write_page(path: Path, outcome: Outcome, replay: ReplayConfig) -> None:
    """Write the page to a file, atomically."""
    write_atomically(path.absolute(), render_page(outcome, replay).encode())


def _markers(outcome: Outcome, months: list[str]) -> list[Marker]:
    """Retrainings, promotions and roll-backs on the months' axis."""
    found = []
    for decision in outcome.decisions:
        month, day = decision.day[:7], int(decision.day[8:10] or 1)
        if month not in months:
            continue
        position = months.index(month) + (day - 15.5) / 31
        if decision.what == "retraining":
            found.append(Marker(position, "alarm, retraining"))
        elif decision.what.endswith("-> promoting"):
            found.append(Marker(position, "promoted"))
        elif decision.what.endswith("-> rolling_back"):
            found.append(Marker(position, "rolled back"))
    return found
