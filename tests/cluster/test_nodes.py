"""The whole loop on three nodes, files in S3, decisions in PostgreSQL: `make nodes`."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.cluster.conftest import BUCKET, Nodes, wait_for
from tests.e2e.commands import Project
from tests.integration.gateways import Load

START = datetime(2026, 1, 1, tzinfo=UTC)
DAYS, ROWS_PER_DAY = 30, 100


def make_rows(first_day: int, days: int) -> pa.Table:
    generator = np.random.default_rng(first_day)
    count = days * ROWS_PER_DAY
    step = timedelta(minutes=24 * 60 // ROWS_PER_DAY)
    times = [START + timedelta(days=first_day + i // ROWS_PER_DAY) + step * (i % ROWS_PER_DAY) for i in range(count)]
    distance, carrier = generator.uniform(100, 500, count), generator.choice(["UA", "DL"], count)
    score = (distance - 300) / 50 + (carrier == "UA") + generator.logistic(size=count)
    return pa.table(
        {
            "key": [f"{first_day}-{i}" for i in range(count)],
            "time": pa.array(times, pa.timestamp("us", tz="UTC")),
            "distance": distance,
            "carrier": carrier,
            "late": score > 0,
        }
    )


def objects(prefix: str) -> list[str]:
    pages = boto3.client("s3").get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
    return [entry["Key"] for page in pages for entry in page.get("Contents", [])]


@pytest.fixture(scope="module")
def trained(project: Project, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The pipeline has run, rows come from S3; returns what it said."""
    for day in (0, DAYS // 2):
        path = tmp_path_factory.mktemp("rows") / "part.parquet"
        pq.write_table(make_rows(day, DAYS // 2), path)
        boto3.client("s3").upload_file(str(path), BUCKET, f"rows/{day:02d}.parquet")
    return project.run("run")


@pytest.fixture(scope="module")
def base(project: Project, trained: str) -> str:
    """The service is up; returns its address."""
    out = project.run("serve")
    assert f"operator token: s3://{BUCKET}/ray-mlops/tokens.json" in out
    url = next(line.split()[1] for line in out.splitlines() if line.strip().startswith("predict"))
    return url.partition("/models/")[0]


def post_day(base: str, day: int) -> None:
    rows = make_rows(day, 1).to_pylist()
    ids, labels = [row.pop("key") for row in rows], [row.pop("late") for row in rows]
    instances = [{**row, "time": row["time"].isoformat()} for row in rows]
    for start in range(0, len(rows), 20):
        part = slice(start, start + 20)
        answer = httpx.post(f"{base}/predict", json={"instances": instances[part], "ids": ids[part]}, trust_env=False)
        assert answer.status_code == 200, answer.text
    content = {"labels": [{"id": name, "label": label} for name, label in zip(ids, labels, strict=True)]}
    answer = httpx.post(f"{base}/feedback", json=content, trust_env=False, timeout=30)
    assert answer.json()["received"] == len(rows), answer.text


def test_local_store_is_refused(project: Project) -> None:
    out = project.run("run", "--set", "store.root=./here", code=1)
    assert "store.root: on one node only, and the cluster has 3" in out
    assert "use object storage" in out


def test_pipeline_reads_from_s3_and_leaves_everything_there(project: Project, trained: str) -> None:
    assert "gate passed" in trained
    kinds = {name.split("/")[1] for name in objects("ray-mlops/")}
    assert {"snapshots", "bundles", "checkpoints", "reports"} <= kinds
    assert not list(project.directory.glob(".ray_mlops/**/*.parquet"))
    version = project.json("versions")[0]
    assert f"ray-mlops/bundles/{version['bundle']}/bundle.json" in objects("ray-mlops/bundles")


def test_every_replica_knows_the_same_tokens(base: str) -> None:
    tokens = json.loads(boto3.client("s3").get_object(Bucket=BUCKET, Key="ray-mlops/tokens.json")["Body"].read())
    headers = {"authorization": f"Bearer {tokens['operate']}"}
    url = f"{base}/models/flights/rollout/pause"
    answers = [httpx.post(url, json={}, headers=headers, trust_env=False).status_code for _ in range(30)]
    assert set(answers) == {409}, "there is no rollout to pause, and each replica lets the operator say so"


def test_predictions_and_labels_are_logged_watched_and_explained(project: Project, base: str) -> None:
    for day in range(DAYS, DAYS + 4):
        post_day(base, day)

    def watched() -> dict[str, Any] | None:
        found: dict[str, Any] = httpx.get(f"{base}/monitoring", trust_env=False, timeout=30).json()
        return found if found.get("closed_window") is not None and found["rows"] >= 3 * ROWS_PER_DAY else None

    wait_for(watched, "windows of the monitor")
    assert any(name.endswith(".parquet") for name in objects("ray-mlops/predictions/flights/"))
    assert len(objects("ray-mlops/labels/flights/")) >= 4
    found = project.json("explain", f"{DAYS}-0")
    assert found["prediction"]["version"] == "1"
    assert found["label"] is not None
    assert project.json("status")["service"]["answers"]


def test_batch_predicts_from_s3_into_s3(project: Project, trained: str) -> None:
    output = f"s3://{BUCKET}/predicted"
    out = project.run("batch-predict", f"s3://{BUCKET}/rows/*.parquet", output)
    assert f"{DAYS * ROWS_PER_DAY}" in out.replace(",", "")
    assert any(name.endswith(".parquet") for name in objects("predicted/"))


def test_retrained_version_takes_over_by_rollout(project: Project, base: str) -> None:
    project.run("retrain", "--action", "full")  # asks the monitor, which submits a job

    def outcomes() -> dict[str, str]:
        found: dict[str, Any] = httpx.get(f"{base}/monitoring", trust_env=False, timeout=30).json()
        return dict(found["retraining"]["outcomes"])

    assert set(wait_for(outcomes, "the retraining", 300).values()) == {"registered"}

    def state() -> str:  # its rollout has begun by itself
        return str(httpx.get(f"{base}/rollout", trust_env=False, timeout=30).json()["state"])

    wait_for(lambda: state() == "shadow", "the shadow")
    project.run("rollout", "promote", "--reason", "test")

    def is_promoted() -> bool:
        return bool(project.json("status")["routes"]["champion"]["version"] == "2")

    wait_for(is_promoted, "the promotion")
    with Load(base) as load:
        wait_for(lambda: load.versions["2"] > 50, "answers of the new version")
    assert load.failures == []


def test_lost_node_costs_at_most_what_it_held(project: Project, base: str, nodes: Nodes) -> None:
    """Requests in flight on the lost node may fail; those that come later do not wait for it to be missed."""
    with Load(base) as load:
        wait_for(lambda: sum(load.versions.values()) > 100, "answers")
        nodes.kill(nodes.running[2])
        nodes.add("--address", f"127.0.0.1:{nodes.gcs_port}")
        before = sum(load.versions.values())
        wait_for(lambda: sum(load.versions.values()) > before + 2000, "answers after the loss")
    print(f"failed {len(load.failures)} of {sum(load.versions.values())}: {load.failures[:5]}")
    assert len(load.failures) <= 10
    post_day(base, DAYS + 5)
    assert project.run("ledger", "verify")


def test_bucket_that_is_not_there_is_an_error_that_names_it(project: Project, tmp_path: Path) -> None:
    out = project.run("run", "--set", "store.root=s3://nothing-here/x", code=1)
    assert "s3://nothing-here/x" in out
    assert "Traceback" not in out
