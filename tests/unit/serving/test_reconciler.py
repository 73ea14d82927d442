"""A whole rollout by hand: real ledger and files, scripted arms, registry and monitor, and a clock that we turn."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pytest

from ray_mlops.config import ProjectConfig, build_config, config_hash, with_overrides
from ray_mlops.data.reference import ColumnReference, ReferenceProfile
from ray_mlops.errors import (
    GateRefusedError,
    ModelNotFoundError,
    MonitoringError,
    RegistryError,
    ResourceError,
    RolloutError,
    StoreError,
)
from ray_mlops.ledger import Ledger
from ray_mlops.runtime.files import Files
from ray_mlops.serving.protocol import Arm, ModelRoutes, Tally
from ray_mlops.serving.rollout.guards import judge
from ray_mlops.serving.rollout.reconciler import Reconciler
from ray_mlops.serving.rollout.shadow import SLOW_FACTOR, SLOW_MARGIN_MS, BundleFacts
from ray_mlops.serving.rollout.transition import step
from ray_mlops.serving.routes import commit_routes, read_table, withdraw_routes
from ray_mlops.serving.slicing import slice_labels
from ray_mlops.statistics.bins import CategoricalBins, ColumnCounts, NumericBins

DAY_US = 86_400_000_000
Result = TypeVar("Result")


@dataclass
class FakeArms:
    """Arms that start at once; ``broken`` ones do not, ``dead`` ones have crashed."""

    running: set[str] = field(default_factory=set)
    started: list[str] = field(default_factory=list)
    checked: list[str] = field(default_factory=list)
    broken: dict[str, str] = field(default_factory=dict)
    dead: set[str] = field(default_factory=set)
    scored: int = 0
    shift: float = 0.0
    full_above: float = 1.0
    """There is no room for a larger share of traffic."""
    scaled: list[float] = field(default_factory=list)

    async def start(self, model: str, version: str, bundle: str, config: ProjectConfig, weight: float) -> None:
        if version not in self.running:
            self.started.append(version)
        self.running.add(version)

    async def check(self, model: str, version: str, bundle: str, config: ProjectConfig) -> str:
        self.checked.append(version)
        return self.broken.get(version, "")

    async def scale(self, model: str, version: str, weight: float, config: ProjectConfig) -> str:
        if self.full_above < weight:
            raise ResourceError("asked for 3 replicas, 1 runs; free: 0.1 of 4 CPU")
        self.scaled.append(weight)
        return "1 replica"

    async def versions(self, model: str) -> frozenset[str]:
        return frozenset(self.running)

    async def ready(self, model: str, version: str) -> Any:
        return ("failed", "exit code 9") if version in self.dead else ("ready", "")

    async def score(self, model: str, version: str, rows: pa.Table) -> Any:
        self.scored += rows.num_rows
        return rows["x"].to_numpy() + self.shift, ()

    async def facts(self, bundle: str) -> BundleFacts:
        return BundleFacts("regression", (), 1.0)

    async def stop(self, model: str, version: str) -> None:
        self.running.discard(version)


@dataclass
class FakeAliases:
    """A registry's aliases."""

    known: dict[str, str] = field(default_factory=dict)
    is_away: bool = False

    def aliases(self, model: str) -> dict[str, str]:
        if self.is_away:
            raise RegistryError("is away")
        return dict(self.known)

    def set_alias(self, model: str, alias: str, version: str) -> None:
        self.aliases(model)
        self.known[alias] = version

    def delete_alias(self, model: str, alias: str) -> None:
        self.aliases(model)
        self.known.pop(alias, None)


@dataclass
class FakeMonitor:
    """Closed windows and labelled rows."""

    closed: int | None = 100
    rows: list[dict[str, Any]] = field(default_factory=list)
    is_away: bool = False

    async def closed_window(self, model: str) -> int | None:
        if self.is_away:
            raise MonitoringError("is away")
        return self.closed

    async def labelled(self, model: str, after_window: int) -> pa.Table:
        closed = -1 if self.closed is None else self.closed
        rows = [row for row in self.rows if after_window < row["window"] <= closed]
        return pa.Table.from_pylist(rows, schema=LABELLED)

    async def view(self, model: str) -> Any: ...
    async def metrics(self) -> str: ...


LABELLED = pa.schema(
    {
        "prediction_id": pa.string(),
        "request_id": pa.string(),
        "window": pa.int64(),
        "event_time": pa.timestamp("us", tz="UTC"),
        "arm": pa.string(),
        "version": pa.string(),
        "route_version": pa.int64(),
        "pinned": pa.bool_(),
        "weight": pa.float64(),
        "label": pa.float64(),
        "prediction": pa.float64(),
    }
)


