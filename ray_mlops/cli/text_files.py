"""Text that commands are given by path: rows to predict, ids to forget."""

import json
import sys
from pathlib import Path
from typing import Any

import orjson

from ray_mlops.errors import RequestError


def read_text(path: str) -> str:
    """Read a UTF-8 file, or standard input for ``-``.

    Raises:
        RequestError: It is missing, is no file, or is not UTF-8.
    """
    try:
        content = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RequestError(f"is not UTF-8 text: {error.reason} at byte {error.start}", _name(path)) from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        problem = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise RequestError(f"cannot be read: {problem}", _name(path)) from None


def read_json_lines(path: str) -> list[dict[str, Any]]:
    """Read the objects of a JSON-lines file; blank lines are passed over.

    Raises:
        RequestError: A line is no JSON object, or there is none; names the line.
    """
    rows = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            problem = (
                f"is not JSON: {error.msg} (column {error.colno})" if isinstance(error, ValueError) else str(error)
            )
            raise RequestError(problem, f"{_name(path)}, line {number}", "write one JSON object a line") from None
        if not isinstance(row, dict):
            problem = f"expected an object of columns, got {type(row).__name__}"
            raise RequestError(problem, f"{_name(path)}, line {number}", "write one JSON object a line")
        try:
            orjson.dumps(row)
        except orjson.JSONEncodeError as error:  # an integer beyond 64 bits, half a surrogate pair
            raise RequestError(f"cannot be sent: {error}", f"{_name(path)}, line {number}") from None
        rows.append(row)
    if not rows:
        raise RequestError("there are no rows", _name(path), "write one JSON object a line")
    return rows


def _name(path: str) -> str:
    return "standard input" if path == "-" else path
