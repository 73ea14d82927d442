"""A snapshot is its content: the same data is the same snapshot, changed files are refused."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ray_mlops.config import DataConfig, SourceConfig
from ray_mlops.data.snapshot import create_snapshot, load_snapshot, narrow_snapshot, snapshot_table
from ray_mlops.errors import SnapshotError
from ray_mlops.runtime.files import Files

DAY_US = 86_400_000_000


def rows(n: int = 20) -> pa.Table:
    times = pa.array(np.arange(n) * DAY_US, pa.int64()).cast(pa.timestamp("us", tz="UTC"))
    return pa.table({"x": np.arange(n, dtype=float), "c": ["a", None] * (n // 2), "t": times})


def config(path: Path | str) -> DataConfig:
    return DataConfig(source=SourceConfig(path=str(path)), task="binary", target="x", event_time="t")


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(str(tmp_path / "store"))


def in_place(directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    pq.write_table(rows().slice(0, 15), directory / "a.parquet")
    pq.write_table(rows().slice(15), directory / "b.parquet")
    return directory


def test_files_in_place_same_content_elsewhere_same_id(tmp_path: Path, files: Files) -> None:
    first = create_snapshot(config(in_place(tmp_path / "one")), files)
    second = create_snapshot(config(in_place(tmp_path / "deeply" / "two")), files)
    assert first == second
    assert (first.rows, first.event_range, first.schema["x"]) == (20, (0, 19 * DAY_US), "double")
    assert snapshot_table(first, files) == rows()
    assert snapshot_table(first, files, ["x"]).column_names == ["x"]
    loaded = load_snapshot(files, first.id)
    assert loaded == first
    pq.write_table(rows().slice(0, 3), tmp_path / "one" / "c.parquet")
    assert create_snapshot(config(tmp_path / "one"), files).id != first.id


def test_manifest_follows_files_that_moved(tmp_path: Path, files: Files) -> None:
    first = create_snapshot(config(in_place(tmp_path / "one")), files)
    shutil.move(tmp_path / "one", tmp_path / "two")
    with pytest.raises(SnapshotError, match="the file is gone"):
        snapshot_table(first, files)
    second = create_snapshot(config(tmp_path / "two"), files)
    assert second.id == first.id
    assert snapshot_table(load_snapshot(files, first.id), files) == rows()


def test_table_any_order_and_chunking_same_id(files: Files) -> None:
    table = rows()
    first = create_snapshot(config("unused"), files, table=table, origin={"kind": "test"}, parents=["p"])
    shuffled = table.take(np.random.default_rng(0).permutation(len(table)))
    chunked = pa.concat_tables([shuffled.slice(0, 3), shuffled.slice(3)])
    assert create_snapshot(config("unused"), files, table=chunked) == first
    assert (first.is_copied, first.parents, first.origin["kind"]) == (True, ("p",), "test")
    assert snapshot_table(first, files) == table
    changed = table.set_column(0, "x", pa.array([99.0, *range(1, 20)]))
    assert create_snapshot(config("unused"), files, table=changed).id != first.id
    as_text = table.set_column(2, "t", pa.array([str(time) for time in table["t"].to_pylist()]))
    assert create_snapshot(config("unused"), files, table=as_text) == first


def test_copied_store_moves_with_its_snapshots(tmp_path: Path, files: Files) -> None:
    first = create_snapshot(config("unused"), files, table=rows())
    shutil.copytree(tmp_path / "store", tmp_path / "moved")
    moved = Files(str(tmp_path / "moved"))
    shutil.rmtree(tmp_path / "store")
    assert snapshot_table(load_snapshot(moved, first.id), moved) == rows()


def test_changed_file_is_refused(tmp_path: Path, files: Files) -> None:
    directory = in_place(tmp_path / "one")
    snapshot = create_snapshot(config(directory), files)
    file = directory / "a.parquet"
    content = file.read_bytes()
    file.write_bytes(content)
    os.utime(file, (1, 1))
    assert len(snapshot_table(snapshot, files)) == 20  # touched, but the same
    file.write_bytes(content + b" ")
    with pytest.raises(SnapshotError, match=f"{snapshot.id}.*a.parquet: the file has changed: .* bytes"):
        snapshot_table(snapshot, files)
    changed = bytearray(content)
    changed[10] ^= 1
    file.write_bytes(changed)
    with pytest.raises(SnapshotError, match="content has changed"):
        snapshot_table(snapshot, files)
    file.unlink()
    with pytest.raises(SnapshotError, match="gone"):
        snapshot_table(snapshot, files)


def test_damaged_copy_is_refused_and_written_again(files: Files) -> None:
    snapshot = create_snapshot(config("unused"), files, table=rows())
    part = snapshot.files[0].path
    content = bytearray(files.read(part))
    content[20] ^= 1
    files.write(part, bytes(content))
    with pytest.raises(SnapshotError, match="content has changed"):
        snapshot_table(snapshot, files)
    again = create_snapshot(config("unused"), files, table=rows())
    assert again.id == snapshot.id
    assert snapshot_table(again, files) == rows()


def test_narrow_snapshot_keeps_a_time_range_without_copying(files: Files) -> None:
    whole = create_snapshot(config("unused"), files, table=rows())
    narrow = narrow_snapshot(whole, files, 5 * DAY_US, 10 * DAY_US)
    assert (narrow.rows, narrow.event_range) == (5, (5 * DAY_US, 9 * DAY_US))
    assert narrow.parents == (whole.id,)
    assert snapshot_table(load_snapshot(files, narrow.id), files, ["x"])["x"].to_pylist() == [5, 6, 7, 8, 9]
    narrower = narrow_snapshot(narrow, files, 0, 7 * DAY_US)
    assert snapshot_table(narrower, files)["x"].to_pylist() == [5, 6]
    assert len({whole.id, narrow.id, narrower.id}) == 3
    with pytest.raises(SnapshotError, match="no row lies in"):
        narrow_snapshot(whole, files, 100 * DAY_US, 200 * DAY_US)


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"schema_version": 1}', b'{"schema_version": 2}'])
def test_load_snapshot_damaged_newer_or_absent_is_an_error(files: Files, content: bytes) -> None:
    files.write("snapshots/x.json", content)
    with pytest.raises(SnapshotError):
        load_snapshot(files, "x")
    with pytest.raises(SnapshotError, match="no such snapshot"):
        load_snapshot(files, "y")


def test_unknown_columns_are_named(files: Files) -> None:
    snapshot = create_snapshot(config("unused"), files, table=rows())
    with pytest.raises(SnapshotError, match="no columns"):
        snapshot_table(snapshot, files, ["nothing"])


def test_manifest_is_plain_json(files: Files) -> None:
    snapshot = create_snapshot(config("unused"), files, table=rows())
    content: dict[str, Any] = json.loads(files.read(f"snapshots/{snapshot.id}.json"))
    assert content["id"] == snapshot.id
    assert "store" not in json.dumps(content["files"])  # no path of this machine


def test_files_that_came_with_a_job_are_copied(tmp_path: Path, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    uploaded = tmp_path / "runtime_resources" / "working_dir_files" / "_ray_pkg_1"
    in_place(uploaded / "data")
    monkeypatch.chdir(uploaded)
    snapshot = create_snapshot(config("data"), files)
    monkeypatch.chdir(tmp_path)
    shutil.rmtree(uploaded)
    assert snapshot_table(snapshot, files) == rows()
