"""Which cluster is joined, and what is refused before Ray is even imported."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ray_mlops.config import ClusterConfig, StoreConfig, TrainingConfig
from ray_mlops.errors import ClusterError, ResourceError, StoreError
from ray_mlops.runtime import cluster
from ray_mlops.runtime.ports import free_port
from ray_mlops.runtime.record import ClusterRecord, write_record


@pytest.fixture(autouse=True)
def nothing_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(cluster, "_joined_address", lambda: None)


@pytest.mark.parametrize("address", ["auto", "local", "ray://host:10001", "host", "host:port", ":6379", ""])
def test_connect_address_that_names_no_gcs_is_refused(
    tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    expected = "no cluster runs" if address == "" else "host:port"
    with pytest.raises(ClusterError, match=expected):
        cluster.connect((ClusterConfig(), StoreConfig(root=str(tmp_path))), start="never")


def test_connect_configured_address_comes_before_ray_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configured, inherited = free_port(0), free_port(0)
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{inherited}")
    store = StoreConfig(root=str(tmp_path))
    with pytest.raises(ClusterError, match=f"127.0.0.1:{configured}: nothing answers"):
        cluster.connect((ClusterConfig(address=f"127.0.0.1:{configured}"), store))
    with pytest.raises(ClusterError, match=f"127.0.0.1:{inherited}: nothing answers"):
        cluster.connect((ClusterConfig(), store))


def test_connect_never_starts_and_says_what_to_run(tmp_path: Path, make_record: Callable[..., ClusterRecord]) -> None:
    store = StoreConfig(root=str(tmp_path))
    with pytest.raises(ClusterError, match=r"no cluster runs.*ray-mlops cluster start"):
        cluster.connect((ClusterConfig(), store), start="never")
    write_record(store, make_record())
    with pytest.raises(ClusterError, match="does not run"):
        cluster.connect((ClusterConfig(), store), start="never")


def test_connect_unwritable_store_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        cluster.connect((ClusterConfig(), StoreConfig(root=str(tmp_path / "file" / "store"))))


def test_connect_where_ray_is_joined_already_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_joined_address", lambda: "10.0.0.7:6379")
    with cluster.connect((ClusterConfig(), StoreConfig(root=str(tmp_path)))) as connection:
        assert (connection.address, connection.owned, connection.record) == ("10.0.0.7:6379", False, None)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({}, "store.root, store.database, store.mlflow_tracking_uri"),
        ({"root": "s3://bucket/store"}, "store.database, store.mlflow_tracking_uri"),
        ({"database": "postgresql://host/db", "mlflow_tracking_uri": "http://mlflow"}, "store.root"),
    ],
)
def test_require_shared_store_names_what_is_local(settings: dict[str, str], named: str) -> None:
    store = StoreConfig(**settings)
    cluster.require_shared_store(store, 1)
    with pytest.raises(StoreError, match=f"store: {named}: on one node only, and the cluster has 3"):
        cluster.require_shared_store(store, 3)


def test_require_shared_store_accepts_servers_and_the_users_word() -> None:
    shared = StoreConfig(root="s3://b", database="postgresql://h/d", mlflow_tracking_uri="postgresql://h/m")
    cluster.require_shared_store(shared, 3)
    cluster.require_shared_store(StoreConfig(allow_local=True), 3)


def test_plan_for_cluster_counts_what_others_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "available", lambda: ({"CPU": 4.0}, {"CPU": 3.7}))
    assert cluster.plan_for_cluster(TrainingConfig(), ClusterConfig()).training_cpus == 2.7
    monkeypatch.setattr(cluster, "available", lambda: ({"CPU": 4.0}, {}))
    with pytest.raises(ResourceError, match="4 held by others"):
        cluster.plan_for_cluster(TrainingConfig(), ClusterConfig())
