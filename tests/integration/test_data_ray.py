"""The data layer on Ray gives what it gives without, whatever the blocks."""

import itertools
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
import ray
import ray.data

from ray_mlops.config import ContractConfig, DataConfig, FeatureConfig, MonitoringConfig, SourceConfig
from ray_mlops.data.distributed import collect_table, map_tables, materialise, within_deadline
from ray_mlops.data.features import FeaturePipeline
from ray_mlops.data.profile import fit_features_and_profile
from ray_mlops.data.schema import check_contract, infer_contract
from ray_mlops.data.snapshot import create_snapshot, narrow_snapshot, snapshot_dataset, snapshot_table
from ray_mlops.data.source import read_source, source_table
from ray_mlops.data.split import SPLIT_COLUMN, assign_split, plan_split
from ray_mlops.errors import DeadlineError, FeatureError, SnapshotError, SourceError
from ray_mlops.runtime.files import Files

pytestmark = pytest.mark.usefixtures("ray_cluster")
DAY_US = 86_400_000_000


def rows(n: int = 600) -> pa.Table:
    rng = np.random.default_rng(0)
    times = pa.array(rng.integers(0, 20 * DAY_US, n), pa.int64()).cast(pa.timestamp("us", tz="UTC"))
    return pa.table(
        {
            "id": pa.array(rng.integers(0, n * 10, n)),
            "x": pa.array(rng.normal(size=n) * 10.0 ** rng.integers(-9, 9, n), mask=rng.random(n) < 0.1),
            "c": pa.array(rng.choice(["u", "v", "w"], n), mask=rng.random(n) < 0.1),
            "b": rng.random(n) < 0.3,
            "t": times,
            "y": rng.integers(0, 2, n),
        }
    )


def config(path: str = "x", **more: Any) -> DataConfig:
    contract = ContractConfig(min_rows=1, max_quarantine_ratio=1.0, columns={"x": {"max": 1e6}})
    source = SourceConfig(path=path)
    return DataConfig(source=source, task="binary", target="y", event_time="t", id="id", contract=contract, **more)


def ordered(table: pa.Table) -> pa.Table:
    return table.sort_by([(name, "ascending") for name in table.column_names]).combine_chunks()


def blocks_of(table: pa.Table, count: int, seed: int) -> ray.data.Dataset:
    """The rows in another order, in blocks of uneven size, one of them empty."""
    rng = np.random.default_rng(seed)
    shuffled = table.take(rng.permutation(len(table)))
    cuts = [0, *sorted(rng.integers(0, len(table), count - 1).tolist()), len(table)]
    parts = [shuffled.slice(a, b - a) for a, b in itertools.pairwise(cuts)]
    return ray.data.from_arrow([*parts, table.slice(0, 0)])


def test_fit_on_any_blocks_equals_the_table_to_the_bit() -> None:
    table = rows()
    expected, profile, statistics = fit_features_and_profile(table, config(), MonitoringConfig())
    for seed in range(2):
        dataset = blocks_of(table, 5, seed)
        pipeline, found, _ = fit_features_and_profile(dataset, config(), MonitoringConfig())
        assert pipeline.content_hash == expected.content_hash
        assert found.to_json() == profile.to_json()
    sampled = [
        fit_features_and_profile(form, config(), MonitoringConfig(), sample_rows=100)
        for form in (table, blocks_of(table, 4, 3))
    ]
    assert sampled[0][0] == sampled[1][0]
    assert sampled[0][1].to_json() == sampled[1][1].to_json()
    assert len(sampled[0][2].sample) < len(statistics.sample)
    matrix = expected.transform(table)
    columns = map_tables(blocks_of(table, 3, 0), lambda block: pa.table({"n": [len(expected.transform(block))]}))
    assert sum(collect_table(columns, "transforming")["n"].to_pylist()) == len(matrix)


