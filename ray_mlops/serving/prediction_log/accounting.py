"""Exact counts of log rows that survive the process: ``accepted == written + spooled + dropped + lost``.

Each replica maps one small file into memory. The kernel keeps what was stored there when the process dies,
and the lock that the process held on the file goes away with it: that is how the next start knows that
rows which were only in memory are lost.
"""

import fcntl
import logging
import mmap
import os
from pathlib import Path

from ray_mlops.errors import StoreError

logger = logging.getLogger(__name__)

STATES = ("accepted", "written", "spooled", "dropped", "lost")
FIELDS = (
    *STATES,
    *("pending_sequence", "pending_written", "booked_sequence"),
    *("segment_sequence", "segment_rows"),
    *("settled", "settled_lost"),
)
"""Signed 64-bit integers, native byte order. Each has one thread that writes it, so that no update is lost
between two threads and one store moves rows from a state to the next. They grow; only ``accepted`` and ``spooled``
are taken back where a row that was counted first was then refused by the local disk.

``written`` counts rows that went to the store straight from memory, ``spooled`` those that were ever put on
the local disk, in that order. Of the latter, the first ``settled`` are in the store, except ``settled_lost``
of them, which were not found on the disk any more. What the states are follows from these (``states``).

``pending_sequence`` numbers the file being written, ``pending_written`` is what ``written`` will be once it
is there: one store books it, so that a death between two stores cannot count a file twice.
``booked_sequence`` numbers the last file booked. ``segment_*`` were used by earlier releases."""
_SIZE = 8 * len(FIELDS)
_INDEX = {name: index for index, name in enumerate(FIELDS)}
_REMEDY = "check permissions and free space"


class Accounting:
    """Counters of one replica's log, in a memory-mapped file that it holds a lock on.

    Raises:
        BlockingIOError: Another living process holds the file.
        StoreError: The directory cannot be written, or the disk is full.

    Example:
        >>> import tempfile
        >>> counts = Accounting(Path(tempfile.mkdtemp()) / "a.bin")
        >>> counts.add("accepted", 3)
        >>> counts["accepted"], counts.unaccounted
        (3, 3)
        >>> counts.close()
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise StoreError(f"counters cannot be kept: {error}", str(path), _REMEDY) from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._descriptor)
            raise
        try:
            self._reserve()
        except OSError as error:
            os.close(self._descriptor)
            raise StoreError(f"counters cannot be kept: {error}", str(path), _REMEDY) from error
        self._map = mmap.mmap(self._descriptor, _SIZE)
        self._view = memoryview(self._map).cast("q")

    def __getitem__(self, name: str) -> int:
        return self._view[_INDEX[name]]

    def __setitem__(self, name: str, value: int) -> None:
        self._view[_INDEX[name]] = value

    def add(self, name: str, count: int) -> None:
        """Add to one counter."""
        self._view[_INDEX[name]] += count

    def states(self) -> dict[str, int]:
        """The counts that must add up: ``accepted`` is the sum of the others, and of the rows in memory."""
        settled, missing = self["settled"], self["settled_lost"]
        return {
            "accepted": self["accepted"],
            "written": self["written"] + settled - missing,
            "spooled": self["spooled"] - settled,
            "dropped": self["dropped"],
            "lost": self["lost"] + missing,
        }

    @property
    def unaccounted(self) -> int:
        """Accepted rows that are neither written, spooled, dropped nor lost: those in memory."""
        return self["accepted"] - self["written"] - self["spooled"] - self["dropped"] - self["lost"]

    def _reserve(self) -> None:
        """Give the file its size in real blocks: a store into a hole of a full disk would kill the process."""
        size = os.fstat(self._descriptor).st_size
        if size < _SIZE:
            os.pwrite(self._descriptor, bytes(_SIZE - size), size)

    def close(self) -> None:
        """Let go of the file and its lock; a second call does nothing."""
        if self._map.closed:
            return
        self._view.release()
        self._map.close()
        os.close(self._descriptor)


def dead_accounts(directory: Path) -> list[Accounting]:
    """Open the accounts whose process is gone; the caller closes them."""
    found = []
    for path in sorted(directory.glob("*.bin")):
        try:
            found.append(Accounting(path))
        except BlockingIOError:
            continue
        except StoreError as error:
            logger.error("leave counts of dead replica file=%s because=%s", path, error)
    return found
