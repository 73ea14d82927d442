"""What the prediction log does when it is full: every row is counted in exactly one state, at every moment."""

import asyncio
import json
import os
import random
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ray_mlops.config import PredictionLogConfig, build_config
from ray_mlops.errors import ConfigError, StoreError
from ray_mlops.runtime.files import Files
from ray_mlops.serving.prediction_log.accounting import Accounting
from ray_mlops.serving.prediction_log.files import read_predictions
from ray_mlops.serving.prediction_log.log import PredictionLog
from ray_mlops.serving.prediction_log.lost_rows import book_lost
from ray_mlops.serving.prediction_log.spool import Spool, encode
from ray_mlops.serving.prediction_log.table import LogFormat, LogRecord
from ray_mlops.serving.prediction_log.thinning import Thinner

DAY_US = 86_400_000_000
FORMAT = LogFormat("flights", "bundle-1", pa.schema([("distance", pa.float64())]), "binary")
POLICIES = [
    {"policy": "drop"},
    {"policy": "block"},
    {"policy": "sample"},
    {"policy": "spill"},
    {"policy": "spill", "max_spill_mb": 0.01},
    {"policy": "drop", "durability": "spool"},
    {"policy": "spill", "durability": "spool"},
]


def record(*ids: str, value: float = 1.0, day: int = 10) -> LogRecord:
    """One request, a row for each id."""
    count = len(ids)
    head = (FORMAT, "r", list(ids), [{"distance": value}] * count, {}, [day * DAY_US] * count, 10 * DAY_US)
    return LogRecord(*head, "champion", "1", 3, None, False, "ok", 1.0, 5, 7, np.full(count, value))


class FlakyFiles(Files):
    """A store that fails when told: every table, or those that the dice say."""

    fails = False
    dice: random.Random | None = None
    failed = 0

    def write_table(self, path: str, table: pa.Table, **options: Any) -> None:
        if self.fails or (self.dice is not None and self.dice.random() < 0.4):
            self.failed += 1
            raise StoreError("no space left on device")
        super().write_table(path, table, **options)


@pytest.fixture
def files(tmp_path: Path) -> FlakyFiles:
    return FlakyFiles(str(tmp_path / "store"))


def make_log(tmp_path: Path, files: Files, sink: Any = None, **options: Any) -> PredictionLog:
    return PredictionLog(files, tmp_path / "acc", "rep", PredictionLogConfig(**options), 0.01, sink)


def held(log: PredictionLog) -> int:
    """Rows in memory only, counted by looking."""
    records = [record for batch in log._queue if batch.segment is None for record in batch.records]
    buffered = log._buffer if not log._is_durable else []
    return sum(len(record.ids) for record in [*records, *buffered])


def check_balance(log: PredictionLog) -> None:
    in_memory = held(log)
    states = log.accounting.states()
    assert all(count >= 0 for count in states.values())
    rest = states["accepted"] - states["written"] - states["spooled"] - states["dropped"] - states["lost"]
    assert 0 <= rest <= in_memory, "files of a batch are booked one by one"
    assert rest == in_memory or log._queue


def find_format(model: str, bundle: str) -> LogFormat:
    return FORMAT


def settled(tmp_path: Path, files: Files) -> dict[str, int]:
    """The counts after a death, once the next replica has started."""
    book_lost(tmp_path / "acc", files, find_format)
    counts = Accounting(tmp_path / "acc" / "rep.bin")
    states = counts.states()
    counts.close()
    return states


