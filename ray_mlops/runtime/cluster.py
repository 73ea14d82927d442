"""Join the Ray cluster of a configuration. Importing this module does not import Ray.

Settings that Ray reads when it is imported or started must be in the environment first, so a program calls
``connect`` before anything imports Ray.
"""

import importlib
import logging
import os
import re
import sys
from types import TracebackType
from typing import Any, Literal, Self

from ray_mlops.config import ClusterConfig, ProjectConfig, StoreConfig, TrainingConfig
from ray_mlops.errors import ClusterError, StoreError
from ray_mlops.runtime.budget import ResourceBudget, plan_budget, reserved_cpus
from ray_mlops.runtime.environment import DRIVER_SETTINGS, AppliedEnvironment, driver_environment, is_ray_imported
from ray_mlops.runtime.lifecycle import (
    USE_TIMEOUT_S,
    ClusterStatus,
    check_machine,
    cluster_status,
    is_up,
    start_cluster,
    start_or_find,
    stop_cluster,
)
from ray_mlops.runtime.ports import is_open
from ray_mlops.runtime.record import ClusterRecord, ClusterUse, read_record, record_path_of

__all__ = [
    "NAMESPACE",
    "ClusterRecord",
    "ClusterStatus",
    "Connection",
    "available",
    "cluster_status",
    "connect",
    "plan_for_cluster",
    "require_shared_store",
    "start_cluster",
    "stop_cluster",
]

NAMESPACE = "ray_mlops"
_ADDRESS = re.compile(r"^(\[[0-9a-fA-F:.]+\]|[^:/\s]+):(\d{1,5})$")
_OPEN_TIMEOUT_S = 5.0


class Connection:
    """A driver's connection to a cluster; a context manager that takes back all it did.

    Attributes:
        address: The GCS's address, ``host:port``.
        record: Of a cluster of ours; None for one that somebody else started.
        owned: Whether this command started the cluster for itself. A cluster that no command asked to keep
            stops with the last command that uses it.
    """

    def __init__(
        self,
        address: str,
        record: ClusterRecord | None,
        store: StoreConfig,
        *,
        owned: bool,
        joined: bool,
        environment: AppliedEnvironment,
        use: ClusterUse | None = None,
    ) -> None:
        self.address = address
        self.record = record
        self.owned = owned
        self._store = store
        self._joined = joined
        self._environment = environment
        self._use = use

    @property
    def dashboard_url(self) -> str | None:
        """Of the Jobs API; None where somebody else started the cluster and knows it."""
        return self.record.dashboard_url if self.record else os.environ.get("RAY_API_SERVER_ADDRESS")

    def close(self, *, stop: bool | None = None) -> None:
        """Leave the cluster. Once closed, nothing happens any more.

        Args:
            stop: True stops the cluster whoever uses it, False leaves it, None stops one that nobody uses any
                more and nobody asked to keep.
        """
        if self._joined:
            import ray

            self._joined = False
            ray.shutdown()
        self._environment.restore()
        use, self._use, self.owned = self._use, None, False
        if use is not None:
            use.release()
        if self.record is not None and (stop or (stop is None and use is not None)):
            stop_cluster(self._store, unless_kept=None if stop else self.record.id)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def connect(
    config: ProjectConfig | tuple[ClusterConfig, StoreConfig],
    *,
    start: Literal["if_needed", "never"] = "if_needed",
    keep: bool = False,
    namespace: str = NAMESPACE,
    check_store: bool = True,
) -> Connection:
    """Join the cluster of a configuration, and start one where there is none.

    The first of these that is there is joined: ``cluster.address``; ``RAY_ADDRESS`` (set inside a Ray job);
    the cluster recorded in the store, restarted on its GCS storage if its head was lost; a new one. A process
    that has joined Ray already stays where it is. No other cluster is ever joined.

    Args:
        config: The project's configuration, or its sections ``cluster`` and ``store``.
        start: `never` joins only what runs.
        keep: The cluster goes on after this command's end, whoever started it.
        namespace: Of named actors.
        check_store: Refuse a store that does not fit a cluster of several nodes (``require_shared_store``).

    Raises:
        ClusterError: No cluster runs, it cannot be started or joined, or Ray was imported too early.
        StoreError: The store cannot be written, or does not fit a cluster of several nodes.
    """
    cluster, store = (config.cluster, config.store) if isinstance(config, ProjectConfig) else config
    here = _joined_address()
    if here is not None:
        return Connection(
            here, _record_of(here, store), store, owned=False, joined=False, environment=AppliedEnvironment()
        )
    environment = AppliedEnvironment()
    record, owned, use = None, False, None
    try:
        address = cluster.address or os.environ.get("RAY_ADDRESS")
        if address:
            record = _record_of(_check_address(address), store)
        else:
            if start == "if_needed" or read_record(store) is not None:  # else nothing is created, not even a lock
                use = ClusterUse(store, USE_TIMEOUT_S)
            record, owned = _find_or_start(cluster, store, start, keep, environment)
            address = record.address
        _join(address, record, environment, namespace)
        connection = Connection(address, record, store, owned=owned, joined=True, environment=environment, use=use)
    except BaseException:
        environment.restore()
        if use is not None:
            use.release()
        if use is not None and record is not None:
            stop_cluster(store, unless_kept=record.id)
        raise
    try:
        if check_store:
            require_shared_store(store, _count_nodes())
    except BaseException:
        connection.close()
        raise
    return connection


