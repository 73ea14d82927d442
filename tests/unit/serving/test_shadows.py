"""Several shadows beside a champion: asked for, recorded, restarted, compared, and each alone with its failure."""

import asyncio
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ray_mlops.config import build_config
from ray_mlops.errors import FeatureError, ModelNotFoundError, RolloutError
from ray_mlops.serving.protocol import Arm, ModelRoutes
from ray_mlops.serving.rollout.shadows import PERIOD_S
from tests.unit.serving.test_reconciler import FakeArms, World, assert_agreement, days, play


class ShiftedArms(FakeArms):
    """Arms of which each version's predictions are off by something of their own."""

    def __init__(self, **shifts: float) -> None:
        super().__init__()
        self.shifts = {name.removeprefix("v"): shift for name, shift in shifts.items()}
        self.rows_of: dict[str, int] = {}
        self.refuses: set[str] = set()

    async def score(self, model: str, version: str, rows: pa.Table) -> Any:
        if version in self.refuses:
            raise FeatureError("a column is missing", "x")
        self.rows_of[version] = self.rows_of.get(version, 0) + rows.num_rows
        return rows["x"].to_numpy() + self.shifts.get(version, 0.0), ()


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path, {"auto_start": False})
    world.arms = ShiftedArms(v2=0.1, v3=-0.2)
    for version in ("2", "3", "4"):
        world.register(version, passed=version != "4")
    world.start()
    return world


async def look(world: World) -> dict[str, dict[str, Any]]:
    """Let shadows have their look, and return what is shown of each."""
    for _ in range(4):
        world.now += PERIOD_S
        world.report()
        await world.reconciler.tick()
        task = world.reconciler._shadows._task
        if task is not None:
            await task
        await asyncio.sleep(0)
    view = await world.reconciler.view()
    return {shadow["version"]: shadow for shadow in view["shadows"]}


async def day(world: World, requests: int = 300) -> dict[str, dict[str, Any]]:
    await world.day(requests)
    return await look(world)


def test_two_shadows_are_compared_with_the_champion_row_by_row(world: World) -> None:
    async def scene() -> dict[str, dict[str, Any]]:
        await world.reconciler.shadow("2", "ann")
        await world.reconciler.shadow("3", "ann")
        await look(world)
        for _ in range(2):
            found = await day(world)
        return found

    found = play(scene)
    assert [shadow["state"] for shadow in found.values()] == ["running", "running"]
    for version, shift in (("2", 0.1), ("3", -0.2)):
        disagreement, loss = found[version]["disagreement"], found[version]["loss"]
        assert disagreement["rows"] == 600
        assert disagreement["decisions_differ"] is None
        assert disagreement["mean_difference"] == pytest.approx(shift)
        assert disagreement["quantiles"]["0.99"] == pytest.approx(abs(shift))
        assert len(disagreement["most"]) == 5
        row = disagreement["most"][0]
        assert row["other"] == pytest.approx(row["champion"] + shift)
        assert row["inputs"]["x"] == pytest.approx(row["champion"])
        assert loss["pairs"] == 600
        assert loss["low"] < loss["mean"] < loss["high"]
        assert loss["mean"] == pytest.approx(-shift)
    assert found["3"]["loss"]["log_e_worse"] > 4 > 0 > found["2"]["loss"]["log_e_worse"]
    assert world.routes.shadows == (Arm("2", "b2", "h2", "isolated", 0.0), Arm("3", "b3", "h3", "isolated", 0.0))
    assert world.routes.candidate is None
    assert world.ledger.read("m/rollout") == []


def test_shadow_survives_the_death_of_the_reconciler_and_scores_no_row_twice(world: World) -> None:
    async def scene() -> tuple[Any, Any]:
        await world.reconciler.shadow("2", "ann")
        await look(world)
        before = await day(world)
        world.start()
        return before, await look(world)

    before, after = play(scene)
    assert after["2"]["state"] == "running"
    assert {**after["2"], "detail": ""} == {**before["2"], "detail": ""}
    assert world.arms.rows_of == {"2": 300}


