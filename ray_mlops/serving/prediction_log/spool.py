"""Segments on the local disk: rows that wait there for the store.

Two settings write them, for two reasons. ``durability: spool`` appends every row before the answer is sent,
so that the death of the process loses none. ``policy: spill`` appends only what memory has no room for. Either
way the rows count as ``spooled`` until they are in the store.

A segment is JSON lines. Its name says where it stands, ``{replica}-{first}-{start}.spool``: the number of the
first Parquet file that it becomes, and how many rows of this replica were spooled before it. Writing it
out gives the same files with the same names again, so that it does no harm if some were written before.
An append survives the death of the process, and, since it is not flushed to the disk, not that of the machine.
"""

import logging
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson

from ray_mlops.errors import StoreError
from ray_mlops.serving.prediction_log.table import LogFormat, LogRecord

logger = logging.getLogger(__name__)
FormatFinder = Callable[[str, str], LogFormat]
"""From a model's name and its champion's bundle."""
_NAME = re.compile(r"(?P<replica>.+)-(?P<first>\d{8})(?:-(?P<start>\d{12}))?\.spool")
_REMEDY = "check permissions and free space"


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment on the disk."""

    path: Path
    first: int
    """Number of the first Parquet file that it becomes."""
    start: int | None
    """Rows spooled before it; None in segments of earlier releases."""


class Spool:
    """The segments of one living replica; one of them may be open.

    Args:
        directory: Where segments are kept.
        replica: Name of this incarnation of the replica.

    Attributes:
        num_bytes: Size of the open segment.
    """

    def __init__(self, directory: Path, replica: str) -> None:
        self.num_bytes = 0
        self._directory = directory
        self._replica = replica
        self._open: int | None = None
        self._segment: Segment | None = None

    def append(self, line: bytes, first: int, start: int) -> None:
        """Append a line of ``encode`` to the open segment, opening it where there is none.

        Args:
            line: One request.
            first: Number of the first Parquet file of a new segment.
            start: Rows spooled before a new segment.

        Raises:
            StoreError: The disk is full, or cannot be written; nothing of the line stays.
        """
        try:
            if self._open is None:
                name = f"{self._replica}-{first:08d}-{start:012d}.spool"
                self._segment = Segment(self._directory / name, first, start)
                self._directory.mkdir(parents=True, exist_ok=True)
                self._open = os.open(self._segment.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
                self.num_bytes = 0
            written = os.write(self._open, line)
        except OSError as error:
            raise StoreError(f"cannot be written: {error}", str(self._directory), _REMEDY) from error
        if written != len(line):
            os.ftruncate(self._open, self.num_bytes)
            raise StoreError("was written in part only", str(self._directory), _REMEDY)
        self.num_bytes += written

    def rotate(self) -> Segment | None:
        """Close the open segment and return it; None where nothing was appended.

        One without a line goes: the next would have its name.
        """
        if self._open is None or self._segment is None:
            return None
        os.close(self._open)
        self._open, segment = None, self._segment
        if self.num_bytes:
            return segment
        segment.path.unlink(missing_ok=True)
        return None


def encode(record: LogRecord) -> bytes:
    """Write one request as a line.

    Raises:
        StoreError: It holds what JSON cannot, such as half of a surrogate pair.
    """
    content = {"model": record.format.model, "bundle": record.format.bundle, "record": record.to_json()}
    try:
        return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE)
    except orjson.JSONEncodeError as error:
        raise StoreError(f"rows cannot be spooled: {error}", f"request {record.request_id}") from error


def segments(directory: Path, replica: str) -> list[Segment]:
    """The segments that a replica left, oldest first."""
    found = []
    for path in directory.glob("*.spool"):
        match = _NAME.fullmatch(path.name)
        if match is not None and match["replica"] == replica:
            found.append(Segment(path, int(match["first"]), None if match["start"] is None else int(match["start"])))
    return sorted(found, key=lambda segment: (segment.first, segment.start or 0))


def read_segment(path: Path, find_format: FormatFinder) -> Iterator[LogRecord]:
    """Read a segment back, without what cannot be read: a torn last line, a damaged one, a file that is gone.

    Raises:
        RayMLOpsError: A model that is in it is unknown.
    """
    formats: dict[tuple[str, str], LogFormat] = {}
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        logger.error("miss segment file=%s", path)
        return
    for number, line in enumerate(content.splitlines(keepends=True), start=1):
        try:
            if not line.endswith(b"\n"):
                raise ValueError("the line is torn")
            parsed = orjson.loads(line)
            key, fields = (parsed["model"], parsed["bundle"]), parsed["record"]
        except (ValueError, KeyError, TypeError) as error:
            logger.warning("skip line of segment file=%s line=%d because=%s", path, number, error)
            continue
        if key not in formats:
            formats[key] = find_format(*key)
        yield LogRecord.from_json(fields, formats[key])
