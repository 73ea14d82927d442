"""The append-only record of every decision."""

import json
from time import time as wall_clock
from typing import Any

import sqlalchemy as sa

from ray_mlops.config import StoreConfig
from ray_mlops.errors import LedgerConflictError, LedgerCorruptError, LedgerError
from ray_mlops.ledger.chain import verify_chain
from ray_mlops.ledger.database import normalize_url, open_engine, printable_url, reading, writing
from ray_mlops.ledger.event import (
    GENESIS_HASH,
    ChainReport,
    LedgerEvent,
    canonical_json,
    check_name,
    hash_event,
    plain_json,
)
from ray_mlops.ledger.schema import COLUMNS, EVENTS, ensure_schema


class Ledger:
    """An append-only log of events, chained by hashes, shared by every process of a project.

    State is a fold over events (see ``ray_mlops.ledger.folds``). Nothing is connected before the first
    call; the schema is created or migrated then. Objects are cheap, may be used from several threads,
    and pickle as their URL.

    Args:
        url: ``sqlite:///PATH`` or ``postgresql://USER@HOST/DATABASE``.

    Raises:
        LedgerError: Here, if the URL is wrong; in every method, if the database cannot be used.

    Example:
        >>> import tempfile
        >>> ledger = Ledger(f"sqlite:///{tempfile.mkdtemp()}/ledger.db")
        >>> ledger.append("flights/versions", "alias.set", "alias-1", {"alias": "champion", "version": "1"}).seq
        1
        >>> ledger.append("flights/versions", "alias.set", "alias-1", {"alias": "champion", "version": "2"}).payload
        {'alias': 'champion', 'version': '1'}
        >>> ledger.verify().ok
        True
    """

    def __init__(self, url: str) -> None:
        self.url = normalize_url(url)

    @classmethod
    def open(cls, store: StoreConfig) -> "Ledger":
        """Return the store's ledger; makes the store's directory.

        Raises:
            LedgerError: The directory cannot be made, or the URL is wrong.
        """
        try:
            store.local_root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LedgerError(f"cannot be made: {error}", str(store.local_root), "correct 'store.root'") from error
        return cls(store.database_url)

    def __reduce__(self) -> tuple[type["Ledger"], tuple[str]]:
        return Ledger, (self.url,)

    def __repr__(self) -> str:
        return f"Ledger({printable_url(self.url)!r})"

    def append(
        self,
        stream: str,
        kind: str,
        key: str,
        payload: dict[str, Any],
        *,
        event_time: int | None = None,
        expect_version: int | None = None,
        time: float | None = None,
    ) -> LedgerEvent:
        """Record an event, durably, exactly once for each key.

        Args:
            stream: ``{model}/{topic}``.
            kind: What happened.
            key: Names the event in the whole ledger. If it is there already, nothing is recorded and
                the stored event comes back, whatever the other arguments say.
            payload: Plain JSON; numpy scalars are converted.
            event_time: Microseconds since 1970 UTC.
            expect_version: The version of the stream's last event as the caller has seen it, 0 for an
                empty stream. None appends in any case.
            time: Wall clock, unix seconds; None reads it.

        Raises:
            LedgerConflictError: The stream has moved on from `expect_version`.
            LedgerError: The payload is not JSON, the key belongs to another stream, or the database
                failed. Repeating an append that failed is safe.
        """
        draft = _draft(stream, kind, key, payload, event_time, wall_clock() if time is None else time)
        stored = self.get(key)  # without the lock: repeats are common, and must not wait for writers
        if stored is None:
            with writing(self.url) as connection:
                stored = _by_key(connection, key)
                if stored is None:
                    event = _next_event(connection, draft, expect_version)
                    row = {column.name: getattr(event, column.name) for column in EVENTS.columns}
                    connection.execute(sa.insert(EVENTS).values(row))
                    return event
        if stored.stream != stream:
            problem = f"is already the key of an event in stream {stored.stream!r}, not {stream!r}"
            raise LedgerError(problem, f"key {key!r}", "begin keys with the name of their stream")
        return stored

    def read(
        self,
        stream: str | None = None,
        *,
        prefix: str | None = None,
        kind: str | None = None,
        after_seq: int = 0,
        limit: int | None = None,
        newest_first: bool = False,
    ) -> list[LedgerEvent]:
        """Return events in the order they were recorded, or the newest first.

        Args:
            stream: Only this stream.
            prefix: Only streams that begin with this (``flights/``).
            kind: Only this kind.
            after_seq: Only events after this one.
            limit: At most this many.
            newest_first: Turn the order around, before the limit counts.
        """
        query = sa.select(*COLUMNS).where(EVENTS.c.seq > after_seq)
        if stream is not None:
            query = query.where(EVENTS.c.stream == stream)
        if prefix:
            query = query.where(EVENTS.c.stream >= prefix, EVENTS.c.stream < prefix[:-1] + chr(ord(prefix[-1]) + 1))
        if kind is not None:
            query = query.where(EVENTS.c.kind == kind)
        order = EVENTS.c.seq.desc() if newest_first else EVENTS.c.seq
        return self._select(query.order_by(order).limit(limit))

    def get(self, key: str) -> LedgerEvent | None:
        """Return the event of a key."""
        return next(iter(self._select(sa.select(*COLUMNS).where(EVENTS.c.key == key))), None)

    def last(self, stream: str, kind: str | None = None) -> LedgerEvent | None:
        """Return the newest event of a stream, or its newest of a kind."""
        return next(iter(self.read(stream, kind=kind, limit=1, newest_first=True)), None)

    def last_version(self, stream: str) -> int:
        """Return the version of the stream's last event; 0 when it is empty."""
        event = self.last(stream)
        return event.version if event else 0

    def newest_by_stream(self, *kinds: str) -> list[LedgerEvent]:
        """Return the newest event of these kinds in every stream that has one: one consistent view, by seq."""
        newest = sa.select(sa.func.max(EVENTS.c.seq)).where(EVENTS.c.kind.in_(kinds)).group_by(EVENTS.c.stream)
        return self._select(sa.select(*COLUMNS).where(EVENTS.c.seq.in_(newest)).order_by(EVENTS.c.seq))

    def verify(self) -> ChainReport:
        """Recompute the hash chain from the first event; constant memory."""
        ensure_schema(self.url)
        with reading(self.url) as connection:
            return verify_chain(connection)

    def close(self) -> None:
        """Close this process's connections; they are opened again when needed."""
        open_engine(self.url).dispose()

    def _select(self, query: sa.Select[Any]) -> list[LedgerEvent]:
        ensure_schema(self.url)
        with reading(self.url) as connection:
            return [_to_event(row) for row in connection.execute(query)]


