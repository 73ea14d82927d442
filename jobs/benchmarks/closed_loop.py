"""A closed-loop client: each connection asks again as soon as it is answered, and every answer is checked."""

import asyncio
import threading
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

ANSWER_TIMEOUT_S = 15.0
RECONNECT_S = 0.02


@dataclass(slots=True)
class LoopResult:
    """What the client has seen."""

    requests: int = 0
    failed: int = 0
    seconds: float = 0.0
    longest_gap_s: float = 0.0
    """Longest time in which no connection had a good answer."""
    latencies_s: list[float] = field(default_factory=list)
    examples: list[str] = field(default_factory=list)
    """The first few failures."""


class ClosedLoop:
    """Runs in a thread, from entering the block until it is left.

    Args:
        port: Of the server on this machine.
        path: Path of the request.
        body: JSON; ``%KEY%`` in it is replaced by a new routing key for each request.
        connections: Requests that are under way at any time.
    """

    def __init__(self, port: int, path: str, body: bytes, connections: int = 8) -> None:
        self.result = LoopResult()
        self._port, self._path, self._body, self._connections = port, path, body, connections
        self._stop = threading.Event()
        self._last_good = 0.0
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="closed-loop")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    async def _run(self) -> None:
        start = self._last_good = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for number in range(self._connections):
                group.create_task(self._ask(number))
        self.result.seconds = time.perf_counter() - start

    async def _ask(self, number: int) -> None:
        count = 0
        while not self._stop.is_set():
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            except OSError as error:
                self._fail(repr(error))
                await asyncio.sleep(RECONNECT_S)
                continue
            try:
                while not self._stop.is_set():
                    count += 1
                    keep = await self._exchange(reader, writer, f"{number}-{count}".encode())
                    if not keep:
                        break
            except (OSError, asyncio.IncompleteReadError, TimeoutError, ValueError) as error:
                self._fail(repr(error))
            finally:
                writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, key: bytes) -> bool:
        """One request; returns whether the connection may be used again."""
        body = self._body.replace(b"%KEY%", key)
        head = f"POST {self._path} HTTP/1.1\r\nhost: b\r\ncontent-type: application/json\r\n"
        start = time.perf_counter()
        writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            header = await reader.readuntil(b"\r\n\r\n")
            length = _length_of(header)
            content = await reader.readexactly(length)
        now = time.perf_counter()
        status = header.split(b" ", 2)[1]
        self.result.requests += 1
        if status == b"200":
            self.result.latencies_s.append(now - start)
            self.result.longest_gap_s = max(self.result.longest_gap_s, now - self._last_good)
            self._last_good = now
        else:
            self._fail(f"{status.decode()} {content[:200]!r}", counted=True)
        return b"connection: close" not in header.lower()

    def _fail(self, what: str, *, counted: bool = False) -> None:
        self.result.failed += 1
        self.result.requests += not counted
        if len(self.result.examples) < 5:
            self.result.examples.append(what)


def _length_of(header: bytes) -> int:
    for line in header.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    raise ValueError(f"an answer without a length: {header[:100]!r}")
