"""Every event of the ledger in words: each kind is covered, and an alarm says all that a person asks."""

import ast
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ray_mlops.config.notifications import MUST_KNOW, NOTICE_KINDS
from ray_mlops.ledger import LedgerEvent
from ray_mlops.monitoring.notices import rendering
from ray_mlops.monitoring.notices.alarm_text import render_reminder
from ray_mlops.monitoring.notices.notice import Notice
from ray_mlops.monitoring.notices.rendering import SILENT, render
from ray_mlops.monitoring.notices.standing import Standing

PACKAGE = Path(__file__).resolve().parents[3] / "ray_mlops"
HOUR = 3_600_000_000
FIRST = 1000


def event(kind: str, stream: str = "m/monitor", seq: int = 1, event_time: int | None = None, **payload: Any) -> Any:
    return LedgerEvent(seq, stream, seq, 100.0 + seq, event_time, kind, f"{stream}/{kind}/{seq}", payload, "", "")


def moved(before: str, after: str, reason: str = "because", **more: Any) -> Notice:
    payload = {"rollout_id": "m-v3", "from": before, "to": after, "reason": reason, "weight": 0.25, **more}
    notice = render(event("rollout.moved", "m/rollout", **payload), Standing())
    assert notice is not None
    return notice


def recorded_kinds() -> set[str]:
    """Kinds of events that the package records: constants that look like one in calls of ``append``."""
    found = set[str]()
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "append":
                constants = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
                found |= {value for value in constants if value.count(".") == 1 and value.replace(".", "").isalpha()}
    return found


def test_every_kind_that_the_package_records_has_words_or_is_silent_on_purpose() -> None:
    kinds = recorded_kinds() | {"routes.committed", "routes.withdrawn", "monitor.alarm", "monitor.cleared"}
    assert {"rollout.moved", "retrain.decided", "config.deployed"} <= kinds
    assert kinds - set(rendering._WORDS) - SILENT == set()


@pytest.mark.parametrize("kind", sorted(rendering._WORDS))
def test_event_without_a_payload_is_still_told(kind: str) -> None:
    payload = {"is_first": True, "attempt": 2, "to": "paused"}
    notice = render(event(kind, "m/any", **payload), Standing())
    assert notice is not None
    assert notice.kind in NOTICE_KINDS
    assert notice.title.startswith("m: ")
    assert "could not be made" not in notice.text


def test_event_that_cannot_be_put_into_words_is_told_all_the_same() -> None:
    notice = render(event("rollout.moved", "m/rollout", to="canary[x]"), Standing())
    assert notice is not None
    assert notice.kind in NOTICE_KINDS
    assert "could not be made" in notice.text


def test_unknown_kind_has_no_notice() -> None:
    assert render(event("strange.thing"), Standing()) is None


@pytest.mark.parametrize(
    ("before", "after", "kind", "severity", "words"),
    [
        ("pending", "validating", "rollout.validating", "info", "version 3: gate and approval"),
        ("validating", "preparing", "rollout.preparing", "info", "version 3 is started"),
        ("preparing", "shadow", "rollout.shadow", "info", "shadow of the champion"),
        ("shadow", "canary[0]", "rollout.canary", "info", "25 % of the traffic (canary step 1)"),
        ("canary[0]", "canary[1]", "rollout.canary", "info", "canary step 2"),
        ("canary[1]", "paused", "rollout.paused", "warning", "paused at 25 %"),
        ("paused", "canary[1]", "rollout.resumed", "info", "(resumed)"),
        ("canary[1]", "promoting", "rollout.promoting", "info", "becomes champion"),
        ("promoting", "baking", "rollout.baking", "info", "on probation"),
        ("baking", "promoted", "rollout.promoted", "info", "champion for good"),
        ("canary[0]", "rolling_back", "rollout.rolling_back", "critical", "rolled back"),
        ("rolling_back", "rolled_back", "rollout.rolled_back", "warning", "all traffic is with the champion"),
        ("canary[0]", "aborted", "rollout.aborted", "warning", "was aborted"),
        ("canary[0]", "invalid", "rollout.invalid", "critical", "not split as asked for"),
        ("canary[0]", "resting", "rollout.resting", "info", "version 3 is resting"),
    ],
)
def test_every_transition_of_a_rollout_is_told(before: str, after: str, kind: str, severity: str, words: str) -> None:
    notice = moved(before, after)
    assert (notice.kind, notice.severity) == (kind, severity)
    assert words in notice.title
    assert "Why: because." in notice.text
    assert f"{before} -> {after}" in notice.text


