"""The ledger's pages: the newest events with a filter, and one event with all that it holds."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from ray_mlops.console.address import Visit
from ray_mlops.console.events import describe_event, tone_of
from ray_mlops.console.render import Screen
from ray_mlops.console.sources import ConsoleData
from ray_mlops.errors import NotFoundError
from ray_mlops.ledger import LedgerEvent

PAGE_SIZE = 50
MAX_PAGES = 200
KINDS = (
    "config.deployed",
    *("version.registered", "version.refused", "version.approved", "alias.set"),
    *("routes.committed", "routes.withdrawn"),
    *("rollout.requested", "rollout.moved", "rollout.commanded"),
    *("retrain.requested", "retrain.decided", "retrain.submitted", "retrain.finished"),
    *("monitor.epoch", "monitor.alarm", "monitor.cleared", "monitor.acknowledged", "drill.finished"),
    *("snapshot.created", "data.collected", "data.forgotten"),
)
TOPICS = ("config", "data", "versions", "routes", "rollout", "retrain", "monitor", "drill")
_MAX_FILTER = 200
_MAX_SEQ = 2**62


async def show_ledger(data: ConsoleData, visit: Visit) -> Screen:
    """Show a page of events, newest first."""
    stream, kind = (_clean(visit.query.get(name, "")) for name in ("stream", "kind"))
    page = min(max(_number(visit.query.get("page", "")) or 1, 1), MAX_PAGES)
    exact = stream if "/" in stream and not stream.endswith("/") else None
    prefix = None if exact else stream or None
    wanted = page * PAGE_SIZE + 1
    events = await data.events(stream=exact, prefix=prefix, kind=kind or None, limit=wanted)
    streams = [f"{model}/{topic}" for model in visit.models for topic in ("", *TOPICS)]
    build = partial(build_ledger, events, stream, kind, page, streams)
    return Screen("ledger", "Ledger", build, is_live=False)


def build_ledger(
    events: Sequence[LedgerEvent], stream: str, kind: str, page: int, streams: Sequence[str]
) -> dict[str, Any]:
    """Return what the page shows.

    Args:
        events: The newest events, those of earlier pages and one more included.
        stream: The filter by stream; a beginning of its name selects every stream that begins so.
        kind: The filter by kind.
        page: Which page, from 1.
        streams: Proposals for the filter.
    """
    first = (page - 1) * PAGE_SIZE
    shown = events[first : first + PAGE_SIZE]
    return {
        "rows": [{"event": e, "text": describe_event(e), "tone": tone_of(e)} for e in shown],
        "stream": stream,
        "kind": kind,
        "number": page,
        "has_newer": page > 1,
        "has_older": len(events) > first + PAGE_SIZE and page < MAX_PAGES,
        "streams": streams,
        "kinds": KINDS,
    }


async def show_event(data: ConsoleData, visit: Visit) -> Screen:
    """Show one event.

    Raises:
        NotFoundError: There is none of this number.
    """
    seq = _number(visit.argument)
    wanted = [] if not seq else await data.events(after_seq=seq - 1, limit=2, newest_first=False)
    if not wanted or wanted[0].seq != seq:
        raise NotFoundError(f"there is no event {visit.argument[:40]!r}", "ledger", "see the ledger's page")
    build = partial(_build_event, wanted[0], len(wanted) > 1)
    return Screen("event", f"Event {seq}", build, is_live=False)


def _build_event(event: LedgerEvent, has_newer: bool) -> dict[str, Any]:
    return {"event": event, "text": describe_event(event), "tone": tone_of(event), "has_newer": has_newer}


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 and int(text) < _MAX_SEQ else None


def _clean(text: str) -> str:
    """Drop what no name of a stream or a kind contains and no database should have to compare."""
    return "".join(character for character in text if character.isprintable()).strip()[:_MAX_FILTER]
