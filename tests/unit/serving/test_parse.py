"""Requests: what is accepted, and what is said about the rest."""

import asyncio
from typing import Any

import numpy as np
import orjson
import pytest

from ray_mlops.errors import PayloadTooLargeError, RequestError
from ray_mlops.serving.http.asgi import read_body
from ray_mlops.serving.http.json_body import parse_json
from ray_mlops.serving.http.parse import InputColumns, Limits, parse_event_time
from ray_mlops.serving.http.parse import parse_predict as parse
from ray_mlops.serving.http.parse_operations import parse_command, parse_labels
from ray_mlops.serving.protocol import LabelRecord

LIMITS = Limits(body_bytes=1000, rows=5, depth=4)
COLUMNS = InputColumns(frozenset({"distance", "carrier"}), frozenset({"distance", "carrier", "wind"}), "at")
ROW = {"distance": 1.0, "carrier": "UA"}


def body(**content: Any) -> bytes:
    return orjson.dumps(content)


def test_predict_fills_in_ids_from_the_transport() -> None:
    request = parse(body(instances=[ROW, ROW]), COLUMNS, LIMITS, transport_id="abc")
    assert request.ids == ["abc-0", "abc-1"]
    assert request.request_id == "abc"
    assert not request.is_named


def test_predict_without_any_id_makes_one() -> None:
    first, second = (parse(body(instances=[ROW]), COLUMNS, LIMITS, transport_id="no good id") for _ in range(2))
    assert first.request_id != second.request_id
    assert first.ids == [f"{first.request_id}-0"]


def test_predict_with_ids_routes_by_the_first() -> None:
    request = parse(body(instances=[ROW, ROW], ids=["x", "y"]), COLUMNS, LIMITS, transport_id="abc")
    assert (request.request_id, request.is_named) == ("x", True)
    assert parse(body(instances=[ROW], ids=["x"], request_id="r"), COLUMNS, LIMITS).request_id == "r"


def test_event_time_is_taken_out_of_the_row() -> None:
    rows = [{**ROW, "at": "1970-01-01T00:00:01+00:00"}, {**ROW, "at": "1970-01-01T00:00:02"}, ROW, {**ROW, "at": None}]
    request = parse(body(instances=rows), COLUMNS, LIMITS, arrival_us=7)
    assert request.event_us == [1_000_000, 2_000_000, 7, 7]
    assert all("at" not in row for row in request.rows)
    assert parse(body(instances=[ROW]), COLUMNS, LIMITS).event_us is None


def test_event_time_that_is_an_input_stays() -> None:
    columns = InputColumns(frozenset({"at"}), frozenset({"at"}), "at")
    request = parse(body(instances=[{"at": "1970-01-01T00:00:01Z"}]), columns, LIMITS)
    assert request.rows == [{"at": "1970-01-01T00:00:01Z"}]
    assert request.event_us == [1_000_000]


def test_column_of_another_loaded_version_is_accepted() -> None:
    assert parse(body(instances=[{**ROW, "wind": 3}]), COLUMNS, LIMITS).rows[0]["wind"] == 3


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the body is empty"),
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b'{"instances": [{"distance": NaN, "carrier": "a"}]}', "not JSON"),
        (b'{"instances": [{"distance": 1e999, "carrier": "a"}]}', "not JSON"),
        (b"[]", "expected a JSON object"),
        (body(instance=[ROW]), "did you mean 'instances'"),
        (body(instances=ROW), "expected a list of objects"),
        (body(instances=[]), "the list is empty"),
        (body(instances=[1]), r"instances\[0\]: expected an object"),
        (
            body(instances=[ROW, {"distnace": 1, "carrier": "UA"}]),
            r"instances\[1\]: unknown column 'distnace'; did you",
        ),
        (body(instances=[ROW, {"distance": 1}]), r"instances\[1\]: column 'carrier' is missing; send null"),
        (body(instances=[{**ROW, "at": 5}]), r"instances\[0\]\.at: expected an ISO 8601 time"),
        (body(instances=[{**ROW, "at": "yesterday"}]), "expected an ISO 8601 time"),
        (body(instances=[ROW], ids=["a", "b"]), "a list of 1 strings"),
        (body(instances=[ROW], ids=["../etc"]), r"ids\[0\]: '../etc' is no valid id"),
        (body(instances=[ROW], ids=["x" * 129]), "is no valid id"),
        (body(instances=[ROW], ids=[""]), "is no valid id"),
        (body(instances=[ROW], ids=["a\n"]), "is no valid id"),
        (body(instances=[ROW, ROW], ids=["a", "a"]), "'a' occurs twice"),
        (body(instances=[ROW], routing_key=5), "routing_key: expected a string"),
        (body(instances=[ROW], routing_key=""), "routing_key: expected a string"),
        (body(instances=[ROW], request_id="a b"), "request_id: 'a b' is no valid id"),
    ],
)
def test_predict_refuses(content: bytes, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        parse(content, COLUMNS, LIMITS)


def test_too_many_rows_are_too_large() -> None:
    with pytest.raises(PayloadTooLargeError, match="6 rows are more than 5"):
        parse(body(instances=[ROW] * 6), COLUMNS, LIMITS)


@pytest.mark.parametrize(("depth", "fits"), [(4, True), (5, False), (2000, False)])
def test_depth_is_limited(depth: int, fits: bool) -> None:
    content = b"[" * depth + b"]" * depth
    if fits:
        parse_json(content, 4)
        return
    with pytest.raises(RequestError, match="nested deeper"):
        parse_json(content, 4)


def test_brackets_in_strings_are_no_depth() -> None:
    content = orjson.dumps(["[[[[[[", '{"\\"[', "]]]"])
    assert parse_json(content, 2) == ["[[[[[[", '{"\\"[', "]]]"]
    with pytest.raises(RequestError, match="nested deeper"):
        parse_json(orjson.dumps(["]]]]", [[["x"]]]]), 2)


def test_depth_agrees_with_a_reader_of_single_characters() -> None:
    rng = np.random.default_rng(3)
    for _ in range(300):
        content = _any_json(rng, int(rng.integers(0, 7)))
        body, depth = orjson.dumps(content), _depth(content)
        parse_json(body, max(depth, 1))
        if depth > 1:
            with pytest.raises(RequestError, match="nested deeper"):
                parse_json(body, depth - 1)


def _any_json(rng: np.random.Generator, depth: int) -> Any:
    text = "".join(rng.choice(list('[]{}"\\\n,:a'), int(rng.integers(0, 8))))
    if depth == 0:
        return text
    inner = _any_json(rng, depth - 1)
    return [text, inner, text] if rng.random() < 0.5 else {text: inner, f"{text}]": text}


def _depth(content: Any) -> int:
    if not isinstance(content, list | dict):
        return 0
    return 1 + max(map(_depth, content.values() if isinstance(content, dict) else content))


@pytest.mark.parametrize("text", ["", "2024-13-01", "24"])
def test_event_time_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="x: expected an ISO 8601 time"):
        parse_event_time(text, "x")


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"])
def test_event_time_at_the_edge_of_the_calendar_is_read(text: str) -> None:
    assert abs(parse_event_time(text, "x")) < 2**63


