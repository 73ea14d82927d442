"""JSON from strangers: strict, and never parsed when it is nested too deeply."""

import re
from typing import Any

import numpy as np
import orjson

from ray_mlops.errors import RequestError

_ESCAPES = re.compile(rb"\\.", re.DOTALL)
_REST = bytes(byte for byte in range(256) if byte not in b'[]{}"')
_QUOTE = ord('"')
_STEP = np.zeros(256, np.int32)
_STEP[list(b"[{")], _STEP[list(b"]}")] = 1, -1


def parse_json(body: bytes, max_depth: int) -> Any:
    """Parse JSON that is not nested deeper than allowed.

    NaN, Infinity and numbers too large for a double are not JSON.

    Raises:
        RequestError: It is not JSON, or is nested too deeply.

    Example:
        >>> parse_json(b'{"a": [1, 2]}', max_depth=2)
        {'a': [1, 2]}
    """
    if not body:
        raise RequestError("the body is empty", "body", 'send JSON like {"instances": [{"column": 1}]}')
    check_depth(body, max_depth)
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RequestError(f"not JSON: {error}", "body") from None


def check_depth(body: bytes, max_depth: int) -> None:
    """Check how deeply JSON is nested, before anything parses it.

    Raises:
        RequestError: Deeper than allowed.
    """
    if body.count(b"[") + body.count(b"{") > max_depth and _nests_deeper(body, max_depth):
        raise RequestError(f"JSON is nested deeper than {max_depth} levels", "body")


def _nests_deeper(body: bytes, max_depth: int) -> bool:
    if b"\\" in body:
        body = _ESCAPES.sub(b"", body)
    signs = np.frombuffer(body.translate(None, _REST), np.uint8)
    is_text = np.logical_xor.accumulate(signs == _QUOTE)  # from an opening quote to its closing one
    depths = np.cumsum(np.where(is_text, 0, _STEP[signs]))
    return bool(signs.size) and int(depths.max()) > max_depth
