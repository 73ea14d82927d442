"""Bad rows are set aside with every reason; broken contracts list every breach."""

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml

from ray_mlops.config import ColumnContract, ContractConfig, DataConfig, SourceConfig
from ray_mlops.data.schema import Contract, ContractReport, check_contract, check_table, infer_contract
from ray_mlops.errors import ContractError
from ray_mlops.runtime.files import Files

DAY_US = 86_400_000_000


def config(**more: Any) -> DataConfig:
    contract = more.pop("contract", {"min_rows": 1, "max_quarantine_ratio": 1.0})
    return DataConfig(
        source=SourceConfig(path="x"), task="binary", target="y", contract=ContractConfig(**contract), **more
    )


def declared(**columns: dict[str, Any]) -> Contract:
    return Contract({name: ColumnContract(**rule) for name, rule in columns.items()})


def days(values: list[float | None]) -> pa.Array:
    us = [None if value is None else int(value * DAY_US) for value in values]
    return pa.array(us, pa.int64()).cast(pa.timestamp("us", tz="UTC"))


@pytest.mark.parametrize(
    ("rule", "values", "reasons"),
    [
        ({"max_null_ratio": 0}, [1.0, None, float("nan"), float("inf")], [None] + ["x: null"] * 3),
        ({"max_null_ratio": 0}, ["a", "", None], [None, "x: null", "x: null"]),
        ({"min": 0, "max": 2}, [0.0, 2.0, -0.1, 2.1, None], [None, None, "x: below 0", "x: above 2", None]),
        ({"min": 0}, [float("-inf"), 1.0], [None, None]),  # infinite is missing
        ({"allowed": ["a", "b"]}, ["a", "c", None, ""], [None, "x: not allowed", None, None]),
        ({"allowed": [1, 2]}, [1, 3, 2], [None, "x: not allowed", None]),
        ({"allowed": [1, 2]}, [1.0, 2.5, None], [None, "x: not allowed", None]),
        ({"allowed": [True]}, [True, False, None], [None, "x: not allowed", None]),
        ({"unique": True}, [1, 2, 1, None, None], [None, None, "x: duplicate", None, None]),
        ({"type": "numeric"}, ["1", "2.5", "two", "", None], [None, None, "x: not a number", None, None]),
        ({"type": "numeric", "max": 2}, ["1", "2.5"], [None, "x: above 2"]),
        ({"type": "datetime"}, ["2024-01-01", "2024-01-02", "soon"], [None, None, "x: not a time"]),
        ({"type": "boolean"}, [0, 1, 2, None], [None, None, "x: not a boolean", None]),
        ({"min": 1, "allowed": [1, 2]}, [0.5, 1.0], ["x: below 1; x: not allowed", None]),
    ],
)
def test_check_table_reasons_by_row(rule: dict[str, Any], values: list[Any], reasons: list[str | None]) -> None:
    good, found, nulls = check_table(pa.table({"x": values}), declared(x=rule))
    assert found.to_pylist() == reasons
    assert good.tolist() == [reason is None for reason in reasons]
    missing = [
        value for value in values if value in (None, "") or (isinstance(value, float) and not np.isfinite(value))
    ]
    assert nulls == {"x": len(missing)}


@pytest.mark.parametrize(
    ("rule", "values", "message"),
    [
        ({"type": "numeric"}, ["one", "two", "3"], "2 of 3 values of type string cannot be read"),
        ({"type": "numeric"}, [True, False], "expected numeric, got bool"),
        ({"type": "datetime"}, [1, 2], "expected datetime, got int64"),
        ({"type": "boolean"}, ["true"], "expected boolean, got string"),
        ({"min": 0}, [[1]], r"expected numeric, got list<"),
        ({}, None, "column 'x' is missing"),
    ],
)
def test_check_table_wrong_types_are_breaches(rule: dict[str, Any], values: list[Any] | None, message: str) -> None:
    table = pa.table({"other": [1]} if values is None else {"x": values})
    with pytest.raises(ContractError, match=message):
        check_table(table, declared(x=rule))


def test_check_table_optional_column_may_be_absent() -> None:
    good, _, nulls = check_table(pa.table({"other": [1]}), declared(x={"required": False, "type": "numeric"}))
    assert good.all()
    assert nulls == {}


def test_check_contract_sets_bad_rows_aside_and_converts_text(tmp_path: Any) -> None:
    files = Files(str(tmp_path))
    table = pa.table({"y": [0, 1, 0, 1], "x": ["1", "x", "3", None], "t": days([1, 2, None, 4])})
    contract = infer_contract(table, config(event_time="t", contract={"columns": {"x": {"type": "numeric"}}}))
    good, report = check_contract(table, contract, config(event_time="t"), 0.0, files=files, snapshot_id="s")
    assert good["x"].to_pylist() == [1.0, None]
    assert (report.rows, report.good, report.quarantined, report.newest_us) == (4, 2, 2, 4 * DAY_US)
    assert report.reasons == {"t: no event time": 1, "x: not a number": 1}
    stored = files.read_table("quarantine/s/part-00000.parquet")
    assert stored["quarantine_reason"].to_pylist() == ["x: not a number", "t: no event time"]
    assert stored["x"].to_pylist() == ["x", "3"]  # as they came
    assert report.quarantine == "quarantine/s"
    assert ContractReport.from_json(json.loads(json.dumps(report.to_json()))) == report


