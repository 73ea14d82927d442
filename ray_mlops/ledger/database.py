"""Connections to the ledger's database: SQLite in WAL mode, or PostgreSQL.

Both give the two things that the ledger needs: a reader sees one consistent state, and one writer at
a time appends (``BEGIN IMMEDIATE``, or an advisory lock), however many processes there are.
"""

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from ray_mlops.errors import LedgerError
from ray_mlops.ledger.event import canonical_json

LOCK_TIMEOUT_S = 30
"""How long a writer waits for the others before it gives up."""
ADVISORY_LOCK = 0x7261796D6C6F7073
"""PostgreSQL's number of the writer's lock (``raymlops`` in ASCII)."""

_ENGINES: dict[tuple[int, str], sa.Engine] = {}
"""Engines by process and URL. A forked child makes its own and leaves its parent's here untouched:
closing an inherited SQLite connection would corrupt the parent's locks."""

_REMEDIES = (
    ("unable to open database file", "the directory must exist and be writable; correct 'store.database'"),
    ("readonly database", "give this user write permission on the file and its directory"),
    ("disk is full", "free some space and try again; nothing was recorded"),
    ("no space left", "free some space and try again; nothing was recorded"),
    ("database is locked", f"a process has held the ledger for {LOCK_TIMEOUT_S} s: find and end it"),
    ("lock timeout", f"a process has held the ledger for {LOCK_TIMEOUT_S} s: find and end it"),
    ("not a database", "the file is something else; correct 'store.database'"),
    ("malformed", "the file is damaged: restore it from a backup"),
    ("authentication failed", "correct user and password in 'store.database'"),
    ("permission denied", "grant this user USAGE and CREATE on the schema, SELECT and INSERT on the table"),
    ("refused", "start PostgreSQL, or correct host and port in 'store.database'"),
    ("does not exist", "create it (createdb, createuser), or correct 'store.database'"),
    ("append-only", "record a new event instead"),
)


def normalize_url(url: str) -> str:
    """Return the URL with an absolute SQLite path and our PostgreSQL driver.

    Raises:
        LedgerError: It is not a URL of SQLite or PostgreSQL, or of a database that lives in memory.

    Example:
        >>> normalize_url("postgresql://me@db/ledger")
        'postgresql+psycopg://me@db/ledger'
    """
    scheme, separator, rest = url.partition("://")
    if scheme in ("postgres", "postgresql"):
        url = f"postgresql+psycopg{separator}{rest}"
    try:
        parsed = sa.make_url(url)
    except (ArgumentError, ValueError) as error:
        remedy = "write sqlite:///PATH or postgresql://USER@HOST/DATABASE"
        raise LedgerError("is not a database URL", "store.database", remedy) from error
    if parsed.drivername == "postgresql+psycopg":
        return url
    if parsed.get_backend_name() != "sqlite":
        raise LedgerError(f"{parsed.drivername!r} is not supported", "store.database", "use sqlite or postgresql")
    if not parsed.database or ":memory:" in parsed.database or parsed.query.get("mode") == "memory":
        raise LedgerError("a database in memory forgets", "store.database", "give a file: sqlite:///PATH")
    if parsed.database.startswith("file:"):
        return url
    return parsed.set(database=str(Path(parsed.database).absolute())).render_as_string(hide_password=False)


def printable_url(url: str) -> str:
    """The URL without its password."""
    return sa.make_url(url).render_as_string(hide_password=True)


def open_engine(url: str) -> sa.Engine:
    """Return this process's engine of a (normalised) URL; connects on first use.

    Raises:
        LedgerError: The database's driver is not installed.
    """
    key = (os.getpid(), url)
    engine = _ENGINES.get(key)
    if engine is None:
        engine = _ENGINES.setdefault(key, _create_engine(url))
    return engine


@contextmanager
def reading(url: str) -> Iterator[sa.Connection]:
    """One consistent view of the database."""
    with _explained(url), open_engine(url).connect() as connection, connection.begin():
        _check_same_file(connection, url)
        yield connection


@contextmanager
def writing(url: str) -> Iterator[sa.Connection]:
    """A transaction that no other writer runs beside; commits at the end, rolls back on an error."""
    engine = open_engine(url).execution_options(ledger_write=True)
    with _explained(url), engine.connect() as connection, connection.begin():
        _check_same_file(connection, url)
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql(
                f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_S}s';"
                f"SET LOCAL idle_in_transaction_session_timeout = '{LOCK_TIMEOUT_S}s'"
            )
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(ADVISORY_LOCK)))
        yield connection


def _create_engine(url: str) -> sa.Engine:
    is_sqlite = url.startswith("sqlite")
    options: dict[str, Any] = {} if is_sqlite else {"pool_pre_ping": True, "connect_args": {"connect_timeout": 10}}
    try:
        engine = sa.create_engine(url, json_serializer=canonical_json, **options)
    except (ModuleNotFoundError, NoSuchModuleError) as error:
        remedy = "pip install 'ray-mlops[postgres]'"
        raise LedgerError(f"its driver is not installed: {error}", printable_url(url), remedy) from error
    if is_sqlite:
        sa.event.listen(engine, "connect", _configure_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


def _configure_sqlite(connection: sqlite3.Connection, record: Any) -> None:
    """Set up one connection.

    ``synchronous=FULL`` flushes each commit to the disk. With NORMAL a power cut could take back an
    event that was already acted on: a submitted job, a published route. A flush costs about a
    millisecond, and decisions are rare.
    """
    connection.isolation_level = None  # transactions begin where _begin_sqlite says so
    connection.execute(f"PRAGMA busy_timeout = {LOCK_TIMEOUT_S * 1000}")
    _switch_to_wal(connection)
    connection.execute("PRAGMA synchronous = FULL")
    path = connection.execute("PRAGMA database_list").fetchone()[2]
    record.info["file"] = (path, os.stat(path).st_ino)


def _switch_to_wal(connection: sqlite3.Connection) -> None:
    """Turn on the write-ahead log; it stays on in the file.

    SQLite does not always wait for its busy timeout here, so processes that open a new ledger at
    once are made to.
    """
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    while True:
        try:
            if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _begin_sqlite(connection: sa.Connection) -> None:
    is_write = connection.get_execution_options().get("ledger_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if is_write else "BEGIN")


def _check_same_file(connection: sa.Connection, url: str) -> None:
    """Refuse to go on with a database file that was deleted or replaced: what is written would be lost."""
    if "file" not in connection.connection.info:
        return
    path, inode = connection.connection.info["file"]
    try:
        is_same = os.stat(path).st_ino == inode
    except FileNotFoundError:
        is_same = False
    if not is_same:
        raise LedgerError("was deleted or replaced while in use", path, "restore the file, then restart this process")


@contextmanager
def _explained(url: str) -> Iterator[None]:
    """Turn errors of the database into ours."""
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error) as error:
        text = str(error.orig if isinstance(error, DBAPIError) else error).strip()
        remedy = next((remedy for part, remedy in _REMEDIES if part in text.lower()), "see the database's own log")
        raise LedgerError(f"the database failed: {text}", printable_url(url), remedy) from error