# -- every policy -------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", POLICIES, ids=lambda options: "-".join(map(str, options.values())))
@pytest.mark.parametrize("seed", range(4))
def test_counts_add_up_at_every_moment_and_after_a_death(
    tmp_path: Path, files: FlakyFiles, options: dict[str, Any], seed: int
) -> None:
    dice = files.dice = random.Random(seed)
    sent = 0

    async def scenario() -> None:
        nonlocal sent
        log = make_log(tmp_path, files, max_buffer_rows=60, **options)
        flush: asyncio.Task[None] | None = None
        for step in range(300):
            ids = [f"{step}-{index}" for index in range(dice.choice((1, 1, 1, 3, 25, 70)))]
            log.accept(record(*ids, day=dice.choice((8, 9, 10))), is_named=dice.random() < 0.5)
            sent += len(ids)
            check_balance(log)
            assert log._held_rows <= 60 or options["policy"] == "block"
            if dice.random() < 0.2 and (flush is None or flush.done()):
                flush = asyncio.create_task(log.flush())
            if dice.random() < 0.3:
                await asyncio.sleep(0)
                check_balance(log)
            if dice.random() < 0.05 and flush is not None:
                await flush
                check_balance(log)
        if flush is not None:
            await flush
        check_balance(log)
        log.accounting.close()  # as the kernel does for a process that is killed

    asyncio.run(scenario())
    files.dice = None
    states = settled(tmp_path, files)
    assert states["accepted"] == sent
    assert states["spooled"] == 0
    assert states["written"] + states["dropped"] + states["lost"] == sent
    assert states["written"] == read_predictions(files, "flights", columns=["prediction_id"]).num_rows
    if options.get("durability") == "spool":
        assert states["lost"] == 0
    assert settled(tmp_path, files) == states, "a second start changes nothing"
    assert list((tmp_path / "acc").glob("*.spool")) == []


KILLED = """
import asyncio, json, random, sys, os
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_log_policies import FlakyFiles, make_log, record

root, options, seed = Path(sys.argv[2]), json.loads(sys.argv[3]), int(sys.argv[4])
files = FlakyFiles(str(root / "store"))
files.dice = random.Random(seed)

async def main():
    log = make_log(root, files, max_buffer_rows=300, **options)
    log.start()
    step = 0
    while True:
        step += 1
        log.accept(record(*(f"{step}-{i}" for i in range(1 + step % 40)), day=9 + step % 2), is_named=False)
        if step % 7 == 0:
            await asyncio.sleep(0)
        if step == 200:
            print("loaded", flush=True)

asyncio.run(main())
"""


