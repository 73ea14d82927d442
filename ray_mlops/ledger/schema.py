"""The ledger's table, and the migrations that bring a database to it."""

import logging
import os
import threading
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.util import CommandError

from ray_mlops.errors import LedgerError
from ray_mlops.ledger.database import printable_url, reading, writing

logger = logging.getLogger(__name__)

SCHEMA_REVISION = "0002"
"""The newest migration; a test holds it equal to the newest file in ``migrations/versions``."""
VERSION_TABLE = "ledger_schema"
"""Not alembic's default name: MLflow may share the database, and uses that."""

_metadata = sa.MetaData()
EVENTS = sa.Table(
    "events",
    _metadata,
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("stream", sa.Text, nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("time", sa.Double, nullable=False),
    sa.Column("event_time", sa.BigInteger),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("payload", sa.JSON, nullable=False),
    sa.Column("prev_hash", sa.Text, nullable=False),
    sa.Column("hash", sa.Text, nullable=False),
)
COLUMNS = [sa.cast(column, sa.Text).label("payload") if column.name == "payload" else column for column in EVENTS.c]
"""What is selected: the payload as text, because that is hashed and because a damaged one must not break a query."""

_READY: set[tuple[int, str]] = set()
"""Databases that this process has found, or brought, up to date."""
_LOCKS: dict[int, threading.Lock] = {}
"""Alembic runs one migration at a time in a process. By process: a fork must not inherit a held lock."""


def ensure_schema(url: str) -> None:
    """Create or migrate the ledger's tables, once in each process; other processes may do so at once.

    Raises:
        LedgerError: The database cannot be opened, or a newer release has migrated it.
    """
    if (os.getpid(), url) in _READY:
        return
    with _LOCKS.setdefault(os.getpid(), threading.Lock()):
        if _read_revision(url) != SCHEMA_REVISION:
            _migrate(url)
        _READY.add((os.getpid(), url))


def _read_revision(url: str) -> str | None:
    with reading(url) as connection:
        return _revision(connection)


def _revision(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table(VERSION_TABLE):
        return None
    return connection.execute(sa.text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()


def _migrate(url: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    with writing(url) as connection:
        before = _revision(connection)  # again, now that nobody else migrates
        if before == SCHEMA_REVISION:
            return
        config.attributes["connection"] = connection
        config.attributes["version_table"] = VERSION_TABLE
        try:
            command.upgrade(config, SCHEMA_REVISION)
        except CommandError as error:
            problem = f"its schema is at {before}, this release knows {SCHEMA_REVISION} and older"
            raise LedgerError(problem, printable_url(url), "upgrade ray-mlops") from error
    logger.info("migrated ledger=%s from=%s to=%s", printable_url(url), before, SCHEMA_REVISION)
