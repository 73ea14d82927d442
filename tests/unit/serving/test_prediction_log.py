"""The prediction log: exact counts, whatever happens between two stores."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ray_mlops.config import PredictionLogConfig
from ray_mlops.data.columns import canonical_from_values
from ray_mlops.errors import NotFoundError, OverloadError, StoreError
from ray_mlops.runtime.files import Files
from ray_mlops.serving.prediction_log.accounting import STATES, Accounting
from ray_mlops.serving.prediction_log.files import read_predictions
from ray_mlops.serving.prediction_log.log import PredictionLog
from ray_mlops.serving.prediction_log.lost_rows import book_lost
from ray_mlops.serving.prediction_log.spool import Spool
from ray_mlops.serving.prediction_log.table import LogFormat, LogRecord, _plain_column, build_table, split_by_file
from ray_mlops.serving.protocol import LOG_COLUMNS

DAY_US = 86_400_000_000
SCHEMA = pa.schema([("distance", pa.float64()), ("carrier", pa.string())])
FORMAT = LogFormat("flights", "bundle-1", SCHEMA, "binary")


def record(*ids: str, days: list[int] | None = None, style: LogFormat = FORMAT, **changes: Any) -> LogRecord:
    """One request, a row for each id; event times on these days since 1970."""
    rows = [{"distance": 1.0 * index, "carrier": "UA"} for index in range(len(ids))]
    rows, hashes = style.redacted(rows)
    made = LogRecord(
        format=style,
        request_id="r",
        ids=list(ids),
        rows=rows,
        hashes=hashes,
        event_us=None if days is None else [day * DAY_US for day in days],
        arrival_us=10 * DAY_US,
        arm="champion",
        version="1",
        route_version=3,
        routing_key_hash=2**64 - 1,
        pinned=False,
        outcome="ok",
        weight=1.0,
        model_us=5,
        latency_us=7,
        values=np.arange(len(ids), dtype=np.float64) / 10,
    )
    return replace(made, **changes)


class ListSink:
    """Keeps what it is handed; fails when told."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str, int]] = []
        self.fails = self.closed = False

    def accept(self, model: str, version: str, rows: pa.Table) -> None:
        if self.fails:
            raise RuntimeError("the sink is broken")
        self.rows.append((model, version, rows.num_rows))

    def close(self) -> None:
        self.closed = True


class FailingFiles(Files):
    """A store that fails at the n-th table from now on."""

    fail_at = 0
    written = 0

    def write_table(self, path: str, table: pa.Table, **options: Any) -> None:
        self.written += 1
        if self.fail_at and self.written >= self.fail_at:
            raise StoreError("the disk is full")
        super().write_table(path, table, **options)


@pytest.fixture
def files(tmp_path: Path) -> FailingFiles:
    return FailingFiles(str(tmp_path / "store"))


@pytest.fixture
def make_log(tmp_path: Path, files: Files) -> Callable[..., PredictionLog]:
    def make(sink: Any = None, replica: str = "rep", **options: Any) -> PredictionLog:
        return PredictionLog(files, tmp_path / "acc", replica, PredictionLogConfig(**options), 0.01, sink)

    return make


def accept(log: PredictionLog, *records: LogRecord, is_named: bool = True) -> None:
    for item in records:
        log.accept(item, is_named=is_named, window=None)


def balance(log: PredictionLog | Accounting) -> dict[str, int]:
    counts = log.accounting if isinstance(log, PredictionLog) else log
    return {name: count for name, count in counts.states().items() if count}


def find_format(model: str, bundle: str) -> LogFormat:
    if (model, bundle) != ("flights", "bundle-1"):
        raise NotFoundError(f"no model {model}")
    return FORMAT


# -- tables -------------------------------------------------------------------------------------------


def test_table_has_the_declared_columns_and_types() -> None:
    table = build_table([record("a", "b", days=[1, 2]), record("c")])
    assert [(item.name, item.type) for item in table.schema][: len(LOG_COLUMNS)] == list(LOG_COLUMNS)
    assert table.column_names[len(LOG_COLUMNS) :] == ["features.distance", "features.carrier", "prediction"]
    assert table["prediction_id"].to_pylist() == ["a", "b", "c"]
    assert table["event_time"].cast(pa.int64()).to_pylist() == [DAY_US, 2 * DAY_US, 10 * DAY_US]
    assert table["routing_key_hash"].to_pylist() == [2**64 - 1] * 3
    assert table["prediction"].to_pylist() == [0.0, 0.1, 0.0]


