"""The client's own mistakes are told before anything is sent."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
import pytest

from ray_mlops.errors import (
    GateRefusedError,
    ModelNotFoundError,
    OverloadError,
    RayMLOpsError,
    RequestError,
    RolloutError,
    UnauthorizedError,
)
from ray_mlops.serving.client import Client, _error
from ray_mlops.serving.http.refusal import refusal


@pytest.mark.parametrize("value", [2**70, "\ud800", object()])
def test_value_that_json_cannot_hold_is_a_request_error(value: object) -> None:
    with Client("http://127.0.0.1:9", "m") as client, pytest.raises(RequestError, match="cannot be sent as JSON"):
        client.predict([{"x": value}])


@pytest.mark.parametrize("kind", [RolloutError, GateRefusedError, ModelNotFoundError, UnauthorizedError])
def test_refusal_of_an_operator_arrives_as_what_it_was(kind: type[RayMLOpsError]) -> None:
    error = kind("is wrong", "model 'm'", "do this")
    response = refusal(error)
    found = _error(httpx.Response(response.status, content=response.body), "POST /rollout/start")
    assert type(found) is kind
    assert found.args == error.args


class Script:
    """A service that answers with statuses in turn, the last for ever; and a client of it, which waits at once."""

    def __init__(
        self, *statuses: int | str | type[httpx.TransportError], headers: Mapping[str, str] | None = None
    ) -> None:
        self.bodies: list[Any] = []
        self.pauses_s: list[float] = []
        self._statuses, self._headers = list(statuses), headers or {}
        self.client = Client("http://service", "m", sleep=self.pauses_s.append)
        self.client._http = httpx.Client(base_url="http://service", transport=httpx.MockTransport(self._answer))

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.bodies.append(json.loads(request.content))
        status = self._statuses.pop(0) if len(self._statuses) > 1 else self._statuses[0]
        if isinstance(status, type):
            raise status("the connection broke")
        if isinstance(status, str):
            return httpx.Response(500, text=status)
        return httpx.Response(status, json={"accepted": 1}, headers=self._headers)


LABEL = {"id": "a", "label": 1}


@pytest.mark.parametrize("status", [429, 503])
def test_feedback_is_repeated_while_the_service_is_full(status: int) -> None:
    script = Script(status, status, status, 200, headers={"retry-after": "1"})
    assert script.client.feedback([LABEL], patience_s=60.0) == {"accepted": 1}
    assert script.pauses_s == [1.0, 2.0, 4.0]
    assert script.bodies == [{"labels": [LABEL]}] * 4


@pytest.mark.parametrize(
    ("status", "patience_s", "pauses_s"), [(503, 10.0, [0.5, 1.0, 2.0, 4.0]), (503, 0.0, []), (500, 60.0, [])]
)
def test_patience_ends_and_only_a_full_service_is_worth_it(
    status: int, patience_s: float, pauses_s: Sequence[float]
) -> None:
    script = Script(status)
    with pytest.raises(OverloadError, match=f"HTTP {status}"):
        script.client.feedback([LABEL], patience_s=patience_s)
    assert script.pauses_s == pauses_s


def test_predictions_are_asked_for_once() -> None:
    script = Script(503)
    with pytest.raises(OverloadError):
        script.client.predict([{"x": 1}])
    assert (len(script.bodies), script.pauses_s) == (1, [])


LOST = [httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError, "Internal Server Error, says the ingress"]


@pytest.mark.parametrize("lost", LOST)
def test_rows_and_labels_of_a_broken_connection_are_sent_once_more_as_they_were(lost: Any) -> None:
    script = Script(lost, 200)
    assert script.client.predict([{"x": 1}]) == {"accepted": 1}
    assert len(script.bodies) == 2
    assert script.pauses_s == [0.1]
    assert script.bodies[0] == script.bodies[1]
    assert len(script.bodies[0]["request_id"]) == 32
    named = Script(lost, 200)
    named.client.predict([{"x": 1}], ids=["a"])
    named.client.feedback([LABEL])
    assert named.bodies == [{"instances": [{"x": 1}], "ids": ["a"]}] * 2 + [{"labels": [LABEL]}]


@pytest.mark.parametrize("lost", [*LOST, httpx.ConnectError, httpx.ReadTimeout])
def test_commands_are_never_repeated_nor_calls_that_nobody_took(lost: Any) -> None:
    script = Script(lost, 200)
    with pytest.raises(OverloadError, match=r"no answer: the connection broke|HTTP 500: Internal"):
        script.client.command("promote")
    unheard = Script(httpx.ConnectError, 200)
    with pytest.raises(OverloadError, match="no answer"):
        unheard.client.predict([{"x": 1}])
    twice = Script(httpx.ReadError)
    with pytest.raises(OverloadError, match="no answer"):
        twice.client.predict([{"x": 1}])
    assert [len(each.bodies) for each in (script, unheard, twice)] == [1, 1, 2]


def test_labels_may_be_corrections_one_by_one_or_all() -> None:
    script = Script(200)
    script.client.feedback([LABEL, {**LABEL, "correction": True}])
    script.client.feedback([LABEL, LABEL], correction=True)
    marks = [[label.get("correction") for label in body["labels"]] for body in script.bodies]
    assert marks == [[None, True], [True, True]]