def test_rollback_shows_the_guards_that_spoke_the_traffic_and_what_to_do() -> None:
    guard = {"name": "errors", "question": "regression", "verdict": "fail", "detail": "9 of 40", "log_e": 5.25}
    silent = {"name": "loss", "question": "regression", "verdict": "inconclusive", "detail": "no labels yet"}
    evidence = {
        "guards": [{**guard, "threshold": 4.1}, silent],
        "candidate": {"requests": 40, "errors": 9},
        "champion": {"requests": 760, "errors": 7},
    }
    text = moved("canary[0]", "rolling_back", "the candidate crashed: exit 137", evidence=evidence).text
    assert "Why: the candidate crashed: exit 137." in text
    assert "errors (regression) fail: 9 of 40, log evidence 5.2 of 4.1." in text
    assert "no labels yet" not in text
    assert "candidate 40 requests, 9 errors; champion 760 requests, 7 errors." in text
    assert "`ray-mlops rollout show`" in text


def test_version_of_a_rollout_comes_from_its_request() -> None:
    standing = Standing()
    standing.apply([event("rollout.requested", "m/rollout", rollout_id="m-v3-2", version="3")])
    payload = {"rollout_id": "m-v3-2", "from": "shadow", "to": "paused", "reason": "r", "weight": 0.0}
    notice = render(event("rollout.moved", "m/rollout", **payload), standing)
    assert notice is not None
    assert "version 3 is paused" in notice.title


def test_alarm_says_what_since_when_how_sure_which_what_was_done_and_what_to_do(make_world: Any) -> None:
    world = make_world()
    for window in range(FIRST, FIRST + 8):
        rows = world.log(world.traffic.window(window, shift=3.0))
        world.hand_over(rows)
        world.label(rows)
    events = world.ledger.read(prefix="m/")
    at = next(i for i, e in enumerate(events) if e.kind == "monitor.alarm")
    notice = render(events[at], Standing(), events[at + 1 :])
    assert notice is not None
    decision = world.decisions[0]["decision_id"]
    assert (notice.kind, notice.severity, notice.id) == ("alarm", "critical", events[at].key)
    assert notice.title == "m: drift alarm on inputs: x"
    lines = dict(line.split(": ", 1) for line in notice.text.splitlines())
    assert list(lines) == ["What", "Since", "How sure", "Which features", "What was done", "To do"]
    assert "the inputs have drifted from the reference of version 1" in lines["What"]
    assert lines["Since"].startswith("about 1970-02-11 16:00 UTC, the estimated change point.")
    assert "0.5 % at most" in lines["How sure"]
    assert "no drift would show" in lines["Which features"]
    assert lines["What was done"].startswith(f"retraining {decision} (full) was decided: action-level alarm on inputs")
    assert "`ray-mlops retrain`" in lines["To do"]


def test_alarm_without_a_retraining_says_why(make_world: Any) -> None:
    raised = event("monitor.alarm", event_time=2 * HOUR, window=1, level="drift", name="loss", log_e=6.0, limit=5.0)
    withheld = event("retrain.withheld", "m/retrain", 2, 2 * HOUR, reason="loss: a rollout is under way", blocked=False)
    other = event("retrain.withheld", "n/retrain", 2, 2 * HOUR, reason="not this model", blocked=True)
    notice = render(raised, Standing(), [other, withheld])
    assert notice is not None
    assert "What was done: no retraining: loss: a rollout is under way." in notice.text
    assert "the loss has risen" in notice.text
    assert notice.title.endswith("drift alarm on loss")


