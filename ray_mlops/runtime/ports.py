"""Ports of a cluster head: one block for each cluster, so that two on one machine never meet."""

import errno
import socket
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Self

from ray_mlops.errors import ClusterError

_FIRST_PORT = 20_000
_BLOCK_SIZE = 400
_NUM_BLOCKS = 31
_REPLICAS = 180
"""Ports for the replicas of one protocol. A replica's port rests a while before it is used again."""


@dataclass(frozen=True, slots=True)
class ClusterPorts:
    """Every port that a head listens on, besides those that Ray picks in the system's ephemeral range.

    The blocks lie in 20000..32399: above the range 10002..19999 where ``ray start`` does not let the GCS
    be, below the ephemeral ports (32768 and up on Linux).
    """

    gcs: int
    """Ray's address."""
    dashboard: int
    """Dashboard and Jobs API."""
    dashboard_agent: int
    dashboard_metrics: int
    metrics_export: int
    """Prometheus endpoint of the node."""
    ray_client: int
    """The server of ``ray://`` addresses; ``ray start`` cannot leave it out."""
    haproxy_stats: int
    haproxy_metrics: int
    fallback_http: int
    """Serve's own proxy behind HAProxy, for when no replica of an application is there."""
    fallback_grpc: int
    replica_http: tuple[int, int]
    """First and last port of the HTTP servers in the ingress replicas."""
    replica_grpc: tuple[int, int]

    @classmethod
    def of_block(cls, block: int) -> Self:
        """The ports of a numbered block.

        Example:
            >>> ports = ClusterPorts.of_block(0)
            >>> ports.gcs, ports.replica_http, ports.replica_grpc
            (20000, (20040, 20219), (20220, 20399))
        """
        start = _FIRST_PORT + block % _NUM_BLOCKS * _BLOCK_SIZE
        http = start + _BLOCK_SIZE - 2 * _REPLICAS
        names = [field.name for field in fields(cls)][:-2]
        content: dict[str, Any] = {name: start + offset for offset, name in enumerate(names)}
        content["replica_http"] = (http, http + _REPLICAS - 1)
        content["replica_grpc"] = (http + _REPLICAS, start + _BLOCK_SIZE - 1)
        return cls(**content)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Self:
        """Rebuild from ``dataclasses.asdict``."""
        ranges = {name: tuple(value) for name, value in content.items() if isinstance(value, list)}
        return cls(**(content | ranges))

    @property
    def singles(self) -> dict[str, int]:
        """The ports by name, without the ranges."""
        return {field.name: getattr(self, field.name) for field in fields(self)[:-2]}


def choose_ports(first_block: int, is_free: Callable[[int], bool]) -> ClusterPorts:
    """Choose the first block, counted from the given one, in which every single port is free.

    Args:
        first_block: Where to begin, so that a cluster gets the same ports again.
        is_free: Whether nothing listens on a port.

    Raises:
        ClusterError: Every block has a port in use.
    """
    for block in range(first_block, first_block + _NUM_BLOCKS):
        ports = ClusterPorts.of_block(block)
        if all(is_free(port) for port in (*ports.singles.values(), ports.replica_http[0], ports.replica_grpc[0])):
            return ports
    last = _FIRST_PORT + _NUM_BLOCKS * _BLOCK_SIZE - 1
    raise ClusterError(f"no block of {_BLOCK_SIZE} free ports in {_FIRST_PORT}..{last}", "", "stop a cluster")


def is_free(port: int, host: str = "") -> bool:
    """Whether nothing listens on a TCP port of this machine (of any interface, unless one is named)."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a connection's remains do not count
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise
        return True


def free_port(preferred: int, host: str = "", *, attempts: int = 100) -> int:
    """The preferred port if it is free, else the next free one; 0 means any.

    Raises:
        ClusterError: None of the next ``attempts`` ports is free.
    """
    if preferred == 0:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.bind((host, 0))
            return int(probe.getsockname()[1])
    for port in range(preferred, min(preferred + attempts, 65_536)):
        if is_free(port, host):
            return port
    raise ClusterError(f"no free port from {preferred} on", host, "name another port")


def is_open(host: str, port: int, timeout_s: float = 1.0) -> bool:
    """Whether something accepts a TCP connection there."""
    try:
        with socket.create_connection((host, port), timeout=timeout_s):
            return True
    except OSError:
        return False
