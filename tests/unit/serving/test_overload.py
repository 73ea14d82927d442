"""Slow, large, many and vanishing clients: each bound is a value, a refusal says so, and a place is given back."""

import asyncio
import gzip
from collections.abc import Callable, Coroutine
from typing import Any

import grpc
import orjson
import pytest

from ray_mlops.errors import OverloadError, RequestTimeoutError
from ray_mlops.serving.admission import Admission
from ray_mlops.serving.dialects.grpc_service import GrpcService
from ray_mlops.serving.dialects.open_inference_pb2 import ModelInferRequest
from ray_mlops.serving.http import bodies
from ray_mlops.serving.http.bodies import BodyReader

ROW = {"distance": 200.0, "carrier": "UA"}
BODY = orjson.dumps({"instances": [ROW]})
PATHS = ("/predict", "/v2/models/flights/infer", "/invocations", "/feedback")


def run(test: Callable[..., Coroutine[Any, Any, None]]) -> Any:
    """Run an asynchronous test."""
    import functools
    import inspect

    @functools.wraps(test)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))

    wrapper.__signature__ = inspect.signature(test)  # type: ignore[attr-defined]
    return wrapper


class Connection:
    """One request over raw ASGI: a body in pieces, then silence until the client leaves."""

    def __init__(self, rig: Any, path: str, *pieces: bytes, more: bool = False, **headers: str) -> None:
        self._pieces, self._more = list(pieces), more
        self.has_left = asyncio.Event()
        self.taken = 0
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.body = b""
        scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()],
        }
        self.task = asyncio.create_task(rig.gateway(scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        if self._pieces:
            self.taken += 1
            piece = self._pieces.pop(0)
            return {"type": "http.request", "body": piece, "more_body": bool(self._pieces) or self._more}
        await self.has_left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], dict(message["headers"])
        else:
            self.body += message["body"]


class Call:
    """A gRPC call that remembers its status."""

    code: Any = None
    details = ""

    def invocation_metadata(self) -> Any:
        return ()

    def peer(self) -> str:
        return "unix:"

    def set_code(self, code: Any) -> None:
        self.code = code

    def set_details(self, details: str) -> None:
        self.details = details


async def settle() -> None:
    """Let everything run that can."""
    for _ in range(20):
        await asyncio.sleep(0)


def hold_places(rig: Any, kit: Any, running: int, waiting: int, **limits: Any) -> asyncio.Event:
    """Let the candidate keep its requests until told; returns what tells it."""
    serving = {"max_ongoing_requests": running, "max_queued_requests": waiting, **limits}
    rig.change(serving=rig.serving.model_copy(update=serving))
    release = asyncio.Event()

    async def answer_late(rows: Any) -> Any:
        await release.wait()
        return kit.prediction([0.5])

    rig.arms.behaviours["2"] = answer_late
    rig.gateway.predicting._answering._max_on_trial = 100
    return release


# -- bodies -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
@run
async def test_body_in_chunks_without_a_length_is_read_and_bounded(rig: Any, path: str) -> None:
    rig.change(serving=rig.serving.model_copy(update={"max_body_mb": 100 / 1024 / 1024}))
    await rig.apply()
    pieces = [BODY[start : start + 3] for start in range(0, len(BODY), 3)]
    chunked = Connection(rig, path, *pieces, content_type="application/json")
    endless = Connection(rig, path, *[b" " * 30] * 100, more=True)
    await asyncio.gather(chunked.task, endless.task)
    assert chunked.status == (200 if path in ("/predict", "/invocations") else 400), chunked.body
    assert (endless.status, endless.taken) == (413, 4), "nothing is read beyond the limit"
    assert rig.gateway._bodies.held_bytes == 0


@pytest.mark.parametrize("path", PATHS)
@run
async def test_body_that_trickles_is_given_up_and_held_no_place(
    rig: Any, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "LOOK_S", 0.0)
    rig.change(serving=rig.serving.model_copy(update={"body_timeout_s": 1e-9, "max_ongoing_requests": 1}))
    await rig.apply()
    slow = [Connection(rig, path, BODY[:5], more=True) for _ in range(3)]
    nothing = Connection(rig, path)
    assert rig.gateway._admission.num_running == 0
    await asyncio.gather(nothing.task, *(connection.task for connection in slow))
    for connection in (nothing, *slow):
        assert connection.status == 408
        assert b"the body was not complete after 1e-09 s" in connection.body
        assert connection.headers[b"connection"] == b"close", "the rest is not waited for"
    assert (rig.gateway._bodies.held_bytes, rig.telemetry.num_in_flight) == (0, 0)
    assert rig.telemetry.refused == {("flights", "408"): 4}


@run
async def test_slow_clients_hold_up_nobody(rig: Any) -> None:
    rig.change(serving=rig.serving.model_copy(update={"max_ongoing_requests": 1, "max_queued_requests": 1}))
    await rig.apply()
    slow = [Connection(rig, "/predict", BODY[:5], more=True) for _ in range(50)]
    await settle()
    quick = Connection(rig, "/predict", BODY)
    await quick.task
    assert quick.status == 200
    for connection in slow:
        connection.has_left.set()
    await asyncio.gather(*(connection.task for connection in slow))
    assert {connection.status for connection in slow} == {0}, "whoever left is not answered"
    assert (rig.gateway._bodies.held_bytes, rig.telemetry.num_in_flight) == (0, 0)


@run
async def test_bodies_together_are_bounded(rig: Any) -> None:
    limits = {"max_held_mb": 20 / 1024 / 1024, "max_body_mb": 100 / 1024 / 1024}
    rig.change(serving=rig.serving.model_copy(update=limits))
    await rig.apply()
    first = Connection(rig, "/predict", b" " * 60, more=True)
    await settle()
    second = Connection(rig, "/predict", b" " * 60)
    await second.task
    assert (second.status, second.headers[b"retry-after"]) == (503, b"1")
    assert b"bodies of 104 bytes are held already" in second.body or b"bodies of 100 bytes" in second.body
    first.has_left.set()
    await first.task
    third = Connection(rig, "/predict", BODY)
    await third.task
    assert third.status == 200, "one body always fits"


@run
async def test_reader_tells_its_own_deadline_from_a_cancelled_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "LOOK_S", 0.0)
    never = asyncio.Event()

    async def receive() -> Any:
        await never.wait()

    late, patient = BodyReader(10, 10, 1e-9), BodyReader(10, 10, 60.0)
    with pytest.raises(RequestTimeoutError, match=r"raise serving\.body_timeout_s"):
        await late.read({}, receive)
    task = asyncio.create_task(patient.read({}, receive))
    await settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await settle()
    assert not patient._is_looking, "no timer is left where nobody reads"


