"""The first steps: what is proposed for a file, and what of a file cannot be learnt."""

import datetime as dt
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ray_mlops.config import build_config
from ray_mlops.errors import ConfigError, ContractError, DataError, FeatureError, RayMLOpsError, SourceError
from ray_mlops.orchestration.start import check_data, guess_task, propose_config

ROWS = 120
X = np.random.default_rng(0).normal(size=ROWS)
DAYS = [dt.date(2024, 1, 1) + dt.timedelta(days=row // 4) for row in range(ROWS)]
STRANGE: dict[str, Any] = {
    "id": range(ROWS),
    "label": ["a", "b"] * (ROWS // 2),
    "my col": X,
    "a.b": pa.array([Decimal(int(value * 100)) / 100 for value in X], pa.decimal128(10, 2)),
    "größe": pa.array(["å", "ß", None] * (ROWS // 3)).dictionary_encode(),
    "$x/y'\"": X > 0,
    "day": DAYS,
    "when": pa.array([dt.datetime(2024, 1, 1) + dt.timedelta(hours=row) for row in range(ROWS)], pa.timestamp("ns")),
    "nan": np.where(X > 1, np.nan, X),
    "inf": np.where(X > 1, np.inf, X),
    "empty": pa.nulls(ROWS),
    "constant": [1] * ROWS,
    "all nan": [float("nan")] * ROWS,
    "list": [[1, 2]] * ROWS,
    "s": [{"a": 1}] * ROWS,
    "bytes": [b"x"] * ROWS,
    "duration": pa.array([1] * ROWS, pa.duration("s")),
    "__split": X,
    "y": np.where(X > 0, "yes", "no"),
}


def write(directory: Path, columns: dict[str, Any]) -> str:
    path = str(directory / "rows.parquet")
    pq.write_table(pa.table(columns), path)
    return path


def propose(directory: Path, columns: dict[str, Any], **more: Any) -> dict[str, Any]:
    content: dict[str, Any] = propose_config(write(directory, columns), **{"target": "y", **more}).content["data"]
    return content


def test_strange_columns_and_types_make_a_configuration_that_holds(tmp_path: Path) -> None:
    proposal = propose_config(write(tmp_path, STRANGE), target="y")
    data = proposal.content["data"]
    features = [feature["name"] for feature in data["features"]]
    assert features == ["label", "my col", "a.b", "größe", "$x/y'\"", "day", "when", "nan", "inf"]
    assert data["exclude"] == ["empty", "constant", "all nan", "list", "s", "bytes", "duration", "__split"]
    assert (data["task"], data["id"]) == ("binary", "id")
    notes = "\n".join(proposal.notes)
    assert "'day', 'when' could be it: give --event-time" in notes
    assert "'s' is of type struct<a: int64>" in notes
    assert check_data(build_config(proposal.content, {})).good == ROWS


def test_contract_asks_only_for_columns_that_are_used(tmp_path: Path) -> None:
    """Rows that come back from the prediction log have no other columns, and prediction ids are text."""
    data = propose(tmp_path, STRANGE)
    assert set(data["contract"]["columns"]) == {*(feature["name"] for feature in data["features"]), "y"}


def test_only_time_becomes_the_event_time(tmp_path: Path) -> None:
    assert propose(tmp_path, {"x": X, "t": DAYS, "y": X > 0})["event_time"] == "t"
    some_missing = {"x": X, "t": [None, *DAYS[1:]], "y": X > 0}
    assert "event_time" not in propose(tmp_path, some_missing)
    one_time = {"x": X, "t": [DAYS[0]] * ROWS, "y": X > 0}
    assert "event_time" not in propose(tmp_path, one_time)


def test_event_time_of_numbers_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="event time 'x': expected timestamps, got double"):
        propose(tmp_path, {"x": X, "z": X, "y": X > 0}, event_time="x")


@pytest.mark.parametrize(
    ("ids", "is_identifier"),
    [(range(ROWS), True), ([f"u{row}" for row in range(ROWS)], True), ([1] * ROWS, False), (X, False)],
)
def test_identifier_is_a_column_of_that_name_with_distinct_values(
    tmp_path: Path, ids: Any, is_identifier: bool
) -> None:
    data = propose(tmp_path, {"user_id": ids, "x": X, "y": X > 0})
    assert ("id" in data) == is_identifier


@pytest.mark.parametrize(
    ("values", "task"),
    [
        ([True, False, None], "binary"),
        ([1.0, 0.0, float("nan")], "binary"),
        (["a", "b", "", None], "binary"),
        ([0.0, 1.0, 2.0, float("nan")], "multiclass"),
        ([1, 2, 3], "multiclass"),
        (["a", "b", "c"] * 2, "multiclass"),
        ([0.5, 1.0, 2.0], "regression"),
        (list(range(30)), "regression"),
    ],
)
def test_guess_task_goes_by_the_values_that_are_there(values: list[Any], task: str) -> None:
    assert guess_task(pa.chunked_array([pa.array(values)])) == task


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (pa.nulls(3), "missing in every row"),
        (pa.array([None, float("nan")]), "missing in every row"),
        (pa.array([[1], [2]]), "type list<item: int64> cannot be predicted"),
        (pa.array([b"a", b"b"]), "type binary cannot be predicted"),
        (pa.array(DAYS), "type date32.* cannot be predicted"),
        (pa.array(["a", "b", "c"]), "3 different texts in 3 rows.*identifier"),
    ],
)
def test_guess_task_of_a_hopeless_target_says_why(values: pa.Array, text: str) -> None:
    with pytest.raises(ContractError, match=text):
        guess_task(pa.chunked_array([values]))


@pytest.mark.parametrize(
    ("columns", "more", "error", "text"),
    [
        ({"x": X, "y": X > 0}, {"target": "nope"}, ConfigError, "no column 'nope'; it has x, y"),
        ({"x": X, "y": X > 0}, {"name": "Bad Name"}, ConfigError, "name: should match pattern"),
        ({"x": X, "y": [1] * ROWS}, {}, ContractError, "is 1 in every row"),
        ({"x": X, "y": [[1]] * ROWS}, {"task": "multiclass"}, ContractError, "type list.* cannot be a target"),
        ({"x": X, "y": [b"a", b"b"] * 60}, {"task": "binary"}, ContractError, "type binary cannot be a target"),
        ({"y": X > 0}, {}, FeatureError, "no column is left to be a feature; it has only 'y'"),
        ({"c": [1] * ROWS, "y": X > 0}, {}, FeatureError, "left out: 'c' is the same in every row"),
    ],
)
def test_file_that_cannot_be_learnt_from_is_an_error(
    tmp_path: Path, columns: dict[str, Any], more: dict[str, Any], error: type[RayMLOpsError], text: str
) -> None:
    with pytest.raises(error, match=text):
        propose(tmp_path, columns, **more)


@pytest.mark.parametrize(
    ("path", "value", "text"),
    [
        ("data.features", [{"name": "q"}], "data.features: q: no such column"),
        ("data.features", [{"name": "c", "type": "numeric"}], "column 'c', row 0: expected a number, got 'a'"),
        ("data.event_time", "t", "all rows have the same event time"),
        ("evaluation.fairness.groups", ["nobody"], "no column 'nobody'"),
    ],
)
def test_check_data_finds_what_a_run_would_find_later(tmp_path: Path, path: str, value: Any, text: str) -> None:
    columns = {"x": X, "c": ["a", "b"] * (ROWS // 2), "t": [DAYS[0]] * ROWS, "y": X > 0}
    content = propose_config(write(tmp_path, columns), target="y").content
    with pytest.raises(DataError, match=text):
        check_data(build_config(content, {path: value}))


def test_check_data_reports_a_broken_contract_without_trying_features(tmp_path: Path) -> None:
    content = propose_config(write(tmp_path, {"x": X, "y": X > 0}), target="y").content
    report = check_data(build_config(content, {"data.contract.min_rows": 1000, "data.features": [{"name": "q"}]}))
    assert any("at least 1000 are needed" in breach for breach in report.breaches)
