"""Tensors of the Open Inference Protocol: from JSON or bytes to plain values, and back. Knows no model.

A missing value is ``null`` in JSON, NaN in a floating tensor, and the empty string in a ``BYTES`` tensor.
Infinities are refused: a client that divides by zero is told.
"""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ray_mlops.errors import RequestError
from ray_mlops.serving.http.parse import near, shorten

BYTES, BF16 = "BYTES", "BF16"
DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    **{f"UINT{8 * size}": np.dtype(f"<u{size}") for size in (1, 2, 4, 8)},
    **{f"INT{8 * size}": np.dtype(f"<i{size}") for size in (1, 2, 4, 8)},
    **{f"FP{8 * size}": np.dtype(f"<f{size}") for size in (2, 4, 8)},
}
"""Datatypes with their little-endian layout; ``BYTES`` and ``BF16`` have none in numpy."""
FLOATS = frozenset({"FP16", "FP32", "FP64", BF16})
INTEGERS = frozenset(name for name in DTYPES if "INT" in name)
DATATYPES = frozenset({*DTYPES, BYTES, BF16})
_LENGTH = struct.Struct("<I")
_NONE = type(None)
_JSON_TYPES = {
    "BOOL": (frozenset({bool, _NONE}), "true or false"),
    BYTES: (frozenset({str, _NONE}), "a string"),
    **dict.fromkeys(INTEGERS, (frozenset({int, _NONE}), "a whole number")),
    **dict.fromkeys(FLOATS, (frozenset({float, int, _NONE}), "a number")),
}


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input: its elements in row-major order as numbers, booleans, strings, or None where one is missing."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: list[Any]


