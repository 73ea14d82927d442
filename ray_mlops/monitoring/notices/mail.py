"""Notices as mail: plain text by SMTP."""

import smtplib
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime
from hashlib import sha256

from ray_mlops.config import EmailTarget
from ray_mlops.monitoring.notices.delivery import Attempt
from ray_mlops.monitoring.notices.http_post import missing_secret, read_secret
from ray_mlops.monitoring.notices.notice import Notice
from ray_mlops.monitoring.notices.webhook import header_text, shortened

_SUBJECT_CHARS = 200
_BROKEN_CONTENT = frozenset({552, 554})
"""The server understands who asks, and does not take this message."""


class MailTransport:
    """Sends a notice to all recipients of a target.

    Args:
        target: The server, who sends, who gets it.
        console_url: The service's address, for links.
        trust: Makes the TLS context; the default trusts what the machine trusts.
    """

    def __init__(
        self,
        target: EmailTarget,
        console_url: str = "",
        trust: Callable[[], ssl.SSLContext] = ssl.create_default_context,
    ) -> None:
        self._target, self._console_url, self._trust = target, console_url, trust

    def send(self, notice: Notice) -> Attempt:
        """Try once."""
        login = self._login()
        if isinstance(login, Attempt):
            return login
        message = build_message(notice, self._target, self._console_url)
        place = f"{self._target.host}:{self._target.port}"
        try:
            with self._connected() as server:
                if login is not None:
                    server.login(*login)
                refused = server.send_message(message)
        except smtplib.SMTPRecipientsRefused as error:
            return Attempt("failed", f"{place} refuses every recipient: {_first_of(error.recipients)}")
        except smtplib.SMTPResponseException as error:
            detail = f"{place} answers {error.smtp_code}: {_text(error.smtp_error)}"
            return Attempt("refused" if error.smtp_code in _BROKEN_CONTENT else "failed", detail)
        except (smtplib.SMTPException, OSError, ValueError) as error:
            return Attempt("failed", f"{place} does not take the mail: {type(error).__name__}: {error}")
        missed = f", not to {', '.join(refused)}: {_first_of(refused)}" if refused else ""
        return Attempt("delivered", f"accepted by {place}{missed}")

    def _login(self) -> tuple[str, str] | Attempt | None:
        if self._target.user_env is None or self._target.password_env is None:
            return None
        user, password = read_secret(self._target.user_env), read_secret(self._target.password_env)
        if user is None or password is None:
            return missing_secret(self._target.user_env if user is None else self._target.password_env)
        return user, password

    @contextmanager
    def _connected(self) -> Iterator[smtplib.SMTP]:
        target = self._target
        if target.security == "ssl":
            context = self._trust()
            with smtplib.SMTP_SSL(target.host, target.port, timeout=target.timeout_s, context=context) as server:
                yield server
            return
        with smtplib.SMTP(target.host, target.port, timeout=target.timeout_s) as server:
            if target.security == "starttls":
                server.starttls(context=self._trust())
            yield server


def build_message(notice: Notice, target: EmailTarget, console_url: str = "") -> EmailMessage:
    """Write a notice as a mail; its ``Message-ID`` is the same whenever it is sent again."""
    message = EmailMessage()
    message["Subject"] = shortened(" ".join(f"[{notice.severity}] {notice.title}".split()), _SUBJECT_CHARS)
    message["From"] = target.sender
    message["To"] = ", ".join(target.recipients)
    message["Date"] = format_datetime(datetime.fromtimestamp(notice.time, UTC))
    message["Message-ID"] = f"<{sha256(notice.id.encode()).hexdigest()[:32]}@ray-mlops>"
    message["Auto-Submitted"] = "auto-generated"
    message["X-Ray-Mlops-Kind"] = notice.kind
    message["X-Ray-Mlops-Id"] = header_text(notice.id)
    links = "\n".join(notice.links(console_url).values())
    message.set_content(f"{notice.title}\n\n{notice.text}\n" + (f"\n{links}\n" if links else ""))
    return message


def _first_of(refused: dict[str, tuple[int, bytes]]) -> str:
    code, text = next(iter(refused.values()))
    return f"{code} {_text(text)}"


def _text(answer: bytes | str) -> str:
    text = answer.decode("utf-8", "replace") if isinstance(answer, bytes) else answer
    return shortened(" ".join(text.split()), 200)
