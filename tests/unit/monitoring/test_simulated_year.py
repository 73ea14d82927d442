"""A simulated year of windows: what the monitor holds stays as large as it was."""

import json
from collections.abc import Collection, Mapping
from typing import Any

import pytest

from ray_mlops.monitoring.monitor import ModelMonitor
from ray_mlops.statistics.table import TableBins
from tests.unit.monitoring.conftest import FIRST

YEAR = 365
WARM = 160
"""Windows after which everything that is bounded is full: display, history and label horizon."""
GRID_BYTES = 6_000
"""Of the checkpoint, for each column: the grid of scores that windows are compared with, which fills up."""
HISTORY = {"windows": 24, "hours": 48, "days": 2}


def sizes(monitor: ModelMonitor) -> dict[str, int]:
    """Lengths of all containers of a monitor, and of what it holds; those of the channels are apart."""
    found: dict[str, int] = {"history.nbytes": monitor.history.nbytes}
    for owner, name in ((monitor, ""), (monitor.join, "join."), (monitor._state, "state."), (monitor.history, "past.")):
        attributes = getattr(owner, "__dict__", None) or {key: getattr(owner, key) for key in owner.__slots__}
        for key, value in attributes.items():
            if isinstance(value, Mapping | Collection) and not isinstance(value, str):
                found[name + key] = len(value)
    found["past.slots"] = sum(len(slots) for slots in monitor.history._slots)
    return found


def test_a_year_of_windows_is_held_in_the_room_of_its_first_months(watch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("window_channels", "loss_channel"):
        monkeypatch.setattr(f"ray_mlops.monitoring.{module}.MOST_STARTS", WARM // 2)
    monkeypatch.setattr("ray_mlops.monitoring.monitor_state._TRAINABLE", WARM // 2)
    watching = watch(history=HISTORY)
    held: dict[int, dict[str, int]] = {}
    stored: dict[int, dict[str, int]] = {}
    for window in range(FIRST, FIRST + YEAR):
        rows = watching.traffic.window(window)
        watching.monitor.add_labels(watching.traffic.labels(rows))
        watching.send(rows)
        reports = watching.close()
        assert len(reports) <= 1
        if window in (FIRST + WARM, FIRST + (WARM + YEAR) // 2, FIRST + YEAR - 1):
            held[window] = sizes(watching.monitor)
            content = watching.monitor.checkpoint()
            stored[window] = {name: len(json.dumps(value)) for name, value in content.items()}
    first, middle, last = held.values()
    assert middle.keys() == last.keys()
    assert {name: (first[name], last[name]) for name in last if last[name] != first[name]} == {}
    before, _, after = stored.values()
    grown = {name: after[name] - before[name] for name in after if after[name] - before[name] > 200}
    assert set(grown) <= {"dataset"}
    columns = 3
    assert grown.get("dataset", 0) <= GRID_BYTES * columns


def test_closing_a_late_window_counts_no_more_rows_than_closing_an_early_one(
    watch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    watching = watch(history=HISTORY)
    counted: list[int] = []
    count = TableBins.count

    def spied(self: TableBins, columns: Any) -> Any:
        found = count(self, columns)
        counted.append(int(found.rows.max(initial=0)))
        return found

    monkeypatch.setattr(TableBins, "count", spied)
    work = []
    for window in range(FIRST, FIRST + 120):
        counted.clear()
        watching.run([window])
        work.append((len(counted), sum(counted)))
    assert len(set(work[1:])) == 1


def test_checkpoint_and_history_files_of_a_service_do_not_grow_with_closed_windows(make_world: Any) -> None:
    world = make_world(monitoring={"history": HISTORY})
    sizes_at = {}
    for step in range(140):
        window = FIRST + step
        rows = world.log(world.traffic.window(window, rows=25))
        world.hand_over(rows)
        if step in (100, 120, 139):
            stored = json.loads(world.files.read("checkpoints/monitor/m.json"))
            del stored["dataset"]
            past = len(world.files.read("checkpoints/monitor/m/history.json.z"))
            view = world.service.view("m")
            sizes_at[step] = (len(json.dumps(stored)), past, len(json.dumps(view)))
    first, last = sizes_at[120], sizes_at[139]
    for before, after in zip(first, last, strict=True):
        assert after <= before * 1.05
