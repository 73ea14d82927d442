"""Epochs: which reference is in force, and what a new champion changes."""

import json
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from ray_mlops.errors import ModelNotFoundError, MonitoringError
from ray_mlops.ledger import Ledger
from ray_mlops.monitoring.epoch import begin_epoch
from ray_mlops.monitoring.handover import LATENCY, SCORE, build_handover, count_columns
from ray_mlops.serving.routes import commit_routes, withdraw_routes

FIRST, NUM_REFERENCE, MODEL = 1000, 30, "m"


def begin(world: Any, checkpoint: Any = None) -> Any:
    return begin_epoch(MODEL, world.ledger, world.files, checkpoint)


def test_first_epoch_is_measured_against_the_bundles_own_windows(make_world: Any) -> None:
    world = make_world()
    epoch = begin(world)
    assert epoch.reference_windows == [FIRST - NUM_REFERENCE, FIRST - 1]
    assert epoch.reference.id == f"v1-{world.bundles[0].hash[:8]}"
    assert set(epoch.reference.bins) == {"x", "city", SCORE, LATENCY}
    assert epoch.source_rows == dict.fromkeys(range(FIRST - NUM_REFERENCE, FIRST), 40)
    assert epoch.monitor.watched.start_window is None
    assert epoch.is_current(world.ledger)


def test_model_that_is_not_deployed_has_no_epoch(make_world: Any) -> None:
    world = make_world()
    with pytest.raises(ModelNotFoundError, match="not deployed"):
        begin_epoch("other", world.ledger, world.files, None)


def test_new_champion_begins_an_epoch_at_the_next_close_with_logged_windows_in_its_reference(make_world: Any) -> None:
    world = make_world()
    world.serve(range(FIRST, FIRST + 5))
    world.promote(2)
    epoch = world.service._models[MODEL].epoch
    assert not epoch.is_current(world.ledger)
    rows = world.log(world.traffic.window(FIRST + 5, version="2"))
    assert world.service.view(MODEL)["version"] == "1"
    world.hand_over(rows)
    view = world.service.view(MODEL)
    assert (view["version"], view["closed_window"]) == ("2", FIRST + 4)
    epoch = world.service._models[MODEL].epoch
    assert epoch.monitor.watched.start_window == FIRST + 4
    assert epoch.reference.id == f"v2-{world.bundles[1].hash[:8]}-w{FIRST + 4}"
    assert epoch.reference_windows == [FIRST + 4 - NUM_REFERENCE, FIRST + 3]
    started = world.events("monitor", "monitor.epoch")
    assert [payload["version"] for payload in started] == ["1", "2"]
    assert started[1]["start_window"] == FIRST + 4
    assert [report["version"] for report in view["windows"]] == ["1"] * 4 + ["2"]


def test_reference_of_logged_windows_is_counted_on_the_new_bins(make_world: Any) -> None:
    world = make_world()
    world.serve(range(FIRST, FIRST + 5))
    world.promote(2)
    world.serve([FIRST + 5], version="2")
    epoch = world.service._models[MODEL].epoch
    stored = json.loads(world.files.read(f"checkpoints/monitor/{MODEL}/{epoch.reference.id}.json"))
    bins = {name: b for name, b in epoch.reference.bins.items() if name not in (SCORE, LATENCY)}
    expected = count_columns(world.traffic.window(FIRST + 2), bins)
    assert dict(stored["windows"])[FIRST + 2] == {name: c.to_json() for name, c in expected.items()}


def test_handover_on_the_old_reference_is_refused_and_accepted_after_counting_again(make_world: Any) -> None:
    world = make_world()
    old = world.service.reference(MODEL)
    world.serve(range(FIRST, FIRST + 3))
    world.promote(2)
    world.serve([FIRST + 3], version="2")
    rows = world.log(world.traffic.window(FIRST + 4, version="2"))
    receipt = world.service.handover(build_handover(MODEL, "r", 1, rows, old))
    assert not receipt.accepted
    assert receipt.reference == world.service.reference(MODEL)
    assert world.service.view(MODEL)["rows"] == 160
    assert world.service.handover(build_handover(MODEL, "r", 2, rows, receipt.reference)).accepted
    assert world.service.view(MODEL)["rows"] == 200


