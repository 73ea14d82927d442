"""Facts are judged by what each costs."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from ray_mlops.config import ClusterConfig, StoreConfig
from ray_mlops.runtime import doctor
from ray_mlops.runtime.environment import cluster_environment
from ray_mlops.runtime.facts import ClusterFacts, MachineFacts, gather_machine
from ray_mlops.runtime.lifecycle import ClusterStatus
from ray_mlops.runtime.ports import ClusterPorts
from ray_mlops.runtime.record import ClusterRecord

MACHINE = MachineFacts(
    cpus=4,
    shared_memory_bytes=2**31,
    free_disk_bytes=50 * 2**30,
    used_disk_ratio=0.5,
    open_files=65_536,
    has_haproxy=True,
    ray_version="2.60.0",
    dashboard_port_is_free=True,
    store_problem="",
    status=ClusterStatus("none", None, ()),
)
VERSIONS = ("2.60.0", "3.11.7")


def cluster_facts(tmp_path: Path) -> ClusterFacts:
    store = StoreConfig(root=str(tmp_path))
    environment = cluster_environment(ClusterConfig(), ClusterPorts.of_block(0), store, haproxy=True)
    return ClusterFacts(environment, VERSIONS, VERSIONS, 1, 4.0, 3.7, 2**29)


def failed(findings: list[doctor.Finding]) -> list[str]:
    return [finding.name for finding in findings if not finding.ok]


def test_good_machine_and_our_own_cluster_have_no_fault(tmp_path: Path) -> None:
    store = StoreConfig(root=str(tmp_path))
    assert failed(doctor.judge_machine(MACHINE, ClusterConfig())) == []
    assert failed(doctor.judge_cluster(cluster_facts(tmp_path), ClusterConfig(), store)) == []


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"shared_memory_bytes": 64 * 2**20}, "shared memory"),
        ({"free_disk_bytes": 2**30}, "disk"),
        ({"used_disk_ratio": 0.96}, "disk"),
        ({"open_files": 1024}, "open files"),
        ({"has_haproxy": False}, "haproxy"),
        ({"ray_version": "2.61.0"}, "ray"),
        ({"dashboard_port_is_free": False}, "dashboard port"),
        ({"store_problem": "/x cannot be written"}, "store"),
    ],
)
def test_each_fault_of_a_machine_is_found_alone(change: dict[str, object], name: str) -> None:
    findings = doctor.judge_machine(dataclasses.replace(MACHINE, **change), ClusterConfig())  # type: ignore[arg-type]
    assert failed(findings) == [name]
    assert all(finding.cost and finding.remedy for finding in findings)


def test_lost_cluster_is_a_finding(make_record: Callable[..., ClusterRecord]) -> None:
    facts = dataclasses.replace(MACHINE, status=ClusterStatus("lost", make_record(), ()))
    assert failed(doctor.judge_machine(facts, ClusterConfig())) == ["recorded cluster"]


def test_foreign_cluster_without_our_settings_names_each_with_its_cost(tmp_path: Path) -> None:
    facts = dataclasses.replace(cluster_facts(tmp_path), environment={})
    findings = doctor.judge_cluster(facts, ClusterConfig(), StoreConfig(root=str(tmp_path)))
    settings = [finding for finding in findings if not finding.ok]
    assert len(settings) == 9
    assert all(finding.found == "unset" and finding.name in finding.remedy for finding in settings)


def test_haproxy_off_asks_for_no_haproxy(tmp_path: Path) -> None:
    facts = dataclasses.replace(cluster_facts(tmp_path), environment={"RAY_AUTH_MODE": "disabled"})
    off = ClusterConfig(haproxy="off", auth="disabled")
    names = failed(doctor.judge_cluster(facts, off, StoreConfig(root=str(tmp_path))))
    assert not any("HAPROXY" in name or "HA_PROXY" in name or "INGRESS" in name for name in names)
    assert "RAY_AUTH_MODE" not in names


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"num_nodes": 2}, "store for nodes"),
        ({"cpus": 1.0}, "cpus"),
        ({"free_cpus": 0.5}, "free cpus"),
        ({"object_store_bytes": 2**20}, "object store"),
        ({"worker_versions": ("2.60.0", "3.12.1")}, "versions"),
    ],
)
def test_each_fault_of_a_cluster_is_found_alone(tmp_path: Path, change: dict[str, object], name: str) -> None:
    facts = dataclasses.replace(cluster_facts(tmp_path), **change)  # type: ignore[arg-type]
    assert failed(doctor.judge_cluster(facts, ClusterConfig(), StoreConfig(root=str(tmp_path)))) == [name]


def test_tighter_number_than_asked_is_fine(tmp_path: Path) -> None:
    facts = cluster_facts(tmp_path)
    tighter = {**facts.environment, "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1"}
    looser = {**facts.environment, "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "2.0"}
    store = StoreConfig(root=str(tmp_path))
    assert failed(doctor.judge_cluster(dataclasses.replace(facts, environment=tighter), ClusterConfig(), store)) == []
    assert failed(doctor.judge_cluster(dataclasses.replace(facts, environment=looser), ClusterConfig(), store)) == [
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"
    ]


def test_diagnose_without_a_cluster_looks_at_the_machine_and_creates_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("ray_mlops.runtime.cluster._joined_address", lambda: None)
    store = StoreConfig(root=str(tmp_path / "new"))
    findings = doctor.diagnose(ClusterConfig(), store)
    assert findings[-1].name == "cluster"
    assert findings[-1].ok
    assert "no cluster runs" in findings[-1].found
    assert list(tmp_path.iterdir()) == []


def test_gather_machine_sees_this_machine(tmp_path: Path) -> None:
    facts = gather_machine(ClusterConfig(), StoreConfig(root=str(tmp_path / "new")))
    assert facts.free_disk_bytes > 0
    assert facts.store_problem == ""
    (tmp_path / "file").write_text("")
    assert (
        "no directory" in gather_machine(ClusterConfig(), StoreConfig(root=str(tmp_path / "file" / "x"))).store_problem
    )
