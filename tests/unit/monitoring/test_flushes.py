"""Flushes of many replicas: repeated, out of order, of columns that changed, late; shown and never raised."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from ray_mlops.monitoring.handover import LATENCY, build_handover, count_columns
from ray_mlops.monitoring.latency import LATENCY_BINS
from ray_mlops.statistics.bins import NumericBins
from ray_mlops.statistics.table import TableCounts

FIRST, NUM_REFERENCE = 1000, 30
HOUR = 3_600_000_000


def test_flushes_of_many_replicas_in_any_order_give_the_same_window_as_one(watch: Callable[..., Any]) -> None:
    one, many = watch(), watch()
    rows = one.traffic.window(FIRST)
    one.send(rows)
    parts = [rows.slice(start, 1) for start in range(rows.num_rows)]
    for replica, part in enumerate(reversed(parts)):
        sent = build_handover("m", f"r{replica}", 1, part, many.monitor.reference)
        assert many.monitor.handover(sent).accepted
        assert many.monitor.handover(sent).known  # a retried flush
    for each in (one, many):
        each.send(each.traffic.window(FIRST + 1))
        each.close()
    held = [each.monitor.history.past(FIRST * HOUR, (FIRST + 1) * HOUR).counts for each in (one, many)]
    assert {name: column.counts.tolist() for name, column in held[0].items()} == {
        name: column.counts.tolist() for name, column in held[1].items()
    }
    assert one.monitor.dataset.log_e == many.monitor.dataset.log_e
    assert many.monitor.view()["rows"] == 80


def test_rows_of_a_closed_window_are_counted_as_late_and_join_the_past(watch: Callable[..., Any]) -> None:
    watched = watch()
    rows = watched.traffic.window(FIRST)
    watched.send(rows.slice(0, 30))
    watched.run([FIRST + 1])
    watched.send(rows.slice(30))
    view = watched.monitor.view()
    assert view["late_rows"] == 10
    past = watched.monitor.history.past(FIRST * HOUR, FIRST * HOUR + 1)
    assert past.counts["x"].n == 40
    assert json.loads(json.dumps(view, allow_nan=False))["forgotten_rows"] == 0


def test_column_whose_type_changed_is_a_breach_and_never_an_error(watch: Callable[..., Any]) -> None:
    watched = watch()
    watched.run(range(FIRST, FIRST + 3))
    (report,) = watched.run([FIRST + 3], features_x=["broken"] * 40)
    assert report.breaches == ()
    (report,) = watched.run([FIRST + 4])
    assert "x:empty" in report.breaches
    (report,) = watched.run([FIRST + 5], features_city=[float(k) for k in range(40)])
    assert report.breaches == ()


def test_flush_without_a_column_of_the_reference_is_taken_and_said_to_lack_it(watch: Callable[..., Any]) -> None:
    watched = watch()
    watched.run(range(FIRST, FIRST + 3))
    for window in (FIRST + 3, FIRST + 4):
        assert watched.send(watched.traffic.window(window).drop_columns(["features.x"])).accepted
    reports = watched.close()
    assert "x:missing" in reports[-1].breaches


def test_model_time_is_in_the_view_and_survives_a_restart(make_world: Callable[..., Any]) -> None:
    world = make_world()
    generator = np.random.default_rng(0)
    world.serve(range(FIRST, FIRST + 3), **{LATENCY: generator.integers(900, 1100, 40)})
    view = world.service.view("m")
    assert view["latency"]["status"] == "warming_up"
    assert 900 < view["latency"]["p50_us"] < 1300
    assert world.restart().view("m")["latency"] == view["latency"]
    without = make_world(store="other")
    without.serve(range(FIRST, FIRST + 3))
    assert without.service.view("m")["latency"] is None


def test_history_is_stored_and_counts_no_window_twice_after_a_restart(make_world: Callable[..., Any]) -> None:
    world = make_world()
    world.serve(range(FIRST, FIRST + 6))
    before = world.service.history("m")
    assert [line["rows"] for line in before] == [40] * 5
    assert world.restart().history("m") == before
    world.serve(range(FIRST + 6, FIRST + 8))
    assert [line["rows"] for line in world.service.history("m")] == [40] * 7
    past = world.service.past("m", FIRST * HOUR, (FIRST + 7) * HOUR)
    assert past.counts["x"].n == 280
    world.promote(2)
    world.serve(range(FIRST + 8, FIRST + 11), version="2")
    lines = world.restart().history("m")
    assert len({line["epoch"] for line in lines}) == 2
    assert sum(line["rows"] for line in lines) == 400
    assert world.service.past("m", 0, FIRST * HOUR) is None


def test_empty_flush_counts_nothing() -> None:
    rows = pa.table({"features.x": pa.array([], pa.float64()), "version": pa.array([], pa.string())})
    rows = rows.append_column("pinned", pa.array([], pa.bool_()))
    bins = {"x": NumericBins([0.0, 1.0]), LATENCY: LATENCY_BINS}
    counted = count_columns(rows, bins, "1")
    assert isinstance(counted, TableCounts)
    assert counted["x"].n == 0
    assert np.isnan(counted["x"].null_ratio)


def test_flush_that_holds_an_id_twice_counts_the_first_and_its_label_joins(watch: Callable[..., Any]) -> None:
    once, twice = watch(), watch()
    rows = once.traffic.window(FIRST)
    again = rows.slice(0, 5).set_column(rows.column_names.index("features.x"), "features.x", pa.array([99.0] * 5))
    once.send(rows)
    assert twice.send(pa.concat_tables([rows, again])).accepted
    for each in (once, twice):
        each.monitor.add_labels(each.traffic.labels(rows))
        each.run(range(FIRST + 1, FIRST + 4))
    ours, theirs = twice.monitor.view(), once.monitor.view()
    assert ours["performance"] == theirs["performance"]
    assert (ours["rows"], ours["labels"]) == (theirs["rows"], theirs["labels"])
    assert twice.monitor.dataset.to_json() == once.monitor.dataset.to_json()


def test_windows_that_closed_after_the_history_was_stored_are_in_it_again_after_a_restart(
    make_world: Callable[..., Any],
) -> None:
    world = make_world(windows=("10m", "10m"))
    world.serve(range(FIRST, FIRST + 3))
    rows = world.traffic.window(FIRST + 3)
    thirds = (FIRST + 3) * HOUR + HOUR // 3 * np.array([1, 2])
    cuts = np.searchsorted(rows["event_time"].cast(pa.int64()).to_numpy(), thirds)
    early, rest = rows.slice(0, cuts[1]), rows.slice(cuts[1])
    world.hand_over(world.log(early.slice(5)))
    world.hand_over(world.log(early.slice(0, 5)))  # late
    before = world.service.history("m")
    span = (FIRST * HOUR, (FIRST + 4) * HOUR)
    counted = world.service.past("m", *span).counts["x"].counts.tolist()
    for _ in range(2):
        assert world.restart().history("m") == before
        assert world.service.past("m", *span).counts["x"].counts.tolist() == counted
    world.hand_over(world.log(rest))
    world.serve([FIRST + 4])
    assert world.service.past("m", *span).counts["x"].n == 160
    assert world.service.view("m")["late_rows"] == 5


def test_late_rows_of_a_window_that_closed_empty_count_once_after_a_restart(make_world: Callable[..., Any]) -> None:
    world = make_world()
    world.serve([FIRST, FIRST + 3])
    world.serve([FIRST + 1])
    before = world.service.history("m")
    assert [line["rows"] for line in before] == [40, 40]
    world.serve([FIRST + 4])
    before = world.service.history("m")
    assert world.restart().history("m") == before
