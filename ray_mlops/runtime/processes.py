"""Processes of this machine, known by pid and start time, so that none is ever taken for another (Linux)."""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class ProcessRecord:
    """One process. A pid is used again after its process ended; the pair of pid and start time is not."""

    pid: int
    started: int
    """Start time in clock ticks since boot (field 22 of ``/proc/PID/stat``)."""
    name: str
    """The kernel's short name, at most 15 characters."""


@dataclass(frozen=True, slots=True)
class _Status:
    record: ProcessRecord
    parent: int
    session: int
    is_zombie: bool


def boot_id() -> str:
    """A name of the time since the machine was booted; start times are comparable only within it."""
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()


def find_process(pid: int) -> ProcessRecord | None:
    """The running process of this pid; None where there is none, or only a zombie.

    Example:
        >>> find_process(os.getpid()).pid == os.getpid()
        True
    """
    status = _read_status(pid)
    return None if status is None or status.is_zombie else status.record


def is_running(record: ProcessRecord) -> bool:
    """Whether the very process of this record still runs."""
    found = find_process(record.pid)
    return found is not None and found.started == record.started


def find_marked(name: str, value: str) -> list[ProcessRecord]:
    """Every process that was started with the environment variable ``name=value``.

    An environment is inherited by children and cannot be changed from outside, so a random value marks
    everything that one process ever started, also what has lost its parent since. Processes of other
    users, whose environment cannot be read, are left out.
    """
    wanted = f"{name}={value}".encode()
    found = []
    for status in _all():
        with contextlib.suppress(OSError):
            if wanted in (_PROC / str(status.record.pid) / "environ").read_bytes().split(b"\0"):
                found.append(status.record)
    return found


def find_family(records: Iterable[ProcessRecord]) -> list[ProcessRecord]:
    """The given processes as far as they still run, with all their descendants.

    Members of a session that one of the given processes leads belong to it even after the leader ended:
    the kernel gives a pid to nobody else while a session has that number.
    """
    known = {record.pid: record.started for record in records}
    everyone = {status.record.pid: status for status in _all()}
    family = {pid for pid, started in known.items() if pid in everyone and everyone[pid].record.started == started}
    leaders = {pid for pid in known if pid in family or pid not in everyone}
    for pid, status in everyone.items():
        if status.session in leaders and status.record.started >= known[status.session]:
            family.add(pid)
    grown = True
    while grown:
        children = {pid for pid, status in everyone.items() if status.parent in family} - family
        family |= children
        grown = bool(children)
    return [everyone[pid].record for pid in sorted(family) if not everyone[pid].is_zombie]


def end_processes(
    find: Callable[[], list[ProcessRecord]], *, patience_s: float, kill_s: float = 5.0
) -> list[ProcessRecord]:
    """End processes: SIGTERM, then SIGKILL to those that are still there.

    Args:
        find: Lists what is to end. Asked again and again, because dying processes may have started others.
        patience_s: Seconds for an orderly end, before SIGKILL.
        kill_s: Seconds that SIGKILL may take before we give up.

    Returns:
        Every process that was listed and has ended.
    """
    asked: set[ProcessRecord] = set()
    start = time.monotonic()
    while True:
        left = [record for record in find() if record.pid != os.getpid()]
        waited = time.monotonic() - start
        if not left or waited > patience_s + kill_s:
            return [record for record in asked if not is_running(record)]
        for record in left:
            if waited > patience_s:
                _signal(record, signal.SIGKILL)
            elif record not in asked:
                _signal(record, signal.SIGTERM)
            asked.add(record)
        time.sleep(_POLL_S)


def _signal(record: ProcessRecord, number: signal.Signals) -> None:
    """Signal exactly this process; one that has ended meanwhile is no error."""
    if is_running(record):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(record.pid, number)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(record.pid, os.WNOHANG)  # our own child stays a zombie until somebody asks


def _all() -> Iterable[_Status]:
    for entry in os.listdir(_PROC):
        if entry.isdigit():
            status = _read_status(int(entry))
            if status is not None:
                yield status


def _read_status(pid: int) -> _Status | None:
    try:
        text = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    name, _, rest = text.partition("(")[2].rpartition(")")
    fields = rest.split()  # from field 3, the state, on: the name may hold spaces and parentheses
    record = ProcessRecord(pid=pid, started=int(fields[19]), name=name)
    return _Status(record, parent=int(fields[1]), session=int(fields[3]), is_zombie=fields[0] in "ZX")
