"""A target's way through the ledger: in order, at least once, from where it was left; stepped by hand."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from ray_mlops.config import NotificationsConfig, RetryConfig, WebhookTarget
from ray_mlops.errors import LedgerError, MonitoringError
from ray_mlops.ledger import Ledger
from ray_mlops.monitoring.notices.delivery import Attempt, decide_delivery
from ray_mlops.monitoring.notices.follower import SETTLE_S, TargetFollower, last_before
from ray_mlops.monitoring.notices.notice import Notice
from ray_mlops.monitoring.notices.outbox import TargetState, load_state, save_state
from ray_mlops.monitoring.notices.subscription import Subscription
from ray_mlops.runtime.files import Files

OK, DOWN, NEVER = Attempt("delivered", "HTTP 200"), Attempt("failed", "HTTP 503"), Attempt("refused", "HTTP 400")
DAY = 86400.0


@dataclass
class ScriptedTransport:
    """Gives the answers of a list, then says yes; remembers what it was sent."""

    answers: list[Attempt] = field(default_factory=list)
    sent: list[Notice] = field(default_factory=list)

    def send(self, notice: Notice) -> Attempt:
        self.sent.append(notice)
        return self.answers.pop(0) if self.answers else OK

    @property
    def ids(self) -> list[str]:
        return [notice.id for notice in self.sent]


@dataclass
class Desk:
    """A ledger, a store, a clock and one target."""

    ledger: Ledger
    files: Files
    transport: ScriptedTransport
    now: float = 1_000_000.0
    target: WebhookTarget = field(default_factory=lambda: WebhookTarget(name="ops", url="http://h/", events=["*"]))
    config: NotificationsConfig = field(default_factory=NotificationsConfig)
    count: int = 0

    def follower(self, **target: Any) -> TargetFollower:
        chosen = WebhookTarget.model_validate({**self.target.model_dump(), **target})
        subscription = Subscription("m", chosen, self.config)
        return TargetFollower(self.ledger, self.files, subscription, self.transport, lambda: self.now, lambda: 1.0)

    def record(self, kind: str = "version.approved", model: str = "m", age_s: float = 10.0, **payload: Any) -> str:
        """Record an event of some age; returns its key."""
        self.count += 1
        key = f"{model}/x/{self.count}"
        event_time = payload.pop("event_time", None)
        self.ledger.append(f"{model}/x", kind, key, payload, time=self.now - age_s, event_time=event_time)
        return key

    def state(self) -> TargetState:
        state = load_state(self.files, "m", "ops")
        assert state is not None
        return state


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(Ledger(f"sqlite:///{tmp_path}/ledger.db"), Files(str(tmp_path)), ScriptedTransport())


def run(follower: TargetFollower, steps: int = 20) -> None:
    for _ in range(steps):
        follower.step()


# -- order and place ----------------------------------------------------------------------------------


def test_events_are_delivered_in_order_and_once(desk: Desk) -> None:
    keys = [desk.record() for _ in range(3)]
    run(desk.follower())
    assert desk.transport.ids == keys
    assert (desk.state().cursor, desk.state().delivered) == (3, 3)
    assert [entry["id"] for entry in desk.state().recent] == keys


def test_new_target_hears_of_the_last_hour_and_not_of_history(desk: Desk) -> None:
    desk.record(age_s=9 * DAY)
    desk.record(age_s=3700.0)
    recent = desk.record(age_s=3500.0)
    run(desk.follower())
    assert desk.transport.ids == [recent]


@pytest.mark.parametrize("n", [0, 1, 2, 7])
def test_last_before_finds_the_event_for_every_moment(desk: Desk, n: int) -> None:
    for index in range(n):
        desk.record(age_s=100.0 - index)
    begin = desk.now - 100.0
    assert [last_before(desk.ledger, begin + index) for index in range(n + 1)] == list(range(n + 1))


def test_restarted_follower_goes_on_where_it_was_left_even_after_days(desk: Desk) -> None:
    first = desk.record()
    run(desk.follower())
    later = desk.record()
    desk.now += 3 * DAY
    run(desk.follower())
    assert desk.transport.ids == [first, later]


def test_killed_between_delivery_and_its_note_delivers_that_one_again_with_the_same_id(desk: Desk) -> None:
    keys = [desk.record(), desk.record()]
    follower = desk.follower()
    follower.step()
    before = desk.state()
    follower.step()
    save_state(desk.files, before)
    run(desk.follower())
    assert desk.transport.ids == [keys[0], keys[1], keys[1]]


def test_event_is_told_when_what_followed_from_it_is_recorded_too(desk: Desk) -> None:
    alarm = {"alarm": "drift:inputs", "level": "drift", "name": "inputs", "window": 1, "reference": "r"}
    desk.record("monitor.alarm", age_s=0.0, event_time=7, **alarm)
    follower = desk.follower()
    run(follower)
    assert desk.transport.sent == []
    desk.record("retrain.withheld", age_s=0.0, event_time=7, reason="cooling down", blocked=False)
    desk.now += SETTLE_S
    run(follower)
    assert [notice.kind for notice in desk.transport.sent] == ["alarm", "retrain.withheld"]
    assert "What was done: no retraining: cooling down." in desk.transport.sent[0].text


def test_event_of_a_writer_whose_clock_is_ahead_holds_up_nobody(desk: Desk) -> None:
    key = desk.record(age_s=-500.0)
    run(desk.follower())
    assert desk.transport.ids == [key]


# -- what a target wants ------------------------------------------------------------------------------


def test_target_gets_the_kinds_severities_and_models_that_it_wants(desk: Desk) -> None:
    desk.record("retrain.finished", outcome="registered")
    failed = desk.record("retrain.finished", outcome="failed")
    desk.record("version.registered", gate={"passed": False}, version="2")
    desk.record("retrain.finished", model="n", outcome="failed")
    run(desk.follower(events=["retrain.*"], min_severity="critical"))
    assert desk.transport.ids == [failed]


def test_target_of_other_models_hears_of_them(desk: Desk) -> None:
    keys = [desk.record(model=name) for name in ("m", "flights_a", "flights_b", "other")]
    run(desk.follower(models=["flights*"]))
    assert desk.transport.ids == keys[1:3]


def test_unwanted_events_are_passed_over_durably(desk: Desk) -> None:
    desk.record("snapshot.created")
    desk.record("retrain.requested")
    run(desk.follower(events=["alarm"]))
    assert desk.state().cursor == 2


# -- retries ------------------------------------------------------------------------------------------


def test_failed_attempt_is_repeated_with_growing_waits_and_the_next_notice_waits_behind_it(desk: Desk) -> None:
    first, second = desk.record(), desk.record()
    desk.transport.answers = [DOWN, DOWN, DOWN]
    follower, waits = desk.follower(), []
    for _ in range(20):
        before = len(desk.transport.sent)
        follower.step()
        if len(desk.transport.sent) > before:
            waits.append(desk.now)
        desk.now += 1.0
    assert desk.transport.ids == [first, first, first, first, second]
    assert [b - a for a, b in pairwise(waits)][:3] == [2.0, 4.0, 8.0]


def test_nothing_is_attempted_before_the_wait_is_over(desk: Desk) -> None:
    desk.record()
    desk.transport.answers = [Attempt("failed", "HTTP 429", retry_after_s=120.0)]
    follower = desk.follower()
    assert follower.step() == 120.0
    desk.now += 119.0
    assert follower.step() == 1.0
    assert len(desk.transport.sent) == 1
    desk.now += 1.0
    follower.step()
    assert len(desk.transport.sent) == 2


def test_failure_is_shown_until_a_notice_is_accepted(desk: Desk) -> None:
    desk.record()
    desk.transport.answers = [DOWN]
    follower = desk.follower()
    follower.step()
    assert (desk.state().failures, desk.state().problem, desk.state().failed) == (1, "HTTP 503", 1)
    desk.now += 10.0
    follower.step()
    assert (desk.state().failures, desk.state().problem, desk.state().failed) == (0, "", 1)


def test_refused_notice_is_given_up_on_the_record_and_the_next_one_is_sent(desk: Desk) -> None:
    first, second = desk.record(version="1", by="ann"), desk.record()
    desk.transport.answers = [NEVER]
    follower = desk.follower()
    run(follower, 2)
    assert desk.transport.ids == [first, second]
    given_up = desk.ledger.read("m/notices", kind="delivery.given_up")
    assert [event.payload["notice"] for event in given_up] == [first]
    assert given_up[0].payload["reason"] == "HTTP 400"
    assert given_up[0].payload["title"] == "m: version 1 was approved by ann"
    assert (desk.state().given_up, desk.state().delivered) == (1, 1)


def test_dead_target_does_not_block_later_notices_for_ever(desk: Desk) -> None:
    desk.config = NotificationsConfig(retry=RetryConfig(give_up_after=timedelta(hours=1)))
    old = [desk.record(age_s=100.0 - n) for n in range(3)]
    desk.transport.answers = [DOWN] * 1000
    follower = desk.follower()
    for _ in range(300):
        follower.step()
        desk.now += 30.0
    given_up = desk.ledger.read("m/notices")
    assert [event.payload["notice"] for event in given_up] == old
    assert [event.payload["is_first"] for event in given_up] == [True, False, False]
    assert len(desk.transport.sent) < 30
    fresh = desk.record()
    desk.transport.answers = []
    desk.now += 300.0
    run(follower)
    assert desk.transport.ids[-1] == fresh
    assert desk.state().is_dead is False


def test_given_up_notice_is_told_to_other_targets_and_never_to_the_dead_one(desk: Desk) -> None:
    desk.record()
    desk.transport.answers = [NEVER]
    run(desk.follower())
    desk.now += 10.0
    run(desk.follower())
    assert [notice.kind for notice in desk.transport.sent] == ["approval.given"]
    run(desk.follower(name="mail"))
    assert [notice.kind for notice in desk.transport.sent[1:]] == ["approval.given", "delivery.given_up"]


def test_two_dead_targets_do_not_tell_each_other_for_ever(desk: Desk) -> None:
    desk.record()
    desk.transport.answers = [NEVER] * 100
    for _ in range(5):
        for name in ("ops", "mail"):
            run(desk.follower(name=name), 5)
        desk.now += 10.0
    assert len(desk.ledger.read("m/notices")) == 2


def test_ledger_that_fails_stops_nothing_for_good(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    key = desk.record()
    follower = desk.follower()
    with monkeypatch.context() as patch:
        patch.setattr(desk.ledger, "read", raises(LedgerError("database is locked")))
        with pytest.raises(LedgerError):
            follower.step()
    run(follower)
    assert desk.transport.ids == [key]


def raises(error: Exception) -> Callable[..., Any]:
    def fail(*arguments: Any, **options: Any) -> Any:
        raise error

    return fail


def test_attempts_are_bounded_by_age_and_wait() -> None:
    retry = RetryConfig()
    decision = decide_delivery(DOWN, failures=99, age_s=21_599.0, retry=retry, jitter=0.0)
    assert (decision.action, decision.wait_s) == ("retry", 150.0)
    decision = decide_delivery(DOWN, failures=99, age_s=21_600.0, retry=retry, jitter=0.0)
    assert decision.action == "give_up"
    assert decision.reason == "not delivered within 6:00:00: HTTP 503"
    patient = Attempt("failed", "HTTP 429", retry_after_s=1e9)
    assert decide_delivery(patient, failures=1, age_s=0.0, retry=retry, jitter=0.0).wait_s == 21_600.0


# -- alarms that stand --------------------------------------------------------------------------------


def breach(desk: Desk, **more: Any) -> str:
    payload = {"alarm": "contract:x:nulls", "level": "contract", "name": "x:nulls", "window": 1, "reference": "r"}
    return desk.record("monitor.alarm", **payload, **more)


def remind(desk: Desk, days: int = 1) -> None:
    desk.config = NotificationsConfig(remind_after=timedelta(days=days))


def test_standing_breach_is_reminded_of_at_each_interval_and_not_after_it_clears(desk: Desk) -> None:
    remind(desk)
    key = breach(desk)
    follower = desk.follower()
    for _ in range(3):
        run(follower)
        desk.now += DAY
    assert desk.transport.ids == [key, f"{key}/reminder/1", f"{key}/reminder/2"]
    cleared = desk.record("monitor.cleared", alarm="contract:x:nulls", name="x:nulls", reference="r", window=5)
    desk.now += 5 * DAY
    run(follower)
    assert desk.transport.ids[3:] == [cleared]


def test_reminders_survive_a_restart_and_missed_ones_are_not_made_up_for(desk: Desk) -> None:
    remind(desk)
    key = breach(desk)
    run(desk.follower())
    desk.now += 4.5 * DAY
    for _ in range(3):
        run(desk.follower())
    assert desk.transport.ids == [key, f"{key}/reminder/4"]


def test_reminder_whose_words_fail_is_told_plainly_and_holds_up_nobody(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    remind(desk)
    key = breach(desk)
    follower = desk.follower()
    run(follower)
    monkeypatch.setattr("ray_mlops.monitoring.notices.follower.render_reminder", raises(KeyError("window")))
    desk.now += DAY
    run(follower)
    assert desk.transport.ids[0] == key
    assert "text could not be made" in desk.transport.sent[1].text
    later = desk.record()
    run(follower)
    assert desk.transport.ids[-1] == later


def test_acknowledged_breach_is_not_reminded_of(desk: Desk) -> None:
    remind(desk)
    breach(desk)
    desk.record("monitor.acknowledged", alarm="contract:x:nulls", by="ann", reference="r")
    desk.now += 3 * DAY
    run(desk.follower(events=["*.reminder"]))
    assert desk.transport.sent == []


def test_without_an_interval_a_standing_alarm_is_one_notice(desk: Desk) -> None:
    key = breach(desk)
    follower = desk.follower()
    run(follower)
    desk.now += 30 * DAY
    run(follower)
    assert desk.transport.ids == [key]


# -- its file -----------------------------------------------------------------------------------------


def test_only_the_newest_deliveries_are_remembered(desk: Desk) -> None:
    desk.config = NotificationsConfig(keep=2)
    keys = [desk.record() for _ in range(4)]
    run(desk.follower())
    assert [entry["id"] for entry in desk.state().recent] == keys[2:]


def test_state_of_a_newer_release_is_refused(desk: Desk) -> None:
    save_state(desk.files, TargetState("m", "ops", 1, 0.0, schema_version=2))
    with pytest.raises(MonitoringError, match="version 2, this release reads 1"):
        desk.follower().step()


def test_damaged_state_names_the_file_and_the_remedy(desk: Desk) -> None:
    desk.files.write("checkpoints/monitor-notices/m/ops.json", b'{"schema')
    with pytest.raises(MonitoringError, match=r"ops\.json: is damaged.*delete it"):
        desk.follower().step()