def test_shadow_is_stopped_by_a_person_and_its_process_with_it(world: World) -> None:
    async def scene() -> Any:
        await world.reconciler.shadow("2", "ann", reason="curious")
        await look(world)
        assert world.arms.running == {"2"}
        await world.reconciler.shadow("2", "bob", stop=True)
        found = await look(world)
        with pytest.raises(RolloutError, match="version 2 is no shadow; running: none"):
            await world.reconciler.shadow("2", "bob", stop=True)
        await world.reconciler.shadow("2", "ann")
        await look(world)
        return found

    stopped = play(scene)
    assert (stopped["2"]["state"], stopped["2"]["ended_by"]) == ("stopped", "bob")
    assert world.routes.shadows[0].version == "2"
    assert world.arms.running == {"2"}
    events = [(e.kind, e.payload["shadow_id"], e.payload["by"]) for e in world.ledger.read("m/shadows")]
    assert events == [
        ("shadow.started", "m-s2-1", "ann"),
        ("shadow.stopped", "m-s2-1", "bob"),
        ("shadow.started", "m-s2-2", "ann"),
    ]


def test_stopped_shadow_stays_stopped_after_a_restart(world: World) -> None:
    async def scene() -> None:
        await world.reconciler.shadow("2", "ann")
        await look(world)
        await world.reconciler.shadow("2", "ann", stop=True)
        world.start()  # it dies before the process was stopped
        await look(world)

    play(scene)
    assert world.arms.running == set()
    assert world.routes.shadows == ()


@pytest.mark.parametrize("fault", ["crash", "parity", "columns"])
def test_shadow_that_fails_costs_nothing_but_itself(world: World, fault: str) -> None:
    async def scene() -> dict[str, dict[str, Any]]:
        await world.reconciler.request("2", "ann")
        if fault == "parity":
            world.arms.broken["3"] = "parity rows differ"
        if fault == "columns":
            world.arms.refuses.add("3")
        await world.reconciler.shadow("3", "ann")
        await world.reconciler.shadow("4", "ann")
        await look(world)
        if fault == "crash":
            world.arms.dead.add("3")
        return await day(world)

    found = play(scene)
    assert found["3"]["state"] == "failed"
    assert found["3"]["detail"].startswith("failed: ")
    assert found["4"]["state"] == "running"
    assert world.state() == "shadow", "the rollout goes on"
    assert world.arms.running == {"2", "4"}
    assert [arm.version for arm in world.routes.shadows] == ["4"]


def test_shadow_that_hangs_holds_up_neither_rollout_nor_view(world: World) -> None:
    async def scene() -> None:
        never = asyncio.Event()

        async def hang(model: str, version: str, rows: pa.Table) -> Any:
            if version == "3":
                await never.wait()
            return rows["x"].to_numpy(), ()

        world.arms.score = hang  # type: ignore[method-assign]
        await world.reconciler.request("2", "ann")
        await world.reconciler.shadow("3", "ann")
        assert await days(world, "promoted") == "promoted"
        world.now += PERIOD_S
        assert (await world.reconciler.view())["state"] == "promoted"

    play(scene)
    assert_agreement(world)


def test_shadow_that_meets_something_unforeseen_says_so_and_the_others_are_looked_at_to_their_end(world: World) -> None:
    async def scene() -> dict[str, dict[str, Any]]:
        score, done = world.arms.score, asyncio.Event()

        async def act(model: str, version: str, rows: pa.Table) -> Any:
            if version == "3":
                raise ValueError("no such thing")
            await asyncio.sleep(0)
            done.set()
            return await score(model, version, rows)

        world.arms.score = act  # type: ignore[method-assign]
        await world.reconciler.shadow("3", "ann")
        await world.reconciler.shadow("2", "ann")
        await look(world)
        found = await day(world)
        assert done.is_set()
        return found

    found = play(scene)
    assert found["3"]["detail"] == "tries again: ValueError('no such thing')"
    assert (found["2"]["state"], found["2"]["disagreement"]["rows"]) == ("running", 300)


def test_shadow_of_a_version_on_trial_becomes_the_candidate_without_a_new_process(world: World) -> None:
    async def scene() -> dict[str, dict[str, Any]]:
        await world.reconciler.shadow("2", "ann")
        await look(world)
        await world.reconciler.request("2", "ann")
        found = await look(world)
        with pytest.raises(RolloutError, match="on trial in rollout m-v2"):
            await world.reconciler.shadow("2", "ann")
        await days(world, "promoted")
        with pytest.raises(RolloutError, match="version 2 is champion"):
            await world.reconciler.shadow("2", "ann")
        return found

    found = play(scene)
    assert found["2"]["ended_because"] == "it is on trial now"
    assert world.arms.started == ["2"]
    assert world.state() == "promoted"