class World:
    """Everything around a reconciler, and traffic of one day at a time (or one second)."""

    def __init__(self, root: Path, rollout: dict[str, Any] | None = None) -> None:
        data = {"source": {"path": "x"}, "task": "regression", "target": "y", "event_time": "t"}
        settings = {"evaluate": "window", "guards": {"dry_run": ["score_shift", "latency"]}, **(rollout or {})}
        content = {"name": "m", "data": data, "monitoring": {"window": "1d"}, "rollout": settings}
        self.config = build_config(content, {})
        self.ledger, self.files = Ledger(f"sqlite:///{root}/ledger.db"), Files(str(root))
        self.arms, self.aliases, self.monitor = FakeArms(), FakeAliases(), FakeMonitor()
        self.now, self.published, self.sequence = 1000.0, 0, 0
        self.generator = np.random.default_rng(4)
        self.tallies: dict[Any, Tally] = {}
        self.error_rates = {"champion": 0.0, "candidate": 0.0}
        digest = config_hash(self.config)
        deployed = {"config": self.config.model_dump(mode="json"), "hash": digest}
        self.ledger.append("m/config", "config.deployed", f"m/config/{digest}", deployed)
        self.register("1")
        commit_routes(self.ledger, ModelRoutes("m", 0, Arm("1", "b1", "h1"), config_hash=digest), 0)
        self.reconciler = self.start()

    def register(self, version: str, passed: bool = True) -> None:
        payload = {
            "version": version,
            "bundle": f"b{version}",
            "bundle_hash": f"h{version}",
            "data_end_us": 90 * DAY_US,
        }
        payload |= {"gate": {"passed": passed, "reason": "auc is too low"}}
        self.ledger.append("m/versions", "version.registered", f"m/versions/{version}", payload, event_time=91 * DAY_US)

    def start(self) -> Reconciler:
        """A reconciler that has just come up, in place of one that died."""
        self.reconciler = Reconciler(
            "m", self.ledger, self.files, self.arms, self.aliases, self.publish, self.monitor, lambda: self.now
        )
        self.now += 3.0  # more than the time that replicas have to say that they are there
        return self.reconciler

    async def publish(self) -> None:
        self.published += 1

    @property
    def routes(self) -> ModelRoutes:
        return read_table(self.ledger).models["m"]

    def state(self) -> str:
        moves = self.ledger.read("m/rollout", kind="rollout.moved")
        return str(moves[-1].payload["to"]) if moves else "pending"

    def report(self) -> bool:
        """The one replica reports; when it was not heard, it sends everything."""
        self.sequence += 1
        arguments = (list(self.tallies.values()), self.now, self.routes.version)
        if not self.reconciler.report("replica", self.sequence, *arguments):
            self.sequence += 1
            return self.reconciler.report("replica", self.sequence, *arguments)
        return True

    def serve(self, requests: int = 400, epoch: int | None = None) -> None:
        """Answer requests of one window, by the routes in force, and log and label the champion's."""
        assert self.monitor.closed is not None
        epoch = self.monitor.closed + 1 if epoch is None else epoch
        routes = self.routes
        weight = routes.candidate.weight if routes.candidate else 0.0
        on_candidate = round(requests * weight)
        for arm, n in (("candidate", on_candidate), ("champion", requests - on_candidate)):
            if n:
                errors = int(self.generator.binomial(n, self.error_rates[arm]))
                tally = Tally("m", routes.version, epoch, arm, weight, n, errors)  # type: ignore[arg-type]
                self.tallies[tally.key()] = tally
        self.log(epoch, routes, on_candidate, requests)

    def log(self, epoch: int, routes: ModelRoutes, on_candidate: int, requests: int) -> None:
        weight = on_candidate / requests
        x = self.generator.normal(size=requests)
        rows = []
        for i in range(requests):
            arm = "candidate" if i < on_candidate else "champion"
            version = routes.candidate.version if arm == "candidate" and routes.candidate else routes.champion.version
            rows.append(
                {
                    "prediction_id": f"p{epoch}-{i}",
                    "request_id": f"r{epoch}-{i}",
                    "window": epoch,
                    "event_time": epoch * DAY_US + i,
                    "arm": arm,
                    "version": version,
                    "route_version": routes.version,
                    "pinned": False,
                    "weight": weight if arm == "candidate" else 1 - weight,
                    "prediction": x[i],
                    "label": x[i] + 0.3,
                }
            )
        self.monitor.rows += rows
        names = [name for name in LABELLED.names if name not in ("window", "label")]
        log = pa.Table.from_pylist(rows, schema=LABELLED).select(names)
        log = log.append_column("features.x", pa.array(x)).append_column("model_time_us", pa.array([900] * requests))
        day = datetime.fromtimestamp(epoch * 86400, UTC).date()
        self.files.write_table(f"predictions/m/day={day}/replica-{epoch:08d}.parquet", log)

    async def settle(self) -> None:
        """Let time pass until nothing changes: tasks, moves and reports."""
        for _ in range(4):
            self.now += 0.1
            self.report()
            await self.reconciler.tick()
            await asyncio.sleep(0)

    async def day(self, requests: int = 400) -> str:
        """Serve one window, close it, and let the reconciler look at it."""
        self.serve(requests)
        assert self.monitor.closed is not None
        self.monitor.closed += 1
        await self.settle()
        return self.state()

    def moves(self) -> list[str]:
        return [f"{e.payload['from']}->{e.payload['to']}" for e in self.ledger.read("m/rollout", kind="rollout.moved")]


