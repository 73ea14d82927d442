"""Columns of vectors on Ray: the same features, reference and bundle as without."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ray_mlops.config import build_config
from ray_mlops.data.snapshot import create_snapshot, snapshot_table
from ray_mlops.orchestration.dataset import dataset_of_table, prepare_dataset
from ray_mlops.orchestration.fit import fit_bundle
from ray_mlops.runtime.files import Files
from ray_mlops.training.here import train_here

pytestmark = pytest.mark.usefixtures("ray_cluster")
D, ROWS = 6, 600


class Course:
    """Takes metrics of epochs."""

    run_id = "run"

    def log_metrics(self, metrics: Mapping[str, float | None], step: int = 0) -> None:
        pass


def rows() -> pa.Table:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(ROWS, D)).astype(np.float32)
    lists = [None if rng.random() < 0.05 else vector.tolist() for vector in vectors]
    lists[7], lists[8] = [1.0] * (D - 1), [1.0] * (D - 1) + [None]
    times = pa.array(np.sort(rng.integers(0, 20 * 86_400_000_000, ROWS)), pa.timestamp("us", tz="UTC"))
    y = (vectors[:, 0] + rng.normal(size=ROWS) > 0).astype(int)
    lists_of = pa.array(lists, pa.list_(pa.float32()))
    return pa.table(
        {"id": [str(i) for i in range(ROWS)], "t": times, "x": rng.normal(size=ROWS), "v": lists_of, "y": y}
    )


def test_model_of_vectors_is_the_same_on_ray_and_without(tmp_path: Path) -> None:
    pq.write_table(rows(), tmp_path / "rows.parquet", row_group_size=150)
    content: dict[str, Any] = {
        "name": "m",
        "store": {"root": str(tmp_path / "store")},
        "data": {"source": {"path": str(tmp_path / "rows.parquet")}, "task": "binary", "target": "y", "id": "id"},
        "training": {"params": {"hidden": 8, "members": 2}, "epochs": 3, "batch_size": 128},
    }
    content["data"]["event_time"] = "t"
    config = build_config(content, {})
    files = Files(config.store.root_uri)
    snapshot = create_snapshot(config.data, files)
    on_ray = prepare_dataset(config, snapshot, files, now=0.0)
    assert on_ray.contract_report.reasons == {f"v: not {D} numbers": 1, "v: a null inside": 1}
    assert set(files.read_table(f"quarantine/{snapshot.id}/part-00000.parquet")["id"].to_pylist()) == {"7", "8"}
    table = snapshot_table(snapshot, files)
    here = dataset_of_table(config, table, snapshot, encoder=on_ray.encoder)
    assert here.features.content_hash == on_ray.features.content_hash
    assert here.profile.to_json() == on_ray.profile.to_json()
    assert here.holdout.equals(on_ray.holdout)
    trained = fit_bundle(config, on_ray, Course(), name="v").bundle
    again = fit_bundle(config, here, Course(), name="v", train=train_here).bundle
    assert trained.save(files).hash == again.save(files).hash
