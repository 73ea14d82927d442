"""The ledger on a real PostgreSQL: a private cluster on a Unix socket, ended after the tests."""

import glob
import importlib.util
import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from ray_mlops.errors import LedgerError
from ray_mlops.ledger import Ledger, database
from ray_mlops.registry import MlflowRegistry, Tracker

_CONTRACT = Path(__file__).parents[1] / "unit" / "ledger" / "ledger_contract.py"
_spec = importlib.util.spec_from_file_location("ledger_contract", _CONTRACT)
contract = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(contract)

_numbers = itertools.count(1)


def find_binaries() -> Path | None:
    """The directory of PostgreSQL's programs: on the PATH, or where Debian keeps them."""
    on_path = shutil.which("initdb")
    found = [Path(on_path).resolve()] if on_path else sorted(map(Path, glob.glob("/usr/lib/postgresql/*/bin/initdb")))
    return found[-1].parent if found and (found[-1].parent / "pg_ctl").exists() else None


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Start a cluster as a user other than root; yields the directory of its socket."""
    binaries = find_binaries()
    if binaries is None:
        assert "RAY_MLOPS_REQUIRE_POSTGRESQL" not in os.environ, "PostgreSQL must be installed here"  # as in .ci/run
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    prefix: list[str] = []
    # Not tmp_path: PostgreSQL's own user must be able to enter it, and a socket's path is short.
    home = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    if os.geteuid() == 0:
        shutil.chown(home, "postgres", "postgres")
        prefix = ["runuser", "-u", "postgres", "--"]

    def run(program: str, *arguments: str) -> None:
        command = [*prefix, str(binaries / program), *arguments]
        subprocess.run(command, check=True, cwd="/", timeout=120, stdout=subprocess.DEVNULL)

    data = str(home / "data")
    try:
        run("initdb", "--pgdata", data, "--username", "tester", "--auth", "trust", "--encoding", "UTF8", "--no-sync")
        settings = f"-c listen_addresses='' -c unix_socket_directories={home} -c max_connections=40 -c fsync=off"
        run("pg_ctl", "start", "-w", "--pgdata", data, "--log", str(home / "log"), "-o", settings)
        try:
            yield str(home)
        finally:
            run("pg_ctl", "stop", "-w", "--mode", "immediate", "--pgdata", data)
    finally:
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def url(server: str) -> Iterator[str]:
    """A schema of its own for each test."""
    base = f"postgresql+psycopg://tester@/postgres?host={quote(server, safe='')}"
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
