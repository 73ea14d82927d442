"""Real heads: started, shared, lost and restarted, cut short, stopped; no process is left behind.

Drivers are processes of their own, as Ray reads its environment once in each.
"""

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ray_mlops.config import ClusterConfig, StoreConfig
from ray_mlops.errors import ClusterError
from ray_mlops.runtime.cluster import cluster_status, start_cluster, stop_cluster
from ray_mlops.runtime.deadline import wait_for
from ray_mlops.runtime.environment import CLUSTER_ID, temp_dir_of
from ray_mlops.runtime.head import members
from ray_mlops.runtime.ports import is_free
from ray_mlops.runtime.processes import find_marked, find_process, is_running
from ray_mlops.runtime.record import ClusterRecord, read_record

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ClusterConfig(num_cpus=4, object_store_memory_mb=256)
PREAMBLE = """
import json, os, sys, time
from ray_mlops.config import ClusterConfig, StoreConfig
from ray_mlops.runtime.cluster import connect, start_cluster
store = StoreConfig(root=sys.argv[1])
cluster = ClusterConfig(num_cpus=4, object_store_memory_mb=256)
assert "ray" not in sys.modules

def say(**values):
    print(json.dumps(values), flush=True)
"""
SHARING_DRIVER = """
with connect((cluster, store)) as connection:
    import ray

    @ray.remote
    def look():
        import ray_mlops
        names = ("CLUSTER_ID", "SERVE_ENABLE_HA_PROXY", "DATA_PARQUET_FOOTER_NUM_ACTORS", "AUTH_MODE")
        return [os.environ.get(f"RAY_{name}", os.environ.get(f"RAY_MLOPS_{name}")) for name in names]

    mine = os.environ.get("RAY_AUTH_MODE")
    say(id=connection.record.id, owned=connection.owned, worker=ray.get(look.remote()), mine=mine)
    sys.stdin.readline()
say(left=os.environ.get("RAY_AUTH_MODE"))
"""
FIRST_DRIVER = """
with connect((cluster, store), start="never") as connection:
    import ray
    from ray.job_submission import JobSubmissionClient

    @ray.remote(num_cpus=0, lifetime="detached", name="counter", max_restarts=-1)
    class Counter:
        def pid(self):
            return os.getpid()

    counter = Counter.remote()
    client = JobSubmissionClient(connection.dashboard_url)
    client.submit_job(entrypoint=f"{sys.executable} {sys.argv[2]} {sys.argv[1]}", submission_id="once")
    while str(client.get_job_status("once")) not in ("SUCCEEDED", "FAILED"):
        time.sleep(0.2)
    logs = client.get_job_logs("once")
    say(pid=ray.get(counter.pid.remote()), owned=connection.owned, status=str(client.get_job_status("once")), logs=logs)
"""
JOB = """
with connect((cluster, store), start="never") as connection:
    import ray
    say(owned=connection.owned, address=connection.address, cpus=ray.cluster_resources()["CPU"])
"""
SECOND_DRIVER = """
with connect((cluster, store)) as connection:
    import ray
    from ray.job_submission import JobSubmissionClient
    client = JobSubmissionClient(connection.dashboard_url)
    try:
        client.submit_job(entrypoint="true", submission_id="once")
        again = "accepted"
    except RuntimeError as error:
        again = "already exists" in str(error)
    pid = ray.get(ray.get_actor("counter").pid.remote())
    status = str(client.get_job_status("once"))
    say(pid=pid, owned=connection.owned, restarts=connection.record.restarts, status=status, again=again)
"""
LATE_DRIVER = """
os.environ.pop("RAY_AUTH_MODE", None)
import ray
from ray_mlops.errors import ClusterError
try:
    connect((cluster, store), start="never")
except ClusterError as error:
    say(error=str(error))
"""


class Driver:
    """A program of its own that talks in JSON lines."""

    def __init__(self, code: str, store: StoreConfig, *arguments: object) -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        command = [sys.executable, "-c", PREAMBLE + textwrap.dedent(code), store.root, *map(str, arguments)]
        environment = {**clean, "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=store.local_root.parent,
        )

    def read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the driver ended with {self.process.wait()}"
        return dict(json.loads(line))

    def finish(self) -> int:
        assert self.process.stdin is not None
        if self.process.poll() is None:
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        return self.process.wait(60)


Drive = Callable[..., Driver]


@pytest.fixture
def drive(store: StoreConfig) -> Iterator[Drive]:
    """Starts drivers on the store; none outlives the test."""
    drivers: list[Driver] = []

    def start(code: str, *arguments: object) -> Driver:
        drivers.append(Driver(code, store, *arguments))
        return drivers[-1]

    yield start
    for driver in drivers:
        driver.process.kill()
        driver.process.wait()
        for stream in (driver.process.stdin, driver.process.stdout):
            assert stream is not None
            stream.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StoreConfig]:
    """A store whose cluster, if any is left, ends with the test."""
    store = StoreConfig(root=str(tmp_path / "store"))
    yield store
    stop_cluster(store)
    assert not temp_dir_of(store).exists()


