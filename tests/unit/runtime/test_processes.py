"""Processes are known by pid and start time, family and mark; ending them ends these and no others."""

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator

import pytest

from ray_mlops.runtime.deadline import wait_for
from ray_mlops.runtime.processes import (
    ProcessRecord,
    end_processes,
    find_family,
    find_marked,
    find_process,
    is_running,
)

SLEEP = "import time; time.sleep(60)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)"
)
PARENT_OF_SESSION = (
    "import subprocess, sys, time\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
    "print(child.pid, flush=True)\n"
    "time.sleep(60)"
)


Child = subprocess.Popen[str]


class Spawned:
    def __init__(self) -> None:
        self.children: list[Child] = []

    def __call__(self, code: str, mark: str = "", session: bool = False) -> tuple[ProcessRecord, Child]:
        environment = {**os.environ, "TEST_MARK": mark}
        command = [sys.executable, "-S", "-c", code]
        child = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=session)
        self.children.append(child)
        record = find_process(child.pid)
        assert record is not None
        return record, child


@pytest.fixture
def spawn() -> Iterator[Spawned]:
    spawned = Spawned()
    yield spawned
    for child in spawned.children:
        child.kill()
        child.wait()
        assert child.stdout is not None
        child.stdout.close()


def read_line(child: Child) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


def test_is_running_other_start_time_is_another_process(spawn: Spawned) -> None:
    record, _ = spawn(SLEEP)
    assert is_running(record)
    assert not is_running(ProcessRecord(record.pid, record.started - 1, record.name))


def test_is_running_zombie_has_ended(spawn: Spawned) -> None:
    record, child = spawn(SLEEP)
    os.kill(child.pid, signal.SIGKILL)
    wait_for("the kernel", lambda: not is_running(record), 5.0)
    assert child.returncode is None  # not reaped yet: it was a zombie that was asked for
    assert find_process(record.pid) is None


def test_find_marked_finds_only_the_mark(spawn: Spawned) -> None:
    mark = uuid.uuid4().hex
    mine, _ = spawn(SLEEP, mark)
    spawn(SLEEP, uuid.uuid4().hex)
    wait_for("exec", lambda: find_marked("TEST_MARK", mark), 5.0)
    assert [record.pid for record in find_marked("TEST_MARK", mark)] == [mine.pid]
    assert find_marked("TEST_MARK", mark[:-1]) == []


def test_find_family_has_children_and_not_siblings(spawn: Spawned) -> None:
    parent, child = spawn(PARENT_OF_SESSION)
    sibling, _ = spawn(SLEEP)
    grandchild = int(read_line(child))
    assert {record.pid for record in find_family([parent])} == {parent.pid, grandchild}
    assert sibling.pid not in {record.pid for record in find_family([parent])}
    end_processes(lambda: find_family([parent]), patience_s=5.0)


def test_find_family_orphan_of_a_dead_leader_is_found_by_its_session(spawn: Spawned) -> None:
    leader, child = spawn(PARENT_OF_SESSION, session=True)
    orphan = int(read_line(child))
    os.kill(leader.pid, signal.SIGKILL)
    child.wait()
    assert [record.pid for record in find_family([leader])] == [orphan]
    end_processes(lambda: find_family([leader]), patience_s=5.0)
    assert find_process(orphan) is None


def test_find_family_pid_used_again_is_no_member(spawn: Spawned) -> None:
    record, _ = spawn(SLEEP)
    assert find_family([ProcessRecord(record.pid, record.started - 1, "")]) == []


def test_end_processes_asks_first_and_leaves_others_alone(spawn: Spawned) -> None:
    record, child = spawn(SLEEP)
    other, _ = spawn(SLEEP)
    assert end_processes(lambda: [record] if is_running(record) else [], patience_s=5.0) == [record]
    assert child.wait() in (-signal.SIGTERM, 0)
    assert is_running(other)


def test_end_processes_kills_what_does_not_listen(spawn: Spawned) -> None:
    record, child = spawn(STUBBORN)
    assert read_line(child) == "ready"
    ended = end_processes(lambda: [record] if is_running(record) else [], patience_s=0.2)
    assert ended == [record]
    assert not is_running(record)


def test_end_processes_never_ends_the_caller() -> None:
    myself = find_process(os.getpid())
    assert myself is not None
    assert end_processes(lambda: [myself], patience_s=0.1, kill_s=0.1) == []
