"""The console's facts: read off the event loop, bounded in time, and never at the price of starting a cluster."""

import asyncio
import json
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.exceptions import RayActorError, RayTaskError

from ray_mlops.config import StoreConfig
from ray_mlops.console import sources
from ray_mlops.console.app import ConsoleApp, console
from ray_mlops.console.sources import Away, StoreData
from ray_mlops.errors import LedgerError, NotFoundError, OverloadError
from ray_mlops.ledger import Ledger
from ray_mlops.runtime.files import Files
from ray_mlops.serving.rollout.trail import Trail, trail_path


class Explainer:
    """Notes on which thread it is asked."""

    thread = 0

    def explain(self, model: str, prediction_id: str) -> Mapping[str, Any]:
        self.thread = threading.get_ident()
        if prediction_id != "p-1":
            raise NotFoundError(f"no prediction {prediction_id!r} is logged", model)
        return {"prediction": {"prediction_id": prediction_id}}


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    ledger = Ledger.open(StoreConfig(root=str(tmp_path)))
    config = {"name": "flights", "rollout": {"steps": [0.5]}}
    ledger.append("flights/config", "config.deployed", "flights/config/h", {"config": config, "hash": "h"})
    registered = {"version": "1", "gate": {"passed": True, "reason": "fine"}, "metrics": {"auc": 0.7}}
    ledger.append("flights/versions", "version.registered", "flights/versions/1", registered)
    ledger.append("flights/versions", "version.approved", "a", {"version": "1", "by": "me", "reason": ""})
    ledger.append("flights/versions", "alias.set", "b", {"alias": "champion", "version": "1"})
    champion = {"version": "1", "bundle": "x", "bundle_hash": "y", "placement": "in_replica", "weight": 1.0}
    routes = {"model": "flights", "version": 1, "champion": champion, "config_hash": "h"}
    ledger.append("flights/routes", "routes.committed", "flights/routes/1", routes)
    ledger.append("gone/versions", "version.registered", "gone/versions/1", registered)
    ledger.append("gone/routes", "routes.committed", "gone/routes/1", {**routes, "config_hash": ""})
    ledger.append("gone/routes", "routes.withdrawn", "gone/routes/2", {})
    return ledger


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as threads:
        yield threads


@pytest.fixture
def data(ledger: Ledger, threads: ThreadPoolExecutor) -> StoreData:
    return StoreData(ledger, Explainer(), threads)


def test_facts_come_from_the_ledger(data: StoreData) -> None:
    assert asyncio.run(data.models()) == ("flights", "gone")
    facts = asyncio.run(data.facts("flights"))
    assert facts.routes is not None
    assert facts.routes["champion"]["version"] == "1"
    assert list(facts.versions) == ["1"]
    assert facts.aliases == {"champion": "1"}
    assert facts.approved == {"1"}
    assert facts.config["rollout"]["steps"] == [0.5]


def test_facts_of_undeployed_model_have_no_routes(data: StoreData) -> None:
    facts = asyncio.run(data.facts("gone"))
    assert facts.routes is None
    assert facts.config == {}


def test_events_are_the_ledgers(data: StoreData) -> None:
    newest = asyncio.run(data.events(prefix="flights/", limit=2))
    assert [event.kind for event in newest] == ["routes.committed", "alias.set"]


def test_store_is_read_on_another_thread(ledger: Ledger, threads: ThreadPoolExecutor) -> None:
    explainer = Explainer()
    asyncio.run(StoreData(ledger, explainer, threads).explain("flights", "p-1"))
    assert explainer.thread not in (0, threading.get_ident())


def test_store_that_hangs_does_not_hold_the_page(
    ledger: Ledger, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()
    monkeypatch.setattr(sources, "READ_TIMEOUT_S", 0.01)
    monkeypatch.setattr(Explainer, "explain", lambda self, model, name: {"late": released.wait(10)})
    with pytest.raises(OverloadError, match="no answer"):
        asyncio.run(StoreData(ledger, Explainer(), threads).explain("flights", "p-1"))
    released.set()


def test_actors_are_away_without_a_cluster_and_none_is_started(
    data: StoreData, monkeypatch: pytest.MonkeyPatch
) -> None:
    def would_start_a_cluster(*arguments: Any, **options: Any) -> None:
        raise AssertionError("asked for an actor")

    monkeypatch.setattr(ray, "get_actor", would_start_a_cluster)
    assert not ray.is_initialized()
    for document in (asyncio.run(data.rollout("flights")), asyncio.run(data.monitoring("flights"))):
        assert document == Away("this process is not part of a cluster")


async def _hang() -> Mapping[str, Any]:
    await asyncio.Event().wait()
    return {}


def _fails_with(error: BaseException) -> Any:
    async def call() -> Mapping[str, Any]:
        raise error

    return call


def test_actor_that_does_not_answer_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(sources, "ACTOR_TIMEOUT_S", 0.01)
    assert asyncio.run(sources._ask(_hang)) == Away("no answer in 0.01 s")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (NotFoundError("the monitor is not running", "monitor"), "monitor: the monitor is not running"),
        (RayTaskError("view", "Traceback\n  a\n  b", LedgerError("is locked", "ledger")), "ledger: is locked"),
        (RayTaskError("view", "Traceback\n", LedgerError("gone", "x")).as_instanceof_cause(), "x: gone"),
        (ValueError("no such actor\nmore"), "ValueError: no such actor"),
    ],
)
def test_actor_that_fails_is_away_with_one_line(
    error: BaseException, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    assert asyncio.run(sources._ask(_fails_with(error))) == Away(reason)


def test_dead_actor_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    document = asyncio.run(sources._ask(_fails_with(RayActorError())))
    assert isinstance(document, Away)
    assert "\n" not in document.reason


def test_factory_makes_the_application_over_a_store(ledger: Ledger, tmp_path: Path, ask: Any) -> None:
    app = console(StoreConfig(root=str(tmp_path)))
    assert isinstance(app, ConsoleApp)
    response = ask(app._data, "/models/flights")
    assert response.status_code == 200
    assert "this process is not part of a cluster" in response.text
    assert ask(app._data, "/models/flights/lineage/p-9").status_code == 404


def test_evidence_comes_from_the_store_and_its_lack_is_no_error(ledger: Ledger, tmp_path: Path) -> None:
    files = Files(str(tmp_path / "store"))
    files.write(trail_path("flights", "flights-v2"), json.dumps(Trail("flights-v2").to_json()).encode())
    newer = {**Trail("flights-v3").to_json(), "schema_version": 99}
    files.write(trail_path("flights", "flights-v3"), json.dumps(newer).encode())
    with ThreadPoolExecutor(1) as threads:
        data = StoreData(ledger, Explainer(), threads, files)  # type: ignore[arg-type]
        found = [asyncio.run(data.evidence("flights", f"flights-v{number}")) for number in (2, 3, 4)]
    assert found[0] is not None
    assert found[0]["rollout_id"] == "flights-v2"
    assert found[1:] == [None, None]
