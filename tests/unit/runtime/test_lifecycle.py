"""Start, find and stop, with a fake head: who starts, who joins, what is cleared away, what is refused."""

import dataclasses
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ray_mlops.config import ClusterConfig, StoreConfig
from ray_mlops.errors import ClusterError
from ray_mlops.runtime import lifecycle
from ray_mlops.runtime.processes import ProcessRecord, find_process
from ray_mlops.runtime.record import ClusterRecord, read_record, write_record

CLUSTER = ClusterConfig()


class FakeHeads:
    """Stands for ``head``: remembers what was started and ended."""

    def __init__(self, directory: Path, make_record: Callable[..., ClusterRecord]) -> None:
        self.directory = directory
        self.make_record = make_record
        self.started: list[ClusterRecord | None] = []
        self.ended: list[tuple[str, bool]] = []
        self.up: set[str] = set()

    def start_head(
        self,
        cluster: ClusterConfig,
        store: StoreConfig,
        lost: ClusterRecord | None,
        *,
        keep: bool,
        meanwhile: Callable[[ClusterRecord], None],
    ) -> ClusterRecord:
        self.started.append(lost)
        identity = lost.id if lost else f"cluster-{len(self.started)}"
        record = dataclasses.replace(self.make_record(), id=identity, keep=keep)
        meanwhile(record)
        write_record(store, record)
        self.up.add(record.id)
        return record

    def end_head(self, record: ClusterRecord, store: StoreConfig, **options: Any) -> list[ProcessRecord]:
        self.ended.append((record.id, options.get("keep_storage", False)))
        self.up.discard(record.id)
        if not options.get("keep_storage"):
            (self.directory / "cluster.json").unlink()
        return [record.head]

    def is_up(self, record: ClusterRecord) -> bool:
        return record.id in self.up


@pytest.fixture
def heads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_record: Callable[..., ClusterRecord]) -> FakeHeads:
    fake = FakeHeads(tmp_path, make_record)
    monkeypatch.setattr(lifecycle, "start_head", fake.start_head)
    monkeypatch.setattr(lifecycle, "end_head", fake.end_head)
    monkeypatch.setattr(lifecycle, "is_up", fake.is_up)
    monkeypatch.setattr(lifecycle, "members", lambda record: [])
    return fake


@pytest.fixture
def store(tmp_path: Path) -> StoreConfig:
    return StoreConfig(root=str(tmp_path))


def test_start_twice_finds_the_first(heads: FakeHeads, store: StoreConfig) -> None:
    first = lifecycle.start_cluster(CLUSTER, store)
    assert lifecycle.start_cluster(CLUSTER, store) == first
    assert first.keep
    assert heads.started == [None]


def test_command_owns_only_what_it_started_for_itself(heads: FakeHeads, store: StoreConfig) -> None:
    assert lifecycle.start_or_find(CLUSTER, store, keep=False)[1]
    assert not lifecycle.start_or_find(CLUSTER, store, keep=False)[1]
    assert lifecycle.stop_cluster(store) != []
    assert not lifecycle.start_or_find(CLUSTER, store, keep=True)[1]


def test_kept_meanwhile_is_not_stopped_by_its_starter(heads: FakeHeads, store: StoreConfig) -> None:
    record, owned = lifecycle.start_or_find(CLUSTER, store, keep=False)
    lifecycle.start_or_find(CLUSTER, store, keep=True)
    assert owned
    assert lifecycle.stop_cluster(store, unless_kept=record.id) == []
    assert lifecycle.cluster_status(store).state == "running"
    assert lifecycle.stop_cluster(store) != []


def test_another_cluster_on_the_store_is_not_stopped(heads: FakeHeads, store: StoreConfig) -> None:
    lifecycle.start_or_find(CLUSTER, store, keep=False)
    assert lifecycle.stop_cluster(store, unless_kept="an earlier one") == []


def test_lost_kept_cluster_comes_back_on_its_storage(heads: FakeHeads, store: StoreConfig) -> None:
    lost = lifecycle.start_cluster(CLUSTER, store)
    heads.up.clear()
    assert lifecycle.cluster_status(store).state == "lost"
    record, owned = lifecycle.start_or_find(CLUSTER, store, keep=False)
    assert heads.started == [None, lost]
    assert heads.ended == [(lost.id, True)]
    assert (record.id, record.keep, owned) == (lost.id, True, False)


def test_lost_unkept_cluster_is_cleared_away(heads: FakeHeads, store: StoreConfig) -> None:
    lost, _ = lifecycle.start_or_find(CLUSTER, store, keep=False)
    heads.up.clear()
    record, owned = lifecycle.start_or_find(CLUSTER, store, keep=False)
    assert heads.ended == [(lost.id, False)]
    assert heads.started == [None, None]
    assert record.id != lost.id
    assert owned


def test_stop_without_a_cluster_ends_nothing(heads: FakeHeads, store: StoreConfig) -> None:
    assert lifecycle.stop_cluster(store) == []
    assert heads.ended == []
    assert list(store.local_root.iterdir()) == []


def test_stop_from_inside_is_refused(heads: FakeHeads, store: StoreConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    lifecycle.start_cluster(CLUSTER, store)
    monkeypatch.setattr(lifecycle, "members", lambda record: [find_process(os.getpid())])
    with pytest.raises(ClusterError, match="from inside"):
        lifecycle.stop_cluster(store)
    assert heads.ended == []


def test_record_of_another_machine_is_left_alone(
    heads: FakeHeads, store: StoreConfig, make_record: Callable[..., ClusterRecord]
) -> None:
    elsewhere = dataclasses.replace(make_record(), hostname=socket.gethostname() + "-other")
    write_record(store, elsewhere)
    assert lifecycle.cluster_status(store).state == "elsewhere"
    for action in (lifecycle.stop_cluster, lambda store: lifecycle.start_cluster(CLUSTER, store)):
        with pytest.raises(ClusterError, match="-other"):
            action(store)
    assert read_record(store) == elsewhere


def test_is_up_dead_head_or_other_boot_is_not(make_record: Callable[..., ClusterRecord]) -> None:
    myself = find_process(os.getpid())
    record = make_record(myself)
    assert not lifecycle.is_up(make_record())
    with socket.socket() as gcs:
        gcs.bind((record.node_ip, 0))
        gcs.listen()
        record = dataclasses.replace(record, ports=dataclasses.replace(record.ports, gcs=gcs.getsockname()[1]))
        assert lifecycle.is_up(record)
        assert not lifecycle.is_up(dataclasses.replace(record, boot_id="an earlier one"))
        assert not lifecycle.is_up(dataclasses.replace(record, ready=False))
    assert not lifecycle.is_up(record)
