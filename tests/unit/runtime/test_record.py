"""The record survives a round trip, is private, and is refused where it cannot be trusted."""

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from ray_mlops.config import StoreConfig
from ray_mlops.errors import ClusterError, StoreError
from ray_mlops.runtime.record import (
    ClusterRecord,
    cluster_lock,
    read_record,
    record_path_of,
    remove_record,
    write_record,
)


def test_round_trip_is_private_and_equal(tmp_path: Path, make_record: Callable[..., ClusterRecord]) -> None:
    store = StoreConfig(root=str(tmp_path))
    assert read_record(store) is None
    record = make_record()
    write_record(store, record)
    assert read_record(store) == record
    assert record_path_of(store).stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["cluster.json"]
    remove_record(store)
    remove_record(store)
    assert read_record(store) is None


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"schema_version": 1}', '{"schema_version": 1, "head": {"pid": 1}}']
)
def test_damaged_record_is_refused(tmp_path: Path, text: str) -> None:
    store = StoreConfig(root=str(tmp_path))
    record_path_of(store).write_text(text)
    with pytest.raises(ClusterError, match="is damaged"):
        read_record(store)


def test_newer_record_is_refused(tmp_path: Path, make_record: Callable[..., ClusterRecord]) -> None:
    store = StoreConfig(root=str(tmp_path))
    write_record(store, make_record())
    content = json.loads(record_path_of(store).read_text())
    record_path_of(store).write_text(json.dumps(content | {"schema_version": 99}))
    with pytest.raises(ClusterError, match="newer"):
        read_record(store)


def test_unwritable_store_is_a_store_error(tmp_path: Path, make_record: Callable[..., ClusterRecord]) -> None:
    (tmp_path / "file").write_text("")
    store = StoreConfig(root=str(tmp_path / "file" / "below"))
    with pytest.raises(StoreError, match="cannot be written"), cluster_lock(store, 1.0):
        pass
    with pytest.raises(StoreError, match="cannot be written"):
        write_record(store, make_record())


def test_lock_is_exclusive_and_gives_up(tmp_path: Path) -> None:
    store = StoreConfig(root=str(tmp_path))
    with cluster_lock(store, 1.0), pytest.raises(ClusterError, match="another process"), cluster_lock(store, 0.0):
        pass
    with cluster_lock(store, 0.0):
        pass


def test_lock_second_holder_comes_after_the_first(tmp_path: Path) -> None:
    store = StoreConfig(root=str(tmp_path))
    order: list[str] = []

    def second() -> None:
        with cluster_lock(store, 30.0):
            order.append("second")

    with cluster_lock(store, 1.0):
        thread = threading.Thread(target=second)
        thread.start()
        order.append("first")
    thread.join(30.0)
    assert order == ["first", "second"]
