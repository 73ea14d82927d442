"""The target: raw labels to numbers, the same in training, evaluation and for labels that come later."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ray_mlops.config import DataConfig
from ray_mlops.config.data import Scalar, Task
from ray_mlops.data.columns import Column, category_array, column_type, missing_values, one_chunk
from ray_mlops.data.values import category_key, numeric_value
from ray_mlops.errors import ContractError, DataError, FeatureError

MAX_CLASSES = 1000
NOTHING_TO_LEARN = "there is nothing to learn; check the source and its filter"


@dataclass(frozen=True, slots=True)
class TargetEncoder:
    """A fitted target.

    Example:
        >>> encoder = TargetEncoder("late", "binary", (False, True))
        >>> encoder.encode(pa.array([True, None, False]))
        array([ 1., nan,  0.])
        >>> encoder.encode_value(1), encoder.positive
        (1.0, True)
    """

    name: str
    task: Task
    classes: tuple[Scalar, ...] = ()
    """Binary: the negative and the positive value; multiclass: in sort order; regression: none."""
    _codes: Mapping[str, float] = field(init=False, repr=False, compare=False)
    """Index of each class by its key; ``0`` and ``1`` stand for booleans too."""

    def __post_init__(self) -> None:
        codes: dict[str, float] = {}
        for index, value in enumerate(self.classes):
            key = category_key(value)
            for name in (key, str(int(value)) if isinstance(value, bool) else None):
                if name is not None:
                    codes.setdefault(name, float(index))
        object.__setattr__(self, "_codes", codes)

    @classmethod
    def fit(cls, table: pa.Table, data: DataConfig) -> "TargetEncoder":
        """Find the classes of a table's target, or see that it is a number.

        Raises:
            ContractError: The target is absent, empty, constant, of the wrong type, or has too many classes.
        """
        where = f"data.target: {data.target}"
        if data.target not in table.column_names:
            raise ContractError("no such column", where, f"the rows have {', '.join(table.column_names)}")
        array = one_chunk(table[data.target])
        if data.task == "regression":
            _check_numbers(array, where)
            return cls(data.target, data.task)
        _check_scalars(array, where)
        distinct = {category_key(value): value for value in array.unique().to_pylist()}
        distinct.pop(None, None)
        classes = [_scalar(value) for value in distinct.values()]
        if len(classes) < 2:
            found = f"is {classes[0]!r} in every row" if classes else "is missing in every row"
            raise ContractError(f"the target {found}", where, NOTHING_TO_LEARN)
        if data.task == "multiclass":
            if len(classes) > MAX_CLASSES:
                raise ContractError(
                    f"the target has {len(classes)} classes", where, "is it a number (task: regression)?"
                )
            return cls(data.target, data.task, tuple(sorted(classes, key=_sort_key)))
        if len(classes) > 2:
            shown = ", ".join(repr(value) for value in sorted(classes, key=_sort_key)[:5])
            raise ContractError(f"a binary target has {len(classes)} values ({shown}, ...)", where, "task: multiclass?")
        return cls(data.target, data.task, _negative_and_positive(classes, data.positive, where))

    @property
    def positive(self) -> Scalar | None:
        """The value that counts as 1; None unless the task is binary."""
        return self.classes[1] if self.task == "binary" else None

    def encode(self, column: Column | Sequence[Any]) -> npt.NDArray[np.float64]:
        """0 or 1, the class's index, or the value [n]; NaN where the label is missing.

        Raises:
            DataError: A label that is none of the classes, or is no number; names the row.
        """
        array = one_chunk(column) if isinstance(column, pa.Array | pa.ChunkedArray) else None
        if self.task == "regression" or array is None:
            values = list(column) if array is None else array.to_pylist()
            return np.array([self.encode_value(value, f"row {row}") for row, value in enumerate(values)], np.float64)
        encoded = category_array(array, self.name).dictionary_encode()
        codes = np.array([self.encode_value(word) for word in encoded.dictionary.to_pylist()] + [math.nan])
        result: npt.NDArray[np.float64] = codes[
            encoded.indices.fill_null(len(codes) - 1).to_numpy(zero_copy_only=False)
        ]
        return result

    def encode_value(self, label: Any, where: str = "") -> float:
        """One label; see ``encode``."""
        try:
            if self.task == "regression":
                return numeric_value(label)
            key = category_key(label)
            return math.nan if key is None else self._codes[key]
        except (TypeError, KeyError):
            place = f"label {self.name!r}" + (f", {where}" if where else "")
            raise DataError(f"expected {self.expected}, got {label!r}", place) from None

    @property
    def expected(self) -> str:
        """What a label may be, for people."""
        if self.task == "regression":
            return "a number"
        more = ", ..." if len(self.classes) > 10 else ""
        return f"one of {', '.join(repr(value) for value in self.classes[:10])}{more}"

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "task": self.task, "classes": list(self.classes)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "TargetEncoder":
        return cls(content["name"], content["task"], tuple(content["classes"]))


def labelled_rows(table: pa.Table, data: DataConfig) -> pa.Table:
    """The rows that have a target."""
    return table.filter(pa.array(~missing_values(one_chunk(table[data.target]))))


def _negative_and_positive(classes: list[Scalar], positive: Scalar | None, where: str) -> tuple[Scalar, Scalar]:
    ordered = sorted(classes, key=_sort_key)
    wanted = category_key(positive)
    if positive is None:
        wanted = "1" if any(category_key(value) == "1" for value in ordered) else category_key(ordered[1])
    elif isinstance(ordered[0], bool) and wanted in ("0", "1"):
        wanted = category_key(wanted == "1")
    found = [value for value in ordered if category_key(value) == wanted]
    if not found:
        raise ContractError(
            f"no row has the positive value {positive!r}", where, f"set data.positive to one of {ordered}"
        )
    negative = next(value for value in ordered if value is not found[0])
    return negative, found[0]


def _check_scalars(array: pa.Array, where: str) -> None:
    try:
        is_scalar = column_type(array.type, "") != "vector"
    except FeatureError:
        is_scalar = False
    if not is_scalar:
        remedy = "make it a string, number or boolean in the source"
        raise ContractError(f"a column of type {array.type} cannot be a target", where, remedy)


def _check_numbers(array: pa.Array, where: str) -> None:
    if not (pa.types.is_integer(array.type) or pa.types.is_floating(array.type) or pa.types.is_decimal(array.type)):
        raise ContractError(f"a regression target must be a number, got {array.type}", where, "task: multiclass?")
    values = np.asarray(array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False), np.float64)
    values = values[np.isfinite(values)]
    if not len(values) or (values == values[0]).all():
        found = f"is {values[0]:g} in every row" if len(values) else "is missing in every row"
        raise ContractError(f"the target {found}", where, NOTHING_TO_LEARN)


def _scalar(value: Any) -> Scalar:
    return value if isinstance(value, bool | int | float | str) else str(category_key(value))


def _sort_key(value: Scalar) -> tuple[bool, float, str]:
    return (True, 0.0, value) if isinstance(value, str) else (False, float(value), "")
