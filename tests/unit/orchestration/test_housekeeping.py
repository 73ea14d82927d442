"""What is deleted, and what must stay."""

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from ray_mlops.config import RetentionConfig
from ray_mlops.errors import StoreError
from ray_mlops.ledger import Ledger
from ray_mlops.orchestration.housekeeping import collect, forget
from ray_mlops.runtime.files import Files
from ray_mlops.serving.prediction_log.files import read_predictions

DAY_S = 86_400.0


@pytest.fixture
def files(tmp_path: Path) -> Files:
    files = Files(str(tmp_path / "store"))
    for day in ("2013-01-01", "2013-03-01"):
        files.write_table(f"predictions/m/day={day}/r-1.parquet", pa.table({"prediction_id": [f"{day}-a", f"{day}-b"]}))
        lines = [json.dumps({"id": f"{day}-{name}", "label": 1}).encode() + b"\n" for name in "ab"]
        files.write(f"labels/m/day={day}/r-1.jsonl", b"".join(lines))
    for name in ("used", "unused"):
        files.write(f"bundles/{name}/bundle.json", b"{}")
    files.write("checkpoints/run/state", b"x")
    files.write("checkpoints/monitor/m.json", b"{}")
    return files


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    ledger.append("m/versions", "version.registered", "k", {"version": "1", "bundle_hash": "used"})
    return ledger


def test_without_rules_nothing_is_deleted(files: Files, ledger: Ledger) -> None:
    before = list(files.names(""))
    report = collect("m", RetentionConfig(), files, ledger, now=4e9)
    assert (report.prediction_files, report.bundles, report.checkpoints) == (0, 0, 0)
    assert list(files.names("")) == before


def test_old_days_go_by_event_time_not_by_the_clock(files: Files, ledger: Ledger) -> None:
    report = collect("m", RetentionConfig(predictions=timedelta(days=30)), files, ledger, now=4e9)
    assert (report.prediction_files, report.label_files) == (1, 1)
    assert files.exists("predictions/m/day=2013-03-01/r-1.parquet")
    assert not files.exists("predictions/m/day=2013-01-01/r-1.parquet")


def test_row_of_the_far_future_ages_no_other(files: Files, ledger: Ledger) -> None:
    files.write_table("predictions/m/day=9999-01-01/r-1.parquet", pa.table({"prediction_id": ["odd"]}))
    rules = RetentionConfig(predictions=timedelta(days=30))
    report = collect("m", rules, files, ledger, now=datetime(2013, 3, 2, tzinfo=UTC).timestamp())
    assert report.prediction_files == 1
    assert files.exists("predictions/m/day=2013-03-01/r-1.parquet")
    assert files.exists("predictions/m/day=9999-01-01/r-1.parquet")


def test_bundle_of_a_registered_version_stays(files: Files, ledger: Ledger) -> None:
    rules = RetentionConfig(unused_bundles=timedelta(days=1), checkpoints=timedelta(days=1))
    report = collect("m", rules, files, ledger, now=os.path.getmtime(files.local("checkpoints/run/state")) + 2 * DAY_S)
    assert (report.bundles, report.checkpoints) == (1, 1)
    assert files.exists("bundles/used/bundle.json")
    assert files.exists("checkpoints/monitor/m.json")
    assert not files.exists("bundles/unused")
    assert not files.exists("checkpoints/run")


def test_dry_run_only_counts(files: Files, ledger: Ledger) -> None:
    report = collect("m", RetentionConfig(predictions=timedelta(days=30)), files, ledger, dry=True)
    assert report.prediction_files == 1
    assert files.exists("predictions/m/day=2013-01-01/r-1.parquet")
    assert ledger.read("m/data") == []


def test_forget_deletes_rows_and_labels_and_is_recorded(files: Files, ledger: Ledger) -> None:
    report = forget("m", ["2013-01-01-a", "nobody"], files, ledger, by="me")
    assert (report.predictions, report.labels, report.missing) == (1, 1, ("nobody",))
    left = files.read_table("predictions/m/day=2013-01-01/r-1.parquet")["prediction_id"].to_pylist()
    assert left == ["2013-01-01-b"]
    assert b"2013-01-01-a" not in files.read("labels/m/day=2013-01-01/r-1.jsonl")
    assert ledger.read("m/data")[0].payload["by"] == "me"


def test_forget_of_a_whole_file_deletes_it(files: Files, ledger: Ledger) -> None:
    forget("m", ["2013-01-01-a", "2013-01-01-b"], files, ledger, by="me")
    assert not files.exists("predictions/m/day=2013-01-01/r-1.parquet")


def test_forget_leaves_a_torn_last_line_of_labels_as_it_is(files: Files, ledger: Ledger) -> None:
    path = "labels/m/day=2013-01-01/r-1.jsonl"
    files.write(path, files.read(path) + b'{"id": "2013-01-')
    report = forget("m", ["2013-01-01-a"], files, ledger, by="me")
    assert report.labels == 1
    assert files.read(path).endswith(b'\n{"id": "2013-01-')


def test_forget_names_a_damaged_file(files: Files, ledger: Ledger) -> None:
    files.write("labels/m/day=2013-01-01/r-1.jsonl", b"no label\n")
    with pytest.raises(StoreError, match=r"r-1\.jsonl: holds a line that is no label"):
        forget("m", ["2013-01-01-a"], files, ledger, by="me")
    files.write("predictions/m/day=2013-01-01/r-1.parquet", b"no parquet")
    with pytest.raises(StoreError, match=r"r-1\.parquet: cannot be read"):
        forget("m", ["2013-01-01-a"], files, ledger, by="me")


def test_directory_that_is_no_day_stays(files: Files, ledger: Ledger) -> None:
    files.write("predictions/m/day=soon/r-1.parquet", b"x")
    collect("m", RetentionConfig(predictions=timedelta(days=1)), files, ledger, now=4e9)
    assert files.exists("predictions/m/day=soon/r-1.parquet")


def fill_days(files: Files) -> None:
    """Three days of three files each, the newest still open."""
    for day in range(3):
        for number in range(3):
            stamp = pa.array([day * 86_400_000_000 + number], pa.timestamp("us", tz="UTC"))
            rows = {"prediction_id": [f"{day}-{number}"], "event_time": stamp, "arrival_time": stamp}
            files.write_table(f"predictions/n/day=1970-01-0{day + 1}/r-{number:08d}.parquet", pa.table(rows))


@pytest.mark.parametrize(("late", "sources"), [(timedelta(0), 6), (timedelta(hours=2), 3), (timedelta(days=9), 0)])
def test_days_that_are_over_are_compacted(files: Files, ledger: Ledger, late: timedelta, sources: int) -> None:
    fill_days(files)
    assert collect("n", RetentionConfig(), files, ledger, late=late, dry=True).compacted == sources
    assert len(list(files.names("predictions/n"))) == 9
    assert collect("n", RetentionConfig(), files, ledger, late=late).compacted == sources
    assert len(list(files.names("predictions/n"))) == 9 - sources + sources // 3
    assert read_predictions(files, "n").num_rows == 9
    assert ledger.read("n/data")[-1].payload["compacted"] == sources