USUAL_WAY = [
    *("pending->validating", "validating->preparing", "preparing->shadow", "shadow->canary[0]"),
    *("canary[0]->canary[1]", "canary[1]->canary[2]", "canary[2]->promoting", "promoting->baking", "baking->promoted"),
]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def play(scene: Callable[[], Awaitable[Result]]) -> Result:
    async def run() -> Result:
        return await scene()

    return asyncio.run(run())


async def days(world: World, until: str, most: int = 20) -> str:
    for _ in range(most):
        if world.state() == until:
            break
        await world.day(1000)
    return world.state()


def assert_agreement(world: World) -> None:
    """Invariant: ledger, registry and live routes name the same champion."""
    routes = world.routes
    assert world.aliases.known.get("champion") == routes.champion.version
    assert world.aliases.known.get("previous") == (routes.previous.version if routes.previous else None)
    recorded = [e.payload for e in world.ledger.read("m/versions", kind="alias.set")]
    newest = {p["alias"]: p["version"] for p in recorded}
    assert newest["champion"] == routes.champion.version


def test_good_candidate_goes_all_the_way_by_itself(world: World) -> None:
    async def scene() -> None:
        await world.settle()
        assert world.aliases.known == {"champion": "1"}
        world.register("2")
        await world.settle()
        assert (world.state(), world.arms.running) == ("shadow", {"2"})
        assert world.aliases.known["candidate"] == "2"
        assert await days(world, "promoted") == "promoted"

    play(scene)
    assert world.moves() == USUAL_WAY
    assert world.routes.champion == Arm("2", "b2", "h2")
    assert world.aliases.known == {"champion": "2", "previous": "1"}
    assert world.arms.running == set()
    assert world.arms.scored > 0
    assert world.published == len(world.ledger.read("m/routes")) - 1
    assert_agreement(world)
    assert world.ledger.verify().ok


def test_weights_in_force_are_those_of_the_state(world: World) -> None:
    async def scene() -> list[float]:
        world.register("2")
        weights = []
        for _ in range(6):
            await world.day(1000)
            weights.append(world.routes.candidate.weight if world.routes.candidate else 0.0)
        return sorted(set(weights))

    assert play(scene) == [0.0, 0.05, 0.25, 0.5]


