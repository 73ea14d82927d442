"""One notice: what is told, and to whom it matters. A value; see ``rendering`` for how it is made."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from ray_mlops.config import Severity

SCHEMA_VERSION = 1
SEVERITIES: tuple[Severity, ...] = ("info", "warning", "critical")
"""From the least to the most severe."""


@dataclass(frozen=True, slots=True)
class Notice:
    """What a target is sent."""

    id: str
    """The same whenever it is sent again: a receiver that has seen it may drop it."""
    kind: str
    """One of ``config.notifications.NOTICE_KINDS``."""
    severity: Severity
    model: str
    time: float
    """When it was recorded, unix seconds."""
    title: str
    """One line, with the model's name."""
    text: str
    """Plain text for people, lines of ``Heading: sentence``."""
    event_time: int | None = None
    """The model's event time, microseconds since 1970 UTC."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """The same for machines: the event's payload, plain JSON."""
    page: str = ""
    """The model's page of the console that shows it; empty: the overview."""
    seq: int = 0
    """The event's number in the ledger; 0 where there is none."""

    def links(self, base: str) -> dict[str, str]:
        """Pages of the console, below the service's address; none where that is not known.

        Example:
            >>> Notice("k", "alarm", "info", "m", 0.0, "", "", page="drift", seq=7).links("http://host:8000/")
            {'console': 'http://host:8000/console/models/m/drift', 'event': 'http://host:8000/console/ledger/7'}
        """
        if not base:
            return {}
        root = f"{base.rstrip('/')}/console"
        page = f"/{self.page}" if self.page else ""
        event = {"event": f"{root}/ledger/{self.seq}"} if self.seq else {}
        return {"console": f"{root}/models/{quote(self.model, safe='')}{page}", **event}

    def to_json(self, base: str = "") -> dict[str, Any]:
        """The body of a webhook.

        Args:
            base: The service's address, for links.
        """
        return {
            "schema_version": SCHEMA_VERSION,
            "id": self.id,
            "model": self.model,
            "kind": self.kind,
            "severity": self.severity,
            "time": iso_seconds(self.time),
            "event_time": None if self.event_time is None else iso_seconds(self.event_time / 1e6),
            "title": self.title,
            "text": self.text,
            "facts": dict(self.facts),
            "links": self.links(base),
        }


def iso_seconds(time_s: float) -> str:
    """A moment as RFC 3339, UTC.

    Example:
        >>> iso_seconds(0.25)
        '1970-01-01T00:00:00.250+00:00'
    """
    return datetime.fromtimestamp(time_s, UTC).isoformat(timespec="milliseconds")


def moment(event_us: int | None) -> str:
    """A moment of event time for people.

    Example:
        >>> moment(86_400_000_000), moment(None)
        ('1970-01-02 00:00 UTC', 'an unknown time')
    """
    if event_us is None:
        return "an unknown time"
    return datetime.fromtimestamp(event_us / 1e6, UTC).strftime("%Y-%m-%d %H:%M UTC")


def paragraphs(**parts: str | None) -> str:
    """Write the lines of a text; a part without a text is left out.

    Example:
        >>> print(paragraphs(what="it broke", since=None, to_do="mend it"))
        What: it broke
        To do: mend it
    """
    lines = ((name.replace("_", " ").capitalize(), text) for name, text in parts.items() if text)
    return "\n".join(f"{name}: {text}" for name, text in lines)
