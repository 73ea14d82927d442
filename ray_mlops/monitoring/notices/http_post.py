"""One POST with a deadline. Below httpx's client, which writes every URL into the log: some URLs are secrets."""

import os
import time
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

from ray_mlops.monitoring.notices.delivery import Attempt

_SHOWN_BYTES = 200
_BROKEN_CONTENT = frozenset({400, 405, 406, 409, 411, 413, 415, 422, 431})
"""The target understands who asks, and does not take this notice: no retry will change that. Anything else, such as
a wrong token or path, may be mended by a person while we wait."""


def open_transport(url: str) -> httpx.BaseTransport:
    """A connection to a URL's host, through the proxy that the environment names."""
    parts = urlsplit(url)
    proxy = None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)
    return httpx.HTTPTransport(proxy=proxy)


def post(
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    timeout_s: float,
    open_connection: Callable[[str], httpx.BaseTransport] = open_transport,
) -> Attempt:
    """Post a body, and say how it went.

    Args:
        url: The target.
        body: What is sent.
        headers: Besides ``Content-Type``, which is JSON.
        timeout_s: For each step, and for the answer as a whole.
        open_connection: Makes what requests go through.
    """
    extensions = {"timeout": httpx.Timeout(timeout_s).as_dict()}
    fixed = {"Content-Type": "application/json", "User-Agent": "ray-mlops", "Accept": "*/*"}
    try:
        request = httpx.Request("POST", url, content=body, headers={**fixed, **headers}, extensions=extensions)
        with open_connection(url) as connection:
            response = connection.handle_request(request)
            return judge_answer(response.status_code, response.headers, _beginning(response, timeout_s))
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError, ValueError) as error:
        text = f"{type(error).__name__}: {error}".replace(url, "the URL").rstrip(": ")
        return Attempt("failed", f"{place_of(url)} does not answer: {text}")


def judge_answer(status: int, headers: Mapping[str, str], body: str) -> Attempt:
    """What an answer means.

    Example:
        >>> judge_answer(204, {}, "").outcome, judge_answer(400, {}, "no text").outcome
        ('delivered', 'refused')
        >>> judge_answer(429, {"retry-after": "30"}, "")
        Attempt(outcome='failed', detail='HTTP 429', retry_after_s=30.0)
    """
    detail = f"HTTP {status}" + (f": {body}" if body and status >= 300 else "")
    if 200 <= status < 300:
        return Attempt("delivered", detail)
    if status in _BROKEN_CONTENT:
        return Attempt("refused", detail)
    wait = headers.get("retry-after", "")
    return Attempt("failed", detail, float(wait) if wait.isdecimal() else None)


def place_of(url: str) -> str:
    """A URL's host, which may be shown.

    Example:
        >>> place_of("https://chat.example.org:8443/hooks/s3cret")
        'chat.example.org:8443'
    """
    return urlsplit(url).netloc.rpartition("@")[2]


def read_secret(variable: str) -> str | None:
    """The value of an environment variable; None where it is not set, or empty."""
    return os.environ.get(variable, "").strip() or None


def missing_secret(variable: str) -> Attempt:
    """There is no secret to send with; the notice waits for a person to give one."""
    remedy = "set it where the cluster is started, then start the cluster again"
    return Attempt("failed", f"the environment variable {variable} is not set; {remedy}")


def _beginning(response: httpx.Response, timeout_s: float) -> str:
    """The first bytes of an answer; a target that answers byte by byte for ever is left alone."""
    found, deadline = b"", time.monotonic() + timeout_s
    for part in response.iter_bytes():
        found += part
        if len(found) >= _SHOWN_BYTES or time.monotonic() > deadline:
            break
    return " ".join(found[:_SHOWN_BYTES].decode("utf-8", "replace").split())