def require_shared_store(store: StoreConfig, num_nodes: int) -> None:
    """Refuse a store that only one node of several can see.

    Raises:
        StoreError: A local root or SQLite on more than one node, unless ``store.allow_local`` says that the
            path is shared. SQLite's locks do not hold on network filesystems: a path shared that way still
            needs ``store.database`` on a server.
    """
    if num_nodes <= 1 or store.allow_local:
        return
    local = [
        name
        for name, is_local in (
            ("store.root", store.is_local),
            ("store.database", store.database_url.startswith("sqlite")),
            ("store.mlflow_tracking_uri", store.tracking_uri.startswith(("sqlite", "file:", "/", "."))),
        )
        if is_local
    ]
    if local:
        problem = f"{', '.join(local)}: on one node only, and the cluster has {num_nodes}"
        remedy = "use object storage (s3://...) and PostgreSQL, or set store.allow_local if every node sees the path"
        raise StoreError(problem, "store", remedy)


def available() -> tuple[dict[str, float], dict[str, float]]:
    """The joined cluster's resources: all of them, and those that are free now."""
    ray: Any = importlib.import_module("ray")
    return dict(ray.cluster_resources()), dict(ray.available_resources())


def plan_for_cluster(training: TrainingConfig, cluster: ClusterConfig) -> ResourceBudget:
    """``plan_budget`` with what the joined cluster has, and what others hold of it now.

    Raises:
        ResourceError: It is not enough.
    """
    total, free = available()
    cpus = total.get("CPU", 0.0)
    return plan_budget(cpus, total.get("GPU", 0.0), reserved_cpus(cpus, free.get("CPU", 0.0)), training, cluster)


def _find_or_start(
    cluster: ClusterConfig, store: StoreConfig, start: str, keep: bool, environment: AppliedEnvironment
) -> tuple[ClusterRecord, bool]:
    record = read_record(store)
    if record is not None:
        check_machine(record, store)
        if is_up(record) and not keep:
            return record, False
    if start == "never" and (record is None or not is_up(record)):
        problem = "no cluster runs for this store" if record is None else "the recorded cluster does not run"
        raise ClusterError(problem, str(record_path_of(store)), "run 'ray-mlops cluster start', or set RAY_ADDRESS")

    def prepare(record: ClusterRecord) -> None:
        _prepare_driver(record.address, record, environment)

    return start_or_find(cluster, store, keep=keep, meanwhile=prepare)


def _join(address: str, record: ClusterRecord | None, environment: AppliedEnvironment, namespace: str) -> None:
    host, port = _split(address)
    if not is_open(host, port, _OPEN_TIMEOUT_S):
        raise ClusterError("nothing answers there", address, "start the cluster, or correct the address")
    _prepare_driver(address, record, environment)
    import ray

    try:
        ray.init(address=address, namespace=namespace, log_to_driver=False, logging_level=logging.WARNING)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        remedy = "check that Ray and Python have the cluster's versions, and RAY_AUTH_MODE and the token"
        raise ClusterError(f"cannot be joined: {error}", address, remedy) from error


def _prepare_driver(address: str, record: ClusterRecord | None, environment: AppliedEnvironment) -> None:
    """Set the environment, then import Ray, in this order."""
    if record is not None:
        settings = driver_environment(record.environment)
    else:
        settings = {name: os.environ.get(name, value) for name, value in DRIVER_SETTINGS.items()}
        has_token = any(name in os.environ for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
        if has_token and "RAY_AUTH_MODE" not in os.environ:
            settings["RAY_AUTH_MODE"] = "token"  # without it Ray does not look at the token
        settings["RAY_ADDRESS"] = address
    _check_not_too_late(settings.get("RAY_AUTH_MODE", os.environ.get("RAY_AUTH_MODE", "")), address)
    environment.apply(settings)
    import ray

    raylet: Any = ray._raylet
    raylet.AuthenticationTokenLoader.instance().reset_cache()  # it keeps the token of the cluster joined before


def _check_not_too_late(auth: str, address: str) -> None:
    """Ray reads its authentication mode once, when it is imported."""
    if not is_ray_imported() or auth != "token":
        return
    raylet: Any = sys.modules["ray._raylet"]
    if raylet.get_authentication_mode() != raylet.AuthenticationMode.TOKEN:
        remedy = "call connect() before anything imports Ray, or start the program with RAY_AUTH_MODE=token"
        raise ClusterError("Ray was imported without the token authentication of this cluster", address, remedy)


def _joined_address() -> str | None:
    """Where this process has joined Ray already."""
    ray: Any = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return None
    return str(ray.get_runtime_context().gcs_address)


def _count_nodes() -> int:
    ray: Any = importlib.import_module("ray")
    return sum(bool(node["Alive"]) for node in ray.nodes())


def _record_of(address: str, store: StoreConfig) -> ClusterRecord | None:
    record = read_record(store)
    return record if record is not None and record.address == address and is_up(record) else None


def _check_address(address: str) -> str:
    """``host:port`` only: 'auto' and 'local' would join or start a cluster that nobody named."""
    if _ADDRESS.match(address) is None:
        problem = f"expected the address of a GCS, 'host:port', got {address!r}"
        raise ClusterError(problem, "cluster.address or RAY_ADDRESS", "remove it to use the store's own cluster")
    return address


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)
