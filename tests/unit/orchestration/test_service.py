"""When a deployment is done: every replica knows the version."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from ray_mlops.errors import DeadlineError
from ray_mlops.orchestration.service import wait_for_version
from ray_mlops.serving.launch import GatewayAddress

ADDRESS = GatewayAddress("http://gateway", 8000, replicas=2)


def answer(replica: str, **versions: str) -> httpx.Response:
    models = [{"name": name, "champion": {"version": version}} for name, version in versions.items()]
    return httpx.Response(200, json={"models": models, "replica": replica})


def given(monkeypatch: pytest.MonkeyPatch, answers: Iterator[httpx.Response | Exception]) -> list[str]:
    asked: list[str] = []

    def get(url: str, **_: Any) -> httpx.Response:
        asked.append(url)
        found = next(answers)
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(httpx, "get", get)
    return asked


def test_one_replica_that_knows_the_version_is_not_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [
        answer("a"),
        answer("a", m="1"),
        answer("b"),
        httpx.Response(503, json={}),
        answer("a", m="2"),
        httpx.ConnectError("refused"),
        answer("a", m="2"),
        answer("b", m="1"),
        answer("b", m="2"),
    ]
    asked = given(monkeypatch, iter(answers))
    wait_for_version(ADDRESS, "m", "2", 30.0)
    assert len(asked) == len(answers), "it waited for the last"


def test_replica_that_never_hears_of_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, iter([answer("a", m="2")] + [answer("b")] * 1000))
    with pytest.raises(DeadlineError, match=r"version 2 is served by 1 of 2 replicas; one says .*\"b\""):
        wait_for_version(ADDRESS, "m", "2", 0.2)
