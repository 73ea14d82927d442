"""Labels are on disk before they are acknowledged."""

import asyncio
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import orjson
import pytest

from ray_mlops.data.target import TargetEncoder
from ray_mlops.errors import RequestError, StoreError
from ray_mlops.runtime.files import Files, open_alone
from ray_mlops.serving.label_log import LabelLog, check_label, read_labels
from ray_mlops.serving.protocol import LabelRecord

DAY_US = 86_400_000_000


def label(name: str, value: Any = 1, arrival_us: int = 0, time_us: int | None = None) -> LabelRecord:
    return LabelRecord(name, value, time_us, arrival_us)


def test_labels_are_durable_when_append_returns(tmp_path: Path, monkeypatch: Any) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def note(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    files = Files(str(tmp_path))
    asyncio.run(LabelLog(files, "rep").append("flights", [label("a", "x", 1, 2), label("b", 0.5)]))
    path = tmp_path / "labels/flights/day=1970-01-01/rep-1.jsonl"
    assert str(path) in synced
    assert {str(path.parent), str(path.parent.parent), str(path.parent.parent.parent)} <= set(synced)
    assert read_labels(files, "flights").to_pylist() == [
        {"id": "b", "label": "0.5", "time": None, "arrival": 0, "is_correction": False},
        {"id": "a", "label": '"x"', "time": 2, "arrival": 1, "is_correction": False},
    ]


def test_only_a_correction_says_so_in_its_line(tmp_path: Path) -> None:
    files = Files(str(tmp_path))
    given = [label("a", 1, 5), LabelRecord("a", 0, None, 5, is_correction=True)]
    asyncio.run(LabelLog(files, "rep").append("flights", given))
    assert files.read("labels/flights/day=1970-01-01/rep-1.jsonl").splitlines() == [
        b'{"id":"a","label":1,"time":null,"arrival":5}',
        b'{"id":"a","label":0,"time":null,"arrival":5,"is_correction":true}',
    ]
    assert read_labels(files, "flights")["is_correction"].to_pylist() == [False, True]


def test_record_survives_a_process_border() -> None:
    record = LabelRecord("a", "x", 3, 4, is_correction=True)
    assert pickle.loads(pickle.dumps(record)) == record


def test_requests_that_wait_share_a_commit(tmp_path: Path, monkeypatch: Any) -> None:
    commits: list[int] = []
    write = LabelLog._write

    def note(self: LabelLog, waiting: Any) -> None:
        commits.append(len(waiting))
        write(self, waiting)

    monkeypatch.setattr(LabelLog, "_write", note)

    async def scenario() -> None:
        log = LabelLog(Files(str(tmp_path)), "rep")
        first = asyncio.create_task(log.append("flights", [label("first")]))
        while not commits:
            await asyncio.sleep(0)
        await asyncio.gather(first, *(log.append("flights", [label(f"id-{i}")]) for i in range(50)))

    asyncio.run(scenario())
    assert commits[0] == 1
    assert sum(commits) == 51
    assert len(commits) <= 3
    assert read_labels(Files(str(tmp_path)), "flights").num_rows == 51


def test_labels_of_two_days_lie_in_two_files(tmp_path: Path) -> None:
    files = Files(str(tmp_path))
    asyncio.run(LabelLog(files, "rep").append("flights", [label("a"), label("b", arrival_us=DAY_US)]))
    assert list(files.names("labels")) == [
        "labels/flights/day=1970-01-01/rep-1.jsonl",
        "labels/flights/day=1970-01-02/rep-1.jsonl",
    ]


def test_failed_commit_acknowledges_nobody_and_leaves_no_torn_line_inside(tmp_path: Path, monkeypatch: Any) -> None:
    files = Files(str(tmp_path))
    fsync = os.fsync

    async def scenario() -> None:
        log = LabelLog(files, "rep")
        await log.append("flights", [label("a")])

        def fail(descriptor: int) -> None:
            os.ftruncate(descriptor, os.fstat(descriptor).st_size - 3)
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", fail)
        results = await asyncio.gather(*(log.append("flights", [label(n)]) for n in "bc"), return_exceptions=True)
        assert [type(result) for result in results] == [StoreError, StoreError]
        monkeypatch.setattr(os, "fsync", fsync)
        await log.append("flights", [label("d")])

    asyncio.run(scenario())
    found = read_labels(files, "flights")["id"].to_pylist()
    assert found[0] == "a"
    assert found[-1] == "d"
    assert "c" not in found, "its line was torn"


def test_object_store_takes_an_object_for_each_commit() -> None:
    files = Files("memory://labels-test")

    async def scenario() -> None:
        log = LabelLog(files, "rep")
        await log.append("flights", [label("a")])
        await log.append("flights", [label("b"), label("c")])

    try:
        asyncio.run(scenario())
        assert [name.rpartition("/")[2] for name in files.names("labels")] == ["rep-1.jsonl", "rep-2.jsonl"]
        assert sorted(read_labels(files, "flights")["id"].to_pylist()) == ["a", "b", "c"]
    finally:
        fsspec.filesystem("memory").store.clear()


@pytest.mark.parametrize(
    "line",
    [
        b'{"id": "a"}',
        b'{"label": 1, "time": null, "arrival": 1}',
        b'{"id": 1, "label": 1, "time": null, "arrival": 1}',
        b'{"id": "a", "label": 1, "time": "x", "arrival": 1}',
        b'{"id": "a", "label": 1, "time": null, "arrival": 1, "is_correction": "yes"}',
        b"[1]",
        b"5",
        b'{"id": "a", "label": 1',
        b"",
    ],
)
def test_reader_refuses_what_is_no_label(tmp_path: Path, line: bytes) -> None:
    files = Files(str(tmp_path))
    good = b'{"id": "g", "label": 1, "time": null, "arrival": 1}\n'
    files.write("labels/flights/day=1970-01-01/rep-1.jsonl", good + line + b"\n" + good)
    with pytest.raises(StoreError, match=r"rep-1\.jsonl: holds a line that is no label"):
        read_labels(files, "flights")


def test_torn_last_line_is_left_out_wherever_the_reader_cuts(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("ray_mlops.serving.label_log._READ_BYTES", 60)
    files = Files(str(tmp_path))
    lines = [b'{"id": "%d", "label": %d, "time": null, "arrival": %d}\n' % (n, n, 9 - n) for n in range(9)]
    for number, torn in enumerate((b"", b'{"id": "torn", "label": 1, "time": null, "arrival": 1}', b'{"id"')):
        files.write(f"labels/m{number}/day=1970-01-01/rep-1.jsonl", b"".join(lines) + torn)
        assert read_labels(files, f"m{number}")["id"].to_pylist() == [str(n) for n in range(8, -1, -1)]


def test_labels_of_one_moment_stay_in_the_order_of_the_log(tmp_path: Path) -> None:
    files, log = Files(str(tmp_path)), LabelLog(Files(str(tmp_path)), "rep")
    asyncio.run(log.append("flights", [label("late", arrival_us=9), *(label(f"id-{n}") for n in range(100))]))
    assert read_labels(files, "flights")["id"].to_pylist() == [*(f"id-{n}" for n in range(100)), "late"]


def test_labels_of_one_prediction_are_found_without_reading_the_others(tmp_path: Path, monkeypatch: Any) -> None:
    files = Files(str(tmp_path))
    given = [label(f"p-{n}", n % 2, arrival_us=n // 1500 * DAY_US) for n in range(3000)]
    given += [label("q", "p-17", DAY_US), LabelRecord("p-17", 0, None, DAY_US, is_correction=True)]
    asyncio.run(LabelLog(files, "rep").append("flights", given))
    parsed: list[bytes] = []
    loads = orjson.loads
    monkeypatch.setattr("ray_mlops.serving.label_log.orjson.loads", lambda line: parsed.append(line) or loads(line))
    found = read_labels(files, "flights", "p-17")
    assert found.select(["id", "label", "is_correction"]).to_pylist() == [
        {"id": "p-17", "label": "1", "is_correction": False},
        {"id": "p-17", "label": "0", "is_correction": True},
    ]
    assert len(parsed) == 3
    assert read_labels(files, "flights", "p-99999").num_rows == 0
    assert len(parsed) == 3


def test_no_labels_is_an_empty_table(tmp_path: Path) -> None:
    assert read_labels(Files(str(tmp_path)), "flights").num_rows == 0


@pytest.mark.parametrize(
    ("encoder", "right", "wrong"),
    [
        (TargetEncoder("late", "binary", (0, 1)), [0, 1, 1.0], ["yes", 2, [1], {}, "", None, 0.5]),
        (TargetEncoder("late", "binary", ("no", "yes")), ["yes", "no"], ["maybe", 1, True, []]),
        (TargetEncoder("late", "multiclass", ("a", "b", "c")), ["a", "c"], ["d", 3]),
        (TargetEncoder("delay", "regression"), [1, -2.5], ["1", True, [1], float("inf")]),
    ],
)
def test_labels_are_of_the_models_task(encoder: TargetEncoder, right: list[Any], wrong: list[Any]) -> None:
    for value in right:
        check_label(encoder, value, "labels[0].label")
    for value in wrong:
        with pytest.raises(RequestError, match=r"labels\[0\]\.label: expected"):
            check_label(encoder, value, "labels[0].label")


def test_label_that_comes_while_the_file_is_rewritten_is_in_the_new_one(tmp_path: Path) -> None:
    files, log = Files(str(tmp_path)), LabelLog(Files(str(tmp_path)), "rep")
    asyncio.run(log.append("flights", [label("forgotten")]))
    path = tmp_path / "labels/flights/day=1970-01-01/rep-1.jsonl"
    with ThreadPoolExecutor(1) as pool:
        with open_alone(path):
            writing = pool.submit(lambda: asyncio.run(log.append("flights", [label("new")])))
            with pytest.raises(TimeoutError):
                writing.result(timeout=0.2)
            files.write("labels/flights/day=1970-01-01/rep-1.jsonl", b"")
        writing.result(timeout=10)
    assert read_labels(files, "flights")["id"].to_pylist() == ["new"]
