"""Two models in one monitor: evidence, labels, checkpoints and decisions stay apart, through restarts too."""

from typing import Any

from ray_mlops.monitoring.service import MonitorService
from tests.unit.monitoring.conftest import FIRST, World

OTHER = "n"
WINDOWS = range(FIRST, FIRST + 8)


def pair(make_world: Any) -> tuple[World, World]:
    """Two models in one store, one ledger and one monitor."""
    first = make_world()
    return first, make_world(model=OTHER, beside=first)


def restart(*worlds: World) -> None:
    """Kill the monitor of all; another one takes up every model."""
    service = MonitorService(worlds[0].ledger, worlds[0].files, worlds[0].jobs)
    for world in worlds:
        world.service = service
        service.watch(world.model)


def serve(world: World, window: int, **columns: Any) -> None:
    rows = world.log(world.traffic.window(window, **columns))
    world.hand_over(rows)
    world.label(rows)


def alone(make_world: Any, model: str, shift: float) -> World:
    world: World = make_world(store=f"alone-{model}", model=model)
    for window in WINDOWS:
        serve(world, window, shift=shift)
    return world


def state(world: World) -> Any:
    return world.service._model(world.model).epoch.monitor.checkpoint()


def test_models_side_by_side_are_as_each_alone(make_world: Any) -> None:
    drifting, quiet = pair(make_world)
    for window in WINDOWS:  # the same prediction ids in both
        serve(drifting, window, shift=3.0)
        serve(quiet, window)
    assert state(drifting) == state(alone(make_world, drifting.model, 3.0))
    assert state(quiet) == state(alone(make_world, quiet.model, 0.0))


def test_alarm_and_decision_of_one_are_not_the_others(make_world: Any) -> None:
    drifting, quiet = pair(make_world)
    for window in WINDOWS:
        serve(drifting, window, shift=3.0)
        serve(quiet, window)
    assert drifting.alarms == ["drift:inputs"]
    assert quiet.alarms == []
    assert [decision["model"] for decision in drifting.decisions] == [drifting.model]
    assert quiet.decisions == []
    views = {world.model: world.service.view(world.model) for world in (drifting, quiet)}
    assert views["m"]["retraining"]["in_flight"] is not None
    assert views["n"]["retraining"]["in_flight"] is None
    assert drifting.jobs.submitted == [drifting.decisions[0]["decision_id"]]


def test_breach_of_one_does_not_block_the_other_and_is_acknowledged_alone(make_world: Any) -> None:
    first, second = pair(make_world)
    for world in (first, second):
        serve(world, FIRST)
    for window in WINDOWS[1:]:
        serve(first, window, features_x=None)
        serve(second, window, features_x=None if window < FIRST + 3 else 1.0)
    assert first.service.view("m")["retraining"]["blocked"]
    first.service.acknowledge("m", "contract:x:empty", "ann")
    acknowledged = [event.payload["alarm"] for event in first.ledger.read("n/monitor", kind="monitor.acknowledged")]
    assert acknowledged == []


def test_both_models_resume_with_the_same_evidence_after_restarts_at_any_window(make_world: Any) -> None:
    drifting, quiet = pair(make_world)
    for window in WINDOWS:
        restart(drifting, quiet)
        serve(drifting, window, shift=3.0)
        restart(quiet, drifting)
        serve(quiet, window)
    restart(drifting, quiet)
    for world, shift in ((drifting, 3.0), (quiet, 0.0)):
        undisturbed = state(alone(make_world, world.model, shift))
        found = state(world)
        assert found["dataset"] == undisturbed["dataset"]
        assert found["labels"]["counts"] == undisturbed["labels"]["counts"]
        assert found["closed"] == undisturbed["closed"]
    assert drifting.alarms == ["drift:inputs"]
    assert quiet.alarms == []
    assert len(drifting.decisions) == 1


def test_label_of_one_model_joins_no_prediction_of_the_other(make_world: Any) -> None:
    first, second = pair(make_world)
    rows = first.log(first.traffic.window(FIRST))
    first.hand_over(rows)
    second.hand_over(second.log(second.traffic.window(FIRST)))
    first.label(rows)
    assert first.service.view("m")["labels"]["accepted"] == rows.num_rows
    assert first.service.view("n")["labels"].get("accepted", 0) == 0
    restart(first, second)
    assert second.service.view("n")["labels"].get("accepted", 0) == 0


def test_checkpoints_lie_apart_and_a_forgotten_model_leaves_the_other(make_world: Any) -> None:
    first, second = pair(make_world)
    for window in WINDOWS:
        serve(first, window)
        serve(second, window)
    paths = [f"checkpoints/monitor/{model}.json" for model in ("m", "n")]
    assert all(first.files.exists(path) for path in paths)
    first.service.forget("m")
    assert second.service.models() == ["n"]
    serve(second, WINDOWS[-1] + 1)
    assert second.service.closed_window("n") == WINDOWS[-1]
