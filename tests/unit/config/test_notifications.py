"""Targets of notifications: what is accepted, and that no secret gets into a configuration."""

from typing import Any

import pytest

from ray_mlops.config import EmailTarget, ProjectConfig, SlackTarget, WebhookTarget, build_config
from ray_mlops.errors import ConfigError

SMALL: dict[str, Any] = {"name": "m", "data": {"source": {"path": "a.csv"}, "task": "binary", "target": "y"}}
HOOK = {"type": "webhook", "name": "ops", "url": "http://127.0.0.1:9000/in"}
MAIL = {"type": "email", "name": "mail", "host": "h", "sender": "a@b.c", "recipients": ["d@e.f"]}


def build(*targets: dict[str, Any], **more: Any) -> ProjectConfig:
    return build_config({**SMALL, "notifications": {"targets": list(targets), **more}}, {})


def test_each_type_of_target_is_read_and_written_again() -> None:
    config = build(HOOK, {"type": "slack", "name": "chat", "url_env": "SLACK_URL"}, MAIL)
    assert [type(target) for target in config.notifications.targets] == [WebhookTarget, SlackTarget, EmailTarget]
    assert ProjectConfig.model_validate(config.model_dump(mode="json")) == config


def test_configuration_of_before_tells_nobody() -> None:
    assert build_config(SMALL, {}).notifications.targets == []


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ({**HOOK, "ulr": "x"}, r"targets\.0\.webhook\.ulr: unknown key 'ulr'; did you mean 'url'"),
        ({**HOOK, "type": "webhok"}, r"targets\.0: .*'webhok'.*'webhook', 'slack', 'email'"),
        ({**HOOK, "name": "Ops Team"}, "name: should match pattern"),
        ({**HOOK, "url": "ftp://h/x"}, "expected http://HOST"),
        ({**HOOK, "url_env": "URL"}, "needs one of 'url' and 'url_env'"),
        ({**HOOK, "url": None}, "needs one of 'url' and 'url_env'"),
        ({**HOOK, "events": ["rolout.*"]}, r"'rolout\.\*' matches no kind of notice; did you mean 'rollout"),
        ({**HOOK, "events": ["zzz"]}, "kinds: rollout.requested"),
        ({**HOOK, "min_severity": "high"}, "'info', 'warning' or 'critical'"),
        ({**MAIL, "recipients": []}, "at least 1 item"),
        ({**MAIL, "sender": "somebody"}, "expected an address like"),
        ({**MAIL, "recipients": ["a@b.c\nBcc: x@y.z"]}, "expected an address like"),
        ({**MAIL, "security": "plain", "user_env": "U", "password_env": "P"}, "send its password to h in the clear"),
        ({**HOOK, "url": "https://discord.com/api/webhooks/1/x"}, "a webhook of discord.com is a secret"),
        ({**MAIL, "user_env": "USER"}, "needs both 'user_env' and 'password_env'"),
    ],
)
def test_wrong_target_is_refused_with_its_place(target: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        build(target)


@pytest.mark.parametrize(
    "target",
    [
        {**HOOK, "url": "https://me:hush-hush@h/in"},
        {"type": "slack", "name": "chat", "url": "https://hooks.slack.com/services/hush-hush"},
        {**HOOK, "secret_env": "hush-hush"},
        {**MAIL, "user_env": "USER", "password_env": "hush-hush"},
    ],
)
def test_secret_in_the_file_is_refused_and_not_repeated_in_the_error(target: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"url_env|NAME of an environment variable") as caught:
        build(target)
    assert "hush-hush" not in str(caught.value)


def test_two_targets_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="two targets are called 'ops'"):
        build(HOOK, HOOK)


def test_waits_that_do_not_rise_are_refused() -> None:
    with pytest.raises(ConfigError, match="0 < 'first' <= 'most' <= 'give_up_after'"):
        build(HOOK, retry={"first": "10m", "most": "5m"})
