"""The page of a year: what was seen and said is on it, in the right place of one axis."""

import math
import xml.etree.ElementTree as ET
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jobs.benchmarks.suite import run_suite
from jobs.benchmarks.year_charts import axis_of, mean_of, off_reasons, row_names
from jobs.benchmarks.year_page import write_page
from jobs.benchmarks.year_report import estimate_error
from jobs.benchmarks.year_watch import Recorder, WatchedYear
from ray_mlops.ledger import LedgerEvent
from ray_mlops.monitoring.drill.messages import Told
from ray_mlops.orchestration.backtest.replay import PolicyReport, Retraining

DAY = 86_400_000_000
FIRST, START, END = 15706, 15765, 16070  # 1 January, 1 March and 30 December 2013


def shown(window: int, temp: float) -> dict[str, Any]:
    found = {"log_e": temp, "total_variation": 0.3, "expected": 0.1, "is_noise": False}
    features = {"temp": found, "weekday": {**found, "log_e": 0.0}, "prediction": {**found, "log_e": 0.5}}
    return {"window": window, "rows": 100, "log_e": temp, "features": features}


def day(window: int, reason: str = "") -> dict[str, Any]:
    metrics = {} if reason else {"bounded_loss": {"value": 0.2, "lower": 0.1, "upper": 0.3}}
    value = None if reason else 0.2
    estimated = {"is_shown": not reason, "reason": reason, "bounded_loss": value, "metrics": metrics}
    return {"window": window, "loss": 0.25 + 0.1 * (window % 2), "estimated": estimated}


def event(seq: int, kind: str, **payload: Any) -> LedgerEvent:
    window = payload.get("window", START)
    stream = "flights/" + ("retrain" if kind.startswith("retrain") else "monitor")
    return LedgerEvent(seq, stream, seq, 0.0, (window + 1) * DAY, kind, f"k{seq}", payload, "", "")


@pytest.fixture
def year() -> WatchedYear:
    recorder = Recorder(SimpleNamespace(name="configured"))  # type: ignore[arg-type]
    recorder.limit = 5.3
    recorder.windows = {window: shown(window, 1.0) for window in range(START, END)}
    contradicted = {window: day(window, "labels contradict it: x") for window in range(15900, 15910)}
    recorder.performance = {window: day(window) for window in range(START, END)} | contradicted
    alarm = {"alarm": "drift:inputs", "level": "drift", "name": "inputs", "guilty": ["temp"], "window": 15809}
    events = [
        event(1, "monitor.epoch", version="1", reference_windows=[FIRST, START - 1], start_window=None),
        event(2, "monitor.alarm", **alarm, version="1", log_e=6.0, limit=5.3, window_us=DAY, columns={}, reason="r"),
        event(3, "retrain.withheld", reason="too few rows", blocked=False, window=15809),
        event(4, "monitor.epoch", version="2", reference_windows=[15763, 15822], start_window=15823),
    ]
    retraining = Retraining("2013-04-28T00:00+00:00", "inputs", "full", True, "passed the gate", 1.0)
    calendar = SimpleNamespace(name="weekday", role="calendar")
    config = SimpleNamespace(data=SimpleNamespace(features=[calendar]))
    report = PolicyReport("configured", (retraining,), (100,), (0.5,), (START,))
    nothing: Any = None
    return WatchedYear(config, DAY, FIRST, START, END, 36_400, recorder, report, events, nothing, nothing)  # type: ignore[arg-type]


def test_page_has_every_alarm_with_its_text_and_every_retraining(year: WatchedYear, tmp_path: Path) -> None:
    told = [Told("nulls", "20% are null", "temp", 1, (), "Nobody would be sent <anything>.")]
    page = write_page(year, told, tmp_path / "out").read_text(encoding="utf-8")
    assert "A1 · 2013-04-14 · flights: drift alarm on inputs: temp" in page
    assert "no retraining: too few rows." in page
    assert "2013-04-28" in page
    assert "Nobody would be sent &lt;anything&gt;." in page
    assert "<script" not in page
    for name in ("distance", "evidence", "loss", "versions"):
        chart = (tmp_path / "out" / f"{name}.svg").read_text(encoding="utf-8")
        assert ET.fromstring(chart.encode()).tag == "{http://www.w3.org/2000/svg}svg"
        assert chart in page
        if name != "versions":
            assert {">A1<", ">R1<", ">Mar<"} <= {mark for mark in (">A1<", ">R1<", ">Mar<") if mark in chart}


def test_axis_has_a_place_for_each_day_and_names_the_months(year: WatchedYear) -> None:
    axis = axis_of(year)
    assert (axis.days[0], axis.days[-1], len(axis.days)) == ("2013-01-01", "2013-12-30", END - FIRST)
    assert axis.months[0] == "Jan"
    assert axis.days[list(axis.months)[2]] == "2013-03-01"


def test_rows_are_the_score_then_the_columns_with_most_evidence_then_calendars(year: WatchedYear) -> None:
    assert row_names(year) == ["prediction", "temp", "weekday"]


def test_days_without_an_estimate_are_told_as_stretches_with_their_reason(year: WatchedYear) -> None:
    (stretch,) = off_reasons(year)
    assert (stretch["from"], stretch["to"], stretch["days"]) == (15900, 15909, 10)
    assert stretch["why"] == "estimate off: labels contradict it"
    assert stretch["words"] == "labels contradict it: x"


def test_error_of_the_estimate_is_that_of_days_that_have_one(year: WatchedYear) -> None:
    figure = estimate_error(year)
    assert figure.value == pytest.approx(0.1, abs=1e-3)
    assert "on 295 of 305 days" in figure.detail
    assert math.isnan(mean_of([]))


def test_recorder_keeps_what_was_shown_when_labels_matured_and_not_what_is_said_later() -> None:
    views = [
        {"closed_window": 3, "windows": [shown(3, 1.0)], "performance": [day(3)], "unlabelled": [day(4)]},
        {"closed_window": 4, "windows": [shown(3, 9.0)], "performance": [day(3, "too late"), day(4)], "unlabelled": []},
    ]
    for number, view in enumerate(views):
        view["drift"] = {"limit": 5.3, "loss": {"log_e": float(number), "limit": 0.2}}
    left = iter(views)
    recorder = Recorder(SimpleNamespace(name="configured", view=lambda: next(left)))  # type: ignore[arg-type]
    recorder.look()
    recorder.look()
    assert recorder.windows[3]["log_e"] == 1.0
    assert recorder.performance[3]["estimated"]["is_shown"]
    assert recorder.performance[4]["loss"] is not None
    assert recorder.loss_log_e == {3: 0.0, 4: 1.0}


def test_benchmark_that_draws_asks_for_a_directory(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run_suite("", {"m": ("k",)}, ["--quick"], draws=True)
    assert "--out" in capsys.readouterr().err