def ask(driver: Driver) -> dict[str, Any]:
    """What a driver says that ends by itself, in order."""
    said = driver.read()
    assert driver.process.wait(60) == 0
    return said


def assert_nothing_left(record: ClusterRecord, store: StoreConfig) -> None:
    assert members(record) == []
    assert find_marked(CLUSTER_ID, record.id) == []
    assert cluster_status(store).state == "none"
    assert not Path(record.temp_dir).exists()
    assert {path.name for path in store.local_root.iterdir()} <= {"cluster", "cluster.lock", "cluster.users"}
    assert all(is_free(port) for port in record.ports.singles.values())


def test_concurrent_connects_share_one_cluster_that_ends_with_the_last(store: StoreConfig, drive: Drive) -> None:
    drivers = [drive(SHARING_DRIVER), drive(SHARING_DRIVER)]
    said = [driver.read() for driver in drivers]
    record = read_record(store)
    assert record is not None
    assert {each["id"] for each in said} == {record.id}
    assert sorted(each["owned"] for each in said) == [False, True]
    haproxy = "1" if record.haproxy else "0"
    assert [each["worker"] for each in said] == 2 * [[record.id, haproxy, "1", "token"]]
    assert said[0]["mine"] == "token"
    assert record.token is not None
    assert Path(str(record.token_path)).stat().st_mode & 0o777 == 0o600

    guest, owner = sorted(drivers, key=lambda driver: said[drivers.index(driver)]["owned"])
    assert owner.finish() == 0
    assert owner.read() == {"left": None}
    assert cluster_status(store).state == "running"
    assert guest.finish() == 0
    assert_nothing_left(record, store)


def test_killed_head_comes_back_with_its_actor_and_its_job(store: StoreConfig, drive: Drive, tmp_path: Path) -> None:
    bystander = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"], start_new_session=True)
    job = tmp_path / "job.py"
    job.write_text(PREAMBLE + JOB)
    try:
        record = start_cluster(CLUSTER, store)
        assert start_cluster(CLUSTER, store) == record
        assert "Ray was imported without the token" in ask(drive(LATE_DRIVER))["error"]

        first = ask(drive(FIRST_DRIVER, job))
        assert (first["owned"], first["status"]) == (False, "SUCCEEDED")
        assert json.loads(first["logs"].splitlines()[-1]) == {"owned": False, "address": record.address, "cpus": 4.0}

        for process in members(record):
            os.kill(process.pid, signal.SIGKILL)
        wait_for("the processes' end", lambda: not members(record), 10.0)
        assert cluster_status(store).state == "lost"

        second = ask(drive(SECOND_DRIVER))
        assert second["pid"] != first["pid"]
        assert (second["owned"], second["restarts"]) == (False, 1)
        assert (second["status"], second["again"]) == ("SUCCEEDED", True)

        restarted = read_record(store)
        assert restarted is not None
        assert (restarted.id, restarted.address) == (record.id, record.address)
        ended = stop_cluster(store)
        assert restarted.head in ended
        assert {process.name for process in ended} >= {"gcs_server", "raylet"}
        assert_nothing_left(restarted, store)
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_start_that_is_cut_short_leaves_nothing(store: StoreConfig, drive: Drive, number: signal.Signals) -> None:
    listens = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # nohup makes it deaf
    driver = drive(f"{listens}; start_cluster(cluster, store)")
    record = wait_for("the head's process", lambda: _started(store), 30.0)
    wait_for("the GCS", lambda: any(process.name == "gcs_server" for process in members(record)), 60.0)
    driver.process.send_signal(number)
    assert driver.process.wait(60) != 0
    assert_nothing_left(record, store)


def test_starter_that_was_killed_is_cleared_away_by_the_next(store: StoreConfig, drive: Drive) -> None:
    driver = drive("start_cluster(cluster, store)")
    orphan = wait_for("the head's process", lambda: _started(store), 30.0)
    driver.process.kill()
    driver.process.wait()
    assert cluster_status(store).state == "starting"
    with pytest.raises(ClusterError, match="not ready in time"):
        start_cluster(CLUSTER.model_copy(update={"start_timeout_s": 0.01}), store)
    assert not is_running(orphan.head)
    assert find_process(orphan.head.pid) is None or not find_marked(CLUSTER_ID, orphan.id)


def _started(store: StoreConfig) -> ClusterRecord | None:
    record = read_record(store)
    return record if record is not None and record.head.pid else None
