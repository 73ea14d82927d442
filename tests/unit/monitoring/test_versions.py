"""Versions that differ in their classes, their task or the kinds of their columns, and answer one after the other."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ray_mlops.monitoring.frozen import FrozenReference
from ray_mlops.monitoring.handover import SCORE, build_handover, count_columns, top_score
from ray_mlops.monitoring.labels import prediction_values
from ray_mlops.serving.prediction_log.files import read_parts
from ray_mlops.serving.protocol import LabelRecord

FIRST, MODEL, HOUR = 1000, "m", 3_600_000_000
THREE = {"task": "multiclass"}
FOUR = {"task": "multiclass", "classes": ("low", "mid", "new", "top")}
OTHER = {"task": "multiclass", "classes": ("p", "q")}
TWO = {"task": "binary"}
NUMBER = {"task": "regression"}
TEXT = {"is_text": True}


def performance(world: Any) -> dict[int, dict[str, Any]]:
    return {line["window"]: line for line in world.service.view(MODEL)["performance"]}


def monitor_of(world: Any) -> Any:
    return world.service._models[MODEL].epoch.monitor


# -- predictions by the names of classes --------------------------------------------------------------


def test_class_that_a_version_did_not_know_has_probability_0_and_a_row_of_another_task_is_nan() -> None:
    rows = pa.table(
        {
            "prediction.c": [0.3, None, None],
            "prediction.a": [0.7, 0.6, None],
            "prediction.b": [None, 0.4, None],
            "prediction": [None, None, 0.9],
        }
    )
    found = prediction_values(rows, "multiclass", ("a", "b", "c", "d"))
    assert found[:2].tolist() == [[0.7, 0.0, 0.3, 0.0], [0.6, 0.4, 0.0, 0.0]]
    assert np.isnan(found[2]).all()
    assert prediction_values(rows, "binary").tolist()[2] == 0.9
    assert np.isnan(prediction_values(rows.drop_columns(["prediction"]), "regression")).all()


def test_answer_that_is_not_a_number_stays_one_beside_a_class_that_is_unknown() -> None:
    rows = pa.table({"prediction.a": pa.array([float("nan")]), "prediction.b": pa.array([None], pa.float64())})
    assert np.isnan(prediction_values(rows, "multiclass", ("a", "b"))[0, 0])


def test_top_score_of_united_rows_is_that_of_the_classes_each_row_has() -> None:
    rows = pa.table({"prediction.a": [0.7, 0.2, None], "prediction.b": [None, 0.8, None]})
    assert top_score(rows).tolist()[:2] == [0.7, 0.8]
    assert np.isnan(top_score(rows)[2])


@pytest.mark.parametrize(
    ("before", "after"),
    [(THREE, FOUR), (FOUR, THREE), (THREE, OTHER), (TWO, THREE), (THREE, TWO), (NUMBER, THREE), (TWO, NUMBER)],
)
def test_versions_of_other_classes_and_tasks_are_watched_one_after_the_other(
    make_world: Any, before: Any, after: Any
) -> None:
    world = make_world(versions=(before, after))
    world.answer(1, range(FIRST, FIRST + 6))
    world.hand_over(world.log(world.rows_of(2, FIRST + 6, arm="candidate")))
    world.promote(2)
    world.answer(1, [FIRST + 7])  # of replicas that have not heard of it yet
    world.answer(2, range(FIRST + 8, FIRST + 12))
    world.restart()
    world.answer(2, range(FIRST + 12, FIRST + 15))
    view = world.service.view(MODEL)
    assert (view["version"], view["closed_window"]) == ("2", FIRST + 13)
    assert view["breaches"] == []
    assert performance(world)[FIRST + 10]["judged"]


def test_label_of_a_class_that_the_old_champion_did_not_know_is_a_loss_and_stops_nothing(make_world: Any) -> None:
    world = make_world(versions=(THREE, FOUR))
    world.answer(1, range(FIRST, FIRST + 6), labelled=False)
    world.promote(2)
    world.answer(1, [FIRST + 6])  # of replicas that have not heard of it yet: no row has a probability of the class
    ids = world.rows_of(1, FIRST + 5)["prediction_id"].to_pylist()
    world.give([LabelRecord(name, "new", None, (FIRST + 6) * HOUR) for name in ids])
    world.answer(2, range(FIRST + 7, FIRST + 10))
    assert world.service.view(MODEL)["closed_window"] == FIRST + 8
    assert performance(world)[FIRST + 5]["loss"] > 0.5


def test_old_champions_loss_is_the_same_after_a_version_with_one_more_class(make_world: Any) -> None:
    world = make_world(versions=(THREE, FOUR))
    world.answer(1, range(FIRST, FIRST + 6))
    world.promote(2)
    world.answer(2, range(FIRST + 6, FIRST + 10))
    shown = performance(world)
    assert shown[FIRST + 4]["loss"] == pytest.approx(shown[FIRST + 2]["loss"], abs=0.1)
    assert 0.0 < shown[FIRST + 4]["log_loss"] < 2.0


def test_score_of_an_open_window_is_the_same_after_a_restart(make_world: Any) -> None:
    world = make_world(versions=(FOUR, THREE))
    world.answer(1, range(FIRST, FIRST + 4))
    world.promote(2)
    world.answer(2, range(FIRST + 4, FIRST + 7))
    live = {window: counts[SCORE] for window, counts in monitor_of(world)._open.items() if SCORE in counts}
    world.restart()
    again = {window: counts[SCORE] for window, counts in monitor_of(world)._open.items() if SCORE in counts}
    assert live == again
    assert all(counts.nulls == 0 for counts in again.values())


def test_flush_of_another_version_lets_one_expect_nothing(make_world: Any) -> None:
    world = make_world(versions=(TWO, THREE))
    rows = world.rows_of(2, FIRST, arm="candidate")
    assert build_handover(MODEL, "r", 1, rows, world.service.reference(MODEL)).expected == {}


# -- columns of another kind --------------------------------------------------------------------------


def test_column_of_a_slice_that_became_text_stops_nothing(make_world: Any) -> None:
    world = make_world(versions=(TWO, TEXT), slices=["x"])
    world.answer(1, range(FIRST, FIRST + 5))
    world.promote(2)
    world.answer(1, [FIRST + 5])
    world.answer(2, range(FIRST + 5, FIRST + 12))
    assert world.service.view(MODEL)["closed_window"] == FIRST + 10
    told = world.service.labelled(MODEL, FIRST - 1)
    assert {"more", "less"} <= set(told["features.x"].to_pylist())
    assert performance(world)[FIRST + 5]["labelled"] == 80


def test_column_is_counted_after_a_restart_as_the_version_logged_it_though_another_logged_text(make_world: Any) -> None:
    world = make_world(versions=(TEXT, TWO))
    world.answer(1, range(FIRST, FIRST + 4))
    world.promote(2)
    world.answer(2, range(FIRST + 4, FIRST + 8))
    live = {window: counts["x"].counts.tolist() for window, counts in monitor_of(world)._open.items()}
    for _ in range(4):
        world.restart()
        world.log(world.rows_of(2, monitor_of(world).closed_window + 2))
    world.restart()
    assert live[FIRST + 7][-1] < 10
    assert (
        monitor_of(world).history.past((FIRST + 7) * HOUR, (FIRST + 8) * HOUR).counts["x"].counts.tolist()
        == (live[FIRST + 7])
    )
    assert world.service.view(MODEL)["breaches"] == []


def test_reference_of_logged_windows_is_counted_in_the_kinds_of_each_version(make_world: Any) -> None:
    world = make_world(versions=(TWO, TEXT))
    world.answer(1, range(FIRST, FIRST + 4))
    world.promote(2)
    world.answer(2, range(FIRST + 4, FIRST + 6))
    world.promote(1)
    world.answer(1, range(FIRST + 6, FIRST + 9))
    epoch = world.service._models[MODEL].epoch
    frozen = FrozenReference.load(world.files, MODEL, epoch.reference.id)
    expected = count_columns(world.rows_of(1, FIRST + 2), {"x": epoch.reference.bins["x"]})
    assert frozen.windows[FIRST + 2]["x"] == expected["x"]


# -- windows of another length ------------------------------------------------------------------------


@pytest.mark.parametrize(("length", "in_us"), [("2h", 2 * HOUR), ("30m", HOUR // 2)])
def test_version_with_windows_of_another_length_goes_on_where_the_one_before_ended(
    make_world: Any, length: str, in_us: int
) -> None:
    world = make_world(versions=(TWO, TWO), windows=("1h", length))
    world.answer(1, range(FIRST, FIRST + 8))
    world.promote(2)
    world.answer(2, range(FIRST + 8, FIRST + 15))
    for _ in range(2):
        view = world.service.view(MODEL)
        assert view["closed_window"] == monitor_of(world).watermark_us // in_us - 1
        assert (view["window_s"], view["rows"], view["late_rows"]) == (in_us / 1e6, 15 * 40, 0)
        assert view["breaches"] == []
        assert monitor_of(world).watched.start_window * in_us <= (FIRST + 7) * HOUR
        reports = monitor_of(world).reports()
        assert [r.window for r in reports] == list(range(reports[0].window, view["closed_window"] + 1))
        times = world.traffic.windows(range(FIRST, FIRST + 15))["event_time"].cast(pa.int64()).to_numpy()
        mature = int(np.count_nonzero(times < (view["matured_window"] + 1) * in_us))
        assert sum(monitor_of(world).labelled_rows().values()) == mature > 0
        world.restart()


def test_parts_of_the_log_keep_their_kinds_and_hold_each_row_once(make_world: Any) -> None:
    world = make_world(versions=(TWO, TEXT))
    first = world.log(world.rows_of(1, FIRST))
    second = world.log(world.rows_of(2, FIRST + 1))
    world.log(first.slice(3, 5).drop_columns(["features.city"]))  # told again, by another release
    parts = read_parts(world.files, MODEL)
    assert [part.num_rows for part in parts if part.num_rows] == [40, 40]
    assert [part.schema.field("features.x").type for part in parts[:2]] == [pa.float64(), pa.string()]
    assert parts[1]["prediction_id"].to_pylist() == second["prediction_id"].to_pylist()
    assert read_parts(world.files, MODEL, ("1990-01-01", "1990-01-02")) == []
