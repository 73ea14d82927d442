"""Compaction: each row counts once at every moment, for every reader, wherever the compactor dies."""

import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ray_mlops.errors import NotFoundError, StoreError
from ray_mlops.ledger import Ledger
from ray_mlops.orchestration.explain import LedgerExplainer
from ray_mlops.orchestration.housekeeping import forget
from ray_mlops.runtime.files import Files
from ray_mlops.serving.prediction_log import compaction
from ray_mlops.serving.prediction_log.compaction import CompactReport, compact
from ray_mlops.serving.prediction_log.dataset import prediction_dataset
from ray_mlops.serving.prediction_log.files import FLUSH_FORM, find_row, read_predictions, unite
from ray_mlops.serving.prediction_log.listing import LogListing, is_compacted, log_path, read_live, was_written
from ray_mlops.serving.protocol import LOG_COLUMNS
from ray_mlops.serving.rollout.shadow import BundleFacts, champion_slow_ms
from ray_mlops.serving.rollout.shadow_log import ShadowLog

DAY_US = 86_400_000_000
DAYS = ("1970-01-01", "1970-01-02", "1970-01-03")
BEFORE = "1970-01-03"


@pytest.fixture(params=["disk", "memory"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Files:
    return Files(str(tmp_path / "store") if request.param == "disk" else f"memory://{uuid.uuid4().hex}")


def rows(*ids: str, day: int = 0, version: str = "1", **features: Any) -> pa.Table:
    """Rows of the log; ``features`` are values by input column."""
    count = len(ids)
    made: dict[str, Any] = {
        "prediction_id": list(ids),
        "request_id": list(ids),
        "event_time": [day * DAY_US + int(name[1:]) for name in ids],
        "arrival_time": [int(name[1:]) for name in ids],
        "arm": ["champion"] * count,
        "version": [version] * count,
        "route_version": [1] * count,
        "routing_key_hash": [2**64 - 1] * count,
        "pinned": [False] * count,
        "outcome": ["ok"] * count,
        "weight": [1.0] * count,
        "model_time_us": [100] * count,
        "latency_us": [200] * count,
        "sample_weight": [1.0] * count,
    }
    columns = {name: pa.array(made[name], kind) for name, kind in LOG_COLUMNS}
    inputs = {f"features.{name}": pa.array([value] * count) for name, value in (features or {"x": 1.5}).items()}
    return pa.table({**columns, **inputs, "prediction": pa.array([float(name[1:]) for name in ids])})


def flush(files: Files, sequence: int, table: pa.Table, day: str = DAYS[0], replica: str = "rep") -> str:
    path = log_path("m", day, replica, sequence)
    files.write_table(path, table, **FLUSH_FORM)
    return path


def fill(files: Files) -> None:
    """Twelve rows: four files of the first day, two of the second, one of the third."""
    for number in range(4):
        flush(files, number, rows(f"i{2 * number + 1}", f"i{2 * number}"))
    flush(files, 4, rows("i8", day=1), DAYS[1])
    flush(files, 5, rows("i9", "i10", day=1), DAYS[1])
    flush(files, 6, rows("i11", day=2), DAYS[2])


def seen(files: Files) -> list[int]:
    """Every row that a reader of ours sees, repeats included."""
    tables = read_live(LogListing(files, "m"), files.read_table).values()
    return sorted(int(name[1:]) for table in tables for name in table["prediction_id"].to_pylist())


def names(files: Files) -> list[str]:
    return [name.partition("/m/")[2] for name in files.names("predictions/m")]


# -- what it does -------------------------------------------------------------------------------------


def test_days_that_are_over_become_one_sorted_file_each(files: Files) -> None:
    fill(files)
    before = read_predictions(files, "m")
    assert compact(files, "m", BEFORE) == CompactReport(sources=6, files=2, rows=11)
    assert read_predictions(files, "m").equals(before)
    assert seen(files) == list(range(12))
    first, second, open_day = names(files)
    assert first.startswith("day=1970-01-01/compacted-")
    assert second.startswith("day=1970-01-02/compacted-")
    assert open_day == "day=1970-01-03/rep-00000006.parquet"
    table = files.read_table(f"predictions/m/{first}")
    assert table["event_time"].to_pylist() == sorted(table["event_time"].to_pylist())
    footer = files.read_footer(f"predictions/m/{first}")
    assert footer.row_group(0).column(0).compression == "ZSTD"
    assert compact(files, "m", BEFORE) == CompactReport()


def test_dry_run_counts_and_writes_nothing(files: Files) -> None:
    fill(files)
    before = names(files)
    assert compact(files, "m", BEFORE, dry=True) == CompactReport(sources=6, files=2, rows=11)
    assert names(files) == before


def test_late_rows_are_taken_up_and_large_files_left_alone(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(files)
    compact(files, "m", BEFORE)
    flush(files, 7, rows("i12"))
    assert compact(files, "m", BEFORE).rows == 9
    assert seen(files) == list(range(13))
    monkeypatch.setattr(compaction, "MAX_FILE_ROWS", 10)
    flush(files, 8, rows("i13"))
    flush(files, 9, rows("i14"))
    assert compact(files, "m", BEFORE) == CompactReport(sources=2, files=1, rows=2)
    assert seen(files) == list(range(15))


def test_files_are_cut_at_their_bound(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "MAX_FILE_ROWS", 6)
    fill(files)
    compact(files, "m", DAYS[1])
    sizes = [files.read_footer(name).num_rows for name in files.names("predictions/m/day=1970-01-01")]
    assert sorted(sizes) == [2, 6]
    assert seen(files) == list(range(12))


# -- deaths and races -----------------------------------------------------------------------------------


class DeathError(Exception):
    """The compactor was killed."""


@pytest.mark.parametrize("step", range(8))
def test_death_at_any_write_or_delete_loses_nothing_and_counts_nothing_twice(
    files: Files, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(files)
    done = 0

    def dying(real: Callable[..., Any], dies_first: bool) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> None:
            nonlocal done
            if dies_first and done == step:
                raise DeathError
            real(*arguments, **options)
            done += 1
            assert seen(files) == list(range(12)), "at every moment"
            if done > step:
                raise DeathError

        return call

    monkeypatch.setattr(files, "write_table", dying(files.write_table, step % 2 == 0))
    monkeypatch.setattr(files, "delete", dying(files.delete, step % 2 == 0))
    with pytest.raises(DeathError):
        compact(files, "m", BEFORE)
    monkeypatch.undo()
    assert seen(files) == list(range(12))
    compact(files, "m", BEFORE)
    assert seen(files) == list(range(12))
    assert len(names(files)) == 3


def test_two_compactors_that_knew_different_files_count_no_row_twice(files: Files) -> None:
    fill(files)
    first = LogListing(files, "m").live((DAYS[0], DAYS[0]))
    listing = LogListing(files, "m")
    kept = {name: files.read_table(name) for name in first}
    assert compaction._replace(listing, first[:3])
    for name, table in kept.items():
        files.write_table(name, table)
    assert compaction._replace(LogListing(files, "m"), first)
    assert sum(map(is_compacted, files.names("predictions/m"))) == 2
    assert seen(files) == list(range(12))
    compact(files, "m", BEFORE)
    assert len(names(files)) == 3


def test_of_two_compactors_that_share_files_the_later_one_withdraws(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):
        flush(files, number, rows(f"i{number}"))
    first, *others = LogListing(files, "m").live()
    real = files.write_table

    def let_another_write_first(path: str, table: pa.Table, **options: Any) -> None:
        monkeypatch.undo()
        with monkeypatch.context() as patch:
            patch.setattr(files, "delete", lambda path: None)  # it dies before it deletes anything
            assert compaction._replace(LogListing(files, "m"), others)
        real(path, table, **options)

    monkeypatch.setattr(files, "write_table", let_another_write_first)
    assert not compaction._replace(LogListing(files, "m"), [first, *others[:2]])
    assert seen(files) == list(range(4))
    compact(files, "m", BEFORE)
    assert (seen(files), len(names(files))) == (list(range(4)), 1)


def test_readers_in_other_threads_see_each_row_once_all_the_time(files: Files) -> None:
    problems: list[str] = []
    stop = threading.Event()
    complete = 0

    def read() -> None:
        while not stop.is_set():
            expected = set(range(complete))
            try:
                found = seen(files)
                missing = expected - set(found)
                if missing or len(found) != len(set(found)):
                    problems.append(f"missing {missing}, of {found}")
                if expected and find_row(files, "m", f"i{complete - 1}") is None:
                    problems.append("a row was not found")
            except Exception as error:  # whatever it is, the test must say it
                problems.append(repr(error))

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(30):
        for _ in range(3):
            flush(files, complete, rows(f"i{complete}"))
            complete += 1
        compact(files, "m", DAYS[1])
    stop.set()
    for thread in threads:
        thread.join()
    assert problems == []
    assert len(names(files)) == 1


def test_listing_that_misses_both_sides_of_a_compaction_is_made_again(files: Files) -> None:
    fill(files)
    listing, whole = LogListing(files, "m"), LogListing(files, "m").names()
    compact(files, "m", DAYS[1])
    torn = [name for name in whole if not name.startswith("predictions/m/day=1970-01-01")]
    real, answers = listing.names, [torn]
    listing.names = lambda: answers.pop() if answers else real()  # type: ignore[method-assign]
    assert sum(files.read_footer(name).num_rows for name in listing.live()) == 12


def test_row_that_is_forgotten_while_its_file_is_compacted_stays_forgotten(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(files)
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    real = files.write_table

    def forget_first(path: str, table: pa.Table, **options: Any) -> None:
        monkeypatch.undo()
        forget("m", ["i3"], files, ledger, by="me")
        real(path, table, **options)

    monkeypatch.setattr(files, "write_table", forget_first)
    compact(files, "m", BEFORE)
    assert 3 not in seen(files)
    compact(files, "m", BEFORE)
    assert seen(files) == [0, 1, 2, *range(4, 12)]


def test_forget_reaches_compacted_rows_and_what_they_replaced_cannot_come_back(files: Files, tmp_path: Path) -> None:
    fill(files)
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    compact(files, "m", BEFORE)
    assert forget("m", [f"i{index}" for index in range(8)], files, ledger, by="me").predictions == 8
    flush(files, 1, rows("i3", "i2"))  # a dead replica's segment is written out once more
    assert seen(files) == [8, 9, 10, 11]


def test_file_of_a_dead_replica_was_written_though_it_is_compacted(files: Files) -> None:
    fill(files)
    compact(files, "m", BEFORE)
    assert was_written(files, "rep", 3)
    assert was_written(files, "rep", 6)
    assert not was_written(files, "rep", 7)
    assert not was_written(files, "ep", 3)


def test_compacted_file_of_a_newer_release_is_refused(files: Files) -> None:
    fill(files)
    newer = rows("i20").replace_schema_metadata({b"ray_mlops.compacted": b'{"schema_version": 2, "sources": []}'})
    files.write_table("predictions/m/day=1970-01-01/compacted-00.parquet", newer)
    with pytest.raises(StoreError, match="is of version 2, this release reads 1"):
        read_predictions(files, "m")


def test_file_that_is_no_parquet_is_said_and_nothing_is_deleted(files: Files) -> None:
    fill(files)
    files.write("predictions/m/day=1970-01-01/rep-00000009.parquet", b"torn")
    before = names(files)
    with pytest.raises(StoreError, match=r"rep-00000009\.parquet"):
        compact(files, "m", BEFORE)
    assert names(files) == before


# -- those who remember names ----------------------------------------------------------------------------


def score(shadow: ShadowLog) -> list[str]:
    """Score what is unread; returns the ids that the candidate was asked for."""
    asked = []
    for name in shadow.unread():
        taken, chosen = shadow.read([name])
        asked += chosen.ids.to_pylist()
        shadow.keep(taken, chosen, np.zeros(len(chosen)), np.zeros(len(chosen)))
    return sorted(asked, key=lambda name: int(name[1:]))


def test_shadow_scores_no_row_twice_and_misses_none(files: Files) -> None:
    def shadow() -> ShadowLog:
        return ShadowLog(files, "m", "r1", "1", -1, 1000)

    fill(files)
    running = shadow()
    assert len(score(running)) == 12
    compact(files, "m", BEFORE)
    assert running.unread() == shadow().unread() == []
    flush(files, 7, rows("i12"))
    compact(files, "m", BEFORE)
    for each in (running, shadow()):
        assert len(each.unread()) == 1
        assert each.read(each.unread())[1].ids.to_pylist() == ["i12"]


def test_rows_that_differ_most_keep_their_inputs_when_the_log_is_compacted(files: Files) -> None:
    fill(files)
    score(ShadowLog(files, "m", "r1", "1", -1, 1000))
    compact(files, "m", BEFORE)
    facts = BundleFacts("regression")
    most = ShadowLog(files, "m", "r1", "1", -1, 1000).disagreement((facts, facts)).most
    assert len(most) == 5
    assert all(row.inputs for row in most)


def test_shadow_finds_the_rows_of_a_file_that_was_compacted_before_it_was_read(files: Files) -> None:
    fill(files)
    shadow = ShadowLog(files, "m", "r1", "1", -1, 1000)
    listed = shadow.unread()
    compact(files, "m", BEFORE)
    for name in listed:
        taken, chosen = shadow.read([name])
        shadow.keep(taken, chosen, np.zeros(len(chosen)), np.zeros(len(chosen)))
    assert shadow.has_missed
    assert len(score(shadow)) == 11
    assert not shadow.has_missed
    assert len(shadow.predictions) == 12
    assert shadow.unread() == []


def test_latency_threshold_and_explanation_are_the_same(files: Files, tmp_path: Path) -> None:
    for number in range(60):
        flush(files, number, rows(f"i{2 * number}", f"i{2 * number + 1}"))
    flush(files, 60, rows("i999", day=2), DAYS[2])
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    before = champion_slow_ms(files, "m", "1", 0.9)
    found = LedgerExplainer(ledger, files).explain("m", "i7")["prediction"]
    compact(files, "m", BEFORE)
    assert champion_slow_ms(files, "m", "1", 0.9) == before
    assert LedgerExplainer(ledger, files).explain("m", "i7")["prediction"] == found
    with pytest.raises(NotFoundError):
        LedgerExplainer(ledger, files).explain("m", "nobody")


# -- strangers ---------------------------------------------------------------------------------------------


@pytest.fixture
def versions(tmp_path: Path) -> Iterator[tuple[Files, Path]]:
    """Flushes and a compacted file of three versions: one added a feature, one made a number a word."""
    files = Files(str(tmp_path / "store"))
    fill(files)
    flush(files, 7, rows("i12", "i13", version="2", x=2.5, wind=7.0))
    compact(files, "m", DAYS[1])
    flush(files, 8, rows("i14", version="2", day=2, x=2.5, wind=9.0), DAYS[2])
    return files, tmp_path / "store" / "predictions" / "m"


def test_duckdb_reads_one_dataset(versions: tuple[Files, Path]) -> None:
    _, root = versions
    query = (
        'SELECT count(*), sum(prediction), count("features.wind"), min(day)::VARCHAR, count(DISTINCT prediction_id) '
        f"FROM read_parquet('{root}/day=*/*.parquet', hive_partitioning = true, union_by_name = true)"
    )
    assert duckdb.sql(query).fetchall() == [(15, float(sum(range(15))), 3, "1970-01-01", 15)]


def test_pandas_reads_one_dataset(versions: tuple[Files, Path]) -> None:
    files, root = versions
    frame = pd.concat(map(pd.read_parquet, sorted(root.glob("day=*/*.parquet"))))
    assert (len(frame), frame["prediction"].sum(), frame["features.wind"].sum()) == (15, sum(range(15)), 23.0)
    frame = prediction_dataset(files, "m").to_table().to_pandas()
    assert (len(frame), frame["prediction"].sum(), frame["features.wind"].sum()) == (15, sum(range(15)), 23.0)


def test_dataset_prunes_days_and_has_every_column(versions: tuple[Files, Path]) -> None:
    files, _ = versions
    dataset = prediction_dataset(files, "m")
    assert dataset.schema.names[-1] == "day"
    assert {"features.x", "features.wind", "prediction"} <= set(dataset.schema.names)
    table = dataset.to_table(filter=pa.compute.field("day") == DAYS[2])
    assert sorted(table["prediction_id"].to_pylist()) == ["i11", "i14"]
    assert duckdb.sql("SELECT sum(prediction) FROM dataset").fetchall() == [(105.0,)]


def test_dataset_leaves_out_what_a_dead_compactor_did_not_delete(
    versions: tuple[Files, Path],
) -> None:
    files, _ = versions
    flush(files, 1, rows("i3", "i2"))
    assert prediction_dataset(files, "m").count_rows() == 15


def test_column_that_was_a_number_and_became_a_word_is_a_word(files: Files) -> None:
    flush(files, 1, rows("i1", x=1.5))
    flush(files, 2, rows("i2", x="blue"))
    flush(files, 3, rows("i3", x=None))
    expected = ["1.5", "blue", None]
    assert read_predictions(files, "m")["features.x"].to_pylist() == expected
    compact(files, "m", BEFORE)
    assert read_predictions(files, "m")["features.x"].to_pylist() == expected


def test_rows_of_an_earlier_release_read_on(files: Files) -> None:
    old = rows("i1").drop_columns(["sample_weight"])
    files.write_table(log_path("m", DAYS[0], "rep", 1), old)
    flush(files, 2, rows("i2"))
    assert read_predictions(files, "m")["sample_weight"].to_pylist() == [None, 1.0]


def test_unite_keeps_the_order_of_the_log() -> None:
    table = unite([rows("i1", a=1.0), rows("i2", b=1.0)])
    assert table.column_names == [*(name for name, _ in LOG_COLUMNS), "features.a", "features.b", "prediction"]


def test_flush_form_is_what_a_stranger_can_read(files: Files) -> None:
    path = flush(files, 1, rows("i1"))
    footer = files.read_footer(path)
    assert isinstance(footer, pq.FileMetaData)
    assert footer.row_group(0).column(0).compression == "SNAPPY"