@pytest.mark.parametrize("options", POLICIES, ids=lambda options: "-".join(map(str, options.values())))
def test_sigkill_in_the_middle_leaves_counts_that_add_up(tmp_path: Path, files: Files, options: dict[str, Any]) -> None:
    arguments = [str(Path(__file__).parent), str(tmp_path), json.dumps(options), "7"]
    child = subprocess.Popen([sys.executable, "-c", KILLED, *arguments], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"loaded\n"
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    states = settled(tmp_path, files)
    assert states["accepted"] >= 200
    assert states["spooled"] == 0
    assert states["accepted"] == states["written"] + states["dropped"] + states["lost"]
    assert states["written"] == read_predictions(files, "flights", columns=["prediction_id"]).num_rows


# -- sample -------------------------------------------------------------------------------------------


def test_sample_keeps_memory_bounded_and_counts_what_it_drops(tmp_path: Path, files: FlakyFiles) -> None:
    async def scenario() -> None:
        log = make_log(tmp_path, files, policy="sample", max_buffer_rows=20)
        for index in range(400):
            log.accept(record(f"id-{index}"), is_named=True)
        states = log.accounting.states()
        assert states["accepted"] == 400
        assert 0 < log._held_rows <= 10
        assert states["dropped"] == 400 - log._held_rows
        log.accept(record("id-3"), is_named=True)
        assert log.retries == 1, "a repeat of a row that was left out is no second chance"
        await log.close()

    asyncio.run(scenario())
    weights = read_predictions(files, "flights")["sample_weight"].to_pylist()
    assert len(weights) == len([w for w in weights if w >= 32.0]) > 0


def test_sample_is_weighted_so_that_sums_are_unbiased() -> None:
    """Values rise with time: a sample that preferred early or late rows would be off by far more than the noise."""
    truth, sums, counts = sum(range(300)), [], []
    for seed in range(400):
        thinner, buffer, rows = Thinner(40, random.Random(seed)), [], 0
        for index in range(300):
            buffer, rows = thinner.add(buffer, rows, record(f"{index}", value=float(index)))
        assert rows == len(buffer) <= 40
        sums.append(sum(r.sample_weight * r.values[0] for r in buffer))
        counts.append(sum(r.sample_weight for r in buffer))
    for found, expected in ((sums, truth), (counts, 300)):
        error = np.mean(found) - expected
        assert abs(error) < 4 * np.std(found) / np.sqrt(len(found)), (np.mean(found), expected)
    assert np.std(counts) > 0


def test_sample_of_large_requests_thins_their_rows() -> None:
    thinner = Thinner(8, random.Random(1))
    buffer, rows = thinner.add([], 0, record(*(f"{index}" for index in range(100))))
    (kept,) = buffer
    assert 0 < rows == len(kept.ids) == len(kept.rows) == len(kept.values) <= 8
    assert kept.sample_weight == thinner.weight >= 16


def test_sample_lets_everything_in_again_after_a_flush(tmp_path: Path, files: FlakyFiles) -> None:
    async def scenario() -> None:
        log = make_log(tmp_path, files, policy="sample", max_buffer_rows=8)
        for index in range(20):
            log.accept(record(f"a{index}"), is_named=False)
        await log.flush()
        dropped = log.accounting["dropped"]
        for index in range(4):
            log.accept(record(f"b{index}"), is_named=False)
        await log.close()
        assert dropped > 0

    asyncio.run(scenario())
    table = read_predictions(files, "flights")
    late = [
        w
        for name, w in zip(*(table[c].to_pylist() for c in ("prediction_id", "sample_weight")), strict=True)
        if name[0] == "b"
    ]
    assert late == [1.0] * 4


def test_sample_and_durability_contradict_each_other() -> None:
    with pytest.raises(ValueError, match="promises to keep"):
        PredictionLogConfig(policy="sample", durability="spool")


# -- spill --------------------------------------------------------------------------------------------


def test_spill_writes_what_memory_had_no_room_for(tmp_path: Path, files: FlakyFiles) -> None:
    async def scenario() -> None:
        log = make_log(tmp_path, files, policy="spill", max_buffer_rows=10)
        files.fails = True
        for index in range(50):
            log.accept(record(f"id-{index}", day=9 + index % 2), is_named=True)
        assert log.accounting.states() == {"accepted": 50, "written": 0, "spooled": 40, "dropped": 0, "lost": 0}
        assert log.spilled_bytes == sum(path.stat().st_size for path in (tmp_path / "acc").glob("*.spool")) > 0
        await log.flush()
        assert log.accounting.states()["spooled"] == 40
        files.fails = False
        await log.flush()
        assert log.accounting.states() == {"accepted": 50, "written": 50, "spooled": 0, "dropped": 0, "lost": 0}
        assert log.spilled_bytes == 0
        log.accept(record("id-3"), is_named=True)
        assert log.retries == 1
        log.accept(record("later"), is_named=True)
        assert held(log) == 1, "memory is used again"
        await log.close()

    asyncio.run(scenario())
    assert read_predictions(files, "flights").num_rows == 51
    assert list((tmp_path / "acc").glob("*.spool")) == []


def test_spill_is_bounded_by_its_size(tmp_path: Path, files: FlakyFiles) -> None:
    async def scenario() -> None:
        log = make_log(tmp_path, files, policy="spill", max_buffer_rows=1, max_spill_mb=0.001)
        files.fails = True
        for index in range(50):
            log.accept(record(f"id-{index}"), is_named=True)
        states = log.accounting.states()
        assert 0 < states["spooled"] < 10
        assert states["dropped"] == 49 - states["spooled"]
        assert log.spilled_bytes < 2 * 0.001 * 2**20
        files.fails = False
        await log.close()

    asyncio.run(scenario())


def test_row_that_was_dropped_is_logged_when_it_is_sent_again(tmp_path: Path, files: FlakyFiles) -> None:
    async def scenario() -> None:
        log = make_log(tmp_path, files, policy="spill", max_buffer_rows=1, max_spill_mb=0.001)
        index = 0
        while not log.accounting["dropped"]:
            log.accept(record(f"id-{index}"), is_named=True)
            index += 1
        await log.flush()
        log.accept(record(f"id-{index - 1}"), is_named=True)
        log.accept(record(f"id-{index - 2}"), is_named=True)
        assert log.retries == 1
        await log.close()
        assert read_predictions(files, "flights").num_rows == index

    asyncio.run(scenario())


def test_segment_without_a_line_leaves_no_file_that_shares_its_name_with_the_next(
    tmp_path: Path, files: FlakyFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path, "rep")
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda descriptor, line: 0)  # the disk is full
        with pytest.raises(StoreError):
            spool.append(b"line\n", 1, 0)
    assert spool.rotate() is None
    assert list(tmp_path.glob("*.spool")) == []
    spool.append(b"line\n", 1, 0)
    segment = spool.rotate()
    assert segment is not None
    assert segment.path.read_bytes() == b"line\n"


