"""Alarms, decisions and jobs: each committed before it is acted upon, and once, whenever the monitor dies."""

from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest

from ray_mlops.errors import MonitoringError, NotFoundError, StoreError
from ray_mlops.ledger import Ledger
from ray_mlops.monitoring.service import MonitorService
from ray_mlops.serving.prediction_log.compaction import compact

FIRST, MODEL = 1000, "m"
HOUR = 3_600_000_000


def serve_drift(world: Any, windows: range = range(FIRST, FIRST + 8), shift: float = 3.0) -> None:
    """Traffic that has drifted, with labels, so that there is a reason to retrain and something to learn from."""
    for window in windows:
        rows = world.log(world.traffic.window(window, shift=shift))
        world.hand_over(rows)
        world.label(rows)


def finish(world: Any, decision: str, outcome: str) -> None:
    payload = {"decision_id": decision, "outcome": outcome, "version": None, "reason": ""}
    world.ledger.append(f"{MODEL}/retrain", "retrain.finished", f"{decision}/finished", payload)


# -- alarms -------------------------------------------------------------------------------------------


def test_alarm_is_in_the_ledger_once_in_an_epoch(make_world: Any) -> None:
    world = make_world(enabled=False)
    serve_drift(world)
    assert world.alarms == ["drift:inputs"]
    payload = world.events("monitor", "monitor.alarm")[0]
    assert payload["level"] == "drift"
    assert payload["version"] == "1"
    assert "x" in payload["guilty"]
    world.restart()
    serve_drift(world, range(FIRST + 8, FIRST + 10))
    assert world.alarms == ["drift:inputs"]


def test_alarm_is_raised_again_in_the_next_epoch(make_world: Any) -> None:
    world = make_world(enabled=False)
    serve_drift(world)
    world.promote(2)
    for window in range(FIRST + 8, FIRST + 16):
        world.serve([window], version="2", shift=-6.0)
    assert world.alarms[0] == "drift:inputs"
    alarms = world.events("monitor", "monitor.alarm")
    assert {alarm["version"] for alarm in alarms} == {"1", "2"}


def test_quiet_traffic_raises_nothing(make_world: Any) -> None:
    world = make_world()
    serve_drift(world, shift=0.0)
    assert world.alarms == []
    assert world.decisions == []
    assert world.service.view(MODEL)["retraining"]["policy"] == "no alarm, no schedule due, no request"


# -- decisions and jobs -------------------------------------------------------------------------------


def test_drift_decides_and_submits_once(make_world: Any) -> None:
    world = make_world()
    serve_drift(world)
    decisions = world.decisions
    assert len(decisions) == 1
    assert world.jobs.submitted == [decisions[0]["decision_id"]]
    assert decisions[0]["trigger"] == "inputs"
    assert decisions[0]["champion"] == "1"
    assert world.service.status(MODEL)["retraining"]["in_flight"] == decisions[0]["decision_id"]
    for _ in range(3):
        world.service.supervise(MODEL)
    assert len(world.jobs.submitted) == 1


def test_decision_is_committed_before_it_is_submitted(make_world: Any) -> None:
    world = make_world()
    seen: list[tuple[int, int]] = []
    submit = world.jobs.submit

    def look(submission_id: str, decision_id: str) -> None:
        kinds = [event.kind for event in Ledger(world.ledger.url).read(f"{MODEL}/retrain")]
        seen.append((kinds.count("retrain.decided"), kinds.count("retrain.submitted")))
        submit(submission_id, decision_id)

    world.jobs.submit = look
    serve_drift(world)
    assert seen == [(1, 1)]