@pytest.mark.parametrize(("kind", "words"), [("concept", "concept drift"), ("both", "covariate and concept drift")])
def test_loss_alarm_says_whether_rows_or_labels_have_changed(kind: str, words: str) -> None:
    why = f"mean loss 0.2, up to 0.1 is no decay; {words}: labels no longer follow"
    raised = event("monitor.alarm", event_time=2 * HOUR, window=1, level="drift", name="loss", reason=why)
    notice = render(replace(raised, payload={**raised.payload, "kind": kind}), Standing())
    assert notice is not None
    assert notice.title.endswith(f"drift alarm on loss ({words})")
    assert why in notice.text


BREACH = {
    "alarm": "contract:a b:nulls",
    "level": "contract",
    "name": "a b:nulls",
    "feature": "a b",
    "window": 9,
    "value": 0.876543,
    "limit": 0.05,
    "reason": "null ratio 0.88",
    "reference": "r",
}


def test_breach_names_the_column_the_limit_and_the_exact_command() -> None:
    notice = render(event("monitor.alarm", event_time=10 * HOUR, **BREACH), Standing())
    assert notice is not None
    assert (notice.kind, notice.severity) == ("breach", "critical")
    assert "How sure: 87.7 % in this window, up to 5.0 % is accepted." in notice.text
    assert "Since: the window that begins 1970-01-01 09:00 UTC." in notice.text
    assert "`ray-mlops monitor ack 'contract:a b:nulls'`" in notice.text
    assert "What was done: retraining is blocked." in notice.text


def test_new_epoch_ends_the_alarms_of_the_one_before() -> None:
    standing = Standing()
    standing.apply([event("monitor.alarm", **BREACH)])
    epoch = event("monitor.epoch", seq=2, version="2", reference="r2")
    notice = render(epoch, standing)
    assert notice is not None
    assert (notice.kind, notice.title) == ("alarm.over", "m: contract:a b:nulls is over with version 2")
    standing.apply([epoch])
    assert list(standing.unanswered()) == []
    again = render(event("monitor.epoch", seq=3, version="3", reference="r3"), standing)
    assert again is not None
    assert again.kind == "epoch.began"


def test_reminder_has_an_id_of_its_own_and_the_first_text() -> None:
    raised = event("monitor.alarm", event_time=10 * HOUR, **BREACH)
    notice = render_reminder(raised, 2, now=raised.time + 2 * 86400.0)
    assert notice.id == f"{raised.key}/reminder/2"
    assert notice.kind == "breach.reminder"
    assert notice.text.startswith("Reminder 2: it was raised 2.0 days ago")
    assert "null ratio 0.88" in notice.text


def registered(**gate: Any) -> Notice:
    payload = {"version": "4", "gate": gate, "metrics": {"auc": 0.71234, "ece": None}, "decision_id": "retrain-m-1"}
    notice = render(event("version.registered", "m/versions", **payload), Standing())
    assert notice is not None
    return notice


def test_gate_that_refuses_names_the_failed_checks() -> None:
    checks = [{"name": "parity", "passed": True}, {"name": "champion auc", "passed": False, "detail": "-0.02 < -0.01"}]
    notice = registered(passed=False, reason="1 of 2 checks failed", checks=checks)
    assert (notice.kind, notice.severity) == ("gate.refused", "warning")
    assert "Failed checks: champion auc: -0.02 < -0.01." in notice.text
    assert "Measured: auc 0.7123" in notice.text
    assert "ray-mlops rollout start 4 --override-gate" in notice.text


def test_version_that_needs_approval_says_the_command() -> None:
    notice = registered(passed=True, needs_approval=True, reason="all passed")
    assert notice.kind == "approval.wanted"
    assert "`ray-mlops approve 4 --reason WHY`" in notice.text
    assert registered(passed=True, reason="all passed").kind == "gate.passed"