def test_check_contract_any_blocks_same_rows_and_report(tmp_path: Path) -> None:
    table = pa.concat_tables([rows(), rows().slice(0, 50)])  # repeated rows, and some repeated ids
    contract = infer_contract(table, config())
    assert infer_contract(blocks_of(table, 4, 0), config()) == contract
    files = Files(str(tmp_path))
    good, report = check_contract(table, contract, config(), 0.0, files=files, snapshot_id="table")
    assert report.reasons["id: duplicate"] >= 50
    assert report.reasons["x: above 1e+06"] > 0
    for seed in range(2):
        dataset = blocks_of(table, 5, seed)
        found, again = check_contract(dataset, contract, config(), 0.0, files=files, snapshot_id=f"s{seed}")
        assert ordered(collect_table(found, "good rows")) == ordered(good)
        assert {**again.to_json(), "quarantine": ""} == {**report.to_json(), "quarantine": ""}
        stored = pa.concat_tables([files.read_table(name) for name in files.names(f"quarantine/s{seed}")])
        assert len(stored) == report.quarantined


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_read_source_and_snapshot_equal_the_table(tmp_path: Path, form: str) -> None:
    directory = tmp_path / "source"
    directory.mkdir()
    for index in range(3):
        part = rows().slice(index * 200, 200)
        if form == "csv":
            pacsv.write_csv(part, directory / f"{index}.csv")
        else:
            pq.write_table(part, directory / f"{index}.parquet", row_group_size=70)
    source = SourceConfig(path=str(directory))
    table = source_table(source, event_time="t")
    assert table["x"].to_pylist() == rows()["x"].to_pylist()
    assert ordered(collect_table(read_source(source, event_time="t"), "reading")) == ordered(table)
    files = Files(str(tmp_path / "store"))
    snapshot = create_snapshot(config(str(directory)), files)
    dataset = materialise(snapshot_dataset(snapshot, files, ["x", "t"]), "reading")
    assert dataset.count() == 600
    assert ordered(collect_table(dataset, "reading")) == ordered(snapshot_table(snapshot, files, ["x", "t"]))
    narrow = narrow_snapshot(snapshot, files, 3 * DAY_US, 9 * DAY_US)
    found = collect_table(snapshot_dataset(narrow, files, ["x"]), "reading")
    assert ordered(found) == ordered(snapshot_table(narrow, files, ["x"]))
    assert len(found) == narrow.rows
    (directory / f"0.{form}").write_bytes(b"changed")
    with pytest.raises(SnapshotError, match="has changed"):
        snapshot_dataset(snapshot, files)


def test_parquet_row_groups_become_several_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray_mlops.data.source_files.READ_ROWS", 100)
    pq.write_table(rows(), tmp_path / "a.parquet", row_group_size=50)
    dataset = materialise(read_source(SourceConfig(path=str(tmp_path))), "reading")
    assert dataset.num_blocks() == 6
    assert dataset.count() == 600


def test_copied_snapshot_reads_back_on_ray(tmp_path: Path) -> None:
    files = Files(str(tmp_path))
    snapshot = create_snapshot(config(), files, table=rows())
    assert ordered(collect_table(snapshot_dataset(snapshot, files), "reading")) == ordered(rows())


def test_assign_split_by_blocks_equals_the_table() -> None:
    table = rows()
    plan = plan_split(table, config())
    dataset = map_tables(blocks_of(table, 4, 1), lambda block: assign_split(block, plan))
    found = ordered(collect_table(dataset, "splitting"))
    assert found == ordered(assign_split(table, plan))
    assert set(found[SPLIT_COLUMN].to_pylist()) == {0, 1, 2}


def test_materialise_that_never_ends_is_a_deadline_error() -> None:
    def sleep(block: pa.Table) -> pa.Table:
        time.sleep(4)
        return block

    dataset = map_tables(ray.data.from_arrow(rows().slice(0, 1)), sleep)
    with pytest.raises(DeadlineError, match=r"reading rows: did not end within 0.2 s; free: .* CPUs"):
        materialise(dataset, "reading rows", timeout_s=0.2)


def test_errors_of_workers_come_home_as_themselves(tmp_path: Path) -> None:
    table = pa.table({"x": ["1", "two"], "y": [0, 1]})
    pipeline = FeaturePipeline.fit_table(pa.table({"x": [1.0, 2.0]}), [FeatureConfig(name="x")])
    transformed = map_tables(
        ray.data.from_arrow(table), lambda block: pa.table({"n": [len(pipeline.transform(block))]})
    )
    with pytest.raises(FeatureError, match=r"column 'x', row 0: expected a number, got '1'") as caught:
        collect_table(transformed, "transforming")
    assert caught.value.where == "column 'x', row 0"
    (tmp_path / "a.csv").write_text("x,y\n1,2\n")
    dataset = read_source(SourceConfig(path=str(tmp_path)))
    (tmp_path / "a.csv").unlink()
    with pytest.raises(SourceError, match=r"a.csv: no such file"):
        materialise(dataset, "reading")


def test_within_deadline_passes_errors_on() -> None:
    def fail() -> None:
        raise KeyError(threading.current_thread().name)

    with pytest.raises(KeyError, match="ray-mlops-failing"):
        within_deadline(fail, "failing", 5.0)
