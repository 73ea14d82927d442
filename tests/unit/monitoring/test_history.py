"""The past rolls up, every row is in one slot, and memory is bounded however long it runs."""

from itertools import pairwise

import numpy as np
import pytest

from ray_mlops.config import HistoryConfig
from ray_mlops.monitoring.history import DAY_US, HOUR_US, History
from ray_mlops.statistics.bins import NumericBins
from ray_mlops.statistics.table import TableBins, TableCounts

SECOND_US = 1_000_000
BINS = TableBins({"x": NumericBins([0.0, 1.0, 2.0, 3.0])})


def counted(window: int, rows: int = 4) -> TableCounts:
    return BINS.count({"x": np.random.default_rng(window).integers(0, 3, rows).astype(float)})


def history(window_us: int, **keep: int) -> History:
    made = History(window_us, HistoryConfig(**keep))
    made.begin("a", {"x": np.array([0, 5, 5, 5, 0, 0])})
    return made


def rows_held(made: History) -> int:
    return sum(line["rows"] for line in made.slots())


def test_seconds_roll_up_into_hours_and_days_and_no_row_is_lost_or_doubled() -> None:
    made = history(60 * SECOND_US, windows=30, hours=5, days=3)
    num = 60 * 24 * 2
    for window in range(num):
        made.close(window, counted(window))
    levels = [line["level"] for line in made.slots()]
    assert levels == sorted(levels, key=["day", "hour", "window"].index)
    assert {name: levels.count(name) for name in set(levels)} == {"day": 2, "hour": 6, "window": 30}
    assert rows_held(made) == 4 * num
    whole = made.past(0, num * 60 * SECOND_US)
    assert whole is not None
    assert whole.counts == TableCounts.merged(counted(window) for window in range(num))
    bounds = [(line["start_us"], line["end_us"]) for line in made.slots()]
    assert all(end == start for (_, end), (start, _) in pairwise(bounds))


def test_memory_is_bounded_whatever_the_traffic_and_however_long() -> None:
    made = history(HOUR_US // 4, windows=20, hours=10, days=5)
    sizes = []
    for window in range(4 * 24 * 40):
        made.close(window, counted(window, 4 if window % 2 else 40))
        if window % 960 == 959:
            sizes.append((made.nbytes, len(made.slots()), len(made.to_bytes()) // 1000))
    assert sizes[0][0] == sizes[-1][0]
    assert {lines for _, lines, _ in sizes[1:]} <= {36, 37, 38}
    assert made.forgotten_rows == 0  # aged away, not refused


def test_past_is_the_sum_of_the_slots_that_touch_it() -> None:
    made = history(DAY_US, windows=10, hours=1, days=1)
    for window in range(8):
        made.close(window, counted(window))
    found = made.past(2 * DAY_US + 5, 4 * DAY_US)
    assert found is not None
    assert (found.start_us, found.end_us) == (2 * DAY_US, 4 * DAY_US)
    assert found.counts == counted(2) + counted(3)
    assert made.past(100 * DAY_US, 101 * DAY_US) is None


def test_late_rows_join_whatever_holds_their_time_and_older_ones_are_counted() -> None:
    made = history(HOUR_US, windows=3, hours=2, days=2)
    for window in range(100):
        made.close(window, counted(window))
    held = rows_held(made)
    made.add(99, counted(5))
    made.add(60, counted(5))
    assert rows_held(made) == held + 8
    made.add(1, counted(5))
    assert made.forgotten_rows == 4
    assert rows_held(made) == held + 8


def test_window_that_is_closed_again_after_a_restart_counts_once() -> None:
    made = history(HOUR_US)
    for window in range(5):
        made.close(window, counted(window))
    again = history(HOUR_US)
    again.restore(made.to_bytes())
    again.begin("a", {})
    again.close(4, counted(4))
    again.close(5, counted(5))
    assert rows_held(again) == 24
    total = again.past(0, DAY_US)
    assert total is not None
    assert total.counts == TableCounts.merged(counted(window) for window in range(6))


def test_another_epoch_keeps_what_was_shown_and_counts_on_its_own_bins() -> None:
    made = history(DAY_US)
    made.close(0, counted(0))
    shown = made.slots()
    other = TableBins({"x": NumericBins([0.0, 9.0])})
    made.begin("b", {"x": np.array([0, 9, 0, 0])})
    made.close(1, other.count({"x": [1.0]}))
    assert made.slots()[0] == shown[0]
    assert [line["epoch"] for line in made.slots()] == ["a", "b"]
    whole = made.past(0, 9 * DAY_US)
    assert whole is not None
    assert whole.counts["x"].n == 1


def test_another_epoch_after_a_restart_shows_the_one_before_against_its_own_reference() -> None:
    made = history(DAY_US)
    made.close(0, counted(0))
    shown = made.slots()
    assert "total_variation" in shown[0]["columns"]["x"]
    wider = {"x": np.array([0, 9, 0, 0])}
    again = History(DAY_US, HistoryConfig())
    again.begin("b", wider)  # as a monitor is made before its past is read
    again.restore(made.to_bytes())
    again.begin("b", wider)
    assert again.slots() == shown


def test_other_retention_begins_anew_but_keeps_the_lines_of_earlier_epochs() -> None:
    made = history(DAY_US)
    made.close(0, counted(0))
    made.begin("b", {})
    made.close(1, counted(1))
    again = History(DAY_US, HistoryConfig(windows=7))
    again.restore(made.to_bytes())
    assert [line["epoch"] for line in again.slots()] == ["a"]


def test_line_says_mean_nulls_and_distance() -> None:
    made = history(DAY_US)
    made.close(0, BINS.count({"x": [0.5, 0.5, None, 0.5]}))
    (line,) = made.slots()
    column = line["columns"]["x"]
    assert (column["mean"], column["null_ratio"]) == (0.5, 0.25)
    assert column["total_variation"] == pytest.approx(2 / 3, abs=1e-4)
    assert line["rows"] == 4


def test_newest_slots_are_the_last_of_all_and_no_other_line_is_made() -> None:
    made = history(HOUR_US, windows=20, hours=10, days=5)
    for window in range(60):
        made.close(window, counted(window))
    made.begin("b", {})
    for window in range(60, 63):
        made.close(window, counted(window))
    newest = made.slots(5)
    assert len(made._shown) == 3
    assert newest == made.slots()[-5:]
    assert made.slots(1000) == made.slots()
    assert made.slots(0) == []
