"""Bad input before the running monitor: it is reported in words, never raised, and never silently "no drift"."""

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ray_mlops.config import MonitoringConfig
from ray_mlops.monitoring.attention import attention_words
from ray_mlops.monitoring.channels import DatasetMonitor
from ray_mlops.monitoring.feature import FeatureReference
from ray_mlops.orchestration.status import monitor_lines
from ray_mlops.serving.protocol import LabelRecord
from ray_mlops.statistics.bins import CategoricalBins, ColumnCounts, NumericBins
from tests.unit.monitoring.conftest import FIRST, HOUR, MODEL, World

ROWS = 40
MANY = 100_000


def said(world: World) -> str:
    """All that a person reads: what the command prints."""
    view = world.service.view(MODEL)
    json.dumps(view)
    return "\n".join(monitor_lines(view))


def alone(reference: Any, current: Any, windows: int = 40, min_windows: int = 8) -> DatasetMonitor:
    """A monitor of one column whose reference windows, and later windows, all hold the same values."""
    words = isinstance(next((value for value in [*reference, *current] if value is not None), 0.0), str)
    bins: Any = (CategoricalBins if words else NumericBins).from_sample(reference)
    held = tuple(ColumnCounts.of(bins, reference) for _ in range(windows))
    config = MonitoringConfig.model_validate({"reference": {"windows": 60, "min_windows": min_windows}})
    monitor = DatasetMonitor([FeatureReference("x", bins, held)], None, [], config)
    for window in range(20):
        monitor.update(window, {"x": ColumnCounts.of(bins, current)})
    return monitor


# -- windows ------------------------------------------------------------------------------------------


def test_empty_windows_are_named_as_not_tested(make_world: Any) -> None:
    world = make_world()
    world.serve([FIRST, FIRST + 1, FIRST + 6, FIRST + 7])
    assert "4 of the newest 7 windows were not tested: fewer than 20 rows (that of 1970-02-11T21:00:00Z has 0)" in (
        said(world)
    )
    assert world.alarms == []


def test_all_null_column_breaks_the_contract_and_blocks_retraining(make_world: Any) -> None:
    world = make_world()
    world.serve([FIRST])
    world.serve(range(FIRST + 1, FIRST + 4), features_x=pa.nulls(ROWS, pa.float64()))
    assert "contract:x:empty" in world.alarms
    assert world.service.view(MODEL)["retraining"]["blocked"]
    assert "contract: x:empty" in said(world)


def test_infinite_values_are_named_as_such(make_world: Any) -> None:
    world = make_world()
    world.serve([FIRST])
    world.serve(range(FIRST + 1, FIRST + 4), features_x=float("inf"))
    breach = world.service.view(MODEL)["drift"]["breaches"][0]
    assert breach["name"] == "x:empty"
    assert breach["reason"] == "40 rows and not a single number: each is null, infinite, or of another type"


def test_answers_that_are_no_numbers_break_the_contract(make_world: Any) -> None:
    world = make_world()
    world.serve([FIRST])
    world.serve(range(FIRST + 1, FIRST + 4), prediction=float("nan"))
    assert "contract:prediction:empty" in world.alarms
    world.restart()
    assert "prediction:empty" in said(world)


def test_few_answers_of_the_champion_are_no_breach(make_world: Any) -> None:
    world = make_world()
    world.serve([FIRST])
    world.serve(range(FIRST + 1, FIRST + 4), version="9")
    assert not any("prediction" in alarm for alarm in world.alarms)


# -- references ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [3.0, "a"])
def test_constant_reference_is_said_to_be_one_and_any_change_is_drift(value: Any) -> None:
    quiet = alone([value] * 30, [value] * 30)
    assert quiet.alarms() == ()
    assert quiet.view()["features"]["x"]["caveat"].startswith("constant in the reference")
    other = "b" if value == "a" else 4.0
    assert alone([value] * 30, [other] * 30).alarms() == ("inputs",)


def test_reference_without_a_value_is_named_as_not_watched_though_values_come() -> None:
    monitor = alone([None] * 30, [1.0, 2.0, 3.0] * 10)
    assert monitor.view()["features"]["x"]["status"] == "not_watched"
    words = attention_words({"drift": monitor.view()})
    assert words == ["x is not watched for drift: the reference has no value of it to compare with"]


