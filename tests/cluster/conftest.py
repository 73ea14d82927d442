"""Three nodes on this machine with nothing of theirs in common but object storage and databases."""

import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import psycopg
import pytest
import yaml
from moto.server import ThreadedMotoServer

from tests.e2e.commands import CHECKOUT, Project
from tests.integration.postgres import database_url, find_binaries, running_postgres

BUCKET = "models"
RAY = str(Path(sys.executable).with_name("ray"))


def wait_for(question: Any, what: str, timeout_s: float = 180) -> Any:
    """Ask until there is an answer."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if answer := question():
            return answer
        time.sleep(0.3)
    raise AssertionError(f"waited {timeout_s} s for {what}")


def environment_of_nodes() -> dict[str, str]:
    """What ``cluster.yaml`` sets for Ray's processes on every node."""
    commands = yaml.safe_load((CHECKOUT / "cluster.yaml").read_text())["setup_commands"]
    script = next(command for command in commands if "ray_mlops.env" in command)
    return dict(re.findall(r"^\s*(RAY_\w+)=(\S+)$", script, re.MULTILINE))


@pytest.fixture(scope="session")
def bucket() -> Iterator[dict[str, str]]:
    """Object storage with an empty bucket; yields the variables with which clients find it."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    variables = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    os.environ.update(variables)
    boto3.client("s3").create_bucket(Bucket=BUCKET)
    yield variables
    server.stop()


@pytest.fixture(scope="session")
def databases() -> Iterator[tuple[str, str]]:
    """URLs of a database for the ledger and one for MLflow."""
    binaries = find_binaries()
    if binaries is None:
        pytest.fail("PostgreSQL is not installed: apt-get install postgresql")
    with running_postgres(binaries) as home:
        with psycopg.connect(f"host={home} user=tester dbname=postgres", autocommit=True) as connection:
            for name in ("ray_mlops", "mlflow"):
                connection.execute(f"CREATE DATABASE {name}")
        yield database_url(home, "ray_mlops"), database_url(home, "mlflow")


@dataclass
class Nodes:
    """Ray's nodes, each a process group of its own with a working directory of its own."""

    environment: dict[str, str]
    gcs_port: int
    temporary: Path
    home: Path
    running: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    def add(self, *options: str) -> "subprocess.Popen[bytes]":
        """Start a node with two CPUs and wait for it: two that start at once on a machine take each other's ports."""
        directory = self.home / f"node-{len(self.running)}"
        directory.mkdir()
        ports = free_ports(4)
        command = [
            *(RAY, "start", "--block", "--disable-usage-stats", "--num-cpus", "2", *options),
            *("--object-store-memory", str(300 * 2**20)),
            *("--dashboard-agent-listen-port", str(ports[0]), "--dashboard-agent-grpc-port", str(ports[1])),
            *("--metrics-export-port", str(ports[2]), "--runtime-env-agent-port", str(ports[3])),
        ]
        with (directory / "ray.log").open("wb") as log:
            process = subprocess.Popen(
                command, cwd=directory, env=self.environment, start_new_session=True, stdout=log, stderr=log
            )
        self.running.append(process)
        wait_for(lambda: "Ray runtime started" in (directory / "ray.log").read_text(), "a node")
        return process

    def count(self) -> int:
        """Number of nodes that are alive."""
        script = "import ray; ray.init(logging_level='ERROR'); print(sum(node['Alive'] for node in ray.nodes()))"
        done = subprocess.run([sys.executable, "-c", script], env=self.environment, capture_output=True, text=True)
        return int(done.stdout.split()[-1]) if done.returncode == 0 else 0

    def kill(self, process: "subprocess.Popen[bytes]") -> None:
        """Take a node away as a lost machine goes: every process at once."""
        children = subprocess.run(["pgrep", "-g", str(process.pid)], capture_output=True, text=True).stdout.split()
        for pid in {*children, *_descendants(process.pid)}:
            try:
                os.kill(int(pid), signal.SIGKILL)
            except ProcessLookupError:
                continue
        process.wait(timeout=30)


def _descendants(pid: int) -> list[str]:
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True).stdout.split()
    return [*found, *(below for child in found for below in _descendants(int(child)))]


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            each.close()


@pytest.fixture(scope="session")
def nodes(
    tmp_path_factory: pytest.TempPathFactory, bucket: dict[str, str], databases: tuple[str, str]
) -> Iterator[Nodes]:
    """A head and two workers."""
    home = tmp_path_factory.mktemp("nodes")
    temporary = Path(f"/tmp/rn-{secrets.token_hex(3)}")
    token = home / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    gcs, dashboard, client = free_ports(3)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment = {
        **kept,
        **environment_of_nodes(),
        **bucket,
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_gcs_storage": "rocksdb",
        "RAY_gcs_storage_path": str(home / "gcs"),
        "PYTHONPATH": str(CHECKOUT),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    (home / "gcs").mkdir()
    nodes = Nodes(environment, gcs, temporary, home)
    try:
        nodes.add(
            *("--head", "--port", str(gcs), "--dashboard-port", str(dashboard)),
            *("--ray-client-server-port", str(client), "--temp-dir", str(temporary)),
        )
        wait_for(lambda: is_open(dashboard), "the head's dashboard")
        for _ in range(2):
            nodes.add("--address", f"127.0.0.1:{gcs}")
        environment |= {"RAY_ADDRESS": f"127.0.0.1:{gcs}", "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}"}
        wait_for(lambda: nodes.count() == 3, "the workers to join")
        yield nodes
    finally:
        for process in reversed(nodes.running):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
                process.wait(timeout=60)
        shutil.rmtree(temporary, ignore_errors=True)


def is_open(port: int) -> bool:
    """Whether somebody listens."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="session")
def project(nodes: Nodes, databases: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A directory with a configuration; rows, files and decisions are elsewhere."""
    directory = tmp_path_factory.mktemp("project")
    config = {
        "name": "flights",
        "store": {
            "root": f"s3://{BUCKET}/ray-mlops",
            "database": databases[0],
            "mlflow_tracking_uri": databases[1],
        },
        "data": {
            "source": {"path": f"s3://{BUCKET}/rows/*.parquet"},
            "task": "binary",
            "target": "late",
            "event_time": "time",
            "id": "key",
        },
        "training": {"epochs": 3, "num_workers": 2, "cpus_per_worker": 0.5},
        "tune": {"num_trials": 2, "max_epochs": 2},
        "serving": {"port": 0, "num_replicas": 3, "flush_interval_s": 0.1},
        "gate": {"parity": {"rows": 16}, "load": {"requests": 10}},
        "evaluation": {"bootstrap_samples": 50, "slices": ["carrier"]},
        "monitoring": {"window": "1d", "labels": {"delay": "1d", "horizon": "10d"}},
        "retraining": {"window": "20d", "holdout": "4d", "min_rows": 300},
    }
    (directory / "ray-mlops.yaml").write_text(json.dumps(config))
    return Project(directory, nodes.environment)