def test_multiclass_has_a_column_for_each_class() -> None:
    style = replace(FORMAT, task="multiclass", classes=("x", "y"))
    table = build_table([record("a", "b", style=style, values=np.array([[0.2, 0.8], [0.5, 0.5]]))])
    assert table["prediction.x"].to_pylist() == [0.2, 0.5]
    assert table["prediction.y"].to_pylist() == [0.8, 0.5]


def test_value_that_does_not_fit_is_null_and_spoils_no_other() -> None:
    rows = [{"distance": 1.0, "carrier": "UA"}, {"distance": "far", "carrier": "DL"}, {"distance": [1], "carrier": {}}]
    table = build_table([record("a", "b", "c", rows=rows)])
    assert table["features.distance"].to_pylist() == [1.0, None, None]
    assert table["features.carrier"].to_pylist() == ["UA", "DL", None]


def test_rows_of_one_request_go_to_the_files_of_their_days() -> None:
    groups = split_by_file([record("a", "b", "c", days=[0, 1, 0]), record("d", days=[1])])
    assert {key[2]: [name for part in parts for name in part.ids] for key, parts in groups.items()} == {
        "1970-01-01": ["a", "c"],
        "1970-01-02": ["b", "d"],
    }
    assert [part.values.tolist() for part in groups["flights", "bundle-1", "1970-01-01"]] == [[0.0, 0.2]]


def test_time_before_1970_has_a_day() -> None:
    assert [key[2] for key in split_by_file([record("a", days=[-1])])] == ["1969-12-31"]


def test_redaction_drops_and_hashes() -> None:
    style = replace(FORMAT, redact={"carrier": "hash", "distance": "drop"}, secret=b"one")
    made = record("a", "b", style=style)
    assert made.rows == [{"distance": None, "carrier": None}] * 2, "the value does not stay in memory"
    table = build_table([made])
    assert "features.distance" not in table.column_names
    hashes = table["features.carrier"].to_pylist()
    assert hashes[0] == hashes[1] != "UA"
    other = build_table([record("a", style=replace(style, secret=b"two"))])
    assert other["features.carrier"].to_pylist()[0] != hashes[0], "the hash is keyed"


def test_redacted_null_stays_null() -> None:
    style = replace(FORMAT, redact={"carrier": "hash"}, secret=b"one")
    _, hashes = style.redacted([{"distance": 1.0, "carrier": None}])
    assert hashes == {"carrier": [None]}


# -- counts -------------------------------------------------------------------------------------------


def test_flush_writes_counts_and_hands_over(make_log: Any, files: Files) -> None:
    async def scenario() -> None:
        sink = ListSink()
        log = make_log(sink)
        accept(log, record("a", "b", days=[0, 1]), record("c", days=[0], version="2"))
        assert balance(log) == {"accepted": 3}
        await log.flush()
        assert balance(log) == {"accepted": 3, "written": 3}
        await log.close()
        assert sorted(sink.rows) == [("flights", "1", 1), ("flights", "1", 1), ("flights", "2", 1)]
        assert sink.closed

    asyncio.run(scenario())
    assert list(files.names("predictions")) == [
        "predictions/flights/day=1970-01-01/rep-00000001.parquet",
        "predictions/flights/day=1970-01-02/rep-00000002.parquet",
    ]


def test_background_flush_is_prompt_when_the_window_changes(make_log: Any) -> None:
    async def scenario() -> None:
        log = make_log()
        log._interval_s = 60.0
        log.start()
        for window in (1, 1, 2):
            log.accept(record(f"w{window}-{log.accounting['accepted']}"), is_named=True, window=window)
            await asyncio.sleep(0)
        for _ in range(400):
            if log.accounting["written"] == 3:
                break
            await asyncio.sleep(0.005)
        assert balance(log) == {"accepted": 3, "written": 3}
        await log.close()

    asyncio.run(asyncio.wait_for(scenario(), 20))


def test_full_buffer_drops_and_counts(make_log: Any) -> None:
    async def scenario() -> None:
        log = make_log(max_buffer_rows=3)
        accept(log, record("a", "b"), record("c", "d"), record("e"))
        assert balance(log) == {"accepted": 5, "dropped": 2}
        await log.flush()
        assert balance(log) == {"accepted": 5, "dropped": 2, "written": 3}
        accept(log, record("f", "g", "h"))
        await log.close()

    asyncio.run(scenario())