def test_open_window_is_counted_again_on_the_new_bins_and_labels_are_kept(make_world: Any) -> None:
    world = make_world()
    world.serve(range(FIRST, FIRST + 3))
    rows = world.traffic.windows(range(FIRST, FIRST + 3))
    world.label(rows)
    world.promote(2)
    world.serve([FIRST + 3], version="2")
    monitor = world.service._models[MODEL].epoch.monitor
    held = monitor._open[FIRST + 3]
    own = count_columns(world.traffic.window(FIRST + 3, version="2"), monitor.reference.bins, "2")
    assert held == own
    assert world.service.labelled(MODEL, 0).num_rows == 40
    view = world.service.view(MODEL)
    assert view["labels"]["accepted"] == 120
    assert view["performance"][0]["labelled"] == 40
    world.serve([FIRST + 4, FIRST + 5], version="2")
    assert world.service.labelled(MODEL, FIRST)["label"].to_pylist() == [
        float(r.label) for r in world.traffic.labels(world.traffic.windows([FIRST + 1, FIRST + 2]))
    ]


def test_restart_takes_the_epoch_up_even_if_its_reference_windows_have_changed_in_the_log(make_world: Any) -> None:
    def run(world: Any, killed: bool) -> Any:
        world.serve(range(FIRST, FIRST + 5))
        world.promote(2)
        world.serve(range(FIRST + 5, FIRST + 8), version="2")
        if killed:
            late = world.traffic.window(FIRST + 1, shift=9.0)
            world.log(late.set_column(0, "prediction_id", pa.array([f"late-{i}" for i in range(40)])))
            world.restart()
        world.serve(range(FIRST + 8, FIRST + 12), version="2", shift=0.3)
        return world.service.view(MODEL)

    undisturbed = run(make_world(store="a"), killed=False)
    killed = run(make_world(store="b"), killed=True)
    assert killed["late_rows"] == 40
    assert killed["drift"] == undisturbed["drift"]
    assert killed["windows"] == undisturbed["windows"]


def test_returning_champion_begins_another_epoch(make_world: Any) -> None:
    world = make_world()
    world.serve(range(FIRST, FIRST + 3))
    world.promote(2)
    world.serve([FIRST + 3, FIRST + 4], version="2")
    world.promote(1)
    world.serve([FIRST + 5, FIRST + 6])
    references = [payload["reference"] for payload in world.events("monitor", "monitor.epoch")]
    assert len(set(references)) == 3
    assert references[2] == f"v1-{world.bundles[0].hash[:8]}-w{FIRST + 4}"
    world.restart()
    assert world.service.reference(MODEL).id == references[2]
    assert len(world.events("monitor", "monitor.epoch")) == 3


def test_champion_that_changes_before_the_first_close_starts_without_a_start_window(make_world: Any) -> None:
    world = make_world()
    world.serve([FIRST])
    world.promote(2)
    world.serve([FIRST + 1], version="2")
    view = world.service.view(MODEL)
    assert (view["version"], view["closed_window"]) == ("2", FIRST)
    assert world.service._models[MODEL].epoch.reference_windows == [FIRST - NUM_REFERENCE, FIRST - 1]


def test_withdrawn_model_keeps_its_epoch(make_world: Any) -> None:
    world = make_world()
    world.serve([FIRST])
    withdraw_routes(world.ledger, MODEL, world.routes.version)
    world.serve([FIRST + 1])
    assert world.service.view(MODEL)["closed_window"] == FIRST


def test_redacted_columns_are_not_watched(make_world: Any) -> None:
    world = make_world(redact={"city": "hash"})
    assert set(world.service.reference(MODEL).bins) == {"x", SCORE, LATENCY}
    world.serve(range(FIRST, FIRST + 3), features_city="3f2a")
    view = world.service.view(MODEL)
    assert "city" not in view["drift"]["features"]
    assert view["breaches"] == []