def _draft(
    stream: str, kind: str, key: str, payload: dict[str, Any], event_time: int | None, time: float
) -> dict[str, Any]:
    """Check what the caller gave: the fields that do not depend on what is stored."""
    for name, value in (("stream", stream), ("kind", kind), ("key", key)):
        check_name(value, name)
    content = plain_json(payload)
    if not isinstance(content, dict):
        raise LedgerError(f"expected a mapping, got a {type(payload).__name__}", "payload")
    moment = plain_json(event_time, "event_time")
    if moment is not None and type(moment) is not int:
        raise LedgerError(f"expected whole microseconds, got {event_time!r}", "event_time")
    stamp = float(plain_json(time, "time"))
    return {"stream": stream, "kind": kind, "key": key, "payload": content, "event_time": moment, "time": stamp}


def _by_key(connection: sa.Connection, key: str) -> LedgerEvent | None:
    row = connection.execute(sa.select(*COLUMNS).where(EVENTS.c.key == key)).one_or_none()
    return _to_event(row) if row else None


def _next_event(connection: sa.Connection, draft: dict[str, Any], expect_version: int | None) -> LedgerEvent:
    """Complete a draft to the event that follows the last one; the caller holds the writer's lock."""
    newest = sa.select(EVENTS.c.seq, EVENTS.c.hash).order_by(EVENTS.c.seq.desc()).limit(1)
    last = connection.execute(newest).one_or_none()
    versions = sa.select(sa.func.max(EVENTS.c.version)).where(EVENTS.c.stream == draft["stream"])
    version = connection.execute(versions).scalar() or 0
    if expect_version is not None and expect_version != version:
        problem = f"expected version {expect_version}, the stream is at {version}"
        raise LedgerConflictError(problem, draft["stream"], "read the stream again and decide anew")
    seq, prev_hash = (last.seq + 1, last.hash) if last else (1, GENESIS_HASH)
    fields = {**draft, "seq": seq, "version": version + 1, "prev_hash": prev_hash}
    return LedgerEvent(**fields, hash=hash_event({**fields, "payload": canonical_json(draft["payload"])}))


def _to_event(row: sa.Row[Any]) -> LedgerEvent:
    try:
        payload = json.loads(row.payload)
    except ValueError as error:
        remedy = "run 'ray-mlops ledger verify'"
        raise LedgerCorruptError("its payload is not JSON", f"event {row.seq}", remedy) from error
    return LedgerEvent(**{**row._mapping, "payload": payload})
