"""Tensors of the Open Inference Protocol: what is read, what is written, what is refused."""

import math
from typing import Any

import numpy as np
import pytest

from ray_mlops.errors import RequestError
from ray_mlops.serving.dialects.oip_tensors import (
    DTYPES,
    OutputTensor,
    check_tensor,
    join_strings,
    tensor_from_bytes,
    tensor_from_json,
)

NUMBERS = {"BOOL": [True, False], **{name: [0, 7] for name in DTYPES if "INT" in name}, "FP16": [0.5, -2.0]}
NUMBERS |= {"FP32": [0.5, -2.0], "FP64": [0.1, -2.0]}


@pytest.mark.parametrize("datatype", sorted(DTYPES))
def test_both_forms_of_a_tensor_read_alike(datatype: str) -> None:
    values = NUMBERS[datatype]
    binary = np.array(values, DTYPES[datatype]).tobytes()
    from_bytes = tensor_from_bytes("x", datatype, (2,), binary, "x")
    from_json = tensor_from_json("x", datatype, (2,), values, "x")
    assert from_bytes == from_json
    assert [type(value) for value in from_bytes.values] == [type(value) for value in values]


@pytest.mark.parametrize("datatype", sorted(DTYPES))
def test_output_is_read_back_from_either_form(datatype: str) -> None:
    values = np.array(NUMBERS[datatype], DTYPES[datatype])
    output = OutputTensor("y", datatype, (2,), values)
    assert tensor_from_bytes("y", datatype, (2,), output.to_bytes(), "y").values == values.tolist()
    assert np.array_equal(np.asarray(output.to_json()), values)


def test_strings_are_read_and_written() -> None:
    texts = ["UA", "", "Zürich", "日本", "a\nb"]
    output = OutputTensor("y", "BYTES", (5,), texts)
    read = tensor_from_bytes("y", "BYTES", (5,), output.to_bytes(), "y")
    assert read.values == ["UA", None, "Zürich", "日本", "a\nb"], "the empty string is a missing value"
    assert tensor_from_json("y", "BYTES", (5, 1), [[text] for text in texts], "y").values == read.values


def test_missing_numbers() -> None:
    binary = tensor_from_bytes("x", "FP32", (2,), np.array([1.0, math.nan], "<f4").tobytes(), "x")
    assert binary.values[0] == 1.0
    assert math.isnan(binary.values[1])
    assert tensor_from_json("x", "INT8", (2,), [1, None], "x").values == [1, None]


def test_bfloat16_is_the_upper_half_of_a_float() -> None:
    halves = (np.array([1.5, -3.0, math.nan], "<f4").view("<u4") >> 16).astype("<u2")
    values = tensor_from_bytes("x", "BF16", (3,), halves.tobytes(), "x").values
    assert values[:2] == [1.5, -3.0]
    assert math.isnan(values[2])


@pytest.mark.parametrize(
    ("datatype", "shape", "said"),
    [
        ("FP65", [1], "unknown datatype 'FP65'; did you mean 'FP6"),
        (5, [1], "unknown datatype 5"),
        (None, [1], "unknown datatype None"),
        (["FP64"], [1], "unknown datatype"),
        ("FP64", None, "expected a shape"),
        ("FP64", [], "expected a shape"),
        ("FP64", [1, 1, 1], "expected a shape"),
        ("FP64", [-1], "expected a shape"),
        ("FP64", [1.0], "expected a shape"),
        ("FP64", [True], "expected a shape"),
        ("FP64", "1", "expected a shape"),
    ],
)
def test_description_is_checked(datatype: Any, shape: Any, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        check_tensor(datatype, shape, "x")


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "said"),
    [
        ("FP64", (2,), None, "expected 'data' to be a list, got None"),
        ("FP64", (2,), "ab", "expected 'data' to be a list"),
        ("FP64", (2,), [1.0], r"1 elements, but the shape \[2\] says 2"),
        ("FP64", (2,), [[1.0], [2.0]], "element 0 of FP64 must be a number, got"),
        ("FP64", (2, 2), [[1.0, 2.0], [3.0]], r"do not have the shape \[2, 2\]"),
        ("FP64", (2, 2), [[1.0, 2.0], 3.0], r"do not have the shape \[2, 2\]"),
        ("FP64", (1,), ["1"], "must be a number, got '1'"),
        ("FP64", (1,), [True], "must be a number, got True"),
        ("INT64", (1,), [1.5], "must be a whole number, got 1.5"),
        ("INT64", (1,), [2.0**70], "must be a whole number"),
        ("INT8", (2,), [1, 128], "element 1, 128, lies outside INT8"),
        ("UINT8", (1,), [-1], "lies outside UINT8"),
        ("BOOL", (1,), [1], "must be true or false"),
        ("BYTES", (1,), [5], "must be a string"),
    ],
)
def test_json_elements_are_checked(datatype: str, shape: tuple[int, ...], data: Any, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        tensor_from_json("x", datatype, shape, data, "x")


@pytest.mark.parametrize(
    ("datatype", "content", "said"),
    [
        ("FP64", b"1234567", "7 bytes are not 2 elements of FP64, 8 bytes each"),
        ("FP64", b"", "0 bytes are not 2 elements"),
        ("BF16", b"123", "3 bytes are not 2 elements of BF16, 2 bytes each"),
        ("FP32", np.array([1.0, math.inf], "<f4").tobytes(), "element 1 is infinite; send NaN"),
        ("FP16", np.array([-math.inf, 1.0], "<f2").tobytes(), "element 0 is infinite"),
        ("BYTES", b"\x02\x00\x00\x00U", "ends within element 0"),
        ("BYTES", b"\x01\x00", "ends within element 0"),
        ("BYTES", b"\xff\xff\xff\xffU", "ends within element 0"),
        ("BYTES", join_strings([b"a"]), "1 elements, but the shape says 2"),
        ("BYTES", join_strings([b"a", b"b", b"c"]), "5 bytes follow the last of 2 elements"),
        ("BYTES", join_strings([b"a", b"\xff"]), "element 1 is not UTF-8"),
    ],
)
def test_binary_elements_are_checked(datatype: str, content: bytes, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        tensor_from_bytes("x", datatype, (2,), content, "x")


def test_shape_beyond_memory_allocates_nothing() -> None:
    shape = check_tensor("BYTES", [10**18], "x")
    with pytest.raises(RequestError, match="0 elements, but the shape says 1000000000000000000"):
        tensor_from_bytes("x", "BYTES", shape, b"", "x")
