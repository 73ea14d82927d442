"""Targets become numbers, the same way for every later label."""

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ray_mlops.config import DataConfig, SourceConfig
from ray_mlops.data.target import TargetEncoder, labelled_rows
from ray_mlops.errors import ContractError, DataError


def config(task: str, **more: Any) -> DataConfig:
    return DataConfig(source=SourceConfig(path="x"), task=task, target="y", **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "positive", "classes"),
    [
        ([True, False, None], None, (False, True)),
        ([0, 1, 1], None, (0, 1)),
        ([1, 2, 2], None, (2, 1)),
        ([1, 2, 2], 2, (1, 2)),
        (["no", "yes"], None, ("no", "yes")),
        (["no", "yes"], "no", ("yes", "no")),
        ([1.0, 0.0, float("nan")], 1, (0.0, 1.0)),
        ([True, False], 0, (True, False)),
        ([-1, 1], None, (-1, 1)),
    ],
)
def test_binary_positive_value(values: list[Any], positive: Any, classes: tuple[Any, ...]) -> None:
    encoder = TargetEncoder.fit(pa.table({"y": values}), config("binary", positive=positive))
    assert encoder.classes == classes
    assert encoder.positive == classes[1]
    assert TargetEncoder.from_json(json.loads(json.dumps(encoder.to_json()))) == encoder


def test_encode_arrays_lists_and_values_agree() -> None:
    table = pa.table({"y": ["b", None, "c", "a", ""]})
    encoder = TargetEncoder.fit(table, config("multiclass"))
    assert encoder.classes == ("a", "b", "c")
    expected = [1.0, np.nan, 2.0, 0.0, np.nan]
    np.testing.assert_array_equal(encoder.encode(table["y"]), expected)
    np.testing.assert_array_equal(encoder.encode(table["y"].to_pylist()), expected)
    flags = TargetEncoder.fit(pa.table({"y": [True, False]}), config("binary"))
    assert [flags.encode_value(label) for label in (True, 1, 1.0, "true", 0, False)] == [1, 1, 1, 1, 0, 0]


def test_encode_multiclass_numbers_sort_as_numbers() -> None:
    encoder = TargetEncoder.fit(pa.table({"y": [10, 9, 2]}), config("multiclass"))
    assert encoder.classes == (2, 9, 10)
    assert encoder.encode(pa.array([9.0, 10.0])).tolist() == [1, 2]


def test_class_that_reads_as_nothing_is_no_word() -> None:
    encoder = TargetEncoder("y", "multiclass", ("", "a"))
    assert encoder.encode_value("a") == 1.0
    with pytest.raises(DataError, match="got 'None'"):
        encoder.encode_value("None")


def test_regression_numbers_only() -> None:
    encoder = TargetEncoder.fit(pa.table({"y": [1.5, None, 2.0]}), config("regression"))
    np.testing.assert_array_equal(encoder.encode(pa.array([3, None])), [3.0, np.nan])
    with pytest.raises(DataError, match="label 'y', row 1: expected a number, got 'x'"):
        encoder.encode([1, "x"])


def test_unknown_label_is_an_error_naming_the_classes() -> None:
    encoder = TargetEncoder.fit(pa.table({"y": ["a", "b"]}), config("binary"))
    with pytest.raises(DataError, match="expected one of 'a', 'b', got 'z'"):
        encoder.encode_value("z")
    with pytest.raises(DataError, match="got 'z'"):
        encoder.encode(pa.array(["a", "z"]))


@pytest.mark.parametrize(
    ("task", "column", "message"),
    [
        ("binary", [1, 1, None], "is 1 in every row"),
        ("binary", [None, None], "missing in every row"),
        ("binary", [1, 2, 3], "a binary target has 3 values"),
        ("multiclass", ["a", "a"], "in every row"),
        ("multiclass", [[1], [2]], "type list<item: int64> cannot be a target"),
        ("binary", [b"a", b"b"], "type binary cannot be a target"),
        ("multiclass", list(range(1001)), "1001 classes"),
        ("regression", ["1", "2"], "must be a number"),
        ("regression", [True, False], "must be a number"),
        ("regression", [2.0, 2.0, None], "is 2 in every row"),
        ("regression", [float("nan"), None], "missing in every row"),
    ],
)
def test_fit_useless_target_is_a_contract_error(task: str, column: list[Any], message: str) -> None:
    with pytest.raises(ContractError, match=f"data.target: y: .*{message}"):
        TargetEncoder.fit(pa.table({"y": column}), config(task))


def test_fit_absent_target_or_positive_is_a_contract_error() -> None:
    with pytest.raises(ContractError, match="no such column"):
        TargetEncoder.fit(pa.table({"x": [1]}), config("binary"))
    with pytest.raises(ContractError, match="no row has the positive value 'c'"):
        TargetEncoder.fit(pa.table({"y": ["a", "b"]}), config("binary", positive="c"))


@pytest.mark.parametrize("values", [[1.0, None, float("nan"), 2.0], ["a", None, "", "b"], [True, None, None, False]])
def test_labelled_rows_drop_missing_targets(values: list[Any]) -> None:
    table = pa.table({"y": values, "row": range(4)})
    assert labelled_rows(table, config("binary"))["row"].to_pylist() == [0, 3]
