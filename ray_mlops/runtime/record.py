"""``cluster.json``: the record of the cluster that belongs to a store, and the lock around starting one."""

import dataclasses
import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray_mlops.config import StoreConfig
from ray_mlops.errors import ClusterError, StoreError
from ray_mlops.runtime.files import write_atomically
from ray_mlops.runtime.ports import ClusterPorts
from ray_mlops.runtime.processes import ProcessRecord

SCHEMA_VERSION = 1
_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class ClusterRecord:
    """A head that we started: where it is, how to join it, and which processes are to end with it."""

    schema_version: int
    id: str
    """Random; the value of ``RAY_MLOPS_CLUSTER_ID`` in every process of the cluster."""
    ready: bool
    """False while it is being started, and for ever if the one who started it was killed."""
    address: str
    """Of the GCS, ``host:port``; what ``ray.init`` and ``RAY_ADDRESS`` take."""
    dashboard_url: str
    """Of the dashboard and the Jobs API."""
    hostname: str
    boot_id: str
    """The machine's boot within which the processes' start times count."""
    head: ProcessRecord
    """The process that started the others, and ends when one of them does."""
    processes: tuple[ProcessRecord, ...]
    """Those that were there when the start was over, the head among them."""
    node_ip: str
    ports: ClusterPorts
    temp_dir: str
    session_dir: str
    log: str
    """Output of the head's process."""
    auth: str
    token_path: str | None
    haproxy: bool
    environment: dict[str, str]
    """What was added to the launcher's environment."""
    num_cpus: int
    ray_version: str
    python_version: str
    started: float
    """Unix time, seconds."""
    start_seconds: float
    """How long the start took."""
    restarts: int
    """How often a lost head was restarted on the same GCS storage."""
    keep: bool
    """Whether it goes on after the command that started it; one that does not is not restarted either."""

    @property
    def token(self) -> str | None:
        """The cluster's token, for the header ``Authorization: Bearer``; None where there is none."""
        return Path(self.token_path).read_text(encoding="utf-8").strip() if self.token_path else None


def record_path_of(store: StoreConfig) -> Path:
    """Where the record lies."""
    return store.local_root / "cluster.json"


def read_record(store: StoreConfig) -> ClusterRecord | None:
    """The recorded cluster; None where there is no record.

    Raises:
        ClusterError: The record is damaged, or was written by a newer version.
    """
    path = record_path_of(store)
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if content["schema_version"] > SCHEMA_VERSION:
            raise ClusterError(f"schema version {content['schema_version']} is newer than this program", str(path))
        content["head"] = ProcessRecord(**content["head"])
        content["processes"] = tuple(ProcessRecord(**process) for process in content["processes"])
        content["ports"] = ClusterPorts.from_json(content["ports"])
        return ClusterRecord(**content)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StoreError(f"cannot be read: {error}", str(path)) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        remedy = "end the Ray processes of this store by hand, then delete the file"
        raise ClusterError(f"is damaged: {type(error).__name__}: {error}", str(path), remedy) from error


def write_record(store: StoreConfig, record: ClusterRecord) -> None:
    """Write the record, readable for its owner only.

    Raises:
        StoreError: The store cannot be written.
    """
    path = record_path_of(store)
    try:
        write_atomically(path, json.dumps(dataclasses.asdict(record), indent=2).encode(), mode=0o600)
    except OSError as error:
        raise StoreError(f"cannot be written: {error}", str(path), "check permissions and free space") from error


def remove_record(store: StoreConfig) -> None:
    """Delete the record; nothing happens where there is none."""
    record_path_of(store).unlink(missing_ok=True)


class ClusterUse:
    """Says, for as long as it is held, that this process uses the store's cluster.

    A cluster that nobody asked to keep ends with the last process that uses it, whoever started it. The kernel
    lets go of the lock when the process ends, however it ends.

    Args:
        store: Whose cluster.
        timeout_s: How long another process may take to stop the cluster of before.

    Raises:
        StoreError: The store cannot be written.
        ClusterError: Another process has been stopping the cluster for too long.
    """

    def __init__(self, store: StoreConfig, timeout_s: float) -> None:
        path = _users_path(store)
        self._descriptor: int | None = _open_lock(path)
        try:
            _acquire(self._descriptor, path, timeout_s, fcntl.LOCK_SH)
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Let go; a second call does nothing."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


@contextmanager
def unused_cluster(store: StoreConfig) -> Iterator[bool]:
    """Keep others from beginning to use the store's cluster; yields False, at once, where somebody uses it."""
    descriptor = _open_lock(_users_path(store))
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        os.close(descriptor)


@contextmanager
def cluster_lock(store: StoreConfig, timeout_s: float) -> Iterator[None]:
    """Hold the store's cluster lock: one process at a time starts, restarts or stops its cluster.

    Raises:
        StoreError: The store cannot be written.
        ClusterError: Another process has held the lock for ``timeout_s`` seconds.
    """
    with _held(store.local_root / "cluster.lock", timeout_s):
        yield


@contextmanager
def service_lock(store: StoreConfig, timeout_s: float) -> Iterator[None]:
    """Hold the store's service lock: one process at a time starts the service. Raises as ``cluster_lock`` does."""
    with _held(store.local_root / "service.lock", timeout_s):
        yield


@contextmanager
def _held(path: Path, timeout_s: float) -> Iterator[None]:
    """Hold a lock that the kernel gives back when its holder ends, however it ends."""
    descriptor = _open_lock(path)
    try:
        _acquire(descriptor, path, timeout_s, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _users_path(store: StoreConfig) -> Path:
    return store.local_root / "cluster.users"


def _open_lock(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreError(f"cannot be written: {error}", str(path), "check permissions and free space") from error


def _acquire(descriptor: int, path: Path, timeout_s: float, kind: int) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                problem = f"another process has been starting or stopping this for {timeout_s:.0f} s"
                raise ClusterError(problem, str(path), "wait, or see 'ray-mlops status'") from None
        time.sleep(_POLL_S)