def test_spill_onto_a_full_disk_drops_and_counts(tmp_path: Path, files: FlakyFiles, monkeypatch: Any) -> None:
    def fail(*arguments: Any) -> None:
        raise StoreError("no space left on device")

    async def scenario() -> None:
        log = make_log(tmp_path, files, policy="spill", max_buffer_rows=1)
        monkeypatch.setattr(Spool, "append", fail)
        for index in range(5):
            log.accept(record(f"id-{index}"), is_named=False)
        assert log.accounting.states() == {"accepted": 5, "written": 0, "spooled": 0, "dropped": 4, "lost": 0}
        await log.flush()
        monkeypatch.undo()
        log.accept(record("after"), is_named=False)
        await log.close()

    asyncio.run(scenario())
    assert read_predictions(files, "flights").num_rows == 2


@pytest.mark.parametrize("harm", ["gone", "torn", "damaged"])
def test_spilled_rows_that_cannot_be_read_back_are_lost_and_no_others(
    tmp_path: Path, files: FlakyFiles, harm: str
) -> None:
    async def scenario() -> dict[str, int]:
        log = make_log(tmp_path, files, policy="spill", max_buffer_rows=1)
        for index in range(5):
            log.accept(record(f"id-{index}"), is_named=False)
        (segment,) = (tmp_path / "acc").glob("*.spool")
        lines = segment.read_bytes().splitlines(keepends=True)
        if harm == "gone":
            segment.unlink()
        elif harm == "torn":
            segment.write_bytes(b"".join(lines)[:-3])
        else:
            segment.write_bytes(b"".join([lines[0], b"\x00\xff{\n", *lines[2:]]))
        await log.flush()
        states = log.accounting.states()
        await log.close()
        return states

    states = asyncio.run(scenario())
    lost = 4 if harm == "gone" else 1
    assert states == {"accepted": 5, "written": 5 - lost, "spooled": 0, "dropped": 0, "lost": lost}