def test_full_buffer_refuses_where_it_blocks(make_log: Any) -> None:
    async def scenario() -> None:
        log = make_log(max_buffer_rows=3, policy="block")
        log.check_room(3)
        accept(log, record("a", "b"))
        log.check_room(1)
        with pytest.raises(OverloadError):
            log.check_room(2)
        await log.flush()
        log.check_room(3)
        await log.close()

    asyncio.run(scenario())


def test_repeats_are_retries_and_the_first_wins(make_log: Any, files: Files) -> None:
    async def scenario() -> None:
        log = make_log()
        accept(log, record("a", "b"), record("b", "c", version="2"), record("a"))
        assert (log.retries, log.accounting["accepted"]) == (2, 3)
        await log.close()

    asyncio.run(scenario())
    table = read_predictions(files, "flights")
    assert dict(zip(table["prediction_id"].to_pylist(), table["version"].to_pylist(), strict=True)) == {
        "a": "1",
        "b": "1",
        "c": "2",
    }


def test_memory_of_ids_is_bounded(make_log: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("ray_mlops.serving.prediction_log.repeats.RECENT_IDS", 2)

    async def scenario() -> None:
        log = make_log()
        accept(log, record("a"), record("b"), record("c"), record("a"), record("c"))
        assert log.retries == 1
        await log.close()

    asyncio.run(scenario())


def test_failed_write_is_kept_and_written_once(make_log: Any, files: FailingFiles) -> None:
    async def scenario() -> None:
        sink = ListSink()
        log = make_log(sink)
        accept(log, record("a", "b", "c", days=[0, 1, 2]))
        files.fail_at = 2
        await log.flush()
        assert balance(log) == {"accepted": 3, "written": 1}
        accept(log, record("d", days=[0]))
        await log.flush()
        assert balance(log) == {"accepted": 4, "written": 1}
        assert sink.rows == []
        files.fail_at = 0
        await log.flush()
        assert balance(log) == {"accepted": 4, "written": 4}
        await log.close()
        assert sum(count for _, _, count in sink.rows) == 4

    asyncio.run(scenario())
    assert read_predictions(files, "flights").num_rows == 4
    assert len(list(files.names("predictions"))) == 4


def test_broken_sink_is_counted_and_harms_nothing(make_log: Any) -> None:
    async def scenario() -> None:
        sink = ListSink()
        sink.fails = True
        log = make_log(sink)
        accept(log, record("a"))
        await log.flush()
        assert balance(log) == {"accepted": 1, "written": 1}
        await log.close()
        assert log.sink_failures == 1

    asyncio.run(scenario())


def test_hanging_sink_does_not_stop_the_log(make_log: Any, monkeypatch: Any) -> None:
    import threading

    monkeypatch.setattr("ray_mlops.serving.prediction_log.handing_over.MAX_HANDOVERS", 2)
    release = threading.Event()

    class HangingSink(ListSink):
        def accept(self, model: str, version: str, rows: pa.Table) -> None:
            release.wait()

    async def scenario() -> None:
        log = make_log(HangingSink())
        for index in range(5):
            accept(log, record(f"id-{index}"))
            await log.flush()
        assert balance(log) == {"accepted": 5, "written": 5}
        assert log.sink_failures == 3
        release.set()
        await log.close()

    asyncio.run(scenario())


# -- deaths -------------------------------------------------------------------------------------------


def die(log: PredictionLog) -> None:
    """Let go of the counters as the kernel does for a process that is killed."""
    log.accounting.close()


def settle(tmp_path: Path, files: Files, sink: Any = None) -> tuple[dict[str, int], dict[str, int]]:
    """Book what a dead replica left; returns what was booked and the counts."""
    totals = book_lost(tmp_path / "acc", files, find_format, sink)
    counts = Accounting(tmp_path / "acc" / "rep.bin")
    states = counts.states()
    counts.close()
    assert states["accepted"] == sum(states[name] for name in STATES[1:])
    return totals, {name: count for name, count in states.items() if count}


def test_rows_in_memory_are_lost_with_the_process(make_log: Any, files: Files, tmp_path: Path) -> None:
    async def scenario() -> None:
        log = make_log()
        accept(log, record("a", "b"))
        await log.flush()
        accept(log, record("c"))
        die(log)

    asyncio.run(scenario())
    assert settle(tmp_path, files) == ({"replayed": 0, "lost": 1}, {"accepted": 3, "written": 2, "lost": 1})
    assert settle(tmp_path, files) == ({"replayed": 0, "lost": 0}, {"accepted": 3, "written": 2, "lost": 1})


@pytest.mark.parametrize("is_written", [True, False])
def test_death_while_a_file_is_written(make_log: Any, files: FailingFiles, tmp_path: Path, is_written: bool) -> None:
    async def scenario() -> None:
        log = make_log()
        accept(log, record("a", "b"))
        if is_written:
            files.write_table = lambda path, table, **options: (Files.write_table(files, path, table), 1 / 0)
        else:
            files.write_table = lambda path, table, **options: 1 / 0
        with pytest.raises(ZeroDivisionError):
            await log.flush()
        die(log)

    asyncio.run(scenario())
    state = "written" if is_written else "lost"
    assert settle(tmp_path, files)[1] == {"accepted": 2, state: 2}
    assert settle(tmp_path, files)[1] == {"accepted": 2, state: 2}


def test_death_during_the_retry_of_a_flush_counts_no_file_twice(
    make_log: Any, files: FailingFiles, tmp_path: Path
) -> None:
    async def scenario() -> None:
        log = make_log()
        accept(log, record("a", "b", days=[0, 1]))
        files.fail_at = 2
        await log.flush()
        assert balance(log) == {"accepted": 2, "written": 1}
        files.write_table = lambda path, table, **options: 1 / 0  # type: ignore[assignment]
        with pytest.raises(ZeroDivisionError):
            await log.flush()
        die(log)

    asyncio.run(scenario())
    assert settle(tmp_path, files)[1] == {"accepted": 2, "written": 1, "lost": 1}


def test_counts_of_a_living_replica_are_left_alone(make_log: Any, files: Files, tmp_path: Path) -> None:
    async def scenario() -> None:
        log = make_log()
        accept(log, record("a"))
        assert book_lost(tmp_path / "acc", files, find_format) == {"replayed": 0, "lost": 0}
        await log.close()
        assert read_predictions(files, "flights").num_rows == 1

    asyncio.run(scenario())


def test_spool_loses_nothing(make_log: Any, files: Files, tmp_path: Path) -> None:
    sink = ListSink()

    async def scenario() -> None:
        log = make_log(durability="spool")
        accept(log, record("a", "b", days=[0, 1]))
        assert balance(log) == {"accepted": 2, "spooled": 2}
        await log.flush()
        assert balance(log) == {"accepted": 2, "written": 2}
        assert list((tmp_path / "acc").glob("*.spool")) == []
        accept(log, record("c"), record("d"))
        die(log)

    asyncio.run(scenario())
    assert settle(tmp_path, files, sink) == ({"replayed": 2, "lost": 0}, {"accepted": 4, "written": 4})
    assert sink.rows == [("flights", "1", 2)]
    assert settle(tmp_path, files) == ({"replayed": 0, "lost": 0}, {"accepted": 4, "written": 4})
    table = read_predictions(files, "flights")
    assert sorted(table["prediction_id"].to_pylist()) == ["a", "b", "c", "d"]
    assert sorted(table["prediction"].to_pylist()) == [0.0, 0.0, 0.0, 0.1]


def test_spool_is_replayed_over_files_that_were_written(make_log: Any, files: FailingFiles, tmp_path: Path) -> None:
    async def scenario() -> None:
        log = make_log(durability="spool")
        accept(log, record("a", "b", "c", days=[0, 1, 2]))
        files.fail_at = 3
        await log.flush()
        assert balance(log) == {"accepted": 3, "written": 2, "spooled": 1}
        accept(log, record("d"))
        die(log)
        files.fail_at = 0

    asyncio.run(scenario())
    assert settle(tmp_path, files)[1] == {"accepted": 4, "written": 4}
    assert len(list(files.names("predictions"))) == 4
    assert read_predictions(files, "flights").num_rows == 4


def test_torn_line_of_the_spool_was_never_answered(make_log: Any, files: Files, tmp_path: Path) -> None:
    async def scenario() -> None:
        log = make_log(durability="spool")
        accept(log, record("a"), record("b", "c"))
        die(log)

    asyncio.run(scenario())
    (segment,) = (tmp_path / "acc").glob("*.spool")
    segment.write_bytes(segment.read_bytes()[:-5])
    assert settle(tmp_path, files) == ({"replayed": 1, "lost": 2}, {"accepted": 3, "written": 1, "lost": 2})


def test_death_before_the_spool_was_opened(make_log: Any, files: Files, tmp_path: Path, monkeypatch: Any) -> None:
    async def scenario() -> None:
        log = make_log(durability="spool")
        accept(log, record("a"))
        await log.flush()
        monkeypatch.setattr(Spool, "append", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            accept(log, record("b"))
        die(log)

    asyncio.run(scenario())
    assert settle(tmp_path, files)[1] == {"accepted": 2, "written": 1, "lost": 1}


def test_spool_of_an_unknown_model_waits(make_log: Any, files: Files, tmp_path: Path) -> None:
    async def scenario() -> None:
        log = make_log(durability="spool")
        accept(log, record("a", style=replace(FORMAT, model="gone")))
        die(log)

    asyncio.run(scenario())
    totals, states = settle(tmp_path, files)
    assert totals == {"replayed": 0, "lost": 0}
    assert states == {"accepted": 1, "spooled": 1}
    assert len(list((tmp_path / "acc").glob("*.spool"))) == 1


def test_disk_that_is_full_fails_the_request_and_counts_nothing(make_log: Any, monkeypatch: Any) -> None:
    def fail(*arguments: Any) -> None:
        raise StoreError("no space left")

    async def scenario() -> None:
        log = make_log(durability="spool")
        monkeypatch.setattr(Spool, "append", fail)
        with pytest.raises(StoreError):
            accept(log, record("a"))
        assert balance(log) == {}
        monkeypatch.undo()
        accept(log, record("a"))
        assert (log.retries, balance(log)) == (0, {"accepted": 1, "spooled": 1})
        await log.close()

    asyncio.run(scenario())


def test_counters_survive_sigkill(tmp_path: Path) -> None:
    code = """
import sys, time
from pathlib import Path
from ray_mlops.serving.prediction_log.accounting import Accounting
counts = Accounting(Path(sys.argv[1]))
counts.add("accepted", 5)
counts.add("written", 2)
print("ready", flush=True)
time.sleep(60)
"""
    path = tmp_path / "acc" / "rep.bin"
    child = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        with pytest.raises(BlockingIOError):
            Accounting(path)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    counts = Accounting(path)
    assert (counts["accepted"], counts["written"], counts.unaccounted) == (5, 2, 3)
    counts.close()


# -- reading ------------------------------------------------------------------------------------------


def test_reader_filters_days_and_columns(make_log: Any, files: Files) -> None:
    async def scenario() -> None:
        log = make_log()
        accept(log, record("a", "b", "c", days=[0, 1, 2]))
        await log.close()

    asyncio.run(scenario())
    table = read_predictions(files, "flights", ("1970-01-02", "1970-01-03"), ["prediction", "no such"])
    assert table.column_names == ["prediction"]
    assert sorted(table["prediction"].to_pylist()) == [0.1, 0.2]
    assert read_predictions(files, "trains").num_rows == 0


def test_reader_keeps_the_first_of_two_replicas(make_log: Any, files: Files) -> None:
    async def scenario() -> None:
        late, early = make_log(replica="one"), make_log(replica="two")
        accept(late, record("a", days=[0], arrival_us=20 * DAY_US, version="late"))
        accept(early, record("a", days=[0], arrival_us=10 * DAY_US, version="early"))
        await late.close()
        await early.close()

    asyncio.run(scenario())
    assert read_predictions(files, "flights")["version"].to_pylist() == ["early"]


def test_reader_unites_files_with_different_columns(make_log: Any, files: Files) -> None:
    wider = replace(FORMAT, bundle="bundle-2", schema=SCHEMA.append(pa.field("wind", pa.float64())))

    async def scenario() -> None:
        log = make_log()
        accept(log, record("a"), record("b", style=wider, rows=[{"distance": 1, "carrier": "x", "wind": 2}]))
        await log.close()

    asyncio.run(scenario())
    table = read_predictions(files, "flights")
    assert dict(zip(table["prediction_id"].to_pylist(), table["features.wind"].to_pylist(), strict=True)) == {
        "a": None,
        "b": 2.0,
    }


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("numeric", [1.5, None, 3, float("nan"), float("inf"), -0.0, 2**53 + 1]),
        ("numeric", [1.5, 10**400]),
        ("numeric", []),
        ("numeric", [None, None]),
        ("categorical", ["a", "", None, "ä"]),
        ("categorical", ["a", 7, 7.0, True]),
        ("categorical", [None]),
        ("boolean", [True, None, 0]),
    ],
)
def test_plain_values_are_read_as_all_others_are(kind: Any, values: list[Any]) -> None:
    expected = canonical_from_values(values, kind, "x")
    found = _plain_column(values, kind)
    assert found is None or (found.equals(expected) and found.type == expected.type)
    assert found is not None or kind == "boolean" or 10**400 in values or 7 in values


def test_half_of_a_surrogate_pair_is_no_plain_word() -> None:
    assert _plain_column(["\ud800"], "categorical") is None
