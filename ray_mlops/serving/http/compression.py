"""Bodies that travel compressed: gzip and deflate, bounded in both directions."""

import asyncio
import re
import zlib
from collections.abc import Mapping
from dataclasses import replace

from ray_mlops.errors import RequestError
from ray_mlops.serving.http.asgi import Response, too_large

MIN_COMPRESSED_BYTES = 1024
"""A shorter answer is sent as it is: compressing costs more than it saves."""
_THREAD_BYTES = 64 * 1024
"""From here on compressing takes a millisecond or more, and runs in a thread."""
_WINDOW_BITS = {b"gzip": zlib.MAX_WBITS | 16, b"deflate": zlib.MAX_WBITS}
_LEVEL = 1
_REFUSED = re.compile(rb"q=0(\.0*)?")


async def decode_body(headers: Mapping[bytes, bytes], body: bytes, limit_bytes: int) -> bytes:
    """Decompress a body where its headers say that it is compressed.

    Raises:
        PayloadTooLargeError: It is over the limit decompressed.
        RequestError: It is damaged, or compressed in another way.
    """
    encoding = headers.get(b"content-encoding")
    if encoding is None or encoding == b"identity":
        return body
    return await asyncio.to_thread(decompress, body, encoding.strip().lower(), limit_bytes)


def decompress(body: bytes, encoding: bytes, limit_bytes: int) -> bytes:
    """Decompress a body, giving up as soon as it is over the limit.

    Args:
        body: As it came.
        encoding: ``gzip``, or ``deflate`` (zlib's format, or bare deflate as some clients send it).
        limit_bytes: The most that may come out.

    Raises:
        PayloadTooLargeError: More would come out.
        RequestError: Another encoding, or the body is damaged or cut off.
    """
    window_bits = _WINDOW_BITS.get(encoding)
    if window_bits is None:
        problem = f"content-encoding {encoding.decode('latin-1')!r} is not supported"
        raise RequestError(problem, "headers", "use gzip or deflate, or send the body as it is")
    if encoding == b"deflate" and body and not _is_zlib(body):
        window_bits = -zlib.MAX_WBITS
    reader = zlib.decompressobj(window_bits)
    try:
        content = reader.decompress(body, limit_bytes + 1)
    except zlib.error as error:
        raise RequestError(f"the body is not valid {encoding.decode()}: {error}", "body") from None
    if len(content) > limit_bytes:
        raise too_large(limit_bytes)
    if not reader.eof:
        raise RequestError(f"the body ends in the middle of its {encoding.decode()} stream", "body")
    if reader.unused_data:
        raise RequestError(f"{len(reader.unused_data)} bytes follow the {encoding.decode()} stream", "body")
    return content


async def compress_answer(headers: Mapping[bytes, bytes], response: Response) -> Response:
    """Compress an answer if the client takes that and it is long enough."""
    accepted = headers.get(b"accept-encoding")
    if accepted is None or len(response.body) < MIN_COMPRESSED_BYTES:
        return response
    encoding = choose_encoding(accepted)
    if encoding is None:
        return response
    if len(response.body) < _THREAD_BYTES:
        body = _compress(response.body, encoding)
    else:
        body = await asyncio.to_thread(_compress, response.body, encoding)
    return replace(response, body=body, headers=(*response.headers, (b"content-encoding", encoding)))


def choose_encoding(accepted: bytes) -> bytes | None:
    """The encoding that an ``Accept-Encoding`` header allows, the first of gzip and deflate; None: neither.

    Example:
        >>> choose_encoding(b"br, gzip;q=0.5, deflate"), choose_encoding(b"gzip;q=0, deflate"), choose_encoding(b"br")
        (b'gzip', b'deflate', None)
    """
    offered = set()
    for part in accepted.lower().split(b","):
        name, _, weight = part.partition(b";")
        if not _REFUSED.fullmatch(weight.replace(b" ", b"")):
            offered.add(name.strip())
    return next((encoding for encoding in _WINDOW_BITS if encoding in offered), None)


def _compress(body: bytes, encoding: bytes) -> bytes:
    writer = zlib.compressobj(_LEVEL, zlib.DEFLATED, _WINDOW_BITS[encoding])
    return writer.compress(body) + writer.flush()


def _is_zlib(body: bytes) -> bool:
    """Whether the two bytes of zlib's header are there: method 8, and a multiple of 31."""
    return len(body) > 1 and body[0] & 0x0F == 8 and int.from_bytes(body[:2], "big") % 31 == 0