def test_labels_are_read() -> None:
    content = body(labels=[{"id": "a", "label": 1}, {"id": "b", "label": "x", "time": "1970-01-01T00:00:01Z"}])
    assert parse_labels(content, LIMITS) == [LabelRecord("a", 1), LabelRecord("b", "x", 1_000_000)]


def test_label_says_whether_it_is_a_correction() -> None:
    labels = [{"id": "a", "label": 1, "correction": True}, {"id": "b", "label": 0, "correction": False}]
    assert parse_labels(body(labels=labels), LIMITS, 7) == [
        LabelRecord("a", 1, None, 7, is_correction=True),
        LabelRecord("b", 0, None, 7),
    ]


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([{"id": "a"}], r"labels\[0\]\.label: a label is missing"),
        ([{"label": 1}], r"labels\[0\]\.id: None is no valid id"),
        ([{"id": "a", "label": 1, "when": 2}], r"labels\[0\]: unknown key 'when'"),
        ([{"id": "a", "label": 1, "time": "x"}], r"labels\[0\]\.time: expected an ISO 8601"),
        (
            [{"id": "a", "label": 1}, {"id": "b", "label": 1, "correction": 1}],
            r"labels\[1\]\.correction: expected true or false, got 1",
        ),
        ([{"id": "a", "label": 1, "correction": "true"}], r"labels\[0\]\.correction: expected true or false"),
        ([{"id": "a", "label": 1, "correction": None}], r"labels\[0\]\.correction: expected true or false"),
    ],
)
def test_labels_refuse(labels: list[Any], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        parse_labels(body(labels=labels), LIMITS)


def test_command_may_be_empty_and_is_typed() -> None:
    assert parse_command(b"", LIMITS, {"reason": str}) == {}
    with pytest.raises(RequestError, match="expected a str, got 5"):
        parse_command(body(reason=5), LIMITS, {"reason": str})
    with pytest.raises(RequestError, match="did you mean 'reason'"):
        parse_command(body(raeson="x"), LIMITS, {"reason": str})


class Chunks:
    """An ASGI ``receive`` that counts what was taken."""

    def __init__(self, *chunks: bytes) -> None:
        self.chunks = list(chunks)
        self.taken = 0

    async def __call__(self) -> dict[str, Any]:
        self.taken += 1
        chunk = self.chunks.pop(0)
        return {"type": "http.request", "body": chunk, "more_body": bool(self.chunks)}


def test_body_in_chunks_is_put_together() -> None:
    assert asyncio.run(read_body({}, Chunks(b"ab", b"", b"c"), 10)) == b"abc"


def test_body_over_the_limit_is_not_read_to_the_end() -> None:
    receive = Chunks(*[b"x" * 6] * 100)
    with pytest.raises(PayloadTooLargeError):
        asyncio.run(read_body({}, receive, 10))
    assert receive.taken == 2


def test_declared_length_over_the_limit_reads_nothing() -> None:
    receive = Chunks(b"x")
    with pytest.raises(PayloadTooLargeError):
        asyncio.run(read_body({b"content-length": b"11"}, receive, 10))
    assert receive.taken == 0


@pytest.mark.parametrize("length", [b"-1", b"1e3", b"", b"9" * 5000, "²".encode("latin-1")])
def test_body_with_an_odd_length_is_refused(length: bytes) -> None:
    with pytest.raises(RequestError):
        asyncio.run(read_body({b"content-length": length}, Chunks(b"x"), 10))
