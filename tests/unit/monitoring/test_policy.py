"""When to retrain: one rule a test, each with the case beside it that decides otherwise."""

from dataclasses import replace
from datetime import timedelta

import pytest

from ray_mlops.config import MonitoringConfig, RetrainingConfig
from ray_mlops.ledger import LedgerEvent
from ray_mlops.monitoring.policy import (
    NoRetrain,
    RetrainDecision,
    RetrainHistory,
    Signals,
    cool_down,
    decide_retrain,
    fold_history,
    with_attempt,
)

DAY = 86_400_000_000
MONITORING = MonitoringConfig.model_validate({"labels": {"delay": "2d"}})
RETRAINING = RetrainingConfig.model_validate(
    {"cool_down": "14d", "window": "60d", "holdout": "7d", "min_rows": 1000, "budget": {"count": 2, "per": "90d"}}
)
SIGNALS = Signals(
    model="m",
    champion="1",
    config_hash="c",
    watermark_us=100 * DAY,
    window_us=DAY,
    alarms=("inputs",),
    labelled_rows=dict.fromkeys(range(98), 100),
)


def decide(signals: Signals = SIGNALS, history: RetrainHistory | None = None, **changes: object) -> object:
    retraining = RETRAINING.model_copy(update=changes)
    return decide_retrain(signals, history or RetrainHistory(), MONITORING, retraining)


def decided(day: int, name: str = "d") -> RetrainDecision:
    return RetrainDecision(f"{name}{day}", "m", day * DAY, 0, 0, 0, "full", "inputs", "1", "c", "")


def test_alarm_decides_with_windows_that_end_before_the_label_delay() -> None:
    decision = decide()
    assert isinstance(decision, RetrainDecision)
    assert decision.holdout_end_us == 98 * DAY
    assert decision.train_end_us == 91 * DAY
    assert decision.train_start_us == 31 * DAY
    assert decision.as_of_us == 100 * DAY


def test_same_signals_decide_under_the_same_id() -> None:
    first, second = decide(), decide()
    assert isinstance(first, RetrainDecision)
    assert first == second
    later = decide(replace(SIGNALS, watermark_us=101 * DAY))
    assert isinstance(later, RetrainDecision)
    assert later.decision_id != first.decision_id


def test_no_alarm_decides_nothing() -> None:
    assert isinstance(decide(replace(SIGNALS, alarms=())), NoRetrain)


def test_declared_breach_blocks_even_a_manual_request() -> None:
    outcome = decide(replace(SIGNALS, breaches=("null:temp",)), RetrainHistory(manual=("k",)))
    assert isinstance(outcome, NoRetrain)
    assert outcome.blocked
    assert "null:temp" in outcome.reason


def test_loss_alarm_is_named_before_inputs() -> None:
    decision = decide(replace(SIGNALS, alarms=("inputs", "loss")))
    assert isinstance(decision, RetrainDecision)
    assert decision.trigger == "loss"


def test_one_in_flight_holds_the_next() -> None:
    outcome = decide(history=RetrainHistory(decisions=(decided(1),)))
    assert isinstance(outcome, NoRetrain)
    assert "in flight" in outcome.reason


def test_rollout_under_way_holds_retraining() -> None:
    assert isinstance(decide(replace(SIGNALS, rollout_active=True)), NoRetrain)


@pytest.mark.parametrize(("last", "retrains"), [(87, False), (86, True)])
def test_cool_down_counts_event_time(last: int, retrains: bool) -> None:
    history = RetrainHistory(decisions=(decided(last),), outcomes={f"d{last}": "registered"})
    assert isinstance(decide(history=history), RetrainDecision) is retrains


def test_cool_down_is_never_below_label_delay_and_window() -> None:
    short = RETRAINING.model_copy(update={"cool_down": timedelta(hours=1)})
    assert cool_down(RetrainHistory(), MONITORING, short) == timedelta(days=3)


def test_refusals_in_a_row_double_the_cool_down_and_a_success_resets_it() -> None:
    refused = RetrainHistory((decided(1), decided(2)), {"d1": "refused", "d2": "failed"})
    assert cool_down(refused, MONITORING, RETRAINING) == 4 * RETRAINING.cool_down
    mended = RetrainHistory((decided(1), decided(2)), {"d1": "refused", "d2": "registered"})
    assert cool_down(mended, MONITORING, RETRAINING) == RETRAINING.cool_down


def test_spent_budget_holds_retraining() -> None:
    history = RetrainHistory((decided(30), decided(60)), {"d30": "registered", "d60": "registered"})
    outcome = decide(history=history)
    assert isinstance(outcome, NoRetrain)
    assert "budget" in outcome.reason
    assert isinstance(decide(replace(SIGNALS, watermark_us=121 * DAY), history), RetrainDecision)


def test_change_point_with_enough_rows_starts_the_training_window() -> None:
    decision = decide(replace(SIGNALS, change_point_us=70 * DAY + 5))
    assert isinstance(decision, RetrainDecision)
    assert decision.train_start_us == 70 * DAY
    sparse = decide(replace(SIGNALS, change_point_us=85 * DAY))
    assert isinstance(sparse, RetrainDecision)
    assert sparse.train_start_us == 31 * DAY


