"""Start, find and stop the cluster that belongs to a store. Nothing here imports Ray."""

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from types import FrameType
from typing import Literal

from ray_mlops.config import ClusterConfig, StoreConfig
from ray_mlops.errors import ClusterError
from ray_mlops.runtime.head import end_head, members, start_head
from ray_mlops.runtime.ports import is_open
from ray_mlops.runtime.processes import ProcessRecord, boot_id, is_running
from ray_mlops.runtime.record import (
    ClusterRecord,
    cluster_lock,
    read_record,
    record_path_of,
    unused_cluster,
    write_record,
)

logger = logging.getLogger(__name__)

_LOCK_SLACK_S = 30.0
STOP_PATIENCE_S = 4.0
"""How long processes may take to end in order, before SIGKILL. Actors that wait for events, as Serve's do, let
a raylet wait 10 s for them and longer; who wants a service to end in order deletes it first."""
USE_TIMEOUT_S = STOP_PATIENCE_S + _LOCK_SLACK_S
"""How long a process that wants to use a cluster waits for another that stops it."""

ClusterState = Literal["none", "starting", "running", "lost", "elsewhere"]


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """What is known of a store's cluster."""

    state: ClusterState
    """`lost`: recorded, but its head has ended; `elsewhere`: recorded on another machine."""
    record: ClusterRecord | None
    processes: tuple[ProcessRecord, ...]
    """Its processes on this machine that run now."""


def start_cluster(cluster: ClusterConfig, store: StoreConfig) -> ClusterRecord:
    """Start a head for this store; one that runs already is left alone, a lost one is restarted.

    The head is a process of its own and outlives the caller. Jobs and detached actors of a lost head come
    back, because the GCS keeps its tables in the store. Several callers at a time get the same cluster.

    Raises:
        ClusterError: It could not be started; nothing is left running.
        StoreError: The store cannot be written.
    """
    return start_or_find(cluster, store, keep=True)[0]


def start_or_find(
    cluster: ClusterConfig,
    store: StoreConfig,
    *,
    keep: bool,
    meanwhile: Callable[[ClusterRecord], None] = lambda record: None,
) -> tuple[ClusterRecord, bool]:
    """Find, restart or start the cluster, one caller at a time.

    A lost head comes back on its GCS storage if it was to be kept; otherwise what is left of it is cleared away.

    Args:
        cluster: How to start it.
        store: Whose cluster.
        keep: Whether it goes on after the command that calls; one that runs already is kept from now on.
        meanwhile: Called with the record so far, while a head comes up: the wait can be put to use.

    Returns:
        The cluster's record, and whether it is this command's to stop.
    """
    with cluster_lock(store, timeout_s=cluster.start_timeout_s + _LOCK_SLACK_S), _sigterm_as_exit():
        record = read_record(store)
        if record is None:
            return start_head(cluster, store, None, keep=keep, meanwhile=meanwhile), not keep
        check_machine(record, store)
        if is_up(record):
            if keep and not record.keep:
                record = replace(record, keep=True)
                write_record(store, record)
            return record, False
        logger.warning("cluster was lost: address=%s kept=%s restarts=%d", record.address, record.keep, record.restarts)
        end_head(record, store, patience_s=STOP_PATIENCE_S, keep_storage=record.keep)
        lost = record if record.keep else None
        return start_head(cluster, store, lost, keep=keep or record.keep, meanwhile=meanwhile), not (
            keep or record.keep
        )


def stop_cluster(
    store: StoreConfig, *, patience_s: float = STOP_PATIENCE_S, unless_kept: str | None = None
) -> list[ProcessRecord]:
    """End exactly the processes of this store's cluster, and remove its record, sessions and GCS storage.

    Processes are known by pid and start time, by descent, and by the cluster's id in their environment.
    ``ray stop``, which ends every Ray on the machine, is never called.

    Args:
        store: Whose cluster.
        patience_s: Seconds for an orderly end, before SIGKILL.
        unless_kept: The id of the cluster that the calling command has used: stop it only if it is still
            there, nobody wants to keep it, and nobody else uses it.

    Returns:
        What was ended; empty where no cluster is recorded.

    Raises:
        ClusterError: The cluster is on another machine, something could not be ended, or the caller is part
            of the cluster itself.
    """
    if read_record(store) is None:
        return []
    with (
        unused_cluster(store) if unless_kept is not None else nullcontext(True) as is_unused,
        cluster_lock(store, timeout_s=patience_s + _LOCK_SLACK_S),
        _sigterm_as_exit(),
    ):
        record = read_record(store)
        if record is None or (unless_kept is not None and (record.keep or record.id != unless_kept or not is_unused)):
            return []
        check_machine(record, store)
        if any(process.pid == os.getpid() for process in members(record)):
            raise ClusterError("a cluster cannot be stopped from inside", record.address, "run it outside a Ray job")
        ended = end_head(record, store, patience_s=patience_s)
        logger.info("stopped cluster: address=%s processes=%d", record.address, len(ended))
        return ended


def cluster_status(store: StoreConfig) -> ClusterStatus:
    """Say what is known of this store's cluster, without joining it."""
    record = read_record(store)
    if record is None:
        return ClusterStatus("none", None, ())
    if record.hostname != socket.gethostname():
        return ClusterStatus("elsewhere", record, ())
    alive = tuple(members(record))
    if is_up(record):
        return ClusterStatus("running", record, alive)
    return ClusterStatus("lost" if record.ready or not alive else "starting", record, alive)


def is_up(record: ClusterRecord) -> bool:
    """Whether the recorded cluster runs on this machine and answers."""
    same = record.ready and record.hostname == socket.gethostname() and record.boot_id == boot_id()
    return same and is_running(record.head) and is_open(record.node_ip, record.ports.gcs)


def check_machine(record: ClusterRecord, store: StoreConfig) -> None:
    """Refuse a record of another machine: its processes cannot be seen from here."""
    if record.hostname != socket.gethostname():
        remedy = f"stop it there; if that machine is gone, delete {record_path_of(store)}"
        raise ClusterError(f"this store's cluster was started on {record.hostname!r}", record.address, remedy)


@contextmanager
def _sigterm_as_exit() -> Iterator[None]:
    """Let SIGTERM raise ``SystemExit``, so that a start that is cut short cleans up after itself."""
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def leave(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
