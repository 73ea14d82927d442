"""Windows of event time: what closes them, what they say, and what a restart must not change."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from ray_mlops.monitoring.estimate_record import estimate_record
from ray_mlops.monitoring.monitor_state import Performance
from ray_mlops.serving.rollout.shadow import BundleFacts, gather_losses

HOUR = 3_600_000_000
FIRST = 1000


def plain(reports: list[Any]) -> list[Any]:
    return [report.to_json() for report in reports]


def cut(rows: pa.Table, order: np.ndarray[Any, Any], parts: int) -> list[pa.Table]:
    return [rows.take(pa.array(chosen)) for chosen in np.array_split(order, parts)]


def moved(rows: pa.Table, hours: int) -> pa.Table:
    """The rows at another event time."""
    times = rows["event_time"]
    return rows.set_column(
        rows.column_names.index("event_time"),
        "event_time",
        pa.array(times.cast(pa.int64()).to_numpy() + hours * HOUR).cast(times.type),
    )


# -- handover -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seed", "parts"), [(0, 1), (1, 7), (2, 40)])
def test_any_order_and_number_of_flushes_gives_the_same_verdicts(watch: Any, seed: int, parts: int) -> None:
    whole, pieces = watch(allowed_lateness="3h"), watch(allowed_lateness="3h")
    rows = whole.traffic.windows(range(FIRST, FIRST + 3), shift=1.0)
    assert whole.send(rows).accepted
    order = np.random.default_rng(seed).permutation(rows.num_rows)
    for part in cut(rows, order, parts):
        assert pieces.send(part).accepted
        assert pieces.close() == []
    last = whole.traffic.window(FIRST + 6)
    for each in (whole, pieces):
        assert each.send(last).accepted
    assert plain(pieces.close()) == plain(whole.close())
    assert [report.window for report in pieces.monitor.reports()] == [FIRST, FIRST + 1, FIRST + 2]
    assert all(report.verdict is not None for report in pieces.monitor.reports())
    assert pieces.monitor.view()["late_rows"] == 0


def test_repeated_handover_counts_once(watch: Any) -> None:
    once, twice = watch(), watch()
    rows = once.traffic.window(FIRST, shift=2.0)
    once.send(rows)
    assert twice.send(rows).accepted
    again = twice.send(rows)
    assert again.accepted
    assert sorted(again.known) == sorted(rows["prediction_id"].to_pylist())
    assert plain(twice.run([FIRST + 1])) == plain(once.run([FIRST + 1]))
    assert twice.monitor.view()["rows"] == 80


def test_mixed_known_and_new_rows_are_refused_and_name_the_known(watch: Any) -> None:
    watched = watch()
    rows = watched.traffic.window(FIRST)
    watched.send(rows.slice(0, 10))
    receipt = watched.send(rows)
    assert not receipt.accepted
    assert receipt.reference is None
    assert sorted(receipt.known) == sorted(rows["prediction_id"].to_pylist()[:10])
    assert watched.monitor.view()["rows"] == 10
    assert watched.send(rows.slice(10)).accepted
    assert watched.run([FIRST + 1])[0].rows == 40


def test_empty_handover_is_accepted_and_changes_nothing(watch: Any) -> None:
    watched = watch()
    assert watched.send(watched.traffic.window(FIRST).slice(0, 0)).accepted
    assert watched.monitor.closed_window is None
    assert not watched.monitor.due()


def test_score_is_counted_of_the_champions_own_rows_only(watch: Any) -> None:
    clean, mixed = watch(), watch()
    for window in range(FIRST, FIRST + 4):
        own = clean.traffic.window(window)
        foreign = own.set_column(0, "prediction_id", pa.array([f"f{window}-{i}" for i in range(40)]))
        foreign = foreign.set_column(
            foreign.column_names.index("prediction"), "prediction", pa.array(np.full(40, 0.99))
        )
        others = {
            "candidate": foreign.slice(0, 20).set_column(4, "arm", pa.array(["candidate"] * 20)),
            "pinned": foreign.slice(20, 20),
        }
        position = foreign.column_names.index("version")
        others["candidate"] = others["candidate"].set_column(position, "version", pa.array(["2"] * 20))
        position = foreign.column_names.index("pinned")
        others["pinned"] = others["pinned"].set_column(position, "pinned", pa.array([True] * 20))
        clean.send(own)
        mixed.send(pa.concat_tables([own, *others.values()]))
    score = [r.verdict["features"]["prediction"] for r in clean.close()]
    assert [r.verdict["features"]["prediction"] for r in mixed.close()] == score
    assert len(score) == 3


def test_score_of_too_few_own_rows_is_not_tested(watch: Any) -> None:
    watched = watch()
    rows = watched.traffic.window(FIRST, version=["1"] * 5 + ["2"] * 35)
    watched.send(rows)
    report = watched.run([FIRST + 1])[0]
    assert report.verdict["features"]["prediction"]["log_e"] == pytest.approx(0.0)
    assert "total_variation" not in report.verdict["features"]["prediction"]


# -- event time ---------------------------------------------------------------------------------------


def test_window_closes_only_when_the_watermark_has_passed_it(watch: Any) -> None:
    watched = watch(allowed_lateness="30m")
    rows = watched.traffic.window(FIRST)
    watched.send(rows)
    assert watched.close() == []
    next_window = watched.traffic.window(FIRST + 1)
    event_us = next_window["event_time"].cast(pa.int64()).to_numpy()
    before = next_window.filter(pa.array(event_us < (FIRST + 1) * HOUR + HOUR // 2))
    after = next_window.filter(pa.array(event_us >= (FIRST + 1) * HOUR + HOUR // 2))
    watched.send(before)
    assert watched.close() == []
    watched.send(after)
    assert [report.window for report in watched.close()] == [FIRST]


def test_late_rows_are_counted_as_late_and_not_tested(watch: Any) -> None:
    prompt, late = watch(), watch()
    prompt.run([FIRST, FIRST + 1])
    late.run([FIRST, FIRST + 1])
    delayed = late.traffic.window(FIRST, shift=9.0)
    delayed = delayed.set_column(0, "prediction_id", pa.array([f"{FIRST}-late{i}" for i in range(40)]))
    assert late.send(delayed).accepted
    assert late.monitor.view()["late_rows"] == 40
    assert set(late.monitor._open) == {FIRST + 1}
    assert late.send(delayed).accepted
    assert late.monitor.view()["late_rows"] == 40
    assert plain(late.run([FIRST + 2])) == plain(prompt.run([FIRST + 2]))


def test_rows_of_an_earlier_window_that_the_watermark_has_not_passed_are_not_late(watch: Any) -> None:
    watched = watch(allowed_lateness="2h")
    watched.send(watched.traffic.window(FIRST + 1))
    assert watched.close() == []
    assert watched.monitor.closed_window == FIRST - 2
    watched.send(watched.traffic.window(FIRST))
    assert watched.monitor.view()["late_rows"] == 0
    watched.send(watched.traffic.window(FIRST + 3))
    report = watched.close()[0]
    assert (report.window, report.rows, report.verdict is None) == (FIRST, 40, False)


def test_windows_that_close_together_give_the_same_reports_as_one_at_a_time(watch: Any) -> None:
    single, together = watch(), watch()
    windows = range(FIRST, FIRST + 12)
    one_by_one = single.run(windows, shift=0.7)
    together.send(together.traffic.windows(windows, shift=0.7))
    at_once = together.close()
    assert plain(at_once) == plain(one_by_one)
    assert [report.window for report in at_once] == list(windows)[:-1]


def test_gap_is_closed_as_empty_windows_without_a_verdict(watch: Any) -> None:
    watched = watch()
    reports = watched.run([FIRST, FIRST + 6, FIRST + 7])
    assert [(r.window, r.rows, r.verdict is None) for r in reports] == [
        (FIRST, 40, False),
        *[(FIRST + i, 0, True) for i in range(1, 6)],
        (FIRST + 6, 40, False),
    ]


def test_window_with_few_rows_is_shown_and_not_tested(watch: Any) -> None:
    watched = watch()
    watched.send(watched.traffic.window(FIRST).slice(0, 19))
    report = watched.run([FIRST + 1])[0]
    assert (report.rows, report.verdict) == (19, None)
    assert watched.run([FIRST + 2])[0].verdict is not None


def test_windows_before_the_start_are_not_tested(watch: Any) -> None:
    reports = watch(start_window=FIRST + 2).run(range(FIRST, FIRST + 4))
    assert [report.verdict is None for report in reports] == [True, True, False]


@pytest.mark.parametrize("gap", [100, 121, 1000])
def test_long_stretch_without_rows_is_passed_over_and_changes_no_evidence(
    watch: Any, gap: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick, thorough = watch(), watch()
    early = quick.traffic.windows(range(FIRST, FIRST + 3), shift=1.0)
    late = [quick.traffic.window(FIRST + 3 + gap + index, shift=1.0) for index in range(3)]
    labels = quick.traffic.labels(early, flip=True)
    closed = []
    for each, quiet in ((quick, 120), (thorough, 10**9)):
        monkeypatch.setattr("ray_mlops.monitoring.monitor._QUIET_WINDOWS", quiet)
        each.send(early)
        each.monitor.add_labels(labels)
        for rows in late:
            each.send(rows)
        closed.append(each.close())
    assert len(closed[0]) == min(len(closed[1]), 3 + 120 + 2)
    assert len(closed[1]) == gap + 5
    assert plain(closed[0])[:3] == plain(closed[1])[:3]
    assert quick.monitor.dataset.to_json() == thorough.monitor.dataset.to_json()
    shown, whole = quick.monitor.view(), thorough.monitor.view()
    assert shown["closed_window"] == whole["closed_window"] == FIRST + gap + 4
    assert shown["windows"] == whole["windows"]
    assert shown["labels"] == whole["labels"]
    assert quick.monitor.labelled_rows().get(FIRST) == thorough.monitor.labelled_rows().get(FIRST)


def test_clock_that_is_wrong_by_centuries_costs_a_few_windows(watch: Any) -> None:
    watched = watch(max_ahead=None)
    watched.send(moved(watched.traffic.window(FIRST), -17_000_000))
    assert len(watched.run([FIRST, FIRST + 1])) < 300
    assert watched.monitor.closed_window == FIRST
    assert len(json.dumps(watched.monitor.checkpoint())) < 2_000_000


def test_row_of_a_year_to_come_is_set_aside_by_default(watch: Any) -> None:
    watched = watch()
    watched.send(watched.traffic.window(FIRST))
    row = moved(watched.traffic.window(FIRST).slice(0, 1), 8000 * 366 * 24)
    row = row.set_column(row.column_names.index("prediction_id"), "prediction_id", pa.array(["from-afar"]))
    watched.send(row)
    assert watched.close() == []
    assert watched.monitor.view()["quarantined_rows"] == 1


def test_closed_window_is_the_newest_that_the_watermark_has_passed(watch: Any) -> None:
    watched = watch()
    assert watched.monitor.closed_window is None
    watched.send(watched.traffic.window(FIRST))
    assert watched.monitor.closed_window == FIRST - 1
    watched.run([FIRST + 1])
    assert watched.monitor.closed_window == FIRST


# -- max_ahead ----------------------------------------------------------------------------------------


def from_the_future(watched: Any, hours: int = 50) -> pa.Table:
    rows = watched.traffic.window(FIRST + hours, shift=9.0)
    rows = rows.set_column(0, "prediction_id", pa.array([f"future-{i}" for i in range(rows.num_rows)]))
    arrival = pa.array([FIRST * HOUR + 5] * rows.num_rows, pa.timestamp("us", tz="UTC"))
    return rows.set_column(rows.column_names.index("arrival_time"), "arrival_time", arrival)


def test_rows_too_far_ahead_of_their_arrival_are_quarantined_and_move_nothing(watch: Any) -> None:
    watched, clean = watch(max_ahead="1h"), watch(max_ahead="1h")
    clean.send(clean.traffic.window(FIRST))
    watched.send(watched.traffic.window(FIRST))
    mark = watched.monitor.watermark_us
    future = from_the_future(watched)
    assert watched.send(future).accepted
    assert watched.monitor.watermark_us == mark
    assert not watched.monitor.due()
    assert watched.monitor.view()["quarantined_rows"] == 40
    assert watched.monitor.view()["rows"] == 40
    assert watched.send(future).accepted
    assert watched.monitor.view()["quarantined_rows"] == 40
    assert plain(watched.run(range(FIRST + 1, FIRST + 53))) == plain(clean.run(range(FIRST + 1, FIRST + 53)))


def test_rows_ahead_beside_sound_rows_are_left_out_of_their_window(watch: Any) -> None:
    watched, clean = watch(max_ahead="10m"), watch(max_ahead="10m")
    rows = watched.traffic.window(FIRST)
    ahead = np.arange(40) < 10
    arrival = rows["event_time"].cast(pa.int64()).to_numpy() - np.where(ahead, HOUR, 0)
    stamped = pa.array(arrival, pa.timestamp("us", tz="UTC"))
    watched.send(rows.set_column(rows.column_names.index("arrival_time"), "arrival_time", stamped))
    clean.send(rows.filter(pa.array(~ahead)))
    assert plain(watched.run([FIRST + 1])) == plain(clean.run([FIRST + 1]))
    assert watched.monitor.view()["quarantined_rows"] == 10


def test_max_ahead_accepts_what_is_just_within_it(watch: Any) -> None:
    watched = watch(max_ahead="1h")
    rows = watched.traffic.window(FIRST)
    event_us = rows["event_time"].cast(pa.int64()).to_numpy()
    arrival = np.where(np.arange(40) == 0, event_us - HOUR - 1, event_us - HOUR)
    stamped = pa.array(arrival, pa.timestamp("us", tz="UTC"))
    watched.send(rows.set_column(rows.column_names.index("arrival_time"), "arrival_time", stamped))
    assert watched.monitor.view()["quarantined_rows"] == 1


def test_without_max_ahead_all_rows_are_believed(watch: Any) -> None:
    watched = watch()
    watched.send(watched.traffic.window(FIRST))
    watched.send(from_the_future(watched))
    assert len(watched.close()) == 50
    assert watched.monitor.view()["quarantined_rows"] == 0


# -- labels -------------------------------------------------------------------------------------------


def performance(watched: Any) -> dict[int, dict[str, Any]]:
    return {window["window"]: window for window in watched.monitor.view()["performance"]}


def test_labels_mature_after_their_delay_and_not_before(watch: Any) -> None:
    watched = watch()
    rows = watched.traffic.window(FIRST)
    watched.send(rows)
    watched.monitor.add_labels(watched.traffic.labels(rows))
    reports = watched.run(range(FIRST + 1, FIRST + 5))
    assert {report.window: report.matured for report in reports} == {
        FIRST: (),
        FIRST + 1: (),
        FIRST + 2: (FIRST,),
        FIRST + 3: (FIRST + 1,),
    }
    assert watched.monitor.labelled_rows() == {FIRST: 40, FIRST + 1: 0}


@pytest.mark.parametrize("flip", [False, True])
def test_record_of_estimates_is_that_of_this_epoch(watch: Any, flip: bool) -> None:
    watched = watch()
    for window in range(FIRST, FIRST + 12):
        rows = watched.traffic.window(window)
        watched.send(rows)
        watched.monitor.add_labels(watched.traffic.labels(rows, flip=flip))
        watched.close()
        if window == FIRST + 5:
            assert watched.monitor.view()["estimates"] is None
    found = watched.monitor.view()["estimates"]
    gaps = [abs(shown["estimate_error"]["bounded_loss"]) for shown in performance(watched).values()]
    assert found["windows"] == len(gaps) == 9
    assert found["error"] == pytest.approx(np.mean(gaps))
    assert found["is_useful"] != ("no better than" in found["words"])
    watched.monitor.watched = replace(watched.monitor.watched, start_window=FIRST + 20)
    watched.run([FIRST + 12])
    assert watched.monitor.view()["estimates"] is None


def test_record_says_whether_estimates_beat_a_constant() -> None:
    def seen(realised: float, expected: float) -> Performance:
        return Performance(50, 50, realised, None, True, {"bounded_loss": realised}, {"bounded_loss": expected})

    good = estimate_record([seen(0.1 * k, 0.1 * k + 0.01) for k in range(5)], 0.2)
    poor = estimate_record([seen(0.2, 0.3)] * 5, 0.2)
    assert good is not None
    assert poor is not None
    assert (good.is_useful, good.error, good.constant_error) == (True, pytest.approx(0.01), pytest.approx(0.12))
    assert (poor.is_useful, poor.error, poor.constant_error) == (False, pytest.approx(0.1), 0.0)
    assert estimate_record([seen(0.2, 0.3)] * 5, None) is None
    unestimated = Performance(50, 50, 0.2, None, True, {"bounded_loss": 0.2})
    assert estimate_record([seen(0.2, 0.3)] * 4 + [unestimated], 0.2) is None


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_loss_of_each_task_is_shown_and_its_rise_alarms(watch: Any, task: str) -> None:
    watched = watch(task)
    for window in range(FIRST, FIRST + 12):
        rows = watched.traffic.window(window)
        watched.send(rows)
        watched.monitor.add_labels(watched.traffic.labels(rows, flip=True))
        watched.close()
    shown = performance(watched)[FIRST]
    assert shown["judged"]
    assert shown["loss"] > 0.3
    assert (shown["log_loss"] is None) == (task == "regression")
    assert "loss" in watched.monitor.view()["alarms"]
    assert watched.monitor.dataset.describe("loss")["kind"] == "concept"
    assert not shown["estimated"]["is_shown"]
    assert shown["estimated"]["bounded_loss"] is None
    assert "labels contradict it" in shown["estimated"]["reason"]
    assert shown["estimate_error"]["bounded_loss"] < -0.2


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_usual_loss_does_not_alarm(watch: Any, task: str) -> None:
    watched = watch(task)
    for window in range(FIRST, FIRST + 12):
        rows = watched.traffic.window(window)
        watched.send(rows)
        watched.monitor.add_labels(watched.traffic.labels(rows))
        watched.close()
    shown = performance(watched)[FIRST]
    assert shown["judged"]
    assert "loss" not in watched.monitor.view()["alarms"]
    estimated = shown["estimated"]
    assert estimated["is_shown"]
    assert estimated["rows"] == 40
    wanted = {
        "binary": {"accuracy", "auc", "brier", "log_loss", "bounded_loss"},
        "multiclass": {"accuracy", "log_loss", "bounded_loss"},
        "regression": {"mae", "rmse", "bounded_loss"},
    }
    assert set(estimated["metrics"]) == set(shown["realised"]) == set(shown["estimate_error"]) == wanted[task]
    assert all(band["lower"] <= band["value"] <= band["upper"] for band in estimated["metrics"].values())
    assert estimated["bounded_loss"] == pytest.approx(shown["loss"], abs=0.05)
    assert [window["window"] for window in watched.monitor.view()["unlabelled"]] == [FIRST + 9, FIRST + 10]


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_estimate_is_the_same_however_rows_are_flushed_and_after_a_restart(watch: Any, task: str) -> None:
    whole, parts = watch(task), watch(task)
    log = [whole.traffic.window(window) for window in range(FIRST, FIRST + 4)]
    for rows in log:
        whole.send(rows)
        whole.close()
        for start in range(0, 40, 7):
            parts.send(rows.slice(start, 7))
            parts.close()
    again = parts.make()
    again.restore(json.loads(json.dumps(parts.monitor.checkpoint())), log, [])
    shown = [each.view()["unlabelled"] for each in (whole.monitor, parts.monitor, again)]
    for one, two, three in zip(*shown, strict=True):
        for name, band in one["estimated"]["metrics"].items():
            assert two["estimated"]["metrics"][name] == pytest.approx(band, abs=1e-9)
            assert three["estimated"]["metrics"][name] == pytest.approx(band, abs=1e-9)


def test_version_without_an_estimator_shows_none_and_says_why(watch: Any) -> None:
    watched = watch(estimated=False)
    for window in range(FIRST, FIRST + 12):
        rows = watched.traffic.window(window)
        watched.send(rows)
        watched.monitor.add_labels(watched.traffic.labels(rows, flip=True))
        watched.close()
    shown = performance(watched)[FIRST]
    assert shown["estimated"]["metrics"] == {}
    assert "no estimator" in shown["estimated"]["reason"]
    assert shown["realised"]["accuracy"] == 0.0
    assert watched.monitor.dataset.describe("loss")["kind"] == "unclear"


def test_checkpoint_of_an_older_release_is_read(watch: Any) -> None:
    watched = watch()
    watched.run(range(FIRST, FIRST + 3))
    content = json.loads(json.dumps(watched.monitor.checkpoint()))
    content["estimates"] = [[FIRST, [40, 20.0, 8.0]]]
    content["performance"] = [[FIRST, {"rows": 40, "labelled": 0, "loss": None, "log_loss": None, "judged": False}]]
    del content["dataset"]["loss_parts"]
    again = watched.make()
    again.restore(content, [], [])
    again.dataset.restore(content["dataset"])
    assert again.view()["closed_window"] == watched.monitor.closed_window


def test_multiclass_loss_is_right_beside_a_version_with_other_classes(watch: Any) -> None:
    alone, beside = watch("multiclass"), watch("multiclass")
    rows = alone.traffic.window(FIRST)
    labels = alone.traffic.labels(rows)
    other = rows.rename_columns([name.replace("prediction.low", "prediction.aaa") for name in rows.column_names])
    other = other.set_column(0, "prediction_id", pa.array([f"o-{i}" for i in range(40)]))
    other = other.set_column(other.column_names.index("version"), "version", pa.array(["2"] * 40))
    other = other.set_column(other.column_names.index("arm"), "arm", pa.array(["candidate"] * 40))
    beside.send(other)
    for each in (alone, beside):
        each.send(rows)
        each.monitor.add_labels(labels)
        each.run(range(FIRST + 1, FIRST + 4))
    assert performance(beside)[FIRST]["loss"] == performance(alone)[FIRST]["loss"]


def test_only_the_champions_own_unpinned_rows_are_judged(watch: Any) -> None:
    clean, mixed = watch(), watch()
    for window in range(FIRST, FIRST + 5):
        rows = clean.traffic.window(window)
        n = rows.num_rows
        strange = {}
        for kind, column, value in (("candidate", "version", "2"), ("pinned", "pinned", True)):
            part = rows.set_column(0, "prediction_id", pa.array([f"{window}-{kind}{i}" for i in range(n)]))
            strange[kind] = part.set_column(part.column_names.index(column), column, pa.array([value] * n))
        arm = strange["candidate"].column_names.index("arm")
        strange["candidate"] = strange["candidate"].set_column(arm, "arm", pa.array(["candidate"] * n))
        for each, extra in ((clean, []), (mixed, list(strange.values()))):
            each.send(pa.concat_tables([rows, *extra]))
            each.monitor.add_labels(each.traffic.labels(rows))
            for part in extra:
                each.monitor.add_labels(each.traffic.labels(part, flip=True))
            each.close()
    assert mixed.monitor.dataset.to_json()["loss"] == clean.monitor.dataset.to_json()["loss"]
    own, both = performance(clean)[FIRST], performance(mixed)[FIRST]
    assert (both["loss"], both["log_loss"]) == (own["loss"], own["log_loss"])
    assert both["estimated"] == own["estimated"]
    assert (own["labelled"], both["labelled"]) == (40, 120)


@pytest.mark.parametrize(("labelled", "judged"), [(19, False), (20, True)])
def test_coverage_below_its_minimum_is_shown_and_not_judged(watch: Any, labelled: int, judged: bool) -> None:
    watched = watch(min_window_rows=10)
    rows = watched.traffic.window(FIRST)
    watched.send(rows)
    watched.monitor.add_labels(watched.traffic.labels(rows)[:labelled])
    watched.run(range(FIRST + 1, FIRST + 4))
    shown = performance(watched)[FIRST]
    assert (shown["judged"], shown["labelled"]) == (judged, labelled)
    assert shown["loss"] is not None
    assert (watched.monitor.dataset.to_json()["loss"]["windows"] == [[FIRST, 1]]) is judged


def test_losses_of_a_split_are_one_for_each_routing_key(watch: Any) -> None:
    watched = watch()
    keys = pa.array([i % 3 for i in range(40)], pa.uint64())
    for window in range(FIRST, FIRST + 5):
        split = {"routing_key_hash": keys, "route_version": 7, "weight": 0.5} if window == FIRST else {}
        rows = watched.traffic.window(window, **split)
        watched.send(rows)
        watched.monitor.add_labels(watched.traffic.labels(rows))
        watched.close()
    labelled = watched.monitor.labelled(FIRST - 1)
    facts = BundleFacts("binary")
    losses = gather_losses(labelled, {}, facts, champion="1", after_us=0, weights={7: 0.5}).losses
    assert len(losses) == 3


def test_labelled_rows_are_those_of_matured_windows(watch: Any) -> None:
    watched = watch()
    for window in range(FIRST, FIRST + 5):
        rows = watched.traffic.window(window)
        watched.send(rows)
        watched.monitor.add_labels(watched.traffic.labels(rows))
        watched.close()
    assert set(watched.monitor.labelled(FIRST - 1)["window"].to_pylist()) == {FIRST, FIRST + 1}
    assert watched.monitor.labelled(FIRST + 1).num_rows == 0
    assert watch().monitor.labelled(0).num_rows == 0


def test_text_of_drift_speaks_of_all_windows_since_the_change(watch: Any) -> None:
    watched, moved = watch(), range(FIRST + 6, FIRST + 12)
    watched.run(range(FIRST, FIRST + 6))
    watched.run(moved, shift=1.5)
    told, closed = watched.monitor.describe("inputs"), watched.monitor.closed_window
    since = told["change_point"]
    assert since in moved
    assert closed - since >= 3
    values = watched.traffic.windows(range(since, closed + 1), shift=1.5)["features.x"]
    words = f"mean {pc.mean(values).as_py():.4g} in the {closed - since + 1} windows since the change, "
    assert told["columns"]["x"]["moved"].startswith(words)
    assert watched.monitor.dataset.describe("inputs")["columns"]["x"]["moved"].split(", ")[0].endswith("in this window")


def test_window_that_cannot_be_judged_is_left_as_it_was_and_closes_when_it_can(
    watch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm, shaken = watch(), watch()
    for each in (calm, shaken):
        each.run([FIRST, FIRST + 1])
        each.monitor.add_labels(each.traffic.labels(each.traffic.windows([FIRST, FIRST + 1])))
        each.send(each.traffic.window(FIRST + 2))
    for each in (calm, shaken):
        each.send(each.traffic.window(FIRST + 3))
        if each is shaken:
            with monkeypatch.context() as patched:
                patched.setattr("ray_mlops.monitoring.judging.mean_losses", lambda *_: 1 / 0)
                for _ in range(2):
                    with pytest.raises(ZeroDivisionError):
                        each.close()
        each.close()
    assert plain(shaken.monitor.reports()) == plain(calm.monitor.reports())
    assert shaken.monitor.dataset.to_json() == calm.monitor.dataset.to_json()
    assert shaken.monitor.dataset.breaches() == ()


# -- restarts -----------------------------------------------------------------------------------------


WINDOWS = range(FIRST, FIRST + 8)


def story(watched: Any, killed_after: int | None) -> Any:
    """Eight windows with drift and labels before and after a kill in the middle of a window."""
    log: list[pa.Table] = []
    labels: list[Any] = []

    def label(rows: pa.Table, **how: Any) -> None:
        labels.extend(watched.traffic.labels(rows, **how))
        watched.monitor.add_labels(watched.traffic.labels(rows, **how))

    stored: str | None = None
    for window in WINDOWS:
        rows = watched.traffic.window(window, shift=0.4)
        for number, part in enumerate((rows.slice(0, 13), rows.slice(13))):
            log.append(part)
            watched.send(part)
            while watched.monitor.due():
                watched.monitor.advance()
                stored = json.dumps(watched.monitor.checkpoint(), allow_nan=True)
            label(part.slice(0, 12), flip=True)
            if window == killed_after and number == 0:
                content = None if stored is None else json.loads(stored)
                watched.monitor = watched.make()
                watched.monitor.restore(content, log, labels)
                if content is not None:
                    watched.monitor.dataset.restore(content["dataset"])
    return watched.monitor


@pytest.mark.parametrize("killed_after", [FIRST, FIRST + 1, FIRST + 3, FIRST + 6, FIRST + 7])
def test_restored_monitor_has_the_same_evidence_to_the_bit(watch: Any, killed_after: int) -> None:
    undisturbed, killed = story(watch(), None), story(watch(), killed_after)
    assert json.loads(json.dumps(killed.dataset.view())) == json.loads(json.dumps(undisturbed.dataset.view()))
    assert plain(killed.reports()) == plain(undisturbed.reports())
    ours, theirs = killed.view(), undisturbed.view()
    for view in (ours, theirs):
        view.pop("history")  # is stored beside the checkpoint, by the service
    assert ours == theirs
    assert ours["drift"]["log_e"] != 0.0
    assert ours["drift"]["loss"]["log_e"] != 0.0


def test_checkpoint_restored_twice_is_the_same_checkpoint(watch: Any) -> None:
    watched = watch()
    log = [watched.traffic.window(window) for window in WINDOWS]
    for rows in log:
        watched.send(rows)
        watched.close()
    content = json.loads(json.dumps(watched.monitor.checkpoint()))
    again = watched.make()
    again.restore(content, log, [])
    again.dataset.restore(content["dataset"])
    assert json.loads(json.dumps(again.checkpoint())) == content


def test_rows_that_came_late_after_the_checkpoint_are_counted_as_late_after_a_restart(watch: Any) -> None:
    watched = watch()
    watched.run([FIRST, FIRST + 1])
    content = json.loads(json.dumps(watched.monitor.checkpoint()))
    late = watched.traffic.window(FIRST)
    late = late.set_column(0, "prediction_id", pa.array([f"{FIRST}-late{i}" for i in range(40)]))
    log = pa.concat_tables([watched.traffic.windows([FIRST, FIRST + 1]), late])
    again = watched.make()
    again.restore(content, [log], [])
    assert (again.view()["late_rows"], again.view()["rows"]) == (40, 120)
    assert again.closed_window == FIRST


def test_restart_without_the_log_still_knows_the_watermark_and_the_totals(watch: Any) -> None:
    watched = watch()
    watched.run([FIRST, FIRST + 1])
    content = json.loads(json.dumps(watched.monitor.checkpoint()))
    again = watched.make()
    again.restore(content, [], [])
    assert again.watermark_us == watched.monitor.watermark_us
    assert again.view()["rows"] == 80


def test_quarantined_rows_stay_out_after_a_restart_and_are_counted_once(watch: Any) -> None:
    watched = watch(max_ahead="1h")
    watched.run([FIRST, FIRST + 1])
    future = from_the_future(watched)
    watched.send(future)
    content = json.loads(json.dumps(watched.monitor.checkpoint()))
    log = pa.concat_tables([watched.traffic.windows([FIRST, FIRST + 1]), future])
    watched.monitor = watched.make()
    watched.monitor.restore(content, [log], [])
    assert watched.monitor.view()["quarantined_rows"] == 40
    assert not watched.monitor.due()
    assert watched.send(future).accepted
    assert watched.monitor.view()["quarantined_rows"] == 40


def test_labels_that_outlived_their_predictions_are_not_called_unknown_after_a_restart(watch: Any) -> None:
    def run(killed: bool) -> dict[str, int]:
        watched = watch(labels={"horizon": "4h", "delay": "1h"})
        log, labels = [], []
        for window in range(FIRST, FIRST + 20):
            rows = watched.traffic.window(window)
            log.append(rows)
            watched.send(rows)
            new = watched.traffic.labels(rows.slice(0, 30))
            labels += new
            watched.monitor.add_labels(new)
            watched.close()
            if killed and window == FIRST + 10:
                content = json.loads(json.dumps(watched.monitor.checkpoint()))
                watched.monitor = watched.make()
                watched.monitor.restore(content, log, labels)
        return dict(watched.monitor.view()["labels"])

    assert run(killed=True) == run(killed=False)
    assert run(killed=True)["accepted"] == 600


def test_early_label_still_waits_after_a_restart(watch: Any) -> None:
    watched = watch()
    watched.run([FIRST, FIRST + 1])
    rows = watched.traffic.window(FIRST + 2)
    labels = watched.traffic.labels(rows)
    watched.monitor.add_labels(labels)
    content = json.loads(json.dumps(watched.monitor.checkpoint()))
    watched.monitor = watched.make()
    watched.monitor.restore(content, [watched.traffic.windows([FIRST, FIRST + 1])], labels)
    watched.send(rows)
    watched.run(range(FIRST + 3, FIRST + 6))
    assert watched.monitor.labelled_rows()[FIRST + 2] == 40
    assert watched.monitor.view()["labels"]["accepted"] == 40


# -- view ---------------------------------------------------------------------------------------------


def test_view_lists_the_newest_windows_and_is_json(watch: Any) -> None:
    watched = watch()
    for window in range(FIRST, FIRST + 125):
        watched.send(watched.traffic.window(window, rows=20))
        watched.close()
    view = watched.monitor.view()
    json.dumps(view, allow_nan=False)
    assert [w["window"] for w in view["windows"]] == list(range(FIRST + 4, FIRST + 124))
    assert len(view["performance"]) == 120
    newest = view["windows"][-1]
    assert set(newest) >= {"window", "start", "rows", "alarms", "breaches", "log_e", "features"}
    assert set(newest["features"]["x"]) == {"log_e", "total_variation", "expected", "is_noise"}
    assert newest["start"] == "1970-02-16T19:00:00Z"
    assert view["rows"] == 125 * 20


def test_view_shows_rows_and_labels_at_once_and_windows_when_they_close(watch: Any) -> None:
    watched = watch()
    watched.run([FIRST, FIRST + 1])
    before = watched.monitor.view()
    rows = watched.traffic.window(FIRST + 2)
    watched.send(rows)
    watched.monitor.add_labels(watched.traffic.labels(rows))
    between = watched.monitor.view()
    assert between["rows"] == before["rows"] + 40
    assert between["labels"]["accepted"] == 40
    assert between["windows"] is before["windows"]
    watched.close()
    assert [w["window"] for w in watched.monitor.view()["windows"]] == [FIRST, FIRST + 1]
    assert [w["window"] for w in before["windows"]] == [FIRST]
