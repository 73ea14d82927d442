"""The prediction log on a real Serve: a replica that is killed under pressure, and Ray Data as a reader."""

import os
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pyarrow.compute as pc
import pytest
import ray

from ray_mlops.config import ServingConfig, StoreConfig, config_hash
from ray_mlops.ledger import Ledger
from ray_mlops.runtime.files import Files
from ray_mlops.serving.launch import launch_gateway, shutdown_gateway
from ray_mlops.serving.prediction_log.accounting import Accounting
from ray_mlops.serving.prediction_log.compaction import compact
from ray_mlops.serving.prediction_log.dataset import prediction_dataset
from ray_mlops.serving.prediction_log.files import read_predictions
from ray_mlops.serving.protocol import NAMESPACE, ROUTES_ACTOR, Arm, Hooks, ModelRoutes
from ray_mlops.serving.routes import commit_routes, start_routes
from tests.integration.gateways import MODEL, ROW, make_config, save_bundle, wait_until
from tests.unit.serving.test_compaction import DAYS, fill, flush, rows

SENT, BUFFER = 60, 20


@pytest.fixture
def store(ray_cluster: str, tmp_path: Path) -> Iterator[StoreConfig]:
    store = StoreConfig(root=str(tmp_path / "store"))
    files, ledger, config = (
        Files(store.root_uri),
        Ledger.open(store),
        make_config(store, {"candidate_timeout_s": 2.0}, {}),
    )
    bundle = save_bundle(files, config, 1)
    key = config_hash(config)
    payload = {"config": config.model_dump(mode="json"), "hash": key}
    ledger.append(f"{MODEL}/config", "config.deployed", f"{MODEL}/config/{key}", payload)
    commit_routes(ledger, ModelRoutes(MODEL, 0, Arm("1", bundle.uri, bundle.hash), config_hash=key), 0)
    start_routes(store)
    yield store
    shutdown_gateway()
    ray.kill(ray.get_actor(ROUTES_ACTOR, namespace=NAMESPACE))


def holder_of(path: Path) -> int:
    """The process that has a file open."""
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                if any(os.path.samefile(link, path) for link in (process / "fd").iterdir()):
                    return int(process.name)
            except OSError:  # it has ended, or a descriptor has
                continue
    raise AssertionError(f"nobody holds {path}")


def log_rows(url: str) -> dict[str, int]:
    text = httpx.get(f"{url}/metrics", timeout=10, trust_env=False).text
    lines = [line for line in text.splitlines() if line.startswith("ray_mlops_log_rows_total")]
    return {line.split('state="')[1].split('"')[0]: int(float(line.rpartition(" ")[2])) for line in lines}


@pytest.mark.parametrize("policy", ["spill", "sample"])
def test_killed_replica_under_pressure_accounts_for_every_row(store: StoreConfig, policy: Any) -> None:
    blocker = Path(store.root_uri) / "predictions"
    blocker.write_text("where the log's directory should be: nothing can be written")
    log = {"policy": policy, "max_buffer_rows": BUFFER}
    serving = ServingConfig.model_validate({"port": 0, "cpus_per_replica": 0.1, "log": log})
    url = launch_gateway(store, serving, Hooks()).url
    with httpx.Client(base_url=url, timeout=20, trust_env=False) as client:
        for index in range(SENT):
            body = {"instances": [ROW], "ids": [f"id-{index}"]}
            assert client.post("/predict", json=body).status_code == 200
    before = log_rows(url)
    assert (before["accepted"], before["written"], before["lost"]) == (SENT, 0, 0)
    assert before["spooled" if policy == "spill" else "dropped"] >= SENT - 2 * BUFFER

    (counters,) = (store.local_root / "accounting").glob("*.bin")
    os.kill(holder_of(counters), signal.SIGKILL)
    blocker.unlink()

    def is_settled() -> bool:
        try:
            rows = log_rows(url)
        except httpx.HTTPError:
            return False
        return bool(rows) and rows["accepted"] == 0 and rows["lost"] > 0

    wait_until(is_settled, "the next replica", timeout_s=60)
    dead = Accounting(counters)
    states = dead.states()
    dead.close()
    assert states["spooled"] == 0
    assert states["accepted"] == SENT == states["written"] + states["dropped"] + states["lost"]
    assert log_rows(url)["lost"] == states["lost"] <= BUFFER
    assert states["written"] == read_predictions(Files(store.root_uri), MODEL).num_rows
    assert states["written"] == (before["spooled"] if policy == "spill" else 0)


def test_ray_data_reads_flushes_and_compacted_files_as_one_dataset(ray_cluster: str, tmp_path: Path) -> None:
    files = Files(str(tmp_path / uuid.uuid4().hex))
    fill(files)
    flush(files, 7, rows("i12", "i13", version="2", x=2.5, wind=7.0))
    compact(files, "m", DAYS[1])
    flush(files, 8, rows("i14", version="2", day=2, x=2.5, wind=9.0), DAYS[2])

    view = prediction_dataset(files, "m")
    dataset = ray.data.read_parquet(view.files, schema=view.schema)
    assert dataset.count() == 15
    assert dataset.sum("prediction") == sum(range(15))
    assert dataset.sum("features.wind") == 23.0
    assert pc.count_distinct(view.to_table()["prediction_id"]).as_py() == 15
    plain = ray.data.read_parquet(f"{files.root}/predictions/m", columns=["prediction_id", "prediction"])
    assert (plain.count(), plain.sum("prediction")) == (15, sum(range(15)))
