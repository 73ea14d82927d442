"""Notices as JSON: signed for machines, and in the form that Slack's incoming webhooks take."""

import json
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import httpx

from ray_mlops.config import SlackTarget, WebhookTarget
from ray_mlops.monitoring.notices.delivery import Attempt
from ray_mlops.monitoring.notices.http_post import missing_secret, open_transport, post, read_secret
from ray_mlops.monitoring.notices.notice import Notice, iso_seconds
from ray_mlops.monitoring.notices.signature import HEADER, sign

_COLOURS = {"info": ":information_source:", "warning": ":warning:", "critical": ":rotating_light:"}
_TITLE_CHARS, _TEXT_CHARS = 150, 2900
"""Slack takes 150 characters in a header and 3,000 in a section."""


class WebhookTransport:
    """Posts a notice as JSON.

    Args:
        target: Where to, and which variable holds the secret.
        console_url: The service's address, for links; empty where it is not known.
        clock: Unix seconds.
        open_connection: Makes what requests go through.
    """

    def __init__(
        self,
        target: WebhookTarget,
        console_url: str = "",
        clock: Callable[[], float] = time.time,
        open_connection: Callable[[str], httpx.BaseTransport] = open_transport,
    ) -> None:
        self._target, self._console_url, self._clock, self._open = target, console_url, clock, open_connection

    def send(self, notice: Notice) -> Attempt:
        """Try once; each attempt is signed anew, with its own time."""
        body = json.dumps(notice.to_json(self._console_url), separators=(",", ":"), default=str).encode()
        headers = {"Idempotency-Key": header_text(notice.id), "X-Ray-Mlops-Kind": notice.kind}
        if self._target.secret_env is not None:
            secret = read_secret(self._target.secret_env)
            if secret is None:
                return missing_secret(self._target.secret_env)
            headers[HEADER] = sign(secret, body, int(self._clock()))
        return _post(self._target, body, headers, self._open)


class SlackTransport:
    """Posts a notice as a message of a chat; see ``WebhookTransport``."""

    def __init__(
        self,
        target: SlackTarget,
        console_url: str = "",
        open_connection: Callable[[str], httpx.BaseTransport] = open_transport,
    ) -> None:
        self._target, self._console_url, self._open = target, console_url, open_connection

    def send(self, notice: Notice) -> Attempt:
        """Try once."""
        body = json.dumps(slack_message(notice, self._console_url)).encode()
        return _post(self._target, body, {"Idempotency-Key": header_text(notice.id)}, self._open)


def slack_message(notice: Notice, console_url: str = "") -> dict[str, Any]:
    """A notice as JSON of an incoming webhook: ``text`` for simple chats and previews, ``blocks`` for the others.

    Example:
        >>> message = slack_message(Notice("k", "alarm", "critical", "m", 0.0, "m: x < 1", "What: x < 1"))
        >>> message["text"], [block["type"] for block in message["blocks"]]
        (':rotating_light: m: x &lt; 1', ['header', 'section', 'context'])
    """
    links = notice.links(console_url)
    link = f" | <{links['console']}|console>" if links else ""
    foot = f"{notice.severity} | `{notice.kind}` | {iso_seconds(notice.time)}{link}"
    lines = [_bold(line) for line in _escaped(notice.text).splitlines()]
    return {
        "text": f"{_COLOURS[notice.severity]} {_escaped(notice.title)}",
        "blocks": [
            {"type": "header", "text": {"type": "plain_text", "text": shortened(notice.title, _TITLE_CHARS)}},
            {"type": "section", "text": {"type": "mrkdwn", "text": shortened("\n".join(lines), _TEXT_CHARS)}},
            {"type": "context", "elements": [{"type": "mrkdwn", "text": foot}]},
        ],
    }


def header_text(name: str) -> str:
    """An id as the value of a header: what is not printable ASCII is percent-encoded.

    Example:
        >>> header_text("m/monitor/v1/contract/température:nulls")
        'm/monitor/v1/contract/temp%C3%A9rature:nulls'
    """
    return quote(name, safe="/:[]()<>#@!$&'*+,;=~ ?{}|^`\"").strip()


def shortened(text: str, most: int) -> str:
    """Cut a text that is too long.

    Example:
        >>> shortened("abcdef", 4)
        'abc…'
    """
    return text if len(text) <= most else text[: most - 1] + "…"


def _post(
    target: WebhookTarget | SlackTarget,
    body: bytes,
    headers: dict[str, str],
    open_connection: Callable[[str], httpx.BaseTransport],
) -> Attempt:
    url = target.url or read_secret(target.url_env or "")
    if url is None:
        return missing_secret(str(target.url_env))
    return post(url, body, headers, target.timeout_s, open_connection)


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _bold(line: str) -> str:
    heading, separator, rest = line.partition(": ")
    return f"*{heading}:* {rest}" if separator and len(heading) < 24 else line