@pytest.mark.parametrize("harm", ["gone", "damaged"])
def test_dead_replicas_segment_that_cannot_be_read_is_lost_and_no_other(
    tmp_path: Path, files: FlakyFiles, harm: str, monkeypatch: Any
) -> None:
    monkeypatch.setattr("ray_mlops.serving.prediction_log.log.FLUSH_ROWS", 2)

    async def scenario() -> None:
        log = make_log(tmp_path, files, policy="spill", max_buffer_rows=1)
        for index in range(7):  # one in memory, three segments of two
            log.accept(record(f"id-{index}"), is_named=False)
        log.accounting.close()

    asyncio.run(scenario())
    _, middle, _ = sorted((tmp_path / "acc").glob("*.spool"))
    if harm == "gone":
        middle.unlink()
    else:
        middle.write_bytes(b"nonsense\n")
    assert settled(tmp_path, files) == {"accepted": 7, "written": 4, "spooled": 0, "dropped": 0, "lost": 3}
    assert sorted(read_predictions(files, "flights")["prediction_id"].to_pylist()) == ["id-1", "id-2", "id-5", "id-6"]


def test_segment_of_an_earlier_release_is_read(tmp_path: Path, files: FlakyFiles) -> None:
    counts = Accounting(tmp_path / "acc" / "rep.bin")
    counts["accepted"], counts["written"], counts["spooled"] = 5, 2, 3
    counts.close()
    os.truncate(tmp_path / "acc" / "rep.bin", 80)
    old = [record("a", "b"), record("c")]
    lines = [json.loads(encode(each)) for each in old]
    for line in lines:
        del line["record"]["sample_weight"]
    (tmp_path / "acc" / "rep-00000004.spool").write_bytes(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
    assert settled(tmp_path, files) == {"accepted": 5, "written": 5, "spooled": 0, "dropped": 0, "lost": 0}
    assert read_predictions(files, "flights")["sample_weight"].to_pylist() == [1.0] * 3


# -- the local disk -----------------------------------------------------------------------------------


def test_counters_that_cannot_be_kept_are_said(tmp_path: Path, files: FlakyFiles) -> None:
    (tmp_path / "acc").write_text("a file, no directory")
    with pytest.raises(StoreError, match=r"counters cannot be kept.*check permissions and free space"):
        make_log(tmp_path, files)


def test_counters_on_a_full_disk_are_said_and_leave_no_hole(
    tmp_path: Path, files: FlakyFiles, monkeypatch: Any
) -> None:
    def full(*arguments: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(StoreError, match="No space left on device"):
        make_log(tmp_path, files)
    monkeypatch.undo()
    make_log(tmp_path, files).accounting.close()


def test_row_that_json_cannot_hold_is_refused_by_the_durable_log_and_counted_nowhere(
    tmp_path: Path, files: FlakyFiles
) -> None:
    log = make_log(tmp_path, files, durability="spool")
    with pytest.raises(StoreError, match="cannot be spooled"):
        log.accept(record("\ud800"), is_named=False)
    assert sum(log.accounting.states().values()) == 0
    log.accounting.close()


def test_line_that_is_written_in_part_is_taken_back(tmp_path: Path, files: FlakyFiles) -> None:
    """The system's own limit on the size of a file stands in for a disk that fills up in the middle of a write."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    async def scenario() -> None:
        log = make_log(tmp_path, files, policy="spill", max_buffer_rows=1)
        log.accept(record("a"), is_named=False)
        log.accept(record("b"), is_named=False)
        resource.setrlimit(resource.RLIMIT_FSIZE, (log.spilled_bytes + 100, limits[1]))
        try:
            log.accept(record("c"), is_named=False)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        (segment,) = (tmp_path / "acc").glob("*.spool")
        assert segment.stat().st_size == log.spilled_bytes
        log.accept(record("d"), is_named=False)
        assert log.accounting.states() == {"accepted": 4, "written": 0, "spooled": 2, "dropped": 1, "lost": 0}
        await log.close()

    asyncio.run(scenario())
    assert sorted(read_predictions(files, "flights")["prediction_id"].to_pylist()) == ["a", "b", "d"]


def test_config_error_names_the_policies() -> None:
    content = {"name": "m", "data": {"source": {"path": "x"}, "task": "binary", "target": "y"}}
    with pytest.raises(ConfigError, match=r"serving\.log\.policy"):
        build_config({**content, "serving": {"log": {"policy": "spool"}}}, {})