@pytest.mark.parametrize("crash", range(0, 36, 3))
def test_crash_after_any_write_leads_to_the_same_end(world: World, crash: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process dies right after its n-th event, and again after each tenth; another takes over."""
    written, append = [0], Ledger.append

    def dying(ledger: Ledger, *arguments: Any, **options: Any) -> Any:
        event = append(ledger, *arguments, **options)
        written[0] += 1
        if written[0] % 10 == crash % 10 and written[0] >= crash:
            raise KeyboardInterrupt
        return event

    async def scene() -> None:
        world.register("2")
        monkeypatch.setattr(Ledger, "append", dying)
        for _ in range(12):
            try:
                await world.day(1000)
            except KeyboardInterrupt:
                world.start()
        monkeypatch.setattr(Ledger, "append", append)
        await days(world, "promoted")

    play(scene)
    assert world.moves() == USUAL_WAY
    promotions = [e for e in world.ledger.read("m/routes") if e.payload["champion"]["version"] == "2"]
    assert len({e.payload["version"] for e in promotions}) == 1
    assert_agreement(world)


def test_restart_between_all_ticks_decides_on_the_same_windows(tmp_path: Path) -> None:
    def run(root: Path, restarts: bool) -> list[tuple[str, Any, Any]]:
        root.mkdir()
        world = World(root)

        async def scene() -> None:
            world.register("2")
            for _ in range(9):
                await world.day(600)
                if restarts:
                    world.start()

        play(scene)
        events = world.ledger.read("m/rollout", kind="rollout.moved")
        return [(e.payload["to"], e.payload["window"], e.payload["evidence"]["candidate"]) for e in events]

    plain = run(tmp_path / "a", restarts=False)
    assert plain[-1][0] == "promoted"
    assert run(tmp_path / "b", restarts=True) == plain


def test_candidate_with_errors_is_rolled_back(world: World) -> None:
    async def scene() -> None:
        world.error_rates = {"champion": 0.01, "candidate": 0.2}
        world.register("2")
        await days(world, "rolled_back")

    play(scene)
    assert world.moves()[-2:] == ["canary[0]->rolling_back", "rolling_back->rolled_back"]
    assert world.routes.champion.version == "1"
    assert world.routes.candidate is None
    assert world.arms.running == set()
    assert world.aliases.known == {"champion": "1"}
    assert_agreement(world)


def test_candidate_that_loses_more_is_rolled_back_in_the_shadow(world: World) -> None:
    async def scene() -> None:
        world.arms.shift = -0.2
        world.register("2")
        await days(world, "rolled_back")

    play(scene)
    assert "shadow->rolling_back" in world.moves()
    assert not any(e.payload["candidate"] and e.payload["candidate"]["weight"] for e in world.ledger.read("m/routes"))


def test_rolled_back_version_is_not_tried_again_but_the_next_is(world: World) -> None:
    async def scene() -> None:
        world.arms.broken["2"] = "parity rows differ"
        world.register("2")
        await world.settle()
        assert world.state() == "rolled_back"
        await world.day()
        world.register("3")
        await world.settle()
        assert world.state() == "shadow"

    play(scene)
    requested = [e.payload["rollout_id"] for e in world.ledger.read("m/rollout", kind="rollout.requested")]
    assert requested == ["m-v2", "m-v3"]


def test_crash_of_the_candidate_is_seen_between_windows(world: World) -> None:
    async def scene() -> str:
        world.register("2")
        await days(world, "canary[0]")
        world.arms.dead.add("2")
        await world.settle()
        return world.state()

    assert play(scene) == "rolled_back"


def test_hard_limit_acts_between_windows(world: World) -> None:
    async def scene() -> str:
        world.register("2")
        await days(world, "canary[0]")
        world.error_rates["candidate"] = 1.0
        world.serve(1000)
        await world.settle()
        return world.state()

    assert play(scene) == "rolled_back"


def test_each_window_is_looked_at_in_order(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int | None] = []
    pairs: dict[int | None, int] = {}

    def watched(state: Any, observation: Any, *arguments: Any) -> Any:
        seen.append(observation.closed_through)
        pairs[observation.closed_through] = len(observation.losses.paired)
        return step(state, observation, *arguments)

    async def scene() -> None:
        monkeypatch.setattr("ray_mlops.serving.rollout.reconciler.step", watched)
        world.register("2")
        await world.settle()
        for _ in range(2):
            assert world.monitor.closed is not None
            world.serve(1000, world.monitor.closed + 1)
            world.serve(1000, world.monitor.closed + 2)
            world.monitor.closed += 2
            await world.settle()

    play(scene)
    assert list(dict.fromkeys(seen)) == [None, 101, 102, 103, 104]
    assert seen == sorted(seen, key=lambda window: window or 0)
    assert (pairs[101], pairs[102]) == (1000, 2000)  # though labels of both were there


def test_window_is_not_looked_at_before_the_replicas_have_told_everything(world: World) -> None:
    async def scene() -> None:
        world.register("2")
        await days(world, "canary[0]")
        world.serve(1000)
        assert world.monitor.closed is not None
        world.monitor.closed, world.now = world.monitor.closed + 1, world.now + 0.1
        await world.reconciler.tick()
        assert world.state() == "canary[0]"
        world.now += 0.1
        world.report()
        await world.reconciler.tick()
        assert world.state() == "canary[1]"

    play(scene)


def test_view_tells_a_replay_when_it_may_go_on(world: World) -> None:
    async def scene() -> None:
        await world.settle()
        assert (await world.reconciler.view())["evaluated_through"] == 100
        world.register("2")
        view = await world.reconciler.view()  # sees the new version before it lets the replay go on
        assert view["state"] == "preparing"
        await world.settle()
        view = await world.reconciler.view()
        assert (view["state"], view["evaluated_through"]) == ("shadow", 100)
        world.monitor.closed, world.now = 101, world.now + 0.1
        assert (await world.reconciler.view())["evaluated_through"] == 100
        await world.settle()
        view = await world.reconciler.view()
        assert (view["evaluated_through"], view["closed_window"]) == (101, 101)
        assert view["reason"].startswith("loss: ")
        assert {guard["name"] for guard in view["guards"]} >= {"errors", "loss", "latency_slo", "sample_ratio"}

    play(scene)


def test_view_waits_until_the_replicas_apply_the_routes(world: World) -> None:
    async def scene() -> None:
        world.register("2")
        await days(world, "canary[0]")
        applied = world.routes.version
        closed = world.monitor.closed
        world.sequence += 1
        world.reconciler.report("replica", world.sequence, [], world.now, applied - 1)
        assert (await world.reconciler.view())["evaluated_through"] == closed - 1  # type: ignore[operator]
        world.report()
        assert (await world.reconciler.view())["evaluated_through"] == closed

    play(scene)


def test_seconds_are_closed_behind_the_watermark(tmp_path: Path) -> None:
    world = World(tmp_path, {"evaluate": "continuous", "shadow": {"enabled": False}, "min_requests": 40})

    async def scene() -> None:
        world.register("2")
        await world.settle()
        await world.settle()
        assert world.state() == "canary[0]"
        world.now = 2000.0
        world.serve(1000, epoch=2000)
        await world.settle()
        assert world.state() == "canary[0]"
        world.now = 2001.0
        await world.settle()
        assert world.state() == "canary[1]"

    play(scene)


def test_people_pause_resume_promote_and_roll_back(world: World) -> None:
    async def scene() -> None:
        world.register("2")
        await days(world, "canary[0]")
        await world.reconciler.command("pause", "ann", "lunch")
        await world.settle()
        assert world.state() == "paused"
        for _ in range(3):
            await world.day()
        assert world.state() == "paused"
        view = await world.reconciler.view()
        assert view["evaluated_through"] == world.monitor.closed
        await world.reconciler.command("resume", "ann")
        await world.settle()
        assert world.state() == "canary[0]"
        await world.reconciler.command("promote", "ann", "trust me")
        await world.settle()
        assert world.state() == "baking"
        await days(world, "promoted")
        with pytest.raises(RolloutError, match="no rollout is under way; the last, m-v2, is promoted"):
            await world.reconciler.command("pause", "ann")
        await world.reconciler.command("rollback", "ann", "complaints")
        await world.settle()
        assert world.state() == "rolled_back"

    play(scene)
    assert world.routes.champion.version == "1"
    assert_agreement(world)


def test_request_is_refused_without_a_passed_gate(world: World) -> None:
    async def scene() -> None:
        world.register("2", passed=False)
        await world.settle()
        assert world.ledger.read("m/rollout") == []
        with pytest.raises(GateRefusedError, match="auc is too low"):
            await world.reconciler.request("2", "ann")
        assert await world.reconciler.request("2", "ann", override_reason="incident") == "m-v2"
        await world.settle()
        assert world.state() == "shadow"
        with pytest.raises(RolloutError, match="under way"):
            await world.reconciler.request("2", "ann", override_reason="again")
        with pytest.raises(ModelNotFoundError):
            await world.reconciler.request("7", "ann")

    play(scene)


def test_repeated_rollout_of_a_version_gets_a_name_of_its_own(world: World) -> None:
    async def scene() -> list[str]:
        world.register("2")
        names = []
        await world.settle()
        for _ in range(2):
            await world.reconciler.command("rollback", "ann")
            await world.settle()
            names.append(await world.reconciler.request("2", "ann"))
            await world.settle()
        return names

    assert play(scene) == ["m-v2-2", "m-v2-3"]


def test_version_that_needs_approval_waits_for_it(tmp_path: Path) -> None:
    world = World(tmp_path)
    needs = build_config({**world.config.model_dump(mode="json"), "gate": {"require_approval": True}}, {})
    deployed = {"config": needs.model_dump(mode="json"), "hash": "n"}
    world.ledger.append("m/config", "config.deployed", "m/config/n", deployed)

    async def scene() -> None:
        world.register("2")
        await world.settle()
        assert world.ledger.read("m/rollout") == []
        world.ledger.append("m/versions", "version.approved", "m/approved/2", {"version": "2", "by": "ann"})
        await world.settle()
        assert world.state() == "shadow"

    play(scene)


def test_registry_that_is_away_holds_a_promotion_up_but_no_traffic(world: World) -> None:
    async def scene() -> None:
        world.register("2")
        await days(world, "canary[2]")
        world.aliases.is_away = True
        await days(world, "promoting", 3)
        assert world.routes.champion.version == "2"
        await world.day()
        assert world.state() == "promoting"
        world.aliases.is_away = False
        await world.settle()
        assert world.state() in ("baking", "promoted")

    play(scene)
    assert_agreement(world)


def test_monitor_that_is_away_holds_a_rollout_up(world: World) -> None:
    async def scene() -> None:
        world.register("2")
        await days(world, "canary[0]")
        world.monitor.is_away = True
        await world.settle()
        assert world.state() == "canary[0]"
        world.monitor.is_away = False
        assert await world.day(1000) == "canary[1]"

    play(scene)


def test_aliases_that_were_changed_by_hand_are_put_right_at_the_next_start(world: World) -> None:
    async def scene() -> None:
        await world.settle()
        world.aliases.known = {"champion": "9"}
        world.start()
        await world.settle()

    play(scene)
    assert world.aliases.known == {"champion": "1"}


def test_latency_threshold_is_frozen_from_the_champions_log(world: World) -> None:
    async def scene() -> None:
        for _ in range(2):
            await world.day(400)
        world.register("2")
        await world.settle()

    play(scene)
    assert world.routes.slow_ms == pytest.approx(SLOW_FACTOR * 0.9 + SLOW_MARGIN_MS)
    assert world.routes.rollout_id == "m-v2"


def test_restart_scores_no_row_twice(world: World) -> None:
    async def scene() -> int:
        world.register("2")
        await world.settle()
        await world.day(300)
        scored = world.arms.scored
        world.start()
        await world.settle()
        assert world.arms.scored == scored
        return scored

    assert play(scene) == 300


class SlicedWorld(World):
    """A tenth of traffic is carrier AA, of which the candidate fails a third; elsewhere it fails less."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, {"steps": [0.3, 0.5], "guards": {"slices": ["carrier", "speed"]}})
        self.error_rates = {"champion": 0.03, "candidate": 0.03}
        carriers = ["AA"] * 2 + ["DL"] * 18
        bins = CategoricalBins.from_sample(carriers)
        carrier = ColumnReference(bins, {1: ColumnCounts.of(bins, carriers)}, "categorical")
        profile = ReferenceProfile(DAY_US, {"carrier": carrier})
        Files("b1").write("profile.json", json.dumps(profile.to_json()).encode())

    def serve(self, requests: int = 400, epoch: int | None = None) -> None:
        super().serve(requests, epoch)
        labels = slice_labels(self.routes.slices)
        for key, tally in self.tallies.items():
            if tally.slices or not 0.0 < tally.weight < 1.0:
                continue
            few = tally.requests // 10
            errors = few // 3 if tally.arm == "candidate" else few // 30
            found = {"carrier=DL": (tally.requests - few, errors // 2), "carrier=AA": (few, errors)}
            counts = tuple((labels.index(name), n, failed, 0) for name, (n, failed) in found.items())
            self.tallies[key] = replace(tally, slices=counts)


@pytest.mark.parametrize("restarts", [False, True])
def test_candidate_that_fails_on_one_slice_is_rolled_back_and_the_reason_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restarts: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    world = SlicedWorld(tmp_path)

    async def scene() -> dict[str, Any]:
        world.register("2")
        for _ in range(20):
            await world.day(300)
            if restarts:
                world.start()
                Files("b1").write("profile.json", b"gone")  # what is frozen stays, whatever becomes of the bundle
            if world.state() == "rolled_back":
                break
        return await world.reconciler.view()

    view = play(scene)
    assert world.state() == "rolled_back"
    reasons = [e.payload["reason"] for e in world.ledger.read("m/rollout", kind="rollout.moved")]
    assert "evidence of regression in slices: errors on carrier=AA: " in reasons[-2]
    routes = [e.payload for e in world.ledger.read("m/routes") if e.payload["candidate"]]
    assert [column["values"] for column in routes[0]["slices"]] == [["DL", "AA"], []]
    assert all(payload["slices"] == routes[0]["slices"] for payload in routes)
    assert "no slices of speed: it is not an input of the champion" in reasons[-2]
    assert world.routes.slices == ()
    assert any("carrier=AA" in move["reason"] for move in view["history"])
    guards = world.ledger.read("m/rollout", kind="rollout.moved")[-2].payload["evidence"]["guards"]
    assert next(guard for guard in guards if guard["name"] == "slices")["slices"][0]["slice"] == "carrier=AA"


def test_candidate_that_loses_more_on_one_slice_only_is_rolled_back_in_the_shadow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    values = np.random.default_rng(1).normal(size=4000)
    bins = NumericBins.from_sample(values)
    profile = ReferenceProfile(DAY_US, {"x": ColumnReference(bins, {1: ColumnCounts.of(bins, values)}, "numeric")})
    Files("b1").write("profile.json", json.dumps(profile.to_json()).encode())
    world = World(tmp_path, {"guards": {"slices": ["x"]}})
    labelled = world.monitor.labelled

    async def with_slices(model: str, after_window: int) -> pa.Table:
        rows = await labelled(model, after_window)
        return rows.append_column("features.x", rows["prediction"])

    async def score(model: str, version: str, rows: pa.Table) -> Any:
        x = rows["x"].to_numpy()
        return x + np.where(x > 1.0, -0.25, 0.06), ()  # 0.01 better on all traffic

    world.monitor.labelled, world.arms.score = with_slices, score  # type: ignore[method-assign]

    async def scene() -> None:
        world.register("2")
        await days(world, "rolled_back", most=6)

    play(scene)
    reason = world.ledger.read("m/rollout", kind="rollout.moved")[-2].payload["reason"]
    assert "shadow->rolling_back" in world.moves()
    assert reason.startswith("evidence of regression in slices: loss on x above 0.6")


# -- versions outside the gateway ---------------------------------------------------------------------


def outside(root: Path, **rollout: Any) -> World:
    """A world whose champion runs in an application of its own."""
    world = World(root, rollout)
    config = with_overrides(world.config, {"serving.placement": "deployment"})
    digest = config_hash(config)
    deployed = {"config": config.model_dump(mode="json"), "hash": digest}
    world.ledger.append("m/config", "config.deployed", f"m/config/{digest}", deployed)
    champion = Arm("1", "b1", "h1", "isolated")
    commit_routes(world.ledger, ModelRoutes("m", 0, champion, config_hash=digest), 1)
    return world


def test_replicas_are_there_before_each_share_of_traffic(world: World) -> None:
    async def scene() -> None:
        world.register("2")
        await days(world, "promoted")

    play(scene)
    assert world.arms.scaled == [0.05, 0.25, 0.5]
    assert world.moves() == USUAL_WAY


def test_rollout_pauses_where_there_is_no_room_and_goes_on_when_there_is(world: World) -> None:
    async def scene() -> None:
        world.register("2")
        world.arms.full_above = 0.05
        assert await days(world, "paused") == "paused"
        moved = world.ledger.read("m/rollout", kind="rollout.moved")[-1].payload
        assert moved["from"] == "canary[0]"
        assert moved["reason"] == ("no room for 25% of the traffic: asked for 3 replicas, 1 runs; free: 0.1 of 4 CPU")
        candidate = world.routes.candidate
        assert candidate is not None
        assert candidate.weight == 0.05
        world.arms.full_above = 1.0
        await world.reconciler.command("resume", "me")
        assert await days(world, "promoted") == "promoted"

    play(scene)
    assert world.ledger.verify().ok


def test_dead_candidate_is_told_with_its_cause(world: World) -> None:
    async def scene() -> dict[str, Any]:
        world.register("2")
        await days(world, "canary[0]")
        world.arms.dead.add("2")
        await world.settle()
        return await world.reconciler.view()

    view = play(scene)
    assert view["state"] == "rolled_back"
    assert [move["reason"] for move in view["history"]][-2] == "the candidate crashed: exit code 9"


def test_failures_are_shown_by_kind(world: World) -> None:
    async def scene() -> dict[str, Any]:
        world.register("2")
        await days(world, "canary[0]")
        routes = world.routes
        failures: Any = (("timeout", 2), ("invalid", 1))
        tally = Tally("m", routes.version, 500, "candidate", 0.05, 100, 3, failures=failures)
        world.tallies[tally.key()] = tally
        await world.day(1000)
        return await world.reconciler.view()

    assert play(scene)["evidence"]["failures"] == {"timeout": 2, "invalid": 1}


def test_champion_outside_is_promoted_in_the_replicas_it_was_tried_in(tmp_path: Path) -> None:
    world = outside(tmp_path)

    async def scene() -> None:
        await world.settle()
        assert world.arms.running == {"1"}
        world.register("2")
        assert await days(world, "promoted") == "promoted"
        await world.settle()

    play(scene)
    assert world.routes.champion == Arm("2", "b2", "h2", "isolated")
    assert world.routes.previous is not None
    assert world.arms.running == {"1", "2"}, "the previous one stays warm"
    assert world.arms.started == ["1", "2"]
    assert world.arms.scaled[-1] == 1.0, "it had the replicas for all of the traffic first"


def test_rollback_behind_a_handle_starts_nothing_and_stops_what_it_took_back(tmp_path: Path) -> None:
    world = outside(tmp_path)

    async def scene() -> None:
        world.register("2")
        await days(world, "promoted")
        await world.reconciler.command("rollback", "me")
        await world.settle()
        world.register("3")
        await days(world, "promoted")
        await world.settle()

    play(scene)
    assert world.routes.champion.version == "3"
    assert world.arms.started == ["1", "2", "3"]
    assert world.arms.running == {"1", "3"}


def test_arm_that_was_champion_is_stopped_only_when_every_replica_knows(tmp_path: Path) -> None:
    world = outside(tmp_path)

    async def scene() -> None:
        world.register("2")
        await days(world, "promoted")
        old = world.routes.version
        await world.reconciler.command("rollback", "me")
        for _ in range(3):  # the replica still has the routes in which 2 answers
            world.now += 0.1
            world.sequence += 1
            world.reconciler.report("replica", world.sequence, [], world.now, old)
            await world.reconciler.tick()
            await asyncio.sleep(0)
        assert world.routes.champion.version == "1"
        assert world.arms.running == {"1", "2"}
        await world.settle()
        assert world.arms.running == {"1"}

    play(scene)


def test_champion_outside_is_started_again_after_a_cold_start_and_strangers_are_stopped(tmp_path: Path) -> None:
    world = outside(tmp_path)
    world.arms.running = {"0"}

    async def scene() -> None:
        world.arms.broken["1"] = "differs"
        await world.settle()
        assert world.arms.running == {"1"}
        world.arms.broken.clear()
        await world.settle()
        tries = len(world.arms.checked)
        assert tries > 1, "a champion is not given up"
        await world.settle()
        assert len(world.arms.checked) == tries, "one that is well is left alone"

    play(scene)
    assert world.arms.running == {"1"}


def test_withdrawn_model_leaves_no_application(tmp_path: Path) -> None:
    world = outside(tmp_path)

    async def scene() -> None:
        await world.settle()
        assert world.arms.running == {"1"}
        withdraw_routes(world.ledger, "m", world.routes.version)
        for _ in range(3):
            await world.reconciler.tick()
            await asyncio.sleep(0)

    play(scene)
    assert world.arms.running == set()


def test_arm_that_replicas_may_still_use_is_not_stopped_before_they_have_reported(world: World) -> None:
    world.register("2")

    async def scene() -> None:
        await world.reconciler.request("2", "ann")
        await days(world, "canary[0]")
        older = world.routes.version
        await world.reconciler.command("rollback", "ann")
        await world.reconciler.tick()  # the routes name it no more, but no replica has them yet
        world.start()
        world.now -= 3.0
        await world.reconciler.tick()
        assert (world.routes.candidate, world.arms.running) == (None, {"2"})
        world.reconciler.report("replica", 1, [], world.now, older)
        world.now += 3.0
        await world.reconciler.tick()
        assert world.arms.running == {"2"}
        await world.settle()

    play(scene)
    assert world.arms.running == set()


@pytest.mark.parametrize("isolation", ["isolated", "in_replica"])
def test_routes_that_came_into_force_while_the_champion_was_measured_are_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, isolation: str
) -> None:
    world = World(tmp_path, {"isolation": isolation})
    measured = []

    def measure(*arguments: Any) -> float:
        measured.append(world.state())
        if len(measured) == 1:
            routes = world.routes
            commit_routes(world.ledger, replace(routes, previous=Arm("0", "b0", "h0")), routes.version)
            world.reconciler._refresh()
        return 2.0

    monkeypatch.setattr("ray_mlops.serving.rollout.settle.champion_slow_ms", measure)

    async def scene() -> None:
        await world.reconciler.request("2", "ann")
        await world.settle()

    world.register("2")
    play(scene)
    assert world.routes.previous == Arm("0", "b0", "h0")
    assert world.routes.slow_ms == 2.0
    assert measured == ["preparing" if isolation == "in_replica" else "shadow"] * 2


def test_candidate_is_compared_even_if_it_did_not_describe_itself_at_once(world: World) -> None:
    world.register("2")

    async def scene() -> Any:
        facts, asked = world.arms.facts, []

        async def describe(bundle: str) -> BundleFacts:
            asked.append(bundle)
            if asked.count("b2") == 1 and bundle == "b2":
                raise StoreError("the store is away")
            return await facts(bundle)

        world.arms.facts = describe  # type: ignore[method-assign]
        await world.reconciler.request("2", "ann")
        await world.settle()
        await world.day()
        return (await world.reconciler.view())["compared"]

    assert play(scene)["disagreement"]["rows"] == 400


def test_guards_are_computed_once_for_each_window_and_stay_on_show_in_between(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.register("2")
    judged = []

    def count(*arguments: Any, **options: Any) -> Any:
        judged.append(world.state())
        return judge(*arguments, **options)

    async def scene() -> None:
        await world.reconciler.request("2", "ann")
        await days(world, "canary[0]")
        await world.settle()
        shown = (await world.reconciler.view())["guards"]
        assert any(guard["question"] == "noninferiority" for guard in shown)
        monkeypatch.setattr("ray_mlops.serving.rollout.transition.judge", count)
        await world.settle()
        assert (judged, (await world.reconciler.view())["guards"]) == ([], shown)
        await world.reconciler.command("rollback", "ann")
        await world.settle()

    play(scene)
    assert judged == ["canary[0]"]
    assert world.state() == "rolled_back"
