"""Exact counts of log rows that survive the process: ``accepted == written + spooled + dropped + lost``.

Each replica maps one small file into memory. The kernel keeps what was stored there when the process dies,
and the lock that the process held on the file goes away with it: that is how the next start knows that
rows which were only in memory are lost.
"""

import fcntl
import mmap
import os
from pathlib import Path

STATES = ("accepted", "written", "spooled", "dropped", "lost")
FIELDS = (*STATES, "pending_sequence", "pending_written", "booked_sequence", "segment_sequence", "segment_rows")
"""Signed 64-bit integers, native byte order.

``pending_sequence`` numbers the file being written, ``pending_written`` is what ``written`` will be once it
is there: one store books it, so that a death between two stores cannot count a file twice.
``booked_sequence`` numbers the last file booked. ``segment_*``: the spool's open segment, and its rows."""
_SIZE = 8 * len(FIELDS)


class Accounting:
    """Counters of one replica's log, in a memory-mapped file that it holds a lock on.

    Raises:
        BlockingIOError: Another living process holds the file.

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
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._descriptor)
            raise
        if os.fstat(self._descriptor).st_size != _SIZE:
            os.ftruncate(self._descriptor, _SIZE)
        self._map = mmap.mmap(self._descriptor, _SIZE)
        self._view = memoryview(self._map).cast("q")

    def __getitem__(self, name: str) -> int:
        return self._view[FIELDS.index(name)]

    def __setitem__(self, name: str, value: int) -> None:
        self._view[FIELDS.index(name)] = value

    def add(self, name: str, count: int) -> None:
        """Add to one counter."""
        self._view[FIELDS.index(name)] += count

    def states(self) -> dict[str, int]:
        """The counters that must add up."""
        return {name: self[name] for name in STATES}

    @property
    def unaccounted(self) -> int:
        """Accepted rows that are neither written, spooled, dropped nor lost: those in memory."""
        return self["accepted"] - self["written"] - self["spooled"] - self["dropped"] - self["lost"]

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
        except (BlockingIOError, FileNotFoundError):
            continue
    return found
