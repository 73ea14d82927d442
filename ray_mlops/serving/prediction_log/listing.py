"""Which files of a model's log count: flushes, and what days that are over were compacted to.

A compacted file names in its own metadata the files that it replaces. It is there whole or not at all, and from
that moment on its sources do not count, whether or not they have been deleted yet. That is all the
agreement that writer and readers need, on a disk and on an object store alike.
"""

import json
from collections.abc import Callable, Iterable
from typing import TypeVar

from ray_mlops.errors import StoreError
from ray_mlops.runtime.files import Files

SOURCES_KEY = b"ray_mlops.compacted"
"""Key in a Parquet file's metadata: JSON with ``schema_version`` and ``sources``, paths in the store."""
_PREFIX = "compacted-"
_ATTEMPTS = 20
Part = TypeVar("Part")


def log_path(model: str, day: str, replica: str, sequence: int) -> str:
    """Where a file of the log lies in the store."""
    return f"predictions/{model}/day={day}/{replica}-{sequence:08d}.parquet"


def compacted_path(model: str, day: str, digest: str) -> str:
    """Where a compacted file lies in the store."""
    return f"predictions/{model}/day={day}/{_PREFIX}{digest}.parquet"


def is_compacted(name: str) -> bool:
    """Whether a file of the log is a compacted one."""
    return name.rpartition("/")[2].startswith(_PREFIX)


def day_of(name: str) -> str:
    """The UTC day of event time of a file of the log; empty where its directory is no day.

    Example:
        >>> day_of("predictions/m/day=2013-01-01/r-00000001.parquet")
        '2013-01-01'
    """
    directory = name.split("/")[-2]
    return directory.removeprefix("day=") if directory.startswith("day=") else ""


class LogListing:
    """The files of one model's log. Remembers what compacted files replace, so that each is asked once.

    Args:
        files: The store.
        model: The model's name.
    """

    def __init__(self, files: Files, model: str) -> None:
        self.files, self.model = files, model
        self._sources: dict[str, frozenset[str]] = {}

    def live(self, days: tuple[str, str] | None = None) -> list[str]:
        """The files that hold each row once, by day.

        Args:
            days: First and last UTC day of event time (``YYYY-MM-DD``), both included; None lists all.

        Raises:
            StoreError: They change faster than they can be listed.
        """
        names, dead = self.names(), set[str]()
        for _ in range(_ATTEMPTS):
            found = self._dead(names)
            again = self.names()
            # A listing may miss both a compacted file and its sources, if they change places while it is made.
            if found is not None and set(filter(is_compacted, again)) <= set(names):
                dead = found
                break
            names = again
        else:
            raise StoreError("the log changes faster than it can be listed", self.files.uri(self._root), "try again")
        live = [name for name in names if name not in dead]
        return live if days is None else [name for name in live if days[0] <= day_of(name) <= days[1]]

    def dead(self) -> list[str]:
        """Files that do not count any more and are still there."""
        names = self.names()
        return sorted((self._dead(names) or set()) & set(names))

    def names(self) -> list[str]:
        """Every Parquet file."""
        return [name for name in self.files.names(self._root) if name.endswith(".parquet")]

    def sources(self, name: str) -> frozenset[str]:
        """The files that one replaces, those that its sources replaced included; none for a flush.

        Raises:
            StoreError: It cannot be read, or a newer release wrote it.
        """
        if not is_compacted(name):
            return frozenset()
        if name not in self._sources:
            content = (self.files.read_footer(name).metadata or {}).get(SOURCES_KEY, b'{"sources": []}')
            record = json.loads(content)
            if record.get("schema_version", 1) > 1:
                raise StoreError(f"is of version {record['schema_version']}, this release reads 1", name)
            self._sources[name] = frozenset(record["sources"])
        return self._sources[name]

    @property
    def _root(self) -> str:
        return f"predictions/{self.model}"

    def _dead(self, names: Iterable[str]) -> set[str] | None:
        """What is replaced by others of these; None when one of them has just gone.

        Two collectors that did not know of each other may have replaced the same files: the one that replaces more
        counts.
        """
        replaced = {}
        for name in filter(is_compacted, names):
            try:
                replaced[name] = self.sources(name)
            except StoreError:
                if self.files.exists(name):
                    raise
                return None
        dead = set().union(*replaced.values())
        dead |= {name for name, own in replaced.items() if any(own < other for other in replaced.values())}
        return dead


def read_live(listing: LogListing, read: Callable[[str], Part], days: tuple[str, str] | None = None) -> dict[str, Part]:
    """Read the files that count, each once, whatever is compacted meanwhile.

    Args:
        listing: The log.
        read: Reads one file.
        days: As for ``LogListing.live``.

    Returns:
        What was read, by file, in order of names.

    Raises:
        StoreError: A file cannot be read.
    """
    parts: dict[str, Part] = {}
    for _ in range(_ATTEMPTS):
        names = listing.live(days)
        parts = {name: parts[name] for name in names if name in parts}
        if _read_missing(listing.files, names, read, parts):
            return {name: parts[name] for name in names}
    raise StoreError("the log changes faster than it can be read", f"model {listing.model!r}", "try again")


def _read_missing(files: Files, names: Iterable[str], read: Callable[[str], Part], parts: dict[str, Part]) -> bool:
    """Read what is not among the parts yet; returns whether every file was still there."""
    for name in names:
        if name in parts:
            continue
        try:
            parts[name] = read(name)
        except StoreError:
            if files.exists(name):
                raise
            return False
    return True


def was_written(files: Files, replica: str, sequence: int) -> bool:
    """Whether a file of some replica came into the store, compacted since or not."""
    ending = f"/{replica}-{sequence:08d}.parquet"
    names = list(files.names("predictions"))
    if any(name.endswith(ending) for name in names):
        return True
    for name in filter(is_compacted, names):
        if any(source.endswith(ending) for source in LogListing(files, name.split("/")[1]).sources(name)):
            return True
    return False
