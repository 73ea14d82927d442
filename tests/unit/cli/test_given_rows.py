"""Rows on the command line, in files, and what is left out of tables."""

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ray_mlops.cli.given_rows import read_rows
from ray_mlops.errors import RequestError


def test_json_on_the_command_line_is_one_row_or_several() -> None:
    assert read_rows('{"x": 1}') == [{"x": 1}]
    assert read_rows(' [{"x": 1}, {"x": null}]') == [{"x": 1}, {"x": None}]


@pytest.mark.parametrize(
    ("given", "said"),
    [("{", "is not JSON"), ("[1]", "expected an object"), ("[]", "expected an object"), ("[" * 10_000, "is not JSON")],
)
def test_json_that_is_no_row_is_said(given: str, said: str) -> None:
    with pytest.raises(RequestError, match=rf"ROWS: {said}"):
        read_rows(given)


def test_table_becomes_what_json_holds_without_the_columns_that_are_no_inputs(tmp_path: Path) -> None:
    moment = datetime(2024, 1, 1, tzinfo=UTC)
    columns = {"x": [float("nan")], "d": [Decimal("1.50")], "t": [moment], "y": [True]}
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    expected = [{"x": None, "d": 1.5, "t": "2024-01-01T00:00:00+00:00"}]
    assert read_rows(str(tmp_path / "rows.parquet"), {"y", "elsewhere"}) == expected


def test_csv_and_json_lines_are_read_by_their_endings(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("x,c\n1.5,a\n,b\n")
    assert read_rows(str(tmp_path / "rows.csv")) == [{"x": 1.5, "c": "a"}, {"x": None, "c": "b"}]
    (tmp_path / "rows.jsonl").write_text('{"x": 1}\n\n{"x": 2}\n')
    assert read_rows(str(tmp_path / "rows.jsonl")) == [{"x": 1}, {"x": 2}]
