"""The many small files of a day become few large ones, sorted by event time.

One write makes a compacted file count and its sources not (see ``listing``), so a death at any point leaves each
row where a reader finds it once; the next run deletes what the dead one left. Of two that run at once and share
files, whoever finds the other's file withdraws its own before it deletes anything; until then, for a moment, a reader
may find rows in both, and keeps finding them there if that one dies in this moment.
"""

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ray_mlops.errors import StoreError
from ray_mlops.runtime.files import Files
from ray_mlops.serving.prediction_log.files import unite
from ray_mlops.serving.prediction_log.listing import SOURCES_KEY, LogListing, compacted_path, day_of, is_compacted

logger = logging.getLogger(__name__)
MAX_FILE_ROWS = 500_000
"""Rows of a compacted file, about: what is being compacted is held in memory."""
ROW_GROUP_ROWS = 65_536
"""Enough for columns to compress well, few enough for a reader to skip by time."""


@dataclass(frozen=True, slots=True)
class CompactReport:
    """What a run has done."""

    sources: int = 0
    """Files that were replaced."""
    files: int = 0
    """Files that replaced them."""
    rows: int = 0


def compact(files: Files, model: str, before_day: str, *, dry: bool = False) -> CompactReport:
    """Compact the days of a model's log before one.

    Files are taken together up to ``MAX_FILE_ROWS``; one that is at least half as large as that stays as it is.

    Args:
        files: The store.
        model: The model's name.
        before_day: The first UTC day (``YYYY-MM-DD``) that is not over; rows that come late for an earlier one are
            taken up by the next run.
        dry: Only count.

    Raises:
        StoreError: A file cannot be read or written; every row still counts once.
    """
    listing = LogListing(files, model)
    for name in listing.dead() if not dry else ():
        files.delete(name)
    sources = made = rows = 0
    for names, num_rows in _groups(listing, before_day):
        if dry or _replace(listing, names):
            sources, made, rows = sources + len(names), made + 1, rows + num_rows
    if made and not dry:
        logger.info("compact model=%s before=%s files=%d into=%d rows=%d", model, before_day, sources, made, rows)
    return CompactReport(sources, made, rows)


def _groups(listing: LogListing, before_day: str) -> Iterator[tuple[list[str], int]]:
    """Files of one day that go together, at least two, and their rows."""
    days: dict[str, list[str]] = {}
    for name in listing.live():
        if day_of(name) and day_of(name) < before_day:
            days.setdefault(day_of(name), []).append(name)
    for names in days.values():
        if len(names) > 1:
            yield from _groups_of_day(listing, names)


def _groups_of_day(listing: LogListing, names: Sequence[str]) -> Iterator[tuple[list[str], int]]:
    group: list[str] = []
    total = 0
    for name in names:
        num_rows = listing.files.read_footer(name).num_rows
        if num_rows >= MAX_FILE_ROWS // 2:
            continue
        if group and total + num_rows > MAX_FILE_ROWS:
            yield group, total
            group, total = [], 0
        group.append(name)
        total += num_rows
    if len(group) > 1:
        yield group, total


def _replace(listing: LogListing, names: Sequence[str]) -> bool:
    """Write one file for several and delete them; returns false where somebody else did something with one of them."""
    files = listing.files
    before = _fingerprints(files, names)
    table = unite([files.read_table(name) for name in names])
    table = table.sort_by([("event_time", "ascending"), ("prediction_id", "ascending")])
    sources = sorted({*names, *(source for name in names for source in listing.sources(name))})
    content = json.dumps({"schema_version": 1, "sources": sources})
    digest = hashlib.sha256("\n".join(s for s in sources if not is_compacted(s)).encode()).hexdigest()[:16]
    path = compacted_path(listing.model, day_of(names[0]), digest)
    table = table.replace_schema_metadata({SOURCES_KEY: content})
    files.write_table(path, table, row_group_size=ROW_GROUP_ROWS)
    is_changed = before is None or _fingerprints(files, names) != before  # rows are forgotten, or a day is deleted
    if is_changed or _is_contested(LogListing(files, listing.model), path, frozenset(sources)):
        files.delete(path)
        return False
    for name in names:
        files.delete(name)
    return True


def _is_contested(listing: LogListing, path: str, sources: frozenset[str]) -> bool:
    """Whether another compacted file has some of these sources, and others besides."""
    try:
        others = [listing.sources(name) for name in listing.names() if is_compacted(name) and name != path]
    except StoreError:  # one has just gone: somebody is at work
        return True
    return any(own & sources and not own <= sources for own in others)


def _fingerprints(files: Files, names: Sequence[str]) -> list[str] | None:
    """What tells whether files have changed; None where one is gone."""
    try:
        return [files.fingerprint(name) for name in names]
    except StoreError:
        return None