def test_redeployed_configuration_is_followed_by_the_policy(make_world: Any) -> None:
    world = make_world()
    world.serve([FIRST])
    changed = world.config.model_dump(mode="json")
    changed["retraining"]["min_rows"] = 77
    world.ledger.append(f"{MODEL}/config", "config.deployed", f"{MODEL}/config/new", {"config": changed, "hash": "new"})
    world.routes = commit_routes(world.ledger, replace(world.routes, config_hash="new"), world.routes.version)
    world.serve([FIRST + 1])
    epoch = world.service._models[MODEL].epoch
    assert (epoch.config_hash, epoch.config.retraining.min_rows) == ("new", 77)
    assert len(world.events("monitor", "monitor.epoch")) == 1


def test_epoch_is_the_same_for_another_process(make_world: Any) -> None:
    world = make_world()
    other = begin_epoch(MODEL, Ledger(world.ledger.url), world.files, None)
    assert other.reference == begin(world).reference


def test_labelled_rows_tell_the_columns_that_define_slices_also_after_a_restart(make_world: Any) -> None:
    world = make_world(slices=["city"])
    for window in range(FIRST, FIRST + 6):
        rows = world.log(world.traffic.window(window))
        world.hand_over(rows)
        world.label(rows)
    told = world.service.labelled(MODEL, FIRST - 1)
    assert told.num_rows > 0
    assert {"features.city", "label"} <= set(told.column_names)
    assert "features.x" not in told.column_names
    again = world.restart().labelled(MODEL, FIRST - 1)
    assert again["features.city"].to_pylist() == told["features.city"].to_pylist()


def test_configuration_with_other_strata_leaves_the_epoch_as_it_began_also_after_a_restart(make_world: Any) -> None:
    world = make_world()
    times = {LATENCY: [200] * 40}
    world.serve(range(FIRST, FIRST + 5), **times)
    world.redeploy(monitoring={"strata": "hour_of_day"})
    world.serve([FIRST + 5], **times)
    before = world.service.view(MODEL)
    after = world.restart().view(MODEL)
    assert after["latency"] == before["latency"]
    assert after["drift"] == before["drift"]


def test_column_that_is_redacted_from_now_on_is_watched_no_more_after_a_restart(make_world: Any) -> None:
    world = make_world()
    world.serve(range(FIRST, FIRST + 5))
    world.redeploy(serving={"log": {"redact": {"x": "drop"}}})
    world.restart()
    for window in range(FIRST + 5, FIRST + 8):
        world.hand_over(world.log(world.traffic.window(window).drop_columns(["features.x"])))
    view = world.service.view(MODEL)
    assert set(view["drift"]["features"]) == {"city", SCORE}
    assert (view["closed_window"], view["breaches"]) == (FIRST + 6, [])


def test_state_that_does_not_fit_is_named_with_a_remedy(make_world: Any) -> None:
    world = make_world()
    world.serve(range(FIRST, FIRST + 3))
    content = json.loads(world.files.read(f"checkpoints/monitor/{MODEL}.json"))
    del content["dataset"]["columns"]["x"]["monitor"]["joined"]
    with pytest.raises(MonitoringError, match=r"checkpoints/monitor/m\.json: .*does not fit.*delete") as caught:
        begin(world, content)
    assert "joined" in str(caught.value)


def test_performance_is_broken_down_by_the_slices_and_groups_of_the_gate(make_world: Any) -> None:
    world = make_world(evaluation={"slices": ["city", "nowhere"], "fairness": {"groups": ["x"]}}, redact={})
    for window in range(FIRST, FIRST + 5):
        rows = world.log(world.traffic.window(window))
        world.hand_over(rows)
        world.label(rows)
    found = world.service.view(MODEL)["realised"]
    assert found["problems"] == {"nowhere": "it is not an input of the champion"}
    by = {dimension: [c["value"] for c in found["total"] if c["by"] == dimension] for dimension in ("slice", "group")}
    assert set(by["slice"]) == {"city=a", "city=b", "city=c"}
    assert len(by["group"]) == 5  # quartiles, and those without a value
    assert all(cell["accuracy"] == 1.0 for cell in found["total"] if cell["labelled"])
    before = world.service.view(MODEL)["realised"]
    world.restart()
    assert world.service.view(MODEL)["realised"] == before


def test_column_that_the_log_leaves_out_is_no_slice(make_world: Any) -> None:
    world = make_world(evaluation={"slices": ["city"]}, redact={"city": "hash"})
    assert world.service.view(MODEL)["realised"]["problems"] == {"city": "serving.log.redact leaves it out of the log"}