# -- places -------------------------------------------------------------------------------------------


@run
async def test_queue_is_bounded_and_says_when_to_come_back(rig: Any, kit: Any) -> None:
    release = hold_places(rig, kit, running=1, waiting=1)
    await rig.apply(kit.split(0.9999999))
    answered = [Connection(rig, "/predict", BODY) for _ in range(2)]
    await settle()
    bodies_of = {
        "/predict": BODY,
        "/invocations": BODY,
        "/feedback": orjson.dumps({"labels": [{"id": "a", "label": 1}]}),
        "/v2/models/flights/infer": b"{}",
    }
    refused = [Connection(rig, path, body) for path, body in bodies_of.items()]
    await asyncio.gather(*(connection.task for connection in refused))
    for connection in refused:
        assert (connection.status, connection.headers[b"retry-after"]) == (503, b"1")
        assert b"1 requests are running and 1 waiting" in connection.body
    release.set()
    await asyncio.gather(*(connection.task for connection in answered))
    assert [connection.status for connection in answered] == [200, 200]


@run
async def test_queue_is_the_same_for_grpc(rig: Any, kit: Any) -> None:
    release = hold_places(rig, kit, running=1, waiting=0)
    await rig.apply(kit.split(0.9999999))
    running = Connection(rig, "/predict", BODY)
    await settle()
    call = Call()
    await GrpcService(rig.gateway, rig.parts).model_infer(ModelInferRequest(model_name="flights"), call)
    assert (call.code, call.details[:37]) == (grpc.StatusCode.UNAVAILABLE, "gateway: 1 requests are running and 0")
    release.set()
    await running.task
    assert running.status == 200


@run
async def test_request_waits_only_so_long_for_a_place(rig: Any, kit: Any) -> None:
    release = hold_places(rig, kit, running=1, waiting=5, request_timeout_s=1e-3)
    await rig.apply(kit.split(0.9999999))
    running = Connection(rig, "/predict", BODY)
    await settle()
    waiting = Connection(rig, "/predict", BODY)
    await waiting.task
    assert (waiting.status, waiting.headers[b"retry-after"]) == (503, b"1")
    assert b"no place was free for 0.001 s" in waiting.body
    release.set()
    await running.task
    assert (running.status, rig.gateway._admission.num_running) == (200, 0)


@run
async def test_client_that_leaves_the_queue_is_not_predicted(rig: Any, kit: Any) -> None:
    release = hold_places(rig, kit, running=1, waiting=1)
    await rig.apply(kit.split(0.9999999))
    running, leaving = Connection(rig, "/predict", BODY), Connection(rig, "/predict", BODY)
    await settle()
    leaving.has_left.set()
    await leaving.task
    assert (leaving.status, rig.gateway._admission.num_waiting) == (0, 0)
    next_one = Connection(rig, "/predict", BODY)
    await settle()
    release.set()
    await asyncio.gather(running.task, next_one.task)
    assert (running.status, next_one.status, rig.arms.calls) == (200, 200, 2), "its place went to the next"
    assert (rig.gateway._admission.num_running, rig.gateway._bodies.held_bytes) == (0, 0)


