"""Who is told what: webhooks, chat and mail, for the events that a person must know."""

import difflib
import re
from datetime import timedelta
from fnmatch import fnmatchcase
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from ray_mlops.config.section import Duration, Section

Severity = Literal["info", "warning", "critical"]

MUST_KNOW: tuple[str, ...] = (
    *("alarm*", "breach*", "gate.refused", "approval.wanted", "retrain.scheduled", "retrain.failed"),
    *("rollout.paused", "rollout.promoted", "rollout.invalid", "rollout.rolling_back", "rollout.aborted"),
    "delivery.given_up",
)
"""What a target is sent where nothing else is said: what went wrong, what changed hands, what waits for a person."""

NOTICE_KINDS: tuple[str, ...] = (
    *("rollout.requested", "rollout.commanded", "rollout.validating", "rollout.preparing", "rollout.shadow"),
    *("rollout.canary", "rollout.paused", "rollout.resumed", "rollout.promoting", "rollout.baking"),
    *("rollout.promoted", "rollout.rolling_back", "rollout.rolled_back", "rollout.aborted", "rollout.invalid"),
    *("shadow.started", "shadow.stopped", "gate.passed", "gate.refused", "approval.wanted", "approval.given"),
    *("retrain.requested", "retrain.scheduled", "retrain.retried", "retrain.withheld", "retrain.registered"),
    *("retrain.refused", "retrain.failed", "alarm", "alarm.reminder", "alarm.over", "breach", "breach.reminder"),
    *("breach.cleared", "acknowledged", "epoch.began", "config.deployed", "model.undeployed", "data.forgotten"),
    *("data.collected", "delivery.given_up", "test"),
)
"""Every kind of notice; see ``ray_mlops.monitoring.notices`` for what each says."""

_VARIABLE = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")
_ADDRESS = re.compile(r"^[^@\s<>,;]+@[^@\s<>,;]+$")
_SECRET_HOSTS = ("hooks.slack.com", "hooks.slack-gov.com", "discord.com", "discordapp.com")
_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")
"""An incoming webhook of these hosts is a secret as a whole: whoever has it may post."""


def _check_pattern(value: str) -> str:
    if not any(fnmatchcase(kind, value) for kind in NOTICE_KINDS):
        near = difflib.get_close_matches(value, NOTICE_KINDS, n=1)
        remedy = f"did you mean {near[0]!r}?" if near else f"kinds: {', '.join(NOTICE_KINDS)}"
        raise ValueError(f"{value!r} matches no kind of notice; {remedy}")
    return value


def _check_variable(value: str) -> str:
    if not _VARIABLE.match(value):
        raise ValueError("expected the NAME of an environment variable (never a secret itself)")
    return value


def _check_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("expected http://HOST/... or https://HOST/...")
    if parts.username or parts.password:
        raise ValueError("a URL with a password is a secret: put it into an environment variable named by 'url_env'")
    if parts.hostname in _SECRET_HOSTS:
        raise ValueError(f"a webhook of {parts.hostname} is a secret: name its environment variable by 'url_env'")
    return value


def _check_address(value: str) -> str:
    if not _ADDRESS.match(value):
        raise ValueError(f"expected an address like team@example.org, got {value!r}")
    return value


EventPattern = Annotated[str, AfterValidator(_check_pattern)]
Variable = Annotated[str, AfterValidator(_check_variable)]
Url = Annotated[str, AfterValidator(_check_url)]
Address = Annotated[str, AfterValidator(_check_address)]


class _Target(Section):
    """What all targets have in common."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")
    """Names the target in commands, metrics and records; its place in the stream of events belongs to this name."""
    events: list[EventPattern] = list(MUST_KNOW)
    """Kinds of notices, or patterns of them (``rollout.*``, ``alarm``, ``*``)."""
    models: list[str] = []
    """Models whose events are sent, or patterns of them; empty: only this configuration's own."""
    min_severity: Severity = "info"
    """Leave out what is less severe than this."""
    timeout_s: PositiveFloat = 10.0
    """How long the target may take to accept a notice."""


class _HttpTarget(_Target):
    """A target that takes POST requests."""

    url: Url | None = None
    """Where to post. Loopback and private addresses are fine."""
    url_env: Variable | None = None
    """Environment variable that holds the URL, where the URL itself is a secret."""

    @model_validator(mode="after")
    def _one_url(self) -> Self:
        if (self.url is None) == (self.url_env is None):
            raise ValueError(f"target {self.name!r} needs one of 'url' and 'url_env'")
        return self


class WebhookTarget(_HttpTarget):
    """Notices as JSON, signed where there is a secret."""

    type: Literal["webhook"] = "webhook"
    secret_env: Variable | None = None
    """Environment variable that holds the secret of the signature; without one, notices are not signed."""


class SlackTarget(_HttpTarget):
    """An incoming webhook of Slack, or of a chat that understands the same JSON (Mattermost, Rocket.Chat, ...)."""

    type: Literal["slack"] = "slack"


class EmailTarget(_Target):
    """Plain text by SMTP."""

    type: Literal["email"] = "email"
    host: str = Field(min_length=1)
    port: PositiveInt = Field(587, le=65535)
    security: Literal["starttls", "ssl", "plain"] = "starttls"
    """`starttls` (port 587), `ssl` from the first byte (port 465), or `plain` for a relay on this machine."""
    sender: Address
    recipients: list[Address] = Field(min_length=1)
    user_env: Variable | None = None
    """Environment variable that holds the user's name; None sends without a login."""
    password_env: Variable | None = None
    """Environment variable that holds the user's password."""

    @model_validator(mode="after")
    def _login_is_whole(self) -> Self:
        if (self.user_env is None) != (self.password_env is None):
            raise ValueError(f"target {self.name!r} needs both 'user_env' and 'password_env', or neither")
        if self.security == "plain" and self.password_env is not None and self.host not in _THIS_MACHINE:
            raise ValueError(
                f"target {self.name!r} would send its password to {self.host} in the clear: use 'starttls'"
            )
        return self


TargetConfig = Annotated[WebhookTarget | SlackTarget | EmailTarget, Field(discriminator="type")]


class RetryConfig(Section):
    """What is done when a target does not accept a notice. Each target waits for itself alone."""

    first: Duration = timedelta(seconds=2)
    """Wait after the first failure; doubles with each further one."""
    most: Duration = timedelta(minutes=5)
    """The longest wait between two attempts."""
    give_up_after: Duration = timedelta(hours=6)
    """A notice older than this is given up when an attempt fails: that is recorded, and the next one's turn."""

    @model_validator(mode="after")
    def _waits_rise(self) -> Self:
        if not timedelta(0) < self.first <= self.most <= self.give_up_after:
            raise ValueError("needs 0 < 'first' <= 'most' <= 'give_up_after'")
        return self


class NotificationsConfig(Section):
    """Who is told what happens to this model."""

    targets: list[TargetConfig] = []
    catch_up: Duration = timedelta(hours=1)
    """What happened this long before a target is first seen is sent to it; older events never are."""
    remind_after: Duration | None = None
    """Repeat the notice of an alarm that still stands, and that nobody has acknowledged, this often; None: never."""
    console_url: Url | None = None
    """Address at which people reach the service, for links; None: where its gateway was started."""
    retry: RetryConfig = RetryConfig()
    keep: NonNegativeInt = Field(20, le=1000)
    """How many of a target's last deliveries are remembered for people."""

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [target.name for target in self.targets]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two targets are called {twice[0]!r}")
        return self
