"""Records of clusters that do not run."""

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from ray_mlops.runtime.ports import ClusterPorts
from ray_mlops.runtime.processes import ProcessRecord, boot_id
from ray_mlops.runtime.record import SCHEMA_VERSION, ClusterRecord


@pytest.fixture
def make_record(tmp_path: Path) -> Callable[..., ClusterRecord]:
    """Makes a record of a cluster that does not run, unless its head is given and does."""

    def make(head: ProcessRecord | None = None) -> ClusterRecord:
        return record_of(tmp_path, head or ProcessRecord(pid=2**22 + 1, started=1, name="python"))  # no such pid

    return make


def record_of(directory: Path, head: ProcessRecord) -> ClusterRecord:
    ports = ClusterPorts.of_block(29)
    return ClusterRecord(
        schema_version=SCHEMA_VERSION,
        id="test-record-of-no-cluster",
        ready=True,
        address=f"127.0.0.2:{ports.gcs}",
        dashboard_url=f"http://127.0.0.1:{ports.dashboard}",
        hostname=socket.gethostname(),
        boot_id=boot_id(),
        head=head,
        processes=(head,),
        node_ip="127.0.0.2",
        ports=ports,
        temp_dir=str(directory / "temp"),
        session_dir=str(directory / "temp" / "session"),
        log=str(directory / "head.log"),
        auth="token",
        token_path=str(directory / "token"),
        haproxy=True,
        environment={"RAY_AUTH_MODE": "token"},
        num_cpus=4,
        ray_version="2.60.0",
        python_version="3.11.7",
        started=1.0,
        start_seconds=1.0,
        restarts=0,
        keep=True,
    )
