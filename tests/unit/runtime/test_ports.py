"""Ports of two clusters never meet, and ports in use are passed over."""

import dataclasses
import json
import socket
from collections.abc import Iterator

import pytest

from ray_mlops.errors import ClusterError
from ray_mlops.runtime.ports import ClusterPorts, choose_ports, free_port, is_free, is_open


@pytest.fixture
def listener() -> Iterator[int]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield int(server.getsockname()[1])


def every_port(ports: ClusterPorts) -> list[int]:
    ranges = [range(first, last + 1) for first, last in (ports.replica_http, ports.replica_grpc)]
    return [*ports.singles.values(), *ranges[0], *ranges[1]]


def test_blocks_do_not_overlap_and_keep_out_of_rays_and_the_systems_ranges() -> None:
    used = [port for block in range(31) for port in every_port(ClusterPorts.of_block(block))]
    assert len(used) == len(set(used))
    assert min(used) > 19_999
    assert max(used) < 32_768


def test_choose_ports_block_with_a_port_in_use_is_passed_over() -> None:
    taken = ClusterPorts.of_block(3).haproxy_stats
    assert choose_ports(3, lambda port: port != taken) == ClusterPorts.of_block(4)
    assert choose_ports(3, lambda port: True) == ClusterPorts.of_block(3)


def test_choose_ports_wraps_around_and_gives_up_after_all_blocks() -> None:
    last = ClusterPorts.of_block(30).gcs
    assert choose_ports(30, lambda port: port < last) == ClusterPorts.of_block(0)
    with pytest.raises(ClusterError, match="no block"):
        choose_ports(0, lambda port: False)


def test_ports_survive_json() -> None:
    ports = ClusterPorts.of_block(7)
    assert ClusterPorts.from_json(json.loads(json.dumps(dataclasses.asdict(ports)))) == ports


def test_is_free_and_is_open_see_a_listener(listener: int) -> None:
    assert not is_free(listener)
    assert is_open("127.0.0.1", listener)
    unused = free_port(0)
    assert is_free(unused)
    assert not is_open("127.0.0.1", unused)


def test_free_port_in_use_gives_the_next(listener: int) -> None:
    assert free_port(listener, "127.0.0.1") > listener
    with pytest.raises(ClusterError, match="no free port"):
        free_port(listener, "127.0.0.1", attempts=1)