@pytest.mark.parametrize("step", ["before_decided", "after_decided", "after_attempt", "before_submit", "after_submit"])
def test_killed_at_any_step_submits_exactly_once(make_world: Any, step: str) -> None:
    world = make_world()
    append = world.ledger.append
    died: list[str] = []

    class Dead(BaseException):
        pass

    def dying(stream: str, kind: str, *arguments: Any, **options: Any) -> Any:
        if not died and (step, kind) == ("before_decided", "retrain.decided"):
            died.append(step)
            raise Dead
        event = append(stream, kind, *arguments, **options)
        if not died and (step, kind) in (("after_decided", "retrain.decided"), ("after_attempt", "retrain.submitted")):
            died.append(step)
            raise Dead
        return event

    submit = world.jobs.submit

    def dying_submit(submission_id: str, decision_id: str) -> None:
        if not died and step == "before_submit":
            died.append(step)
            raise Dead
        submit(submission_id, decision_id)
        if not died and step == "after_submit":
            died.append(step)
            raise Dead

    world.ledger.append, world.jobs.submit = dying, dying_submit
    for window in range(FIRST, FIRST + 8):
        rows = world.log(world.traffic.window(window, shift=3.0))
        try:
            world.hand_over(rows)
        except Dead:
            world.restart()
            world.hand_over(rows)
            world.service.supervise(MODEL)
        world.label(rows)
    assert died == [step]
    assert len(world.decisions) == 1
    assert world.jobs.submitted == [world.decisions[0]["decision_id"]]
    assert world.alarms == ["drift:inputs"]
    attempts = world.events("retrain", "retrain.submitted")
    assert [payload["attempt"] for payload in attempts] == [1]


def test_killed_at_every_window_decides_and_warns_as_undisturbed(make_world: Any) -> None:
    calm, killed = make_world(store="calm"), make_world(store="killed")
    serve_drift(calm)
    for window in range(FIRST, FIRST + 8):
        serve_drift(killed, range(window, window + 1))
        killed.restart()
    ours, theirs = ([{**decision, "config_hash": ""} for decision in each.decisions] for each in (killed, calm))
    assert ours == theirs
    assert len(ours) == 1
    assert killed.events("monitor", "monitor.alarm") == calm.events("monitor", "monitor.alarm")
    ours, theirs = killed.service.view(MODEL), calm.service.view(MODEL)
    assert ours.pop("retraining")["in_flight"] == theirs.pop("retraining")["in_flight"]
    assert ours == theirs


def test_restart_needs_no_row_of_a_closed_window(make_world: Any) -> None:
    world = make_world()
    serve_drift(world)
    before = world.service.view(MODEL)
    world.files.delete(f"predictions/{MODEL}")
    after = world.restart().view(MODEL)
    assert after["closed_window"] == before["closed_window"]
    for part in ("drift", "windows", "performance", "alarms", "rows", "late_rows"):
        assert after[part] == before[part]


def test_rows_that_are_logged_but_were_not_handed_over_are_dealt_with_at_the_restart(make_world: Any) -> None:
    world = make_world()
    world.serve([FIRST])
    world.log(world.traffic.window(FIRST + 1))
    world.log(world.traffic.window(FIRST + 2))
    world.restart()
    assert world.service.view(MODEL)["closed_window"] == FIRST + 1
    world.hand_over(world.traffic.window(FIRST + 1))
    assert world.service.view(MODEL)["rows"] == 120


def test_submitter_that_is_away_does_not_hold_up_windows_and_is_tried_again(make_world: Any) -> None:
    world = make_world()
    submit = world.jobs.submit

    def refuse(submission_id: str, decision_id: str) -> None:
        raise ConnectionError("no route to the job server")

    world.jobs.submit = refuse
    serve_drift(world)
    assert world.service.view(MODEL)["closed_window"] == FIRST + 6
    assert len(world.decisions) == 1
    world.jobs.submit = submit
    world.service.supervise(MODEL)
    assert world.jobs.submitted == [world.decisions[0]["decision_id"]]


def test_job_that_died_is_tried_again_up_to_the_limit_and_then_failed(make_world: Any) -> None:
    world = make_world(max_attempts=2)
    serve_drift(world)
    decision = world.decisions[0]["decision_id"]
    for attempt in range(3):
        assert len(world.jobs.submitted) == attempt + 1
        world.jobs.states[world.jobs.submitted[-1]] = "died"
        world.restart()
        world.service.supervise(MODEL)
    assert world.jobs.submitted == [decision, f"{decision}-attempt2", f"{decision}-attempt3"]
    finished = world.events("retrain", "retrain.finished")
    assert [(payload["decision_id"], payload["outcome"]) for payload in finished] == [(decision, "failed")]
    world.service.supervise(MODEL)
    assert len(world.jobs.submitted) == 3
    view = world.service.view(MODEL)["retraining"]
    assert (view["in_flight"], view["outcomes"]) == (None, {decision: "failed"})


