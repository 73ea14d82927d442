"""The ledger on a real PostgreSQL: a private cluster on a Unix socket, ended after the tests."""

import importlib.util
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ray_mlops.errors import LedgerError
from ray_mlops.ledger import Ledger, database
from ray_mlops.registry import MlflowRegistry, Tracker
from tests.integration.postgres import database_url, find_binaries, running_postgres

_CONTRACT = Path(__file__).parents[1] / "unit" / "ledger" / "ledger_contract.py"
_spec = importlib.util.spec_from_file_location("ledger_contract", _CONTRACT)
contract = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(contract)

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The directory of a private cluster's socket."""
    binaries = find_binaries()
    if binaries is None:
        assert "RAY_MLOPS_REQUIRE_POSTGRESQL" not in os.environ, "PostgreSQL must be installed here"  # as in .ci/run
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    with running_postgres(binaries) as home:
        yield home


@pytest.fixture
def url(server: str) -> Iterator[str]:
    """A schema of its own for each test."""
    base = database_url(server)
    name = f"test_{next(_numbers)}"
    contract.execute(base, f"CREATE SCHEMA {name}")
    url = f"{base}&options=-csearch_path%3D{name}"
    yield url
    database.open_engine(url).dispose()


class TestPostgreSQL(contract.LedgerContract):
    pass


def test_held_lock_ends_in_an_error(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(url)
    ledger.append("m/x", "k", "a", {})
    with database.writing(url):
        monkeypatch.setattr(database, "LOCK_TIMEOUT_S", "0.05")
        with pytest.raises(LedgerError, match="find and end it"):
            ledger.append("m/x", "k", "b", {})


def test_restarted_server_is_connected_to_again(url: str) -> None:
    ledger = Ledger(url)
    ledger.append("m/x", "k", "a", {})
    contract.execute(
        url,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = 'postgres'",
    )
    assert ledger.append("m/x", "k", "b", {}).version == 2


def test_truncate_is_refused(url: str) -> None:
    ledger = Ledger(url)
    ledger.append("m/x", "k", "a", {})
    with pytest.raises(Exception, match="append-only"):
        contract.execute(url, "TRUNCATE events")


def test_missing_database_says_what_to_create(url: str) -> None:
    with pytest.raises(LedgerError, match=r"does not exist.*createdb"):
        Ledger(url.replace("/postgres?", "/nothing?")).read()


def test_missing_server_says_what_to_start(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match=r"start PostgreSQL"):
        Ledger("postgresql://tester@127.0.0.1:1/postgres").read()


def test_registry_and_tracker_share_the_ledgers_database(url: str, tmp_path: Path) -> None:
    ledger = Ledger(url)
    ledger.append("m/x", "k", "a", {})
    tracking_uri = url.replace("postgresql+psycopg://", "postgresql://")
    with Tracker(tracking_uri, "m", str(tmp_path)).run("first", {"seed": 1}) as run:
        run.log_metrics({"auc": 0.5})
    created = MlflowRegistry(tracking_uri).create_version("m", "/bundle", run_id=run.run_id, tags={}, key="a")
    assert MlflowRegistry(tracking_uri).versions("m") == [created]
    assert ledger.append("m/x", "k", "b", {}).version == 2
    assert ledger.verify().ok