def test_shadow_goes_on_against_the_next_champion_with_new_pairs(world: World) -> None:
    async def scene() -> dict[str, dict[str, Any]]:
        world.arms.shifts["2"] = 0.0
        await world.reconciler.shadow("3", "ann")
        await world.reconciler.request("2", "ann")
        await days(world, "promoted")
        assert (await look(world))["3"]["champion"] == "2"
        return await day(world)

    found = play(scene)
    assert found["3"]["disagreement"]["rows"] < 3000
    assert "3" in {arm.version for arm in world.routes.shadows}
    assert world.arms.running == {"3"}


def test_shadow_outlives_a_rollback_of_the_same_version(world: World) -> None:
    """Whoever is the candidate's process no more may be a shadow's: it must not be stopped with the rollout."""

    async def scene() -> None:
        await world.reconciler.request("2", "ann")
        await look(world)
        await world.reconciler.command("rollback", "ann")
        await look(world)
        assert world.arms.running == set()
        await world.reconciler.shadow("2", "ann")
        await look(world)
        world.start()
        await look(world)

    play(scene)
    assert world.arms.running == {"2"}


def test_version_that_the_gate_refused_may_be_a_shadow_but_an_unknown_one_not(world: World) -> None:
    async def scene() -> None:
        await world.reconciler.shadow("4", "ann")
        with pytest.raises(ModelNotFoundError, match="no version 9 is registered; the newest are 1, 2, 3, 4"):
            await world.reconciler.shadow("9", "ann")
        with pytest.raises(RolloutError, match="version 4 is a shadow already"):
            await world.reconciler.shadow("4", "ann")
        with pytest.raises(RolloutError, match="version 1 is champion"):
            await world.reconciler.shadow("1", "ann")

    play(scene)


def redeploy(world: World, **sections: Any) -> None:
    content = build_config({**world.config.model_dump(mode="json"), **sections}, {}).model_dump(mode="json")
    world.ledger.append("m/config", "config.deployed", f"m/config/{len(sections)}n", {"config": content, "hash": "n"})


def test_no_more_shadows_than_configured(world: World) -> None:
    redeploy(world, rollout={**world.config.rollout.model_dump(mode="json"), "max_shadows": 1})

    async def scene() -> None:
        await world.reconciler.shadow("2", "ann")
        with pytest.raises(RolloutError, match=r"1 shadows may run at once; running: 2; stop one"):
            await world.reconciler.shadow("3", "ann")

    play(scene)


def test_no_shadow_where_the_log_redacts(world: World) -> None:
    redeploy(world, serving={"log": {"redact": {"x": "hash"}}})

    async def scene() -> None:
        with pytest.raises(RolloutError, match="the log redacts x"):
            await world.reconciler.shadow("2", "ann")

    play(scene)


def test_shadow_without_a_monitor_shows_disagreement_and_says_why_there_is_no_loss(world: World) -> None:
    async def scene() -> dict[str, dict[str, Any]]:
        await world.reconciler.shadow("2", "ann")
        world.reconciler._shadows._monitor = None
        await look(world)
        return await day(world)

    found = play(scene)
    assert found["2"]["disagreement"]["rows"] == 300
    assert found["2"]["loss"]["problem"] == "there is no monitor, so there are no labels"


def test_candidate_in_the_shadow_shows_how_it_differs(world: World) -> None:
    async def scene() -> Any:
        await world.reconciler.request("2", "ann")
        await look(world)
        await day(world)
        return (await world.reconciler.view())["compared"]

    compared = play(scene)
    assert compared["champion"] == "1"
    assert compared["disagreement"]["mean_difference"] == pytest.approx(0.1)
    assert compared["loss"]["mean"] == pytest.approx(-0.1)


def test_routes_of_an_earlier_release_have_no_shadows() -> None:
    routes = ModelRoutes("m", 3, Arm("1", "a", "x"), shadows=(Arm("2", "b", "y", "isolated", 0.0),))
    assert ModelRoutes.from_json(routes.to_json()) == routes
    older = {name: value for name, value in routes.to_json().items() if name != "shadows"}
    assert ModelRoutes.from_json(older).shadows == ()


def test_rows_from_before_the_shadow_was_asked_for_do_not_count(world: World) -> None:
    async def scene() -> dict[str, dict[str, Any]]:
        await world.day(300)
        await world.reconciler.shadow("2", "ann")
        await look(world)
        return await day(world, 200)

    assert play(scene)["2"]["disagreement"]["rows"] == 200
