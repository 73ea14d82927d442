"""Jobs on a cluster that somebody else started with ``ray start``, with Ray's token authentication."""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.e2e.commands import CHECKOUT

START = datetime(2026, 1, 1, tzinfo=UTC)
DAYS, ROWS_PER_DAY = 30, 50
CONFIG = {
    "name": "jobs",
    "data": {"source": {"path": "rows.parquet"}, "task": "regression", "target": "y", "event_time": "t", "id": "key"},
    "training": {"epochs": 2},
    "tune": {"num_trials": 0},
    "serving": {"port": 0, "flush_interval_s": 0.05},
    "gate": {"parity": {"rows": 16}, "load": {"requests": 10}},
    "evaluation": {"bootstrap_samples": 50},
    "monitoring": {"window": "1d", "labels": {"delay": "1d", "horizon": "5d"}},
    "retraining": {"window": "20d", "holdout": "4d", "min_rows": 300},
}


def make_rows(first_day: int, days: int) -> pa.Table:
    generator = np.random.default_rng(first_day)
    count = days * ROWS_PER_DAY
    times = [START + timedelta(days=first_day + i // ROWS_PER_DAY, minutes=i % ROWS_PER_DAY) for i in range(count)]
    x = generator.normal(size=count)
    return pa.table(
        {
            "key": [f"{first_day}-{i}" for i in range(count)],
            "t": pa.array(times, pa.timestamp("us", tz="UTC")),
            "x": x,
            "c": generator.choice(["a", "b"], count),
            "y": 3 * x + generator.normal(size=count),
        }
    )


def free_ports(count: int) -> list[int]:
    with socket.socket() as first:
        first.bind(("127.0.0.1", 0))
        start = first.getsockname()[1]
    return [start + 1 + i for i in range(count)] if start < 60000 else free_ports(count)


@dataclass(frozen=True, slots=True)
class Foreign:
    """A cluster of somebody else's, and a project directory to submit from."""

    directory: Path
    home: Path
    environment: dict[str, str]

    def run(self, *command: str, code: int = 0) -> str:
        done = subprocess.run(
            command, cwd=self.directory, env=self.environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == code, f"{command}: {done.returncode}\n{done.stdout[-6000:]}\n{done.stderr[-6000:]}"
        return done.stdout

    def submit(self, job: str, *arguments: str) -> str:
        ray = str(Path(sys.executable).with_name("ray"))
        python = [sys.executable, f"jobs/{job}.py", "--config", "conf.json", *arguments]
        return self.run(ray, "job", "submit", "--working-dir", ".", "--", *python)


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Foreign]:
    directory, home = tmp_path_factory.mktemp("project"), tmp_path_factory.mktemp("home")
    for name in ("jobs", "ray_mlops"):
        shutil.copytree(CHECKOUT / name, directory / name, ignore=shutil.ignore_patterns("__pycache__"))
    pq.write_table(make_rows(0, DAYS), directory / "rows.parquet")
    (directory / "conf.json").write_text(json.dumps(CONFIG))
    gcs, dashboard, agent, agent_grpc, metrics, client = free_ports(6)
    token = home / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "HOME": str(home)}
    environment["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{dashboard}"
    temporary = Path(f"/tmp/rf-{secrets.token_hex(3)}")
    head = subprocess.Popen(
        [
            *(str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--disable-usage-stats"),
            *("--port", str(gcs), "--dashboard-port", str(dashboard), "--ray-client-server-port", str(client)),
            *("--dashboard-agent-listen-port", str(agent), "--dashboard-agent-grpc-port", str(agent_grpc)),
            *("--metrics-export-port", str(metrics), "--num-cpus", "4", "--temp-dir", str(temporary)),
        ],
        env=environment,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", dashboard)) == 0:
                    break
            time.sleep(0.2)
        yield Foreign(directory, home, environment)
    finally:
        os.killpg(head.pid, signal.SIGTERM)
        head.wait(timeout=60)
        shutil.rmtree(temporary, ignore_errors=True)


def test_jobs_train_serve_and_retrain_on_a_cluster_with_tokens(foreign: Foreign) -> None:
    out = foreign.submit("pipeline")
    assert "gate passed" in out
    store = foreign.home / ".ray_mlops"
    assert f"bundle {store}/bundles/" in out, "the store of a job is not where Ray deletes"
    snapshots = [json.loads(file.read_text()) for file in (store / "snapshots").glob("*.json")]
    assert [snapshot["is_copied"] for snapshot in snapshots] == [True]

    out = foreign.submit("serve")
    url = next(line.split()[1] for line in out.splitlines() if line.strip().startswith("predict"))
    base = url.rsplit("/", 1)[0]
    for day in range(DAYS, DAYS + 4):
        post_day(base, day)
    wait_for(lambda: (watched := monitoring(base)).get("closed_window") is not None and watched["rows"] > 100)

    foreign.submit("retrain")
    found: dict[str, Any] = wait_for(lambda: monitoring(base)["retraining"]["outcomes"])
    assert set(found.values()) <= {"registered", "refused"}, found
    assert len(foreign.run(sys.executable, "-m", "ray_mlops.cli", "ledger", "show", *in_store(store)).splitlines()) > 5
    versions = json.loads(foreign.run(sys.executable, "-m", "ray_mlops.cli", "versions", "--json", *in_store(store)))
    assert [version["version"] for version in versions] == ["1", "2"]


def in_store(store: Path) -> tuple[str, ...]:
    return "--config", "conf.json", "--set", f"store.root={store}"


def post_day(base: str, day: int) -> None:
    rows = make_rows(day, 1).to_pylist()
    ids, labels = [row.pop("key") for row in rows], [row.pop("y") for row in rows]
    instances = [{**row, "t": row["t"].isoformat()} for row in rows]
    for start in range(0, len(rows), 10):
        part = slice(start, start + 10)
        answer = httpx.post(f"{base}/predict", json={"instances": instances[part], "ids": ids[part]}, trust_env=False)
        assert answer.status_code == 200, answer.text
    content = {"labels": [{"id": name, "label": label} for name, label in zip(ids, labels, strict=True)]}
    assert httpx.post(f"{base}/feedback", json=content, trust_env=False).json()["received"] == len(rows)


def monitoring(base: str) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{base}/monitoring", trust_env=False, timeout=30).json()
    return found


def wait_for(question: Any, timeout_s: float = 240) -> Any:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if answer := question():
            return answer
        time.sleep(0.3)
    raise AssertionError("it did not happen in time")
