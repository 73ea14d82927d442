"""A watched year as one page: charts, alarms with their texts, retrainings, and what each drill would have said."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from markupsafe import Markup

from jobs.benchmarks.year_charts import Happening, draw_year, off_reasons
from jobs.benchmarks.year_watch import WatchedYear
from ray_mlops.evaluation.html import render_page
from ray_mlops.evaluation.svg import GREEN, ORANGE, RED
from ray_mlops.ledger import LedgerEvent
from ray_mlops.monitoring.drill.messages import Told
from ray_mlops.monitoring.notices.notice import Notice
from ray_mlops.monitoring.notices.rendering import render
from ray_mlops.monitoring.notices.standing import Standing

TEMPLATE = Path(__file__).with_name("year.html")
_CAPTIONS = {
    "distance": "One row for each column, one cell for each day: total variation in units of what no drift shows. Each "
    "version is measured against days of its own, so that a promotion starts anew.",
    "evidence": "The same days as evidence, which adds up: an alarm is raised where the first row is full, and stands "
    "until another version is champion. Calendar columns are never tested.",
    "loss": "Where the estimate is switched off there is a gap, and a colour behind it: red where labels contradict "
    "it, violet where rows are unlike those that it was fitted on (every stretch is in the table below). Its band is "
    "that of 95 % of days. The last week has no labels yet.",
    "versions": "",
}


def write_page(year: WatchedYear, told: Sequence[Told], directory: Path) -> Path:
    """Write the page, and each chart as a picture of its own; returns the page."""
    directory.mkdir(parents=True, exist_ok=True)
    raised = [event for event in year.events if event.kind == "monitor.alarm"]
    alarms = [_alarm(f"A{number}", event, year) for number, event in enumerate(raised, 1)]
    retrainings = [_retraining(f"R{number}", one) for number, one in enumerate(year.report.retrainings, 1)]
    happened = [Happening(one["name"], one["window"], RED) for one in alarms]
    happened += [
        Happening(one["name"], _window(one["as_of"], year), GREEN if one["passed"] else ORANGE) for one in retrainings
    ]
    charts = draw_year(year, happened)
    for name, chart in charts.items():
        (directory / f"{name}.svg").write_text(chart, encoding="utf-8")
    page = directory / "year.html"
    figures = [{"svg": Markup(chart), "caption": _CAPTIONS[name]} for name, chart in charts.items()]
    off = [{**one, "from": _day(one["from"], year), "to": _day(one["to"], year)} for one in off_reasons(year)]
    content = render_page(
        TEMPLATE, year=year, figures=figures, alarms=alarms, retrainings=retrainings, off=off, told=told
    )
    page.write_text(content, encoding="utf-8")
    return page


def lines_of(notice: Notice) -> list[tuple[str, str]]:
    """A notice's text as headings and sentences."""
    parts = (line.partition(": ") for line in notice.text.splitlines())
    return [(head, words) if found else ("", head) for head, found, words in parts]


def _alarm(name: str, event: LedgerEvent, year: WatchedYear) -> dict[str, Any]:
    followed = [other for other in year.events if other.seq > event.seq]
    notice = render(event, Standing(), followed)
    assert notice is not None
    day = _day(event.payload["window"], year)
    return {"name": name, "window": event.payload["window"], "day": day, "notice": notice, "lines": lines_of(notice)}


def _retraining(name: str, one: Any) -> dict[str, Any]:
    return {
        "name": name,
        "as_of": one.as_of,
        "day": one.as_of[:10],
        "passed": one.became_champion,
        "action": one.action,
        "reason": one.reason,
    }


def _window(as_of: str, year: WatchedYear) -> int:
    days = [window for window in range(year.first_window, year.end_window + 1) if _day(window, year) <= as_of[:10]]
    return days[-1]


def _day(window: int, year: WatchedYear) -> str:
    return str(datetime.fromtimestamp(window * year.window_us / 1e6, UTC).date())
