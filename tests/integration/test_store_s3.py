"""The store on S3: a server of moto in this process, and the filesystem of fsspec that users have, too."""

import asyncio
import threading
from collections.abc import Iterator

import boto3
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
import s3fs
from moto.server import ThreadedMotoServer

from ray_mlops.config import StoreConfig
from ray_mlops.errors import StoreError
from ray_mlops.runtime.addresses import record_url, recorded_url
from ray_mlops.runtime.files import Files
from ray_mlops.serving.auth import load_tokens
from ray_mlops.serving.label_log import LabelLog, LabelRecord, read_labels
from ray_mlops.serving.prediction_log.compaction import compact
from ray_mlops.serving.prediction_log.files import FLUSH_FORM, find_row, read_predictions
from ray_mlops.serving.prediction_log.listing import log_path
from ray_mlops.serving.protocol import LOG_COLUMNS
from ray_mlops.training.bundle import ModelBundle
from tests.integration.gateways import ROW, make_config, save_bundle

BUCKET = "models"
ROOT = f"s3://{BUCKET}/ray-mlops"


@pytest.fixture(scope="module")
def server() -> Iterator[ThreadedMotoServer]:
    with pytest.MonkeyPatch.context() as patch:
        server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        yield server
        server.stop()
        s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def files(server: ThreadedMotoServer) -> Iterator[Files]:
    files = Files(ROOT)
    yield files
    files.delete("")


def test_what_one_process_writes_another_sees_at_once(files: Files) -> None:
    other = Files(ROOT)
    assert list(other.names("a")) == []
    files.write("a/b.txt", b"hello")
    assert (other.read("a/b.txt"), other.exists("a"), other.size("a/b.txt")) == (b"hello", True, 5)
    files.write("a/c.txt", b"x")
    assert list(other.names("a")) == ["a/b.txt", "a/c.txt"]
    before = other.fingerprint("a/c.txt")
    files.write("a/c.txt", b"yy")
    assert other.fingerprint("a/c.txt") != before
    files.delete("a")
    assert (other.exists("a"), list(other.names("a")), other.size("a/b.txt")) == (False, [], 0)


def test_tables_are_read_by_pyarrow_too(files: Files) -> None:
    files.write_table("t/x.parquet", pa.table({"a": [1, 2]}))
    assert files.read_footer("t/x.parquet").num_rows == files.read_table("t/x.parquet").num_rows == 2
    filesystem, root = files.arrow()
    assert ds.dataset(f"{root}/t", filesystem=filesystem).to_table()["a"].to_pylist() == [1, 2]


def test_of_several_processes_that_make_a_secret_one_wins(files: Files) -> None:
    found: list[bytes] = []
    makers = [
        threading.Thread(target=lambda index=index: found.append(Files(ROOT).create("secret", str(index).encode())))
        for index in range(8)
    ]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()
    assert len(found) == 8
    assert set(found) == {files.read("secret")}
    assert load_tokens(files) == load_tokens(Files(ROOT)), "every node has the same"


def test_service_is_found_from_every_node(files: Files) -> None:
    store = StoreConfig(root=ROOT)
    assert recorded_url(store) == ""
    record_url(store, "http://10.0.0.1:8000")
    assert recorded_url(store) == "http://10.0.0.1:8000"


def test_bundle_is_saved_once_and_loaded(files: Files) -> None:
    config = make_config(StoreConfig(root=ROOT), {}, {})
    first, second = (save_bundle(files, config, 1) for _ in range(2))
    assert first == second
    assert first.uri.startswith(f"{ROOT}/bundles/")
    assert np.isfinite(ModelBundle.load(first.uri).predict([ROW]).values).all()


def test_labels_and_predictions_are_kept_and_compacted(files: Files) -> None:
    async def append() -> None:
        log = LabelLog(files, "rep")
        for name in ("a", "b"):
            await log.append("m", [LabelRecord(name, "yes", None, 1)])

    asyncio.run(append())
    assert read_labels(files, "m")["id"].to_pylist() == ["a", "b"]
    values = {"event_time": 1, "arrival_time": 1, "routing_key_hash": 1, "outcome": "ok", "arm": "champion"}
    for number in range(3):
        row = {"prediction_id": f"i{number}", "request_id": f"i{number}", **values}
        columns = {name: pa.array([row.get(name)], kind) for name, kind in LOG_COLUMNS}
        path = log_path("m", "1970-01-01", "rep", number)
        files.write_table(path, pa.table({**columns, "prediction": [float(number)]}), **FLUSH_FORM)
    report = compact(files, "m", "1970-01-02")
    assert report.rows == 3
    assert len([name for name in files.names("predictions") if name.endswith(".parquet")]) == 1
    assert sorted(read_predictions(files, "m")["prediction"].to_pylist()) == [0.0, 1.0, 2.0]
    assert find_row(files, "m", "i1") is not None


def test_bucket_that_is_not_there_is_an_error_that_names_it(server: ThreadedMotoServer) -> None:
    files = Files("s3://nothing-here/x")
    for act in (lambda: files.write("a", b""), lambda: files.read("a"), lambda: list(files.names("a"))):
        with pytest.raises(StoreError, match=r"s3://nothing-here/x/a: .*bucket does not exist"):
            act()


def test_store_that_cannot_be_reached_is_an_error_too(
    server: ThreadedMotoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No ``OSError`` for the library: a thread that writes the log must not die of it."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()
    files = Files(ROOT)
    acts = (lambda: files.write("a", b""), lambda: files.read("a"), lambda: files.exists("a"), lambda: files.size("a"))
    for act in acts:
        with pytest.raises(StoreError, match="Could not connect"):
            act()
    s3fs.S3FileSystem.clear_instance_cache()
