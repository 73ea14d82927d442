"""Routes in the ledger and at the publisher."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from ray_mlops.errors import LedgerConflictError
from ray_mlops.ledger import Ledger
from ray_mlops.serving.protocol import Arm, ModelRoutes
from ray_mlops.serving.routes import RoutesPublisher, commit_routes, read_table, withdraw_routes

ROUTES = ModelRoutes("m", 0, Arm("1", "a", "x"))


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(f"sqlite:///{tmp_path}/ledger.db")


def test_commit_gives_versions_in_order(ledger: Ledger) -> None:
    first = commit_routes(ledger, ROUTES, 0)
    second = commit_routes(ledger, replace(first, salt=4), first.version)
    assert (first.version, second.version) == (1, 2)
    assert read_table(ledger).models == {"m": second}


def test_commit_repeated_after_a_crash_changes_nothing(ledger: Ledger) -> None:
    assert commit_routes(ledger, ROUTES, 0) == commit_routes(ledger, ROUTES, 0)
    assert len(ledger.read("m/routes")) == 1


def test_commit_of_something_else_on_the_same_version_is_refused(ledger: Ledger) -> None:
    commit_routes(ledger, ROUTES, 0)
    with pytest.raises(LedgerConflictError):
        commit_routes(ledger, replace(ROUTES, salt=9), 0)


def test_withdrawn_model_is_not_in_the_table_until_it_comes_back(ledger: Ledger) -> None:
    commit_routes(ledger, ROUTES, 0)
    before = read_table(ledger).version
    withdraw_routes(ledger, "m", 1)
    assert read_table(ledger).models == {}
    assert read_table(ledger).version > before
    with pytest.raises(LedgerConflictError):
        commit_routes(ledger, ROUTES, 1)
    assert commit_routes(ledger, ROUTES, 2).version == 3


def test_publisher_wakes_all_who_wait(ledger: Ledger) -> None:
    async def scene() -> None:
        commit_routes(ledger, ROUTES, 0)
        publisher = RoutesPublisher(ledger)
        waiting = [asyncio.create_task(publisher.wait(publisher.table().version, 20.0)) for _ in range(3)]
        await asyncio.sleep(0)
        second = commit_routes(ledger, replace(ROUTES, salt=4), 1)
        await publisher.publish()
        assert {table.models["m"] for table in await asyncio.gather(*waiting)} == {second}

    asyncio.run(scene())


def test_publisher_answers_at_once_when_the_asker_is_behind(ledger: Ledger) -> None:
    commit_routes(ledger, ROUTES, 0)
    assert asyncio.run(RoutesPublisher(ledger).wait(-1, 20.0)).models["m"].version == 1


def test_publisher_finds_what_nobody_published(ledger: Ledger) -> None:
    publisher = RoutesPublisher(ledger)
    committed = commit_routes(ledger, ROUTES, 0)
    assert asyncio.run(publisher.wait(0, 0.0)).models["m"] == committed