@pytest.mark.parametrize("outcome", ["registered", "refused", "failed"])
def test_finished_job_is_not_submitted_again(make_world: Any, outcome: str) -> None:
    world = make_world()
    serve_drift(world)
    decision = world.decisions[0]["decision_id"]
    finish(world, decision, outcome)
    world.jobs.states[decision] = "done"
    world.service.supervise(MODEL)
    world.restart()
    world.service.supervise(MODEL)
    assert world.jobs.submitted == [decision]
    assert world.service.view(MODEL)["retraining"]["outcomes"] == {decision: outcome}


def test_job_that_finishes_between_two_readings_is_not_submitted_again(make_world: Any) -> None:
    world = make_world()
    serve_drift(world)
    decision = world.decisions[0]["decision_id"]

    def ends_now(submission_id: str) -> str:
        finish(world, decision, "registered")
        return "done"

    world.jobs.state = ends_now
    world.service.supervise(MODEL)
    assert world.jobs.submitted == [decision]


def test_job_that_ended_without_a_result_is_tried_again(make_world: Any) -> None:
    world = make_world()
    serve_drift(world)
    world.jobs.states[world.jobs.submitted[0]] = "done"
    world.service.supervise(MODEL)
    assert len(world.jobs.submitted) == 2


def test_cluster_that_forgot_the_job_is_given_the_same_attempt_again(make_world: Any) -> None:
    world = make_world()
    serve_drift(world)
    decision = world.decisions[0]["decision_id"]
    world.jobs.states.clear()
    world.service.supervise(MODEL)
    assert world.jobs.submitted == [decision, decision]
    assert len(world.events("retrain", "retrain.submitted")) == 1


def test_next_decision_waits_for_the_cool_down_in_event_time(make_world: Any) -> None:
    world = make_world()
    serve_drift(world)
    first = world.decisions[0]
    finish(world, first["decision_id"], "registered")
    serve_drift(world, range(FIRST + 8, FIRST + 17))
    assert len(world.decisions) > 1
    assert world.decisions[1]["as_of_us"] - first["as_of_us"] == 12 * HOUR


# -- contract breaches --------------------------------------------------------------------------------


def serve_broken(world: Any, windows: range) -> None:
    """x is null in half of the rows, which the contract forbids; what is left has drifted."""
    for window in windows:
        table = world.traffic.window(window, shift=3.0)
        x = [None if i % 2 else value for i, value in enumerate(table["features.x"].to_pylist())]
        position = table.column_names.index("features.x")
        rows = world.log(table.set_column(position, "features.x", pa.array(x, pa.float64())))
        world.hand_over(rows)
        world.label(rows)


def broken_world(make_world: Any) -> Any:
    world = make_world(columns={"x": {"max_null_ratio": 0.2}})
    serve_drift(world, range(FIRST, FIRST + 2))
    serve_broken(world, range(FIRST + 2, FIRST + 8))
    return world


def test_breach_blocks_retraining_and_an_acknowledgement_unblocks(make_world: Any) -> None:
    world = broken_world(make_world)
    world.service.request_retraining(MODEL, "k1", "ann", "please")
    assert world.decisions == []
    breaches = world.service.view(MODEL)["breaches"]
    assert "x:declared_nulls" in breaches
    assert world.service.view(MODEL)["retraining"]["policy"].startswith("contract broken")
    for name in breaches:
        world.service.acknowledge(MODEL, f"contract:{name}", "ann")
    serve_broken(world, range(FIRST + 8, FIRST + 10))
    assert len(world.decisions) == 1
    assert world.decisions[0]["trigger"] == "manual"
    acknowledged = world.events("monitor", "monitor.acknowledged")
    assert {payload["by"] for payload in acknowledged} == {"ann"}


def test_acknowledgement_survives_a_restart(make_world: Any) -> None:
    world = broken_world(make_world)
    for name in world.service.view(MODEL)["breaches"]:
        world.service.acknowledge(MODEL, name, "ann")
    world.restart()
    world.service.request_retraining(MODEL, "k1", "ann", "please")
    assert len(world.decisions) == 1


