"""Compressed bodies: read within a bound, and written where the client takes them."""

import asyncio
import gzip
import zlib
from typing import Any

import pytest

from ray_mlops.errors import PayloadTooLargeError, RequestError
from ray_mlops.serving.http.asgi import Response
from ray_mlops.serving.http.compression import choose_encoding, compress_answer, decode_body, decompress

TEXT = b'{"instances": []}' * 10


def deflate_raw(content: bytes) -> bytes:
    writer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return writer.compress(content) + writer.flush()


@pytest.mark.parametrize(
    ("encoding", "body"),
    [(b"gzip", gzip.compress(TEXT)), (b"deflate", zlib.compress(TEXT)), (b"deflate", deflate_raw(TEXT))],
)
def test_decompress_reads_every_form(encoding: bytes, body: bytes) -> None:
    assert decompress(body, encoding, len(TEXT)) == TEXT
    with pytest.raises(PayloadTooLargeError):
        decompress(body, encoding, len(TEXT) - 1)


def test_bomb_is_given_up_at_the_limit() -> None:
    bomb = gzip.compress(bytes(200 * 1024 * 1024), 9)
    assert len(bomb) < 256 * 1024
    with pytest.raises(PayloadTooLargeError, match="larger than 1000 bytes"):
        decompress(bomb, b"gzip", 1000)


@pytest.mark.parametrize(
    ("encoding", "body", "said"),
    [
        (b"br", b"", "content-encoding 'br' is not supported"),
        (b"gzip, gzip", gzip.compress(TEXT), "is not supported"),
        (b"gzip", TEXT, "not valid gzip"),
        (b"gzip", b"", "ends in the middle"),
        (b"gzip", gzip.compress(TEXT)[:-9], "ends in the middle"),
        (b"gzip", gzip.compress(TEXT)[:-1] + b"\x07", "not valid gzip"),
        (b"gzip", gzip.compress(TEXT) + b"more", "4 bytes follow"),
        (b"deflate", b"\xff\xff\xff", "not valid deflate"),
        (b"deflate", b"", "ends in the middle"),
    ],
)
def test_damaged_body_is_refused(encoding: bytes, body: bytes, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        decompress(body, encoding, 10_000)


def test_body_is_decoded_by_the_header() -> None:
    assert asyncio.run(decode_body({b"content-encoding": b" GZIP"}, gzip.compress(TEXT), 10_000)) == TEXT
    assert asyncio.run(decode_body({b"content-encoding": b"identity"}, TEXT, 10_000)) == TEXT
    assert asyncio.run(decode_body({}, TEXT, 10_000)) == TEXT


@pytest.mark.parametrize("size", [2_000, 200_000])
@pytest.mark.parametrize(("encoding", "read"), [(b"gzip", gzip.decompress), (b"deflate", zlib.decompress)])
def test_answer_is_compressed_where_the_client_takes_it(encoding: bytes, read: Any, size: int) -> None:
    response = Response(200, b"x" * size, headers=((b"a", b"b"),))
    sent = asyncio.run(compress_answer({b"accept-encoding": encoding}, response))
    assert sent.headers == ((b"a", b"b"), (b"content-encoding", encoding))
    assert read(sent.body) == response.body
    assert len(sent.body) < size / 10


@pytest.mark.parametrize("headers", [{}, {b"accept-encoding": b"br"}, {b"accept-encoding": b"gzip;q=0"}])
def test_answer_stays_as_it_is(headers: dict[bytes, bytes]) -> None:
    response = Response(200, b"x" * 5_000)
    assert asyncio.run(compress_answer(headers, response)) is response


def test_short_answer_stays_as_it_is() -> None:
    response = Response(200, b"x" * 100)
    assert asyncio.run(compress_answer({b"accept-encoding": b"gzip"}, response)) is response


@pytest.mark.parametrize(
    ("accepted", "chosen"),
    [
        (b"deflate", b"deflate"),
        (b"GZIP", b"gzip"),
        (b"gzip;q=0.0, deflate;q=0.1", b"deflate"),
        (b"*", None),
        (b"", None),
    ],
)
def test_choose_encoding(accepted: bytes, chosen: bytes | None) -> None:
    assert choose_encoding(accepted) == chosen