def test_column_that_the_model_left_out_as_constant_is_said_not_to_be_watched(make_world: Any) -> None:
    world = make_world(versions=[{"reference": {"features_x": 3.0}}, {}], estimated=False)
    world.serve(range(FIRST, FIRST + 3))
    assert world.service.view(MODEL)["unwatched_columns"] == ["x"]
    assert "x: logged and not watched" in said(world)
    world.restart()
    assert world.service.view(MODEL)["unwatched_columns"] == ["x"]


def test_reference_of_ten_rows_says_how_little_it_can_tell(make_world: Any) -> None:
    world = make_world(versions=[{"reference": {"rows": 10}, "num_reference": 1}, {}], estimated=False)
    features = world.service.view(MODEL)["drift"]["features"]
    assert features["x"]["status"] in ("warming_up", "not_watched")
    assert "the reference has 10 rows in 1 window, and a test needs 8 of them" in features["x"]["caveat"]
    assert "the reference has 10 rows" in said(world)
    world.serve(range(FIRST, FIRST + 10))
    assert world.service.view(MODEL)["drift"]["features"]["x"]["status"] == "testing"


def test_reference_without_rows_is_named_as_not_watched_at_the_top() -> None:
    monitor = alone([1.0, 2.0], [1.0, 2.0], windows=0, min_windows=30)
    view = {"drift": monitor.view()}
    assert view["drift"]["features"]["x"]["status"] == "not_watched"
    assert attention_words(view)[0].startswith("x is not watched for drift yet: the reference has 0 rows in 0 windows")


