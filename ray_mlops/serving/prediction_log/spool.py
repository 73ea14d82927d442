"""Rows appended to a local file before the answer is sent, for ``durability: spool``.

One segment for each flush: ``{replica}-{first file of the flush:08d}.spool``, JSON lines. A segment is
deleted when its flush is in the store. Replaying one writes the same files with the same names again, so
that it does no harm if some were written before. An append survives the death of the process, and, since
it is not flushed to the disk, not that of the machine.
"""

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson

from ray_mlops.errors import StoreError
from ray_mlops.serving.prediction_log.table import LogFormat, LogRecord

logger = logging.getLogger(__name__)
FormatFinder = Callable[[str, str], LogFormat]
"""From a model's name and its champion's bundle."""


class Spool:
    """The segments of one living replica.

    Args:
        directory: Where segments are kept.
        replica: Name of this incarnation of the replica.
    """

    def __init__(self, directory: Path, replica: str) -> None:
        self._directory = directory
        self._replica = replica
        self._open: int | None = None
        self._path: Path | None = None

    def append(self, record: LogRecord, first_sequence: int) -> None:
        """Append one request to the open segment, opening it where there is none.

        Raises:
            StoreError: The disk is full, or cannot be written.
        """
        content = {"model": record.format.model, "bundle": record.format.bundle, "record": record.to_json()}
        line = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE)
        try:
            if self._open is None:
                self._path = segment_path(self._directory, self._replica, first_sequence)
                self._directory.mkdir(parents=True, exist_ok=True)
                self._open = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            written = os.write(self._open, line)
        except OSError as error:
            raise StoreError(f"cannot be written: {error}", str(self._path), "check free space") from error
        if written != len(line):
            os.ftruncate(self._open, os.fstat(self._open).st_size - written)
            raise StoreError("was written in part only", str(self._path), "check free space")

    def rotate(self) -> Path | None:
        """Close the open segment and return its path; None where nothing was appended."""
        if self._open is None:
            return None
        os.close(self._open)
        self._open, path = None, self._path
        return path


def segment_path(directory: Path, replica: str, first_sequence: int) -> Path:
    """Where a segment lies."""
    return directory / f"{replica}-{first_sequence:08d}.spool"


def segments(directory: Path, replica: str) -> list[tuple[int, Path]]:
    """The segments that a replica left, with the number of the first file of each, oldest first."""
    found = sorted(directory.glob(f"{replica}-*.spool"))
    return [(int(path.stem.rpartition("-")[2]), path) for path in found]


def read_segment(path: Path, find_format: FormatFinder) -> Iterator[LogRecord]:
    """Read a segment back; a torn last line belongs to a request that was never answered."""
    formats: dict[tuple[str, str], LogFormat] = {}
    for line in path.read_bytes().splitlines(keepends=True):
        if not line.endswith(b"\n"):
            logger.info("skip torn line file=%s bytes=%d", path, len(line))
            continue
        content = orjson.loads(line)
        key = content["model"], content["bundle"]
        if key not in formats:
            formats[key] = find_format(*key)
        yield LogRecord.from_json(content["record"], formats[key])
