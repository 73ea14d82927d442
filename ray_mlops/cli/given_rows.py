"""Rows that a command is given: JSON on the command line, a file, or standard input."""

import json
import math
from collections.abc import Collection
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from ray_mlops.cli.text_files import read_json_lines
from ray_mlops.config import SourceConfig
from ray_mlops.data.readers import file_format, read_file
from ray_mlops.errors import RequestError

_TABLES = (".parquet", ".pq", ".csv", ".csv.gz")


def read_rows(given: str, unused: Collection[str] = ()) -> list[dict[str, Any]]:
    """Read rows.

    Args:
        given: A JSON object or a list of them, the path of a JSON-lines, Parquet or CSV file, or ``-``.
        unused: Columns of a Parquet or CSV file that are left out.

    Raises:
        RequestError: It is no such thing; names the line.
        SourceError: The Parquet or CSV file cannot be read.

    Example:
        >>> read_rows('{"distance": 120.5}')
        [{'distance': 120.5}]
    """
    if given.lstrip().startswith(("{", "[")):
        return _parse(given)
    if given.lower().endswith(_TABLES):
        table = read_file(given, file_format(SourceConfig(path=given), given))
        kept = table.select([name for name in table.column_names if name not in unused])
        return [{name: _plain(value) for name, value in row.items()} for row in kept.to_pylist()]
    return read_json_lines(given)


def _parse(text: str) -> list[dict[str, Any]]:
    try:
        content = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise RequestError(f"is not JSON: {error}", "ROWS", 'write {"column": 1}, or name a file') from None
    rows = content if isinstance(content, list) else [content]
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise RequestError("expected an object of columns, or a list of them", "ROWS", 'write {"column": 1}')
    return rows


def _plain(value: Any) -> Any:
    """A value of a table as JSON has it; a float that JSON has not is missing."""
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, Decimal):
        value = float(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value
