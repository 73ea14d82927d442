"""The client's own mistakes are told before anything is sent."""

import pytest

from ray_mlops.errors import RequestError
from ray_mlops.serving.client import Client


@pytest.mark.parametrize("value", [2**70, "\ud800", object()])
def test_value_that_json_cannot_hold_is_a_request_error(value: object) -> None:
    with Client("http://127.0.0.1:9", "m") as client, pytest.raises(RequestError, match="cannot be sent as JSON"):
        client.predict([{"x": value}])