def test_breach_that_is_over_blocks_no_more(make_world: Any) -> None:
    world = broken_world(make_world)
    assert world.decisions == []
    serve_drift(world, range(FIRST + 8, FIRST + 11))
    assert world.service.view(MODEL)["breaches"] == []
    world.service.request_retraining(MODEL, "k1", "ann", "please")
    assert len(world.decisions) == 1


def test_acknowledging_what_is_not_there_names_what_is(make_world: Any) -> None:
    world = broken_world(make_world)
    with pytest.raises(NotFoundError, match="x:declared_nulls"):
        world.service.acknowledge(MODEL, "contract:city:missing", "ann")


def test_breach_that_is_over_is_cleared_in_the_ledger_and_raised_again_when_it_comes_back(make_world: Any) -> None:
    world = broken_world(make_world)
    world.restart()
    serve_drift(world, range(FIRST + 8, FIRST + 11))
    cleared = world.events("monitor", "monitor.cleared")
    assert "contract:x:declared_nulls" in [payload["alarm"] for payload in cleared]
    serve_broken(world, range(FIRST + 11, FIRST + 13))
    assert world.alarms.count("contract:x:declared_nulls") == 2


def test_alarm_that_leads_to_no_retraining_says_why_in_the_ledger(make_world: Any) -> None:
    world = broken_world(make_world)
    withheld = world.events("retrain", "retrain.withheld")
    assert withheld[0]["blocked"]
    assert withheld[0]["breaches"] == ["x:declared_nulls"]
    assert withheld[0]["reason"] == "contract broken: x:declared_nulls"
    alarm = world.events("monitor", "monitor.alarm")[0]
    assert alarm["window"] == withheld[0]["window"]


def test_drift_alarm_names_the_guilty_with_their_distances(make_world: Any) -> None:
    world = make_world(enabled=False)
    serve_drift(world)
    alarm = world.events("monitor", "monitor.alarm")[0]
    assert list(alarm["columns"]) == alarm["guilty"]
    assert alarm["columns"]["x"]["total_variation"] > 2 * alarm["columns"]["x"]["expected"]
    assert alarm["window_us"] == HOUR


# -- by hand ------------------------------------------------------------------------------------------


def test_manual_request_decides_at_once_and_once(make_world: Any) -> None:
    world = make_world()
    serve_drift(world, shift=0.0)
    world.service.request_retraining(MODEL, "k1", "ann", "please")
    world.service.request_retraining(MODEL, "k1", "ann", "please")
    assert [decision["trigger"] for decision in world.decisions] == ["manual"]
    assert len(world.jobs.submitted) == 1


def test_manual_request_before_the_first_window_is_refused_and_leaves_nothing_behind(make_world: Any) -> None:
    world = make_world()
    with pytest.raises(MonitoringError, match="no window has been closed"):
        world.service.request_retraining(MODEL, "k1", "ann", "please")
    serve_drift(world, shift=0.0)
    assert world.decisions == []


def test_rollout_under_way_holds_a_manual_request_until_it_is_over(make_world: Any) -> None:
    world = make_world()
    serve_drift(world, shift=0.0)
    moved = {"rollout_id": "r", "from": "pending", "reason": "", "weight": 0.0, "route_version": 1}
    world.ledger.append("m/rollout", "rollout.requested", "r", {"rollout_id": "r", "version": "2"})
    world.service.request_retraining(MODEL, "k1", "ann", "please")
    assert world.decisions == []
    world.ledger.append("m/rollout", "rollout.moved", "r/1", {**moved, "to": "invalid"})
    world.serve([FIRST + 8])
    assert len(world.decisions) == 1


# -- models and storage -------------------------------------------------------------------------------


def test_unwatched_model_is_named(make_world: Any) -> None:
    world = make_world()
    with pytest.raises(NotFoundError, match="not watched"):
        world.service.view("other")
    world.service.forget(MODEL)
    assert world.service.models() == []


