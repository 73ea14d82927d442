"""Which versions run as shadows: a fold over the events of stream ``{model}/shadows``.

A shadow is watched for as long as a person likes; unlike a candidate it is on its way to nowhere, so that it has
neither steps nor an end that is decided.
"""

from collections import deque
from dataclasses import dataclass, field, replace
from typing import Any

from ray_mlops.ledger import LedgerEvent

KEPT = 10
"""Shadows that have ended and are still told of."""


@dataclass(frozen=True, slots=True)
class ShadowEntry:
    """One shadow, as its events tell it."""

    version: str
    shadow_id: str
    by: str
    reason: str
    since: float
    """When it was asked for, unix seconds."""
    since_event_us: int | None = None
    """The model's event time then, microseconds since 1970 UTC."""
    ended_at: float | None = None
    ended_by: str = ""
    ended_because: str = ""
    has_failed: bool = False

    def to_json(self) -> dict[str, Any]:
        """What operators see of it."""
        return {
            "version": self.version,
            "shadow_id": self.shadow_id,
            "by": self.by,
            "since": self.since,
            "ended_at": self.ended_at,
            "ended_by": self.ended_by,
            "ended_because": self.ended_because,
        }


@dataclass(slots=True)
class ShadowBook:
    """The shadows of one model."""

    active: dict[str, ShadowEntry] = field(default_factory=dict)
    """By version, in the order in which they were asked for."""
    ended: deque[ShadowEntry] = field(default_factory=lambda: deque(maxlen=KEPT))
    """The newest that have ended, oldest first."""
    stream_version: int = 0
    _counts: dict[str, int] = field(default_factory=dict)

    def apply(self, event: LedgerEvent) -> None:
        """Take up one event of the stream."""
        self.stream_version = event.version
        payload = event.payload
        version, by, reason = (str(payload.get(name) or "") for name in ("version", "by", "reason"))
        if event.kind == "shadow.started":
            name = str(payload["shadow_id"])
            self.active[version] = ShadowEntry(version, name, by, reason, event.time, event.event_time)
            self._counts[version] = self._counts.get(version, 0) + 1
        elif event.kind == "shadow.stopped" and version in self.active:
            failed = bool(payload.get("failed"))
            ended = replace(
                self.active.pop(version), ended_at=event.time, ended_by=by, ended_because=reason, has_failed=failed
            )
            self.ended.append(ended)

    def next_id(self, model: str, version: str) -> str:
        """Name the next shadow of a version."""
        return f"{model}-s{version}-{self._counts.get(version, 0) + 1}"