@dataclass(frozen=True, slots=True)
class OutputTensor:
    """An output: ``values`` has the tensor's shape, and is a list of strings for ``BYTES``."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: npt.NDArray[Any] | list[str]

    def to_json(self) -> list[Any] | npt.NDArray[Any]:
        """Elements in row-major order."""
        return self.values.ravel() if isinstance(self.values, np.ndarray) else self.values

    def to_bytes(self) -> bytes:
        """Elements in row-major order, little endian; strings with a length before each."""
        if isinstance(self.values, np.ndarray):
            return self.values.astype(DTYPES[self.datatype]).tobytes()
        return join_strings([value.encode("utf-8", "replace") for value in self.values])


def check_tensor(datatype: Any, shape: Any, where: str) -> tuple[int, ...]:
    """Check the description of a tensor; returns its shape.

    Raises:
        RequestError: An unknown datatype, or a shape that is no list of one or two sizes.
    """
    if not isinstance(datatype, str) or datatype not in DATATYPES:
        problem = f"unknown datatype {shorten(datatype)}"
        raise RequestError(problem, where, near(str(datatype), sorted(DATATYPES)))
    is_list = isinstance(shape, list) and all(type(size) is int and size >= 0 for size in shape)
    if not is_list or len(shape) not in (1, 2):
        raise RequestError(
            f"expected a shape like [rows] or [rows, 1], or [rows, d] for vectors, got {shorten(shape)}", where
        )
    return tuple(shape)


def tensor_from_json(name: str, datatype: str, shape: tuple[int, ...], data: Any, where: str) -> Tensor:
    """Read the elements of a tensor from JSON, flat or nested by the shape.

    Raises:
        RequestError: There are too few or too many, or one has the wrong type.

    Example:
        >>> tensor_from_json("x", "FP64", (2, 1), [[1.5], [None]], "inputs[0]").values
        [1.5, None]
    """
    values = _flatten(data, shape, where)
    check_length(len(values), shape, where)
    return tensor_from_values(name, datatype, shape, values, where)


def tensor_from_values(name: str, datatype: str, shape: tuple[int, ...], values: list[Any], where: str) -> Tensor:
    """Check elements against the datatype.

    Raises:
        RequestError: One has the wrong type, or lies outside the datatype's range.
    """
    types, expected = _JSON_TYPES[datatype]
    if not types.issuperset(map(type, values)):
        index = next(index for index, value in enumerate(values) if type(value) not in types)
        raise RequestError(f"element {index} of {datatype} must be {expected}, got {shorten(values[index])}", where)
    if datatype in INTEGERS:
        _check_range(datatype, values, where)
    elif datatype in FLOATS:
        _check_finite(np.array(values, np.float64), where)
    elif datatype == BYTES and "" in values:
        values = [value or None for value in values]
    return Tensor(name, datatype, shape, values)


def tensor_from_bytes(name: str, datatype: str, shape: tuple[int, ...], content: bytes, where: str) -> Tensor:
    """Read the elements of a tensor from its binary form.

    Raises:
        RequestError: There are too few or too many bytes, a string is no UTF-8, or a number is infinite.
    """
    count = math.prod(shape)
    if datatype == BYTES:
        return Tensor(name, datatype, shape, [text or None for text in split_strings(content, count, where)])
    size = 2 if datatype == BF16 else DTYPES[datatype].itemsize
    if len(content) != count * size:
        problem = f"{len(content)} bytes are not {count} elements of {datatype}, {size} bytes each"
        raise RequestError(problem, where)
    if datatype == BF16:  # the upper half of a float32
        array = (np.frombuffer(content, "<u2").astype(np.uint32) << 16).view(np.float32)
    else:
        array = np.frombuffer(content, DTYPES[datatype])
    if datatype in FLOATS:
        _check_finite(array, where)
    return Tensor(name, datatype, shape, array.tolist())


def split_strings(content: bytes, count: int, where: str) -> list[str]:
    """Read strings, each with its length before it as four bytes.

    Raises:
        RequestError: The content ends early or goes on, or a string is no UTF-8.

    Example:
        >>> split_strings(join_strings([b"UA", b""]), 2, "inputs[0]")
        ['UA', '']
    """
    texts: list[str] = []
    at, end = 0, len(content)
    while at < end and len(texts) < count:
        start = at + _LENGTH.size
        length = _LENGTH.unpack_from(content, at)[0] if start <= end else -1
        if length < 0 or start + length > end:
            raise RequestError(f"the content ends within element {len(texts)}", where)
        at = start + length
        try:
            texts.append(content[start:at].decode())
        except UnicodeDecodeError as error:
            raise RequestError(f"element {len(texts)} is not UTF-8: {error.reason}", where) from None
    if at < end:
        raise RequestError(f"{end - at} bytes follow the last of {count} elements", where)
    if len(texts) != count:
        raise RequestError(f"{len(texts)} elements, but the shape says {count}", where)
    return texts


def join_strings(texts: Sequence[bytes]) -> bytes:
    """Write strings, each with its length before it as four bytes."""
    return b"".join(part for text in texts for part in (_LENGTH.pack(len(text)), text))


def check_length(length: int, shape: tuple[int, ...], where: str) -> None:
    """Check a number of elements against a shape.

    Raises:
        RequestError: They differ.
    """
    if length != math.prod(shape):
        raise RequestError(f"{length} elements, but the shape {list(shape)} says {math.prod(shape)}", where)


def _flatten(data: Any, shape: tuple[int, ...], where: str) -> list[Any]:
    if not isinstance(data, list):
        raise RequestError(f"expected 'data' to be a list, got {shorten(data)}", where)
    if len(shape) != 2 or not data or not isinstance(data[0], list):
        return data
    if len(data) != shape[0] or not all(isinstance(row, list) and len(row) == shape[1] for row in data):
        raise RequestError(f"the nested lists of 'data' do not have the shape {list(shape)}", where)
    return [value for row in data for value in row]


def _check_range(datatype: str, values: list[Any], where: str) -> None:
    limits = np.iinfo(DTYPES[datatype])
    for index, value in enumerate(values):
        if value is not None and not limits.min <= value <= limits.max:
            raise RequestError(f"element {index}, {value}, lies outside {datatype}", where)


def _check_finite(array: npt.NDArray[Any], where: str) -> None:
    infinite = np.isinf(array)
    if infinite.any():
        problem = f"element {int(infinite.argmax())} is infinite"
        raise RequestError(problem, where, "send NaN, or null in JSON, for a missing value")
