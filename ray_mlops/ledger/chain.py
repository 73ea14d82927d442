"""Recompute the hash chain, and name the first event that does not fit."""

from collections.abc import Iterator, Mapping

import sqlalchemy as sa

from ray_mlops.ledger.event import GENESIS_HASH, ChainReport, hash_event
from ray_mlops.ledger.schema import COLUMNS, EVENTS

_BATCH = 1000


def verify_chain(connection: sa.Connection) -> ChainReport:
    """Check every event against the one before it; memory does not grow with events, only with streams."""
    count, head, versions = 0, GENESIS_HASH, dict[str, int]()
    for row in _all_rows(connection):
        reason = _find_fault(row, count, head, versions)
        if reason:
            return ChainReport(count, False, row["seq"], reason, head)
        count, head, versions[row["stream"]] = row["seq"], row["hash"], row["version"]
    return ChainReport(count, True, None, "every event fits the one before it", head)


def _all_rows(connection: sa.Connection) -> Iterator[sa.RowMapping]:
    seq: int | None = None
    while True:
        query = sa.select(*COLUMNS).order_by(EVENTS.c.seq).limit(_BATCH)
        rows = connection.execute(query if seq is None else query.where(EVENTS.c.seq > seq)).mappings().all()
        if not rows:
            return
        yield from rows
        seq = rows[-1]["seq"]


def _find_fault(row: sa.RowMapping, count: int, head: str, versions: Mapping[str, int]) -> str:
    """Say what is wrong with an event; empty when it follows what came before."""
    if row["seq"] != count + 1:
        return f"expected event {count + 1}, found {row['seq']}: events are missing"
    if row["prev_hash"] != head:
        return "its prev_hash is not the hash of the event before it"
    if _hash_or_none(row) != row["hash"]:
        return "its content does not give its hash: it was changed"
    expected = versions.get(row["stream"], 0) + 1
    if row["version"] != expected:
        return f"its version is {row['version']}, expected {expected}"
    return ""


def _hash_or_none(row: sa.RowMapping) -> str | None:
    try:
        return hash_event(row)
    except (TypeError, ValueError):  # a changed field that is no longer JSON: bytes, or a number that is not finite
        return None
