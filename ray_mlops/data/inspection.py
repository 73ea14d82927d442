"""Rows held against a contract: which are bad, why, and what is wrong with whole columns. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ray_mlops.config import ColumnContract
from ray_mlops.config.data import ColumnType
from ray_mlops.data.columns import (
    INPUT_TYPES,
    category_array,
    column_type,
    is_text,
    missing_values,
    numeric_values,
    one_chunk,
    parse_times,
)
from ray_mlops.data.contract import Contract
from ray_mlops.data.values import MISSING_US, category_key
from ray_mlops.data.vectors import count_lengths, is_list, parse_vectors, vector_array, vector_length, vector_type
from ray_mlops.errors import ContractError, FeatureError

Mask = npt.NDArray[np.bool_]
_MIN_READABLE = 0.5
"""Text of which less than this share can be read as the declared type is a wrong type, not bad rows."""


@dataclass(frozen=True, slots=True)
class TableCheck:
    """What was found in one block of rows."""

    table: pa.Table
    """The rows, with text of numeric and datetime columns read, and lists made vectors of one length."""
    bad: Mapping[str, Mask]
    """Bad rows [n] by reason."""
    null_counts: Mapping[str, int]
    unreadable: Mapping[str, tuple[int, int, str]]
    """Text columns of another declared type: values that could not be read, values, and the Arrow type."""
    breaches: tuple[str, ...]

    @property
    def good(self) -> Mask:
        """Rows without any reason against them [n]."""
        good = np.ones(len(self.table), bool)
        for mask in self.bad.values():
            good &= ~mask
        return good


def check_table(table: pa.Table, contract: Contract) -> tuple[Mask, pa.Array, dict[str, int]]:
    """Check some rows on their own.

    Returns:
        Which rows are good [n]; the reasons against each as text, null for good ones [n]; missing values by
        column. Uniqueness is judged within these rows, the first row staying.

    Raises:
        ContractError: A required column is missing or has the wrong type.
    """
    found = inspect_table(table, contract)
    breaches = found.breaches + type_breaches(found.unreadable)
    if breaches:
        raise ContractError("; ".join(breaches), "data.contract", "send the columns that the contract names")
    bad = dict(found.bad)
    for name, rule in contract.columns.items():
        if rule.unique and name in table.column_names:
            bad[f"{name}: duplicate"] = _repeats(one_chunk(found.table[name]))
    checked = TableCheck(found.table, bad, found.null_counts, found.unreadable, ())
    return checked.good, join_reasons(bad, len(table)), dict(found.null_counts)


def inspect_table(table: pa.Table, contract: Contract) -> TableCheck:
    """Everything about one block of rows but uniqueness, which needs all blocks."""
    bad: dict[str, Mask] = {}
    null_counts: dict[str, int] = {}
    unreadable: dict[str, tuple[int, int, str]] = {}
    breaches = [
        f"column {name!r} is missing"
        for name, rule in contract.columns.items()
        if rule.required and name not in table.column_names
    ]
    for name, rule in contract.columns.items():
        if name not in table.column_names:
            continue
        array = one_chunk(table[name])
        kind = rule.type or (None if rule.min is None and rule.max is None else "numeric")
        length = (rule.length or vector_length(array.type)) if kind == "vector" else 0
        problem = _wrong_type(array.type, kind, length)
        if problem:
            breaches.append(f"column {name!r}: expected {kind}, got {problem}")
            continue
        missing = missing_values(array)
        null_counts[name] = int(missing.sum())
        if kind in ("numeric", "datetime") and is_text(array.type):
            array, wrong = _read_text(array, kind)
            unreadable[name] = (int(wrong.sum()), len(array) - null_counts[name], str(table[name].type))
            bad[f"{name}: not a {'number' if kind == 'numeric' else 'time'}"] = wrong
            table = table.set_column(table.column_names.index(name), name, array)
        if kind == "vector":
            array, wrong_ones = _read_vectors(array, length)
            bad |= {f"{name}: {reason}": mask for reason, mask in wrong_ones.items()}
            table = table.set_column(table.column_names.index(name), name, array)
        bad.update(_bad_values(array, name, rule, missing))
    if contract.event_time is not None and contract.event_time in table.column_names:
        bad[f"{contract.event_time}: no event time"] = missing_values(one_chunk(table[contract.event_time]))
    found = {reason: mask for reason, mask in bad.items() if mask.any()}
    return TableCheck(table, found, null_counts, unreadable, tuple(breaches))


def type_breaches(unreadable: Mapping[str, tuple[int, int, str]]) -> tuple[str, ...]:
    """Text columns that are mostly not what was declared."""
    return tuple(
        f"column {name!r}: {wrong} of {values} values of type {kind} cannot be read as the declared type"
        for name, (wrong, values, kind) in unreadable.items()
        if wrong > (1 - _MIN_READABLE) * values
    )


def count_nulls(table: pa.Table) -> dict[str, int]:
    """Missing values by column."""
    return {name: int(missing_values(one_chunk(table[name])).sum()) for name in table.column_names}


def count_list_lengths(table: pa.Table) -> dict[str, dict[int, int]]:
    """Lists by length, of each column of lists."""
    return {field.name: count_lengths(one_chunk(table[field.name])) for field in table.schema if is_list(field.type)}


def join_reasons(bad: Mapping[str, Mask], rows: int) -> pa.Array:
    """The reasons against each row, joined by ``; ``; null for good rows [n]."""
    reasons: list[str | None] = [None] * rows
    for reason, mask in bad.items():
        for row in np.flatnonzero(mask).tolist():
            reasons[row] = reason if reasons[row] is None else f"{reasons[row]}; {reason}"
    return pa.array(reasons, pa.string())


def _wrong_type(arrow: pa.DataType, declared: ColumnType | None, length: int = 0) -> str:
    """The Arrow type as text where it cannot hold the declared type at all; ``length`` is of vectors."""
    if declared == "vector" and not length:
        return f"{arrow}, which does not say how long they are: declare its 'length'"
    if declared is None or pa.types.is_null(arrow):
        return ""
    try:
        found = column_type(arrow, "")
    except FeatureError:
        return str(arrow)
    fits = {
        "numeric": found == "numeric" or is_text(arrow),
        "boolean": found in ("boolean", "numeric"),
        "categorical": found != "vector",
        "datetime": found == "datetime" or is_text(arrow),
        "vector": found == "vector" and vector_length(arrow) in (0, length),
    }
    if declared == "vector" and is_text(arrow):
        return f"{arrow}; CSV holds no vectors, take Parquet or JSON lines"
    return "" if fits[declared] else f"{arrow}{f', not {length} numbers' if length else ''}"


def _read_vectors(array: pa.Array, length: int) -> tuple[pa.Array, dict[str, Mask]]:
    """Lists as vectors, null where wrong; and the wrong ones [n] by what is wrong."""
    if array.type == vector_type(length) and np.isfinite(array.flatten().to_numpy(zero_copy_only=False)).all():
        return array, {}
    matrix, wrong = parse_vectors(array, length)
    return vector_array(matrix), wrong


def _read_text(array: pa.Array, kind: ColumnType) -> tuple[pa.Array, Mask]:
    """Read text as numbers or times; and where that failed [n]."""
    if kind == "datetime":
        times, wrong = parse_times(array)
        return pa.array(times, pa.int64(), mask=times == MISSING_US).cast(INPUT_TYPES["datetime"]), wrong
    encoded = array.dictionary_encode()
    words = [_number(word) for word in encoded.dictionary.to_pylist()]
    numbers = np.array([np.nan if word is None else word for word in words] + [np.nan])
    failed = np.array([word is None for word in words] + [False])
    rows = encoded.indices.fill_null(len(words)).to_numpy(zero_copy_only=False)
    found = numbers[rows]
    return pa.array(found, pa.float64(), mask=~np.isfinite(found)), failed[rows]


def _number(word: str | None) -> float | None:
    if word is None or not word.strip():
        return float("nan")
    try:
        return float(word)
    except ValueError:
        return None


def _bad_values(array: pa.Array, name: str, rule: ColumnContract, missing: Mask) -> dict[str, Mask]:
    bad: dict[str, Mask] = {}
    if rule.max_null_ratio == 0:
        bad[f"{name}: null"] = missing
    if rule.min is not None or rule.max is not None:
        plain = array.cast(pa.uint8()) if pa.types.is_boolean(array.type) else array
        numbers = np.where(missing, np.nan, numeric_values(plain, name))
        if rule.min is not None:
            bad[f"{name}: below {rule.min:g}"] = numbers < rule.min
        if rule.max is not None:
            bad[f"{name}: above {rule.max:g}"] = numbers > rule.max
    if rule.allowed is not None:
        allowed = pa.array(sorted({category_key(value) or "" for value in rule.allowed}), pa.string())
        inside = pc.is_in(category_array(array, name), value_set=allowed).to_numpy(zero_copy_only=False)
        bad[f"{name}: not allowed"] = ~inside.astype(bool) & ~missing
    if rule.type == "boolean" and not pa.types.is_boolean(array.type) and not pa.types.is_null(array.type):
        numbers = numeric_values(array, name)
        bad[f"{name}: not a boolean"] = ~missing & (numbers != 0) & (numbers != 1)
    return bad


def _repeats(array: pa.Array) -> Mask:
    """Where a value was seen in an earlier row [n]; missing values never are."""
    codes = array.dictionary_encode().indices.to_numpy(zero_copy_only=False)
    repeated = np.ones(len(array), bool)
    repeated[np.unique(codes, return_index=True)[1]] = False
    return repeated & ~missing_values(array)
