"""The ledger on SQLite."""

import importlib.util
import os
import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.script import ScriptDirectory

from ray_mlops.config import StoreConfig
from ray_mlops.errors import LedgerError
from ray_mlops.ledger import Ledger, database, schema

_spec = importlib.util.spec_from_file_location("ledger_contract", Path(__file__).with_name("ledger_contract.py"))
contract = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(contract)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/ledger.db"


class TestSQLite(contract.LedgerContract):
    pass


def test_connection_uses_wal_and_full_flushes(url: str) -> None:
    Ledger(url).read()
    with database.reading(url) as connection:
        pragmas = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous")]
    assert pragmas == ["wal", 2]


def test_engine_is_shared_within_a_process(url: str) -> None:
    assert database.open_engine(Ledger(url).url) is database.open_engine(Ledger(url).url)


def test_forked_child_appends_beside_its_parent(url: str) -> None:
    ledger = Ledger(url)
    ledger.append("m/x", "k", "before", {})
    engine = database.open_engine(url)
    child = os.fork()
    if child == 0:
        try:
            ledger.append("m/x", "k", "child", {})
            os._exit(2 if database.open_engine(url) is engine else 0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    ledger.append("m/x", "k", "parent", {})
    assert [event.key for event in ledger.read()] == ["before", "child", "parent"]
    assert ledger.verify().ok


def test_schema_revision_is_the_newest_script() -> None:
    scripts = ScriptDirectory(str(Path(schema.__file__).parent / "migrations"))
    assert scripts.get_heads() == [schema.SCHEMA_REVISION]


def test_migration_holds_the_writers_lock(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    upgrade, seen = schema.command.upgrade, []

    def upgrade_beside_another_writer(*arguments: object) -> None:
        other = sqlite3.connect(tmp_path / "ledger.db", timeout=0, isolation_level=None)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
        other.close()
        seen.append(True)
        upgrade(*arguments)

    monkeypatch.setattr(schema.command, "upgrade", upgrade_beside_another_writer)
    assert Ledger(url).read() == []
    assert seen == [True]


def test_switch_to_wal_waits_for_a_writer(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    monkeypatch.setattr(database.time, "sleep", lambda seconds: other.execute("COMMIT"))
    with database.reading(url) as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
    other.close()


def test_migrations_make_the_declared_table(url: str) -> None:
    Ledger(url).read()
    with database.reading(url) as connection:
        columns = {column["name"]: column["nullable"] for column in sa.inspect(connection).get_columns("events")}
    assert columns == {column.name: column.nullable for column in schema.EVENTS.columns}


def test_open_makes_the_store(tmp_path: Path) -> None:
    ledger = Ledger.open(StoreConfig(root=str(tmp_path / "deep" / "store")))
    ledger.append("m/x", "k", "a", {})
    assert (tmp_path / "deep" / "store" / "ledger.db").is_file()


def test_open_root_below_a_file_says_what_to_correct(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LedgerError, match=r"store\.root"):
        Ledger.open(StoreConfig(root=str(tmp_path / "file" / "store")))


def test_relative_path_is_fixed_when_the_ledger_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Ledger("sqlite:///ledger.db").url == f"sqlite:///{tmp_path}/ledger.db"


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ("nonsense", "not a database URL"),
        ("mysql://host/db", "not supported"),
        ("postgresql+psycopg2://host/db", "not supported"),
        ("sqlite://", "memory"),
        ("sqlite:///:memory:", "memory"),
    ],
)
def test_wrong_url_is_refused(wrong: str, problem: str) -> None:
    with pytest.raises(LedgerError, match=problem):
        Ledger(wrong)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_postgresql_urls_get_one_driver_and_hide_the_password(scheme: str) -> None:
    ledger = Ledger(f"{scheme}://me:secret@db/ledger")
    assert ledger.url == "postgresql+psycopg://me:secret@db/ledger"
    assert "secret" not in repr(ledger)


def test_missing_directory_says_what_to_correct(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match=r"unable to open.*store\.database"):
        Ledger(f"sqlite:///{tmp_path}/missing/ledger.db").read()


def test_other_file_is_not_taken_for_a_database(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_text("these are no tables, however long the text " * 50)
    with pytest.raises(LedgerError, match="not a database"):
        Ledger(f"sqlite:///{tmp_path}/ledger.db").read()


def test_read_only_database_says_what_to_grant(url: str, tmp_path: Path) -> None:
    Ledger(url).append("m/x", "k", "a", {})
    reader = Ledger(f"sqlite:///file:{tmp_path}/ledger.db?mode=ro&uri=true")
    assert reader.last_version("m/x") == 1
    with pytest.raises(LedgerError, match="write permission"):
        reader.append("m/x", "k", "b", {})


def test_full_disk_records_nothing_and_says_so(url: str) -> None:
    ledger = Ledger(url)
    ledger.append("m/x", "k", "a", {})
    ledger.close()

    def limit(connection: object, record: object) -> None:
        connection.execute("PRAGMA max_page_count = 1")

    sa.event.listen(database.open_engine(url), "connect", limit)
    with pytest.raises(LedgerError, match="free some space"):
        ledger.append("m/x", "k", "b", {"large": "x" * 100_000})
    sa.event.remove(database.open_engine(url), "connect", limit)
    ledger.close()
    assert ledger.append("m/x", "k", "b", {}).version == 2
    assert ledger.verify().ok


def test_held_lock_ends_in_an_error(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "LOCK_TIMEOUT_S", 0)
    ledger = Ledger(url)
    ledger.append("m/x", "k", "a", {})
    with database.writing(url), pytest.raises(LedgerError, match="find and end it"):
        ledger.append("m/x", "k", "b", {})


def test_deleted_file_is_noticed(url: str, tmp_path: Path) -> None:
    ledger = Ledger(url)
    ledger.append("m/x", "k", "a", {})
    (tmp_path / "ledger.db").unlink()
    with pytest.raises(LedgerError, match="deleted or replaced"):
        ledger.append("m/x", "k", "b", {})
    (tmp_path / "ledger.db").write_bytes(b"")
    with pytest.raises(LedgerError, match="deleted or replaced"):
        ledger.read()
