"""Processor time of servers, from ``/proc``: what a request costs, whoever else uses the machine."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from ray_mlops.runtime.processes import ProcessRecord

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
FindProcesses = Callable[[], list[ProcessRecord]]


class ProcessorTime:
    """Seconds of processor time that a set of processes has used since the start.

    Args:
        find: Names the processes; asked at the start and at each reading, because servers start others.
    """

    def __init__(self, find: FindProcesses) -> None:
        self._find = find
        self._before = _ticks(find())

    def seconds(self) -> float:
        """Processor time since the start; that of processes which ended meanwhile is lost."""
        now = _ticks(self._find())
        return sum(ticks - self._before.get(key, 0) for key, ticks in now.items()) / TICKS_PER_S

    def by_name(self) -> dict[str, float]:
        """The same by what each process calls itself."""
        totals: dict[str, float] = {}
        for key, ticks in _ticks(self._find()).items():
            name = title_of(key[0]) or key[1]
            totals[name] = totals.get(name, 0.0) + (ticks - self._before.get(key, 0)) / TICKS_PER_S
        return totals


def _ticks(records: Iterable[ProcessRecord]) -> dict[tuple[int, str], int]:
    found = {}
    for record in records:
        try:
            fields = Path(f"/proc/{record.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        except OSError:
            continue
        found[record.pid, record.name] = int(fields[11]) + int(fields[12])  # utime and stime
    return found


def title_of(pid: int) -> str:
    """What Ray names its workers after, as ``ServeReplica:gateway:Gateway``; empty for other processes."""
    try:
        line = Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return line.rstrip("\0 ").removeprefix("ray::").partition("\0")[0][:60] if line.startswith("ray::") else ""