def test_checkpoint_of_a_newer_release_is_refused(make_world: Any) -> None:
    world = make_world()
    world.files.write("checkpoints/monitor/m.json", b'{"schema_version": 2}')
    with pytest.raises(MonitoringError, match="version 2"):
        MonitorService(world.ledger, world.files, world.jobs).watch(MODEL)


def test_window_whose_checkpoint_could_not_be_written_is_recovered(make_world: Any) -> None:
    world, calm = make_world(store="a"), make_world(store="b")
    write = world.files.write

    def full(path: str, content: bytes) -> None:
        if path.startswith("checkpoints"):
            raise StoreError("no space", path)
        write(path, content)

    for window in range(FIRST, FIRST + 6):
        rows = world.log(world.traffic.window(window))
        world.files.write = full if window == FIRST + 3 else write
        if window == FIRST + 3:
            with pytest.raises(StoreError):
                world.hand_over(rows)
            world.files.write = write
            world.restart()
        world.hand_over(rows)
    calm.serve(range(FIRST, FIRST + 6))
    assert world.service.view(MODEL)["drift"] == calm.service.view(MODEL)["drift"]
    assert world.service.view(MODEL)["closed_window"] == FIRST + 4


def test_handovers_that_close_nothing_do_not_read_the_ledger(make_world: Any) -> None:
    world = make_world()
    world.serve([FIRST, FIRST + 1])
    world.ledger._select = None
    rows = world.log(world.traffic.window(FIRST + 1))
    rows = rows.set_column(0, "prediction_id", pa.array([f"more-{i}" for i in range(40)]))
    world.hand_over(rows)
    assert world.service.view(MODEL)["rows"] == 120
    assert world.service.status(MODEL)["closed_window"] == FIRST
    assert world.service.closed_window(MODEL) == FIRST


def test_only_new_events_are_read_when_a_window_closes(make_world: Any) -> None:
    world = make_world()
    serve_drift(world)
    read, found = world.ledger.read, []

    def counting(*arguments: Any, **options: Any) -> Any:
        events = read(*arguments, **options)
        found.extend(events)
        return events

    world.ledger.read = counting
    serve_drift(world, range(FIRST + 8, FIRST + 11))
    assert found == []


# -- the log ------------------------------------------------------------------------------------------


def test_days_before_the_watermark_are_to_be_compacted_and_a_restart_sees_the_same(make_world: Any) -> None:
    world = make_world(enabled=False)
    assert world.service.days_to_compact() == {}
    serve_drift(world, range(FIRST, FIRST + 30), shift=0.0)
    day = datetime.fromtimestamp((world.service.closed_window(MODEL) + 1) * 3600, UTC).date().isoformat()
    assert world.service.days_to_compact() == {MODEL: day}
    before = world.service.view(MODEL)["labels"]
    report = compact(world.files, MODEL, day)
    assert report.files >= 1
    world.restart()
    assert world.service.view(MODEL)["labels"] == before
    assert world.service.days_to_compact() == {MODEL: day}


def test_log_that_is_not_to_be_compacted_is_left_alone(make_world: Any) -> None:
    world = make_world(enabled=False)
    serve_drift(world, range(FIRST, FIRST + 3), shift=0.0)
    epoch = world.service._model(MODEL).epoch
    log = epoch.config.serving.log.model_copy(update={"compact": False})
    serving = epoch.config.serving.model_copy(update={"log": log})
    epoch.config = epoch.config.model_copy(update={"serving": serving})
    assert world.service.days_to_compact() == {}


def test_model_whose_clock_was_wrong_by_millennia_stops_the_compaction_of_no_other(make_world: Any) -> None:
    world = make_world(enabled=False, monitoring={"max_ahead": None})
    rows = world.traffic.window(FIRST)
    for years in (8100, 8101):
        times = pa.array(rows["event_time"].cast(pa.int64()).to_numpy() + years * 366 * 24 * HOUR)
        place = rows.column_names.index("event_time")
        there = rows.set_column(place, "event_time", times.cast(pa.timestamp("us", "UTC")))
        ids = pa.array([f"{years}-{i}" for i in range(40)])
        world.hand_over(there.set_column(0, "prediction_id", ids))
    assert world.service.closed_window(MODEL) > 70_000_000
    assert world.service.days_to_compact() == {}
