"""The client's own mistakes are told before anything is sent."""

import httpx
import pytest

from ray_mlops.errors import (
    GateRefusedError,
    ModelNotFoundError,
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