@pytest.mark.parametrize("victim", ["running", "waiting"])
@run
async def test_cancelled_request_frees_its_place(rig: Any, kit: Any, victim: str) -> None:
    release = hold_places(rig, kit, running=1, waiting=2)
    await rig.apply(kit.split(0.9999999))
    requests = {name: Connection(rig, "/predict", BODY) for name in ("running", "waiting", "last")}
    await settle()
    requests.pop(victim).task.cancel()
    await settle()
    release.set()
    await asyncio.gather(*(connection.task for connection in requests.values()))
    assert [connection.status for connection in requests.values()] == [200, 200]
    assert (rig.gateway._admission.num_running, rig.gateway._bodies.held_bytes) == (0, 0)
    assert rig.telemetry.num_in_flight == 0


@run
async def test_place_that_is_handed_to_a_cancelled_request_goes_on_to_the_next() -> None:
    admission = Admission(1, 5)
    await admission.enter()
    first, second = (asyncio.create_task(admission.enter()) for _ in range(2))
    await settle()
    admission.leave()  # the place is handed to the first, which is cancelled before it can take it
    first.cancel()
    await settle()
    assert (first.cancelled(), second.done(), admission.num_running) == (True, True, 1)
    admission.leave()
    assert admission.num_running == 0


@run
async def test_those_who_gave_up_do_not_fill_the_queue() -> None:
    admission = Admission(1, 2)
    await admission.enter()
    for _ in range(10):
        waiting = asyncio.create_task(admission.enter())
        await settle()
        waiting.cancel()
        await settle()
    assert admission.num_waiting == 0
    tasks = [asyncio.create_task(admission.enter()) for _ in range(2)]
    await settle()
    with pytest.raises(OverloadError, match="2 waiting"):
        await admission.enter()
    for _ in range(3):
        admission.leave()
    await asyncio.gather(*tasks)
    assert admission.num_running == 0


# -- memory -------------------------------------------------------------------------------------------


def bad_bodies(index: int) -> list[tuple[str, bytes, dict[str, str]]]:
    """Requests that are wrong in many ways, and different each time."""
    unique = str(index).encode()
    return [
        ("/predict", b'{"instances": [{"x%s": 1}]}' % unique, {}),
        ("/predict", b'{"instances": [{"distance": "%s", "carrier": "UA"}]}' % unique, {"x_request_id": f"r{index}"}),
        (f"/models/ships{index}/predict", BODY, {}),
        (f"/nothing/{index}", b"", {}),
        ("/predict", gzip.compress(bytes(100_000)), {"content_encoding": "gzip"}),
        ("/predict", b"[" * 100, {}),
        ("/invocations", b"a%s,b\n1" % unique, {"content_type": "text/csv"}),
        ("/v2/models/flights/infer", b'{"inputs": [{"name": "n%s"}]}' % unique, {}),
        (f"/v2/models/flights/versions/v{index}/infer", b"{}", {}),
        ("/feedback", b'{"labels": [{"id": "%s", "label": "z"}]}' % unique, {}),
        ("/predict", BODY, {"x_model_version": f"v{index}"}),
    ]


@run
async def test_bad_requests_leave_nothing_behind(rig: Any) -> None:
    rig.change(serving=rig.serving.model_copy(update={"max_body_mb": 0.01}))
    await rig.apply()

    def sizes() -> dict[str, int]:
        telemetry, log, answering = rig.telemetry, rig.log, rig.gateway.predicting._answering
        return {
            "refused": len(telemetry.refused),
            "series": len(telemetry.requests),
            "tallies": len(telemetry.changed()),
            "in flight": telemetry.num_in_flight,
            "log": log._held_rows + len(log._buffer) + sum(len(ids) for ids in log._recent._recent.values()),
            "windows": len(log._windows),
            "trials": len(answering._trials),
            "held": rig.gateway._bodies.held_bytes + len(rig.gateway._bodies._began),
            "places": rig.gateway._admission.num_running + len(rig.gateway._admission._waiting),
        }

    async def ask(index: int) -> None:
        for path, body, headers in bad_bodies(index):
            connection = Connection(rig, path, body, **headers)
            await connection.task
            assert 400 <= connection.status < 500, (path, connection.status, connection.body)

    await ask(0)
    after_one = sizes()
    for index in range(1, 150):
        await ask(index)
    assert sizes() == after_one
    assert after_one["log"] == after_one["series"] == 0
    assert [*rig.files.names("predictions"), *rig.files.names("labels")] == []