def test_hundred_thousand_categories_take_the_room_of_few_and_are_said_to_be_too_many(make_world: Any) -> None:
    world = make_world()
    per_window = MANY // 10
    sizes = []
    for window in range(FIRST, FIRST + 10):
        first = (window - FIRST) * per_window
        names = [f"c{first + index}" for index in range(per_window)]
        world.serve([window], rows=per_window, features_city=names)
        monitor = world.service._model(MODEL).epoch.monitor
        sizes.append((monitor.history.nbytes // max(len(monitor.history.slots()), 1), monitor._open[window].nbytes))
    assert len(set(sizes[1:])) == 1
    assert "drift:inputs" in world.alarms
    named = world.events("monitor", "monitor.alarm")[0]
    assert named["guilty"] == ["city"]
    assert (
        "categories that it never had 100.0 % of the rows in the 3 windows since the change"
        in named["columns"]["city"]["moved"]
    )
    text = alone([f"c{i}" for i in range(20_000)], ["c1"] * 20, windows=10)
    assert (
        "too many categories: 10000 are remembered, and 50 % of the reference's own"
        in (text.view()["features"]["x"]["caveat"])
    )


# -- types and schemas --------------------------------------------------------------------------------


def test_number_that_became_text_breaks_the_contract(make_world: Any) -> None:
    world = make_world()
    world.serve([FIRST])
    world.serve(range(FIRST + 1, FIRST + 4), features_x="1.5")
    assert "contract:x:empty" in world.alarms
    assert "of another type" in world.events("monitor", "monitor.alarm")[0]["reason"]


def test_mixed_types_of_one_window_are_counted_and_reported(make_world: Any) -> None:
    world = make_world()
    world.serve([FIRST])
    for window in range(FIRST + 1, FIRST + 4):
        rows = world.traffic.window(window)
        for part, values in ((rows.slice(0, 20), None), (rows.slice(20), ["much"] * 20)):
            if values is not None:
                part = part.set_column(part.column_names.index("features.x"), "features.x", pa.array(values))
            world.hand_over(world.log(part))
    assert "contract:x:nulls" in world.alarms
    reason = next(a for a in world.events("monitor", "monitor.alarm") if a["name"] == "x:nulls")["reason"]
    assert "null, infinite, or of another type" in reason


def test_text_that_became_a_number_is_drift_that_names_its_column(make_world: Any) -> None:
    world = make_world()
    world.serve([FIRST])
    world.serve(range(FIRST + 1, FIRST + 6), features_city=1.5)
    alarm = world.events("monitor", "monitor.alarm")[0]
    assert alarm["guilty"] == ["city"]
    assert (
        "categories that it never had 100.0 % of the rows in the 3 windows since the change"
        in alarm["columns"]["city"]["moved"]
    )


def test_column_that_was_added_is_said_not_to_be_watched(make_world: Any) -> None:
    world = make_world()
    world.serve(range(FIRST, FIRST + 3), features_new=1.0)
    assert "new: logged and not watched" in said(world)
    assert world.alarms == []


def test_names_of_added_columns_are_bounded(make_world: Any) -> None:
    world = make_world()
    world.serve([FIRST], **{f"features_{index}": 1.0 for index in range(300)})
    assert len(world.service.view(MODEL)["unwatched_columns"]) == 100


@pytest.mark.parametrize("from_the_start", [True, False])
def test_column_that_is_gone_from_the_log_breaks_the_contract(make_world: Any, from_the_start: bool) -> None:
    world = make_world()
    if not from_the_start:
        world.serve([FIRST])
    for window in range(FIRST + 1, FIRST + 5):
        world.hand_over(world.log(world.traffic.window(window).drop_columns(["features.x"])))
    assert world.alarms == ["contract:x:missing"]
    assert world.events("monitor", "monitor.alarm")[0]["reason"] == "the column is gone from the log"
    assert "contract: x:missing" in said(world)
    assert world.service.view(MODEL)["retraining"]["blocked"]


def test_one_window_of_the_version_before_without_the_column_is_no_breach(make_world: Any) -> None:
    world = make_world()
    world.hand_over(world.log(world.traffic.window(FIRST).drop_columns(["features.x"])))
    world.restart()
    world.serve(range(FIRST + 1, FIRST + 4))
    assert world.alarms == []


# -- clocks and flushes -------------------------------------------------------------------------------


def test_timestamps_in_the_future_are_set_aside_and_counted(make_world: Any) -> None:
    world = make_world(monitoring={"max_ahead": "1d"})
    world.serve([FIRST])
    rows = world.traffic.window(FIRST + 900)
    stamp = pa.timestamp("us", tz="UTC")
    arrival = pa.array(np.full(ROWS, (FIRST + 1) * HOUR), stamp)
    world.hand_over(world.log(rows.set_column(rows.column_names.index("arrival_time"), "arrival_time", arrival)))
    world.serve([FIRST + 1, FIRST + 2])
    view = world.service.view(MODEL)
    assert (view["quarantined_rows"], view["closed_window"]) == (ROWS, FIRST + 1)
    assert "40 rows were set aside: their event time lies further ahead of their arrival" in said(world)


def test_clock_that_is_behind_gives_late_rows_that_are_counted(make_world: Any) -> None:
    world = make_world()
    world.serve([FIRST, FIRST + 1, FIRST + 5])
    world.serve([FIRST + 2])
    assert world.service.view(MODEL)["late_rows"] == ROWS
    assert "40 rows came after their window was closed and were not tested" in said(world)


def test_duplicate_flush_is_recognised_and_counts_once(make_world: Any) -> None:
    world = make_world()
    rows = world.log(world.traffic.window(FIRST))
    assert world.hand_over(rows).known == []
    before = world.service.view(MODEL)
    receipt = world.hand_over(rows)
    assert (receipt.accepted, len(receipt.known)) == (True, ROWS)
    assert world.service.view(MODEL) == before


def test_out_of_order_flushes_give_the_same_reports_or_are_counted_as_late(make_world: Any) -> None:
    ordered, mixed = make_world(store="a"), make_world(store="b")
    ordered.serve(range(FIRST, FIRST + 4))
    parts = [part for window in (FIRST, FIRST + 1) for part in (mixed.traffic.window(window),)]
    shuffled = pa.concat_tables(parts).take(np.random.default_rng(0).permutation(2 * ROWS))
    mixed.hand_over(mixed.log(shuffled))
    mixed.serve([FIRST + 2, FIRST + 3])
    views = [world.service.view(MODEL) for world in (ordered, mixed)]
    assert views[0]["drift"] == views[1]["drift"]
    assert views[1]["late_rows"] == 0


# -- labels -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_labels_of_the_wrong_type_are_counted_and_said_not_to_be_used(make_world: Any, task: str) -> None:
    world = make_world(versions=[{"task": task}, {"task": task}])
    world.serve([FIRST])
    wrong = ["maybe", [1], {"a": 1}, True if task == "regression" else 7]
    world.give([LabelRecord(f"{FIRST}-{index}", value, None, FIRST * HOUR) for index, value in enumerate(wrong)])
    assert world.service.view(MODEL)["labels"]["invalid"] == len(wrong)
    assert "4 labels were of the wrong type or of no known class and are not used" in said(world)
    world.restart()
    assert "4 labels were of the wrong type" in said(world)


def test_all_is_well_says_nothing(make_world: Any) -> None:
    world = make_world()
    world.serve(range(FIRST, FIRST + 5))
    assert attention_words(world.service.view(MODEL)) == []
