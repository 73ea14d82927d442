"""What leaves the process: signed JSON, chat messages and mail, and what the answers mean."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

from ray_mlops.config import EmailTarget, SlackTarget, WebhookTarget
from ray_mlops.errors import UnauthorizedError
from ray_mlops.monitoring.notices.mail import MailTransport
from ray_mlops.monitoring.notices.notice import Notice
from ray_mlops.monitoring.notices.signature import sign, verify_webhook
from ray_mlops.monitoring.notices.webhook import SlackTransport, WebhookTransport, slack_message

NOTICE = Notice(
    id="m/monitor/v1/contract/température:nulls",
    kind="breach",
    severity="critical",
    model="m",
    time=1_700_000_000.5,
    title="m: contract breach température:nulls",
    text="What: the contract is broken.\nTo do: mend <it> & go on.",
    event_time=1_600_000_000_000_000,
    facts={"value": 0.9},
    page="drift",
    seq=42,
)
URL = "https://hooks.example.org/in/s3cret-path"


class Answering(httpx.MockTransport):
    """Answers every request with a status, and keeps it."""

    def __init__(self, status: int = 200, text: str = "", headers: dict[str, str] | None = None) -> None:
        self.requests: list[httpx.Request] = []
        self._answer = (status, text, headers or {})
        super().__init__(self._respond)

    def _respond(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        status, text, headers = self._answer
        return httpx.Response(status, text=text, headers=headers)

    def opened(self, url: str) -> httpx.BaseTransport:
        return self


def webhook(answering: httpx.MockTransport, **target: Any) -> WebhookTransport:
    chosen = WebhookTarget.model_validate({"name": "ops", "url": URL, **target})
    return WebhookTransport(chosen, "http://host:8000", lambda: 1_700_000_100.0, lambda url: answering)


# -- webhooks -----------------------------------------------------------------------------------------


def test_webhook_carries_the_notice_its_id_and_links() -> None:
    answering = Answering(204)
    attempt = webhook(answering).send(NOTICE)
    assert (attempt.outcome, attempt.detail) == ("delivered", "HTTP 204")
    request = answering.requests[0]
    assert request.headers["Content-Type"] == "application/json"
    assert request.headers["Idempotency-Key"] == "m/monitor/v1/contract/temp%C3%A9rature:nulls"
    assert "X-Ray-Mlops-Signature" not in request.headers
    assert json.loads(request.content) == {
        "schema_version": 1,
        "id": NOTICE.id,
        "model": "m",
        "kind": "breach",
        "severity": "critical",
        "time": "2023-11-14T22:13:20.500+00:00",
        "event_time": "2020-09-13T12:26:40.000+00:00",
        "title": NOTICE.title,
        "text": NOTICE.text,
        "facts": {"value": 0.9},
        "links": {
            "console": "http://host:8000/console/models/m/drift",
            "event": "http://host:8000/console/ledger/42",
        },
    }


def test_webhook_with_a_secret_is_signed_so_that_a_receiver_can_check_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPS_SECRET", "hush")
    answering = Answering()
    webhook(answering, secret_env="OPS_SECRET").send(NOTICE)
    request = answering.requests[0]
    header = request.headers["X-Ray-Mlops-Signature"]
    assert header.startswith("t=1700000100,v1=")
    verify_webhook("hush", request.content, header, now=1_700_000_130.0)
    with pytest.raises(UnauthorizedError, match="does not fit"):
        verify_webhook("other", request.content, header, now=1_700_000_130.0)


@pytest.mark.parametrize(
    "header", ["", "v1=00", "t=1", "t=x,v1=00", "t=1,t=2,v1=00", "t=\u0661,v1=00", "t=-1,v1=\u0661"]
)
def test_header_that_is_no_signature_is_refused(header: str) -> None:
    with pytest.raises(UnauthorizedError, match="expected 't=SECONDS,v1=HEX'"):
        verify_webhook("hush", b"{}", header, now=0.0)


def test_old_signature_is_refused_though_it_fits() -> None:
    header = sign("hush", b"{}", 1000)
    verify_webhook("hush", b"{}", header, now=1300.0)
    with pytest.raises(UnauthorizedError, match="301 s old, 300 s are allowed"):
        verify_webhook("hush", b"{}", header, now=1301.0)


def test_signature_that_is_not_ascii_is_refused() -> None:
    with pytest.raises(UnauthorizedError, match="does not fit"):
        verify_webhook("hush", b"{}", "t=1,v1=\u0661", now=1.0)


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        *((200, "delivered"), (202, "delivered"), (302, "failed"), (400, "refused"), (401, "failed"), (404, "failed")),
        *((413, "refused"), (422, "refused"), (429, "failed"), (500, "failed"), (503, "failed")),
    ],
)
def test_answer_decides_whether_it_is_worth_another_try(status: int, outcome: str) -> None:
    assert webhook(Answering(status, "no  such\nplace")).send(NOTICE).outcome == outcome


def test_detail_has_the_answer_shortened_and_never_the_url() -> None:
    attempt = webhook(Answering(500, "x" * 5000)).send(NOTICE)
    assert attempt.detail == f"HTTP 500: {'x' * 200}"

    def fail(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError(f"cannot reach {request.url}")

    attempt = webhook(httpx.MockTransport(fail)).send(NOTICE)
    assert attempt.outcome == "failed"
    assert attempt.detail == "hooks.example.org does not answer: ConnectError: cannot reach the URL"


def test_missing_secret_fails_and_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPS_SECRET", raising=False)
    answering = Answering()
    attempt = webhook(answering, secret_env="OPS_SECRET").send(NOTICE)
    assert attempt.outcome == "failed"
    assert "OPS_SECRET is not set; set it where the cluster is started" in attempt.detail
    assert answering.requests == []


# -- chat ---------------------------------------------------------------------------------------------


def test_slack_takes_its_url_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    answering = Answering(200, "ok")
    transport = SlackTransport(SlackTarget(name="chat", url_env="SLACK"), "http://host:8000", answering.opened)
    assert "SLACK is not set" in transport.send(NOTICE).detail
    monkeypatch.setenv("SLACK", URL)
    assert transport.send(NOTICE).outcome == "delivered"
    assert str(answering.requests[0].url) == URL
    assert json.loads(answering.requests[0].content) == slack_message(NOTICE, "http://host:8000")


def test_slack_message_is_escaped_and_within_slacks_limits() -> None:
    message = slack_message(NOTICE, "http://host:8000")
    header, section, context = message["blocks"]
    assert header["text"] == {"type": "plain_text", "text": NOTICE.title}
    assert section["text"]["text"] == "*What:* the contract is broken.\n*To do:* mend &lt;it&gt; &amp; go on."
    assert "<http://host:8000/console/models/m/drift|console>" in context["elements"][0]["text"]
    long = slack_message(Notice("k", "alarm", "info", "m", 0.0, "t" * 999, "x" * 9999))
    assert len(long["blocks"][0]["text"]["text"]) == 150
    assert len(long["blocks"][1]["text"]["text"]) < 3000


# -- a real socket ------------------------------------------------------------------------------------


class Receiver(BaseHTTPRequestHandler):
    """A receiver as a stranger would write one, with nothing but the documented function."""

    seen: list[dict[str, Any]]
    answers: list[int]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        verify_webhook("hush", body, self.headers["X-Ray-Mlops-Signature"])
        self.seen.append(json.loads(body))
        self.send_response(self.answers.pop(0) if self.answers else 204)
        self.end_headers()

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[tuple[type[Receiver], str]]:
    handler = type("Fresh", (Receiver,), {"seen": [], "answers": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield handler, f"http://127.0.0.1:{server.server_port}/in"
    server.shutdown()
    server.server_close()
    thread.join()


def test_webhook_goes_through_a_real_socket(
    receiver: tuple[type[Receiver], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    handler, url = receiver
    monkeypatch.setenv("OPS_SECRET", "hush")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    handler.answers.append(503)
    transport = WebhookTransport(WebhookTarget(name="ops", url=url, secret_env="OPS_SECRET"))
    assert transport.send(NOTICE).detail == "HTTP 503"
    assert transport.send(NOTICE).outcome == "delivered"
    assert [body["id"] for body in handler.seen] == [NOTICE.id] * 2


def test_target_that_is_not_there_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    attempt = WebhookTransport(WebhookTarget(name="ops", url="http://127.0.0.1:1/in")).send(NOTICE)
    assert attempt.outcome == "failed"
    assert attempt.detail.startswith("127.0.0.1:1 does not answer: ConnectError")


# -- mail ---------------------------------------------------------------------------------------------


class Mailbox:
    """What a mail server took; refuses the recipients that it is told to."""

    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []
        self.refused: dict[str, str] = {}
        self.answer = "250 OK"
        self.logins: list[tuple[bytes, bytes]] = []

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:  # noqa: N802
        if address in self.refused:
            return self.refused[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        if self.answer.startswith("250"):
            self.mails.append(message_from_bytes(envelope.content, policy=policy.default))  # type: ignore[arg-type]
        return self.answer

    def authenticate(self, server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        self.logins.append((data.login, data.password))
        return AuthResult(success=data.password == b"right", handled=False)


@pytest.fixture
def post_office() -> Iterator[Callable[..., tuple[Mailbox, int]]]:
    """Starts mail servers; returns mailbox and port."""
    controllers: list[Controller] = []

    def start(**options: Any) -> tuple[Mailbox, int]:
        box = Mailbox()
        more = {"authenticator": box.authenticate, "auth_require_tls": False, **options}
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        controller = Controller(box, hostname="127.0.0.1", port=port, **more)
        controller.start()
        controllers.append(controller)
        return box, port

    yield start
    for controller in controllers:
        controller.stop()


def mail(port: int, **target: Any) -> MailTransport:
    fixed = {"name": "mail", "host": "127.0.0.1", "port": port, "security": "plain", "sender": "ml@example.org"}
    content = {**fixed, "recipients": ["a@example.org", "b@example.org"], **target}
    return MailTransport(EmailTarget.model_validate(content), "http://host:8000")


def test_mail_arrives_as_plain_text_with_the_same_id_each_time(post_office: Any) -> None:
    box, port = post_office()
    transport = mail(port)
    assert transport.send(NOTICE).outcome == "delivered"
    assert transport.send(NOTICE).outcome == "delivered"
    first, second = box.mails
    assert first["Subject"] == "[critical] m: contract breach température:nulls"
    assert first["To"] == "a@example.org, b@example.org"
    assert first["Message-ID"] == second["Message-ID"]
    text = first.get_content()
    assert "To do: mend <it> & go on." in text
    assert "http://host:8000/console/models/m/drift" in text


def test_title_with_line_breaks_cannot_add_headers(post_office: Any) -> None:
    box, port = post_office()
    mail(port).send(Notice("k", "alarm", "info", "m", 0.0, "m: x\r\nBcc: evil@example.org", "text"))
    assert box.mails[0]["Bcc"] is None
    assert box.mails[0]["Subject"] == "[info] m: x Bcc: evil@example.org"


def test_mail_logs_in_with_secrets_of_the_environment(post_office: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    box, port = post_office()
    login = {"user_env": "MAIL_USER", "password_env": "MAIL_PASSWORD"}
    assert "MAIL_USER is not set" in mail(port, **login).send(NOTICE).detail
    monkeypatch.setenv("MAIL_USER", "ann")
    monkeypatch.setenv("MAIL_PASSWORD", "wrong")
    attempt = mail(port, **login).send(NOTICE)
    assert attempt.outcome == "failed"
    assert "answers 535" in attempt.detail
    assert "wrong" not in attempt.detail
    monkeypatch.setenv("MAIL_PASSWORD", "right")
    assert mail(port, **login).send(NOTICE).outcome == "delivered"
    assert box.logins[-1] == (b"ann", b"right")


def test_mail_insists_on_tls_where_it_is_configured(post_office: Any) -> None:
    box, port = post_office()
    attempt = mail(port, security="starttls").send(NOTICE)
    assert attempt.outcome == "failed"
    assert "STARTTLS" in attempt.detail
    assert box.mails == []


def test_mail_that_no_recipient_gets_fails_and_one_that_some_get_is_delivered(post_office: Any) -> None:
    box, port = post_office()
    box.refused = {"a@example.org": "550 unknown user"}
    attempt = mail(port).send(NOTICE)
    assert attempt.outcome == "delivered"
    assert "not to a@example.org: 550 unknown user" in attempt.detail
    box.refused["b@example.org"] = "550 unknown user"
    attempt = mail(port).send(NOTICE)
    assert attempt.outcome == "failed"
    assert "refuses every recipient: 550 unknown user" in attempt.detail


@pytest.mark.parametrize(("answer", "outcome"), [("451 later", "failed"), ("554 no", "refused")])
def test_answer_of_the_mail_server_decides(post_office: Any, answer: str, outcome: str) -> None:
    box, port = post_office()
    box.answer = answer
    assert mail(port).send(NOTICE).outcome == outcome


def test_mail_server_that_is_not_there_fails() -> None:
    attempt = mail(1).send(NOTICE)
    assert attempt.outcome == "failed"
    assert attempt.detail.startswith("127.0.0.1:1 does not take the mail: ConnectionRefusedError")