@pytest.mark.parametrize(
    ("outcome", "kind", "severity"),
    [
        ("registered", "retrain.registered", "info"),
        ("refused", "retrain.refused", "warning"),
        ("failed", "retrain.failed", "critical"),
    ],
)
def test_end_of_a_retraining_is_told(outcome: str, kind: str, severity: str) -> None:
    payload = {"decision_id": "d", "outcome": outcome, "version": None, "reason": "3 jobs ended without a result"}
    notice = render(event("retrain.finished", "m/retrain", **payload), Standing())
    assert notice is not None
    assert (notice.kind, notice.severity) == (kind, severity)
    assert "3 jobs ended without a result" in notice.text


def test_first_attempt_of_a_retraining_is_silent_and_the_second_is_not() -> None:
    first, second = (event("retrain.submitted", "m/retrain", attempt=n, decision_id="d") for n in (1, 2))
    assert render(first, Standing()) is None
    notice = render(second, Standing())
    assert notice is not None
    assert notice.kind == "retrain.retried"


def test_only_the_first_notice_that_a_dead_target_missed_is_told() -> None:
    first, later = (event("delivery.given_up", "m/notices", target="ops", is_first=value) for value in (True, False))
    notice = render(first, Standing())
    assert notice is not None
    assert "`ray-mlops notify test --target ops`" in notice.text
    assert render(later, Standing()) is None


def test_what_is_sent_by_default_names_kinds_that_exist() -> None:
    stems = [pattern.rstrip("*") for pattern in MUST_KNOW]
    assert all(any(kind.startswith(stem) for kind in NOTICE_KINDS) for stem in stems)


def test_shadows_are_told_and_a_failed_one_is_a_warning() -> None:
    started = render(event("shadow.started", "m/shadows", version="4", by="ann", reason="curious"), Standing())
    stopped = render(event("shadow.stopped", "m/shadows", version="4", by="ann", reason="enough"), Standing())
    failed = render(event("shadow.stopped", "m/shadows", version="4", by="rollouts", failed=True), Standing())
    assert started is not None
    assert stopped is not None
    assert failed is not None
    assert (started.kind, started.severity) == ("shadow.started", "info")
    assert "version 4 is a shadow" in started.title
    assert "curious" in started.text
    assert (stopped.severity, failed.severity) == ("info", "warning")


@pytest.mark.parametrize(
    ("kind", "value", "limit", "words"),
    [
        ("declared_nulls", 0.196, 0.0, "19.6 % in this window, up to 0.0 % is accepted."),
        ("empty", 1.0, 0.05, "certain: no row of the window has a value; in the reference 5.0 % at most had none."),
        ("missing", 1.0, 0.0, "of this one not a single row"),
        ("constant", 1.0, 0.1, "all rows of the window have one value; 10.0 % of windows may be like that."),
        ("scale", 1680.0, 1050.0, "mean 1680 in this window, 1050 in those before."),
    ],
)
def test_each_kind_of_breach_says_in_its_own_unit_what_was_seen(
    kind: str, value: float, limit: float, words: str
) -> None:
    payload = {**BREACH, "alarm": f"contract:x:{kind}", "name": f"x:{kind}", "value": value, "limit": limit}
    notice = render(event("monitor.alarm", event_time=10 * HOUR, **payload), Standing())
    assert notice is not None
    assert words in notice.text
    is_declared = "the declared contract is broken" in notice.text
    assert is_declared == (kind == "declared_nulls")
    assert notice.title.endswith(BREACH["reason"])


def test_drift_alarm_explains_what_a_projection_is_and_does_not_call_its_own_column_noise() -> None:
    column = {"total_variation": 0.15, "expected": 0.08, "is_noise": True, "log_e": 8.0, "moved": "mean 3, was 2"}
    payload = {"level": "drift", "name": "inputs", "guilty": ["a~b"], "columns": {"a~b": column}, "window": 9}
    notice = render(event("monitor.alarm", event_time=10 * HOUR, **payload), Standing())
    assert notice is not None
    assert "a~b: mean 3, was 2, total variation 0.150, no drift would show 0.080 (1.9 times that; not much for one" in (
        notice.text
    )
    assert "a~b is how a hangs together with b" in notice.text
