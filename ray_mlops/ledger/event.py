"""What the ledger stores: events, and the hash that chains each one to the event before it."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ray_mlops.errors import LedgerError

GENESIS_HASH = "0" * 64
"""``prev_hash`` of the first event."""
_HASHED_FIELDS = ("seq", "stream", "version", "time", "event_time", "kind", "key", "payload", "prev_hash")


@dataclass(frozen=True, slots=True)
class LedgerEvent:
    """One thing that happened. Events are never changed or deleted."""

    seq: int
    """Position in the whole ledger; starts at 1, without gaps."""
    stream: str
    """``{model}/{topic}``."""
    version: int
    """Position in the stream; starts at 1, without gaps."""
    time: float
    """Wall clock of the writer, unix seconds."""
    event_time: int | None
    """The model's event time, microseconds since 1970 UTC; None where there is none yet."""
    kind: str
    key: str
    """Unique in the ledger: the second event of the same key is not stored."""
    payload: dict[str, Any]
    """Plain JSON."""
    prev_hash: str
    hash: str


@dataclass(frozen=True, slots=True)
class ChainReport:
    """Whether the hash chain adds up."""

    events: int
    """Events that were checked and found right."""
    ok: bool
    broken_seq: int | None
    """The first event that does not fit; None when all do."""
    reason: str
    head: str = GENESIS_HASH
    """Hash of the last event found right. Nothing inside a ledger shows that its newest events were cut
    off; comparing this with a head that was noted elsewhere does."""


def plain_json(value: Any, where: str = "payload") -> Any:
    """Return the value as plain JSON: dicts, lists, strings, finite numbers, booleans and None.

    Tuples become lists; numpy scalars become Python numbers. Anything else is refused, because what
    comes back from the database must equal what went in.

    Raises:
        LedgerError: Something in it is not JSON, or is not finite. Names the place.

    Example:
        >>> plain_json({"a": (1, np.float32(0.5))})
        {'a': [1, 0.5]}
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise LedgerError(f"{value} is not JSON", where, "record None for a number that does not exist")
        return float(value)
    if isinstance(value, Mapping):
        return {_text_key(key, where): plain_json(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview):
        return [plain_json(item, f"{where}[{index}]") for index, item in enumerate(value)]
    raise LedgerError(f"a {type(value).__name__} is not JSON", where, "convert it to text, numbers, lists or dicts")


def canonical_json(value: Any) -> str:
    """Write JSON in the one form that is hashed and stored: sorted keys, no spaces, ASCII only.

    Example:
        >>> canonical_json({"b": 1.0, "a": "é"})
        '{"a":"\\\\u00e9","b":1.0}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def hash_event(fields: Mapping[Any, Any]) -> str:
    """Hash an event and, through ``prev_hash``, all before it (SHA-256, hexadecimal).

    Args:
        fields: The event's fields by name; the payload as the text that is stored, so that no change
            of it goes unseen.
    """
    return hashlib.sha256(canonical_json([fields[name] for name in _HASHED_FIELDS]).encode()).hexdigest()


def check_name(value: str, where: str) -> str:
    """Accept the name of a stream, a kind or a key: printable text of 1 to 500 characters.

    Raises:
        LedgerError: It is empty, too long or has control characters.
    """
    if not isinstance(value, str) or not 0 < len(value) <= 500 or not value.isprintable():
        raise LedgerError(f"expected printable text of 1 to 500 characters, got {value!r:.80}", where)
    return value


def _text_key(key: Any, where: str) -> str:
    if not isinstance(key, str):
        raise LedgerError(f"key {key!r} is a {type(key).__name__}, JSON keys are text", where, "use str(key)")
    return str.__str__(key)
