"""Starting a head, with small programs in place of Ray: ready, failed, late, overloaded, ports in use."""

import dataclasses
import importlib.util
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ray_mlops.config import ClusterConfig, StoreConfig
from ray_mlops.errors import ClusterError
from ray_mlops.runtime import head
from ray_mlops.runtime.environment import CLUSTER_ID, temp_dir_of
from ray_mlops.runtime.processes import find_marked, find_process
from ray_mlops.runtime.record import ClusterRecord, read_record, write_record

READY = """
import pathlib, socket, sys, time
address, dashboard, temp = sys.argv[1:]
server = socket.create_server(("127.0.0.1", int(dashboard)))
pathlib.Path(temp, "ray_current_cluster").write_text(address)
time.sleep(60)
"""
SLOW = "import time; time.sleep(60)"
BROKEN = "import sys; sys.exit('no such option: --frobnicate')"
OVERLOADED = "import sys; sys.exit('The current node timed out during startup.')"


class FakeRay:
    """Runs these programs, one for each attempt, the last one over and over."""

    def __init__(self, *programs: str) -> None:
        self.programs = list(programs)
        self.records: list[ClusterRecord] = []

    def __call__(self, record: ClusterRecord, cluster: ClusterConfig) -> "subprocess.Popen[bytes]":
        program = self.programs[min(len(self.records), len(self.programs) - 1)]
        self.records.append(record)
        command = [sys.executable, "-S", "-c", program, record.address, str(record.ports.dashboard), record.temp_dir]
        environment = {**os.environ, CLUSTER_ID: record.id}
        with open(record.log, "ab") as log:
            return subprocess.Popen(command, env=environment, stderr=log, start_new_session=True)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StoreConfig]:
    store = StoreConfig(root=str(tmp_path / "store"))
    yield store
    record = read_record(store)
    if record is not None:
        head.end_head(record, store, patience_s=0.0)
    assert not temp_dir_of(store).exists()


def start(
    store: StoreConfig,
    monkeypatch: pytest.MonkeyPatch,
    fake: FakeRay,
    timeout_s: float = 20.0,
    lost: ClusterRecord | None = None,
) -> ClusterRecord:
    monkeypatch.setattr(head, "_spawn", fake)
    cluster = ClusterConfig(num_cpus=4, start_timeout_s=timeout_s)
    return head.start_head(cluster, store, lost, keep=True, meanwhile=lambda record: None)


def assert_clean(store: StoreConfig, fake: FakeRay) -> None:
    assert read_record(store) is None
    assert not temp_dir_of(store).exists()
    assert find_marked(CLUSTER_ID, fake.records[-1].id) == []


def test_ready_head_is_recorded_and_ended_exactly(store: StoreConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    record = start(store, monkeypatch, FakeRay(READY))
    assert record.ready
    assert record == read_record(store)
    assert record.head in record.processes
    assert record.token is not None
    assert len(record.token) == 64
    assert temp_dir_of(store).stat().st_mode & 0o777 == 0o700
    assert head.end_head(record, store, patience_s=5.0) == [record.head]
    assert read_record(store) is None
    assert find_process(record.head.pid) is None


def test_broken_head_says_what_its_log_says(store: StoreConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeRay(BROKEN)
    with pytest.raises(ClusterError, match=r"--frobnicate|ended at once"):
        start(store, monkeypatch, fake)
    assert len(fake.records) == 1
    assert_clean(store, fake)


def test_late_head_is_ended(store: StoreConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeRay(SLOW)
    with pytest.raises(ClusterError, match="not ready in time"):
        start(store, monkeypatch, fake, timeout_s=0.2)
    assert_clean(store, fake)


def test_overloaded_machine_is_tried_again(store: StoreConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeRay(OVERLOADED, READY)
    assert start(store, monkeypatch, fake).ready
    assert len(fake.records) == 2


def test_overloaded_machine_is_not_tried_for_ever(store: StoreConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeRay(OVERLOADED)
    with pytest.raises(ClusterError, match="ended 3 times"):
        start(store, monkeypatch, fake)
    assert_clean(store, fake)


def test_interrupted_start_ends_the_head(store: StoreConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeRay(SLOW)
    monkeypatch.setattr(head, "_spawn", fake)

    def interrupt(record: ClusterRecord) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        head.start_head(ClusterConfig(), store, None, keep=True, meanwhile=interrupt)
    assert_clean(store, fake)


def test_lost_head_gets_its_id_ports_and_storage_again(store: StoreConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = start(store, monkeypatch, FakeRay(READY))
    storage = Path(lost.environment["RAY_gcs_storage_path"]) / "table"
    storage.write_text("kept")
    head.end_head(lost, store, patience_s=5.0, keep_storage=True)
    again = start(store, monkeypatch, FakeRay(OVERLOADED, READY), lost=lost)  # also not at the second attempt
    assert (again.id, again.ports, again.restarts) == (lost.id, lost.ports, 1)
    assert again.token == lost.token
    assert storage.read_text() == "kept"
    head.end_head(again, store, patience_s=5.0)
    assert not storage.exists()


def test_configured_dashboard_port_in_use_gives_another(tmp_path: Path) -> None:
    store = StoreConfig(root=str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        ports = head._choose_ports(ClusterConfig(dashboard_port=port), store, None)
        assert ports.dashboard != port
    assert head._choose_ports(ClusterConfig(dashboard_port=port), store, None).dashboard == port


def test_processes_of_an_earlier_boot_are_nobodys(make_record: Callable[..., ClusterRecord]) -> None:
    record = make_record(find_process(os.getpid()))
    assert record.head in head.members(record)
    assert head.members(dataclasses.replace(record, boot_id="earlier")) == []


def test_end_head_what_cannot_be_ended_keeps_the_record(
    store: StoreConfig, make_record: Callable[..., ClusterRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    record = make_record(find_process(os.getpid()))
    write_record(store, record)
    monkeypatch.setattr(head, "end_processes", lambda find, patience_s: [])
    with pytest.raises(ClusterError, match=f"did not end: {os.getpid()}"):
        head.end_head(record, store, patience_s=0.0)
    assert read_record(store) == record
    monkeypatch.undo()
    (store.local_root / "cluster.json").unlink()


def test_ray_start_understands_every_option(
    make_record: Callable[..., ClusterRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every option of the command is an option of the installed Ray."""
    seen: list[list[str]] = []

    def keep_command(command: list[str], **options: object) -> None:
        seen.append(command)

    record = make_record()
    monkeypatch.setattr(subprocess, "Popen", keep_command)
    head._spawn(record, ClusterConfig())
    ray = importlib.util.find_spec("ray")
    assert ray is not None
    scripts = (Path(str(ray.origin)).parent / "scripts/scripts.py").read_text(encoding="utf-8")
    options = [argument.partition("=")[0] for argument in seen[0] if argument.startswith("--")]
    assert len(options) >= 18
    assert [option for option in options if f'"{option}"' not in scripts] == []