def test_too_few_labelled_rows_decide_nothing() -> None:
    outcome = decide(replace(SIGNALS, labelled_rows={50: 10}))
    assert isinstance(outcome, NoRetrain)
    assert "10 matured labelled rows" in outcome.reason


def test_source_rows_count_for_the_time_before_serving() -> None:
    early = replace(SIGNALS, labelled_rows={}, source_rows=dict.fromkeys(range(98), 100))
    assert isinstance(decide(early), RetrainDecision)


@pytest.mark.parametrize(("watermark", "retrains"), [(59, False), (60, True)])
def test_schedule_is_a_floor(watermark: int, retrains: bool) -> None:
    quiet = replace(SIGNALS, alarms=(), watermark_us=watermark * DAY)
    outcome = decide(quiet, schedule=timedelta(days=60))
    assert isinstance(outcome, RetrainDecision) is retrains


@pytest.mark.parametrize(("watermark", "retrains"), [(104, False), (105, True), (140, True)])
def test_cron_schedule_is_due_at_its_first_time_since_the_last_retraining(watermark: int, retrains: bool) -> None:
    quiet = replace(SIGNALS, alarms=(), watermark_us=watermark * DAY)
    history = RetrainHistory((decided(80),), {"d80": "registered"})  # 22 March 1970; day 104 is 15 April
    outcome = decide(quiet, history, schedule="0 0 16 * *")
    assert isinstance(outcome, RetrainDecision) is retrains
    if isinstance(outcome, RetrainDecision):
        assert outcome.trigger == "schedule"


LADDER = ["recalibrate", "fine_tune", "full", "tune"]


def rung(history: RetrainHistory | None = None, signals: Signals = SIGNALS, **changes: object) -> str:
    outcome = decide(signals, history, ladder=LADDER, cool_down=timedelta(days=1), **changes)
    assert isinstance(outcome, RetrainDecision), outcome
    return outcome.action


def tried(*outcomes: str, champion: str = "1") -> RetrainHistory:
    decisions = tuple(replace(decided(10 * index), champion=champion) for index in range(len(outcomes)))
    found = {d.decision_id: outcome for d, outcome in zip(decisions, outcomes, strict=True)}
    return RetrainHistory(decisions, found)  # type: ignore[arg-type]


def test_ladder_begins_with_the_cheapest_that_may_help() -> None:
    assert rung(signals=replace(SIGNALS, alarms=("loss",))) == "recalibrate"
    assert rung(signals=replace(SIGNALS, alarms=("inputs",))) == "fine_tune"


def test_each_candidate_that_did_not_become_champion_leads_one_rung_up() -> None:
    loss = replace(SIGNALS, alarms=("loss",), watermark_us=2000 * DAY, labelled_rows=dict.fromkeys(range(1998), 100))
    outcomes = ("refused", "registered", "refused", "refused")
    assert [rung(tried(*outcomes[:count]), loss) for count in range(5)] == [*LADDER, "tune"]


def test_job_that_failed_is_no_rung_and_a_new_champion_begins_below() -> None:
    loss = replace(SIGNALS, alarms=("loss",), watermark_us=2000 * DAY, labelled_rows=dict.fromkeys(range(1998), 100))
    assert rung(tried("failed", "failed"), loss) == "recalibrate"
    assert rung(tried("refused", "registered", champion="0"), loss) == "recalibrate"


def test_person_may_name_the_action() -> None:
    assert rung(RetrainHistory(manual=("k",), manual_action="tune")) == "tune"


def test_ladder_that_cannot_help_decides_nothing() -> None:
    outcome = decide(ladder=["recalibrate"])
    assert isinstance(outcome, NoRetrain)
    assert "helps" in outcome.reason


def test_switched_off_decides_nothing() -> None:
    assert isinstance(decide(enabled=False), NoRetrain)


def event(seq: int, kind: str, payload: dict[str, object], key: str = "") -> LedgerEvent:
    return LedgerEvent(seq, "m/retrain", seq, 0.0, None, kind, key or str(seq), payload, "", "")


def test_history_folds_decisions_attempts_and_outcomes() -> None:
    decision = decided(1)
    events = [
        event(1, "retrain.requested", {}, "k"),
        event(2, "retrain.decided", decision.to_json()),
        event(3, "retrain.submitted", {"decision_id": "d1", "attempt": 2}),
    ]
    history = fold_history(events)
    assert history.in_flight == decision
    asked = fold_history([*events, event(4, "retrain.requested", {"action": "tune"}, "k2")])
    assert (asked.manual, asked.manual_action) == (("k2",), "tune")
    assert fold_history([*events[:1], *events[:1]]).manual_action is None
    assert history.attempts == {"d1": 2}
    assert history.manual == ()
    done = fold_history([*events, event(4, "retrain.finished", {"decision_id": "d1", "outcome": "registered"})])
    assert done.in_flight is None


def test_decision_survives_json() -> None:
    decision = decided(3)
    assert RetrainDecision.from_json(decision.to_json()) == decision
    assert with_attempt(decision, 2) == "d3-attempt2"
