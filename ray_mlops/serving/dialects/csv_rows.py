"""Rows from CSV: a header line with the columns' names, then one line for each row.

An empty field is a missing value, and so is ``NaN`` in a column of numbers. Text is never guessed to be a
number: each field is read by its column's type.
"""

import csv
import io
import math
import re
from typing import Any

from ray_mlops.config.data import ColumnType
from ray_mlops.errors import RequestError
from ray_mlops.serving.dialects.oip_columns import column_types
from ray_mlops.serving.http.parse import Limits, check_count, check_names, shorten
from ray_mlops.serving.loaded import LoadedModel

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_BOOLEANS = {"true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False}


def parse_csv(content: bytes, loaded: LoadedModel, limits: Limits) -> list[dict[str, Any]]:
    """Read rows.

    Raises:
        RequestError: It is no UTF-8 or no CSV, or a field is not of its column's type; names line and column.
        PayloadTooLargeError: Too many rows.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RequestError(f"not UTF-8: {error.reason} at byte {error.start}", "body") from None
    lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        names = next(lines, [])
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise RequestError(f"column {shorten(twice)} is there twice", "line 1")
        check_names(set(names), loaded.columns, "line 1", "leave its fields empty for missing values")
        kinds = column_types(loaded)
        rows = []
        for fields in lines:
            if not fields:
                continue
            where = f"line {lines.line_num}"
            if len(fields) != len(names):
                raise RequestError(f"{len(fields)} fields, but the header has {len(names)}", where)
            pairs = zip(names, fields, strict=True)
            rows.append({name: read_field(field, kinds.get(name), f"{where}, {name!r}") for name, field in pairs})
            if len(rows) > limits.rows:
                break
    except csv.Error as error:
        raise RequestError(f"not CSV: {error}", f"line {lines.line_num}") from None
    check_count(len(rows), limits.rows, "body")
    return rows


def read_field(field: str, kind: ColumnType | None, where: str) -> Any:
    """Read a field by its column's type; the empty one is None.

    Raises:
        RequestError: It is not of that type.

    Example:
        >>> read_field("1.5", "numeric", ""), read_field("7", "categorical", ""), read_field("", "boolean", "")
        (1.5, '7', None)
    """
    if not field:
        return None
    if kind == "numeric":
        if field.lower() == "nan":
            return None
        if not _NUMBER.fullmatch(field) or not math.isfinite(value := float(field)):
            raise RequestError(f"expected a number, got {shorten(field)}", where)
        return value
    if kind == "vector":
        raise RequestError("CSV holds no vectors", where, "send JSON, or leave the field empty for a missing one")
    if kind == "boolean":
        if field.lower() not in _BOOLEANS:
            raise RequestError(f"expected true or false, got {shorten(field)}", where)
        return _BOOLEANS[field.lower()]
    return field