def test_check_contract_of_duplicates_the_first_in_event_order_stays() -> None:
    table = pa.table({"id": [7, 8, 7, 7], "y": [1, 2, 3, 4], "t": days([3, 2, 1, 2])})
    data = config(event_time="t", id="id")
    good, report = check_contract(table, infer_contract(table, data), data, 0.0)
    assert good["y"].to_pylist() == [2, 3]
    assert report.reasons == {"id: duplicate": 2}
    rows = pa.concat_tables([table.slice(1, 1)] * 3)
    good, report = check_contract(rows, infer_contract(table, data), data, 0.0)
    assert len(good) == 1  # of rows that are the same, one stays


def test_check_contract_lists_every_breach() -> None:
    table = pa.table({"y": [0, 1, 0, None], "x": [-1.0, None, None, 2.0], "t": days([1, 2, 3, 4])})
    rules = {
        "min_rows": 5,
        "max_quarantine_ratio": 0.1,
        "freshness": "1d",
        "columns": {"x": {"max_null_ratio": 0.4, "min": 0}, "z": {}},
    }
    data = config(event_time="t", contract=rules)
    _, report = check_contract(table, infer_contract(table, data), data, 6 * 86400.0)
    assert len(report.breaches) == 5
    with pytest.raises(ContractError) as caught:
        report.raise_if_broken()
    for part in (
        "column 'z' is missing",
        "column 'x': 0.5000 of the values are missing, at most 0.4",
        "3 good rows, at least 5",
        "1 bad rows are 0.2500 of all, at most 0.1",
        "the newest row is 172800 s old, at most 86400 s",
    ):
        assert part in str(caught.value)


def test_check_contract_no_rows_is_a_breach() -> None:
    table = pa.table({"y": pa.array([], pa.int64())})
    _, report = check_contract(table, infer_contract(table, config()), config(), 0.0)
    assert report.breaches == ("there are no rows",)


def test_infer_contract_is_lenient_and_knows_the_roles() -> None:
    n = 100
    table = pa.table(
        {
            "y": [0, 1] * 50,
            "x": [None] * 10 + [1.0] * 90,
            "c": ["a"] * n,
            "l": [["a"]] * n,
            "id": range(n),
            "w": [1.0] * n,
            "known_later": [1] * n,
            "nothing": pa.nulls(n),
        }
    )
    data = config(id="id", weight="w", exclude=["known_later"])
    contract = infer_contract(table, data)
    x = contract.columns["x"]
    assert (x.type, x.max_null_ratio, x.min, x.allowed) == ("numeric", 0.25, None, None)
    assert contract.columns["c"].max_null_ratio == 0.05
    assert contract.columns["l"].type is None
    assert contract.columns["nothing"].type is None
    assert (contract.columns["id"].unique, contract.columns["w"].min) == (True, 0)
    assert contract.optional_columns == {"known_later"}
    later = table.set_column(2, "c", pa.array(["never seen"] * n)).set_column(1, "x", pa.array([1e9] * n))
    assert check_contract(later, contract, data, 0.0)[1].breaches == ()


def test_infer_contract_what_is_declared_wins_field_by_field() -> None:
    table = pa.table({"y": [0, 1], "x": [1.0, None], "z": [1, 2]})
    rules = {"columns": {"x": {"min": 0}, "z": {"type": "categorical", "required": False}}}
    contract = infer_contract(table, config(contract=rules))
    assert (contract.columns["x"].min, contract.columns["x"].type, contract.columns["x"].max_null_ratio) == (
        0,
        "numeric",
        1,
    )
    assert contract.columns["z"].type == "categorical"
    only = infer_contract(table, config(contract={**rules, "infer": False}))
    assert set(only.columns) == {"x", "y", "z"}  # the target is always needed
    assert only.columns["x"].type is None


def test_contract_json_and_config_round_trip() -> None:
    table = pa.table({"y": [0, 1], "x": [1.0, None], "t": days([1, 2])})
    data = config(event_time="t", contract={"freshness": "36h", "columns": {"x": {"allowed": [1, "a", True]}}})
    contract = infer_contract(table, data)
    assert Contract.from_json(json.loads(json.dumps(contract.to_json()))) == contract
    text = yaml.safe_dump(contract.to_config().model_dump(mode="json"))
    again = infer_contract(table, config(event_time="t", contract=yaml.safe_load(text)))
    assert again.freshness_s == contract.freshness_s == 36 * 3600
    for name, rule in contract.columns.items():
        assert again.columns[name].model_dump() == rule.model_dump()
