"""Requests that failed, kept with their bodies until somebody has looked: ``failed/{model}/day=YYYY-MM-DD/``.

A request failed when its answer was a 5xx, or when the candidate failed it and the champion answered; refusals
(4xx) count where ``serving.log.failed_requests.client_errors`` says so. Kept are its body, the answer's, and why it
failed; of its headers only those without which the body cannot be read, so that no token is ever kept. Where
the log redacts a column, neither bodies nor the error's text are kept: each may hold what is redacted.

Best effort, unlike the prediction log: what waits for its writing is lost with the process.
"""

import asyncio
import base64
import logging
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import orjson

from ray_mlops.config import FailedRequestsConfig
from ray_mlops.errors import StoreError
from ray_mlops.runtime.files import Files

logger = logging.getLogger(__name__)
KEPT_HEADERS = ("content-type", "inference-header-content-length")
"""Headers without which a body cannot be read. No other is ever kept."""
MAX_WAITING, MAX_WAITING_BYTES = 1000, 8 * 2**20
"""Failures that wait for being written, and their bodies; more are dropped, and counted."""
MAX_FILES = 2000
"""Files of one model; the oldest give way."""
WRITE_INTERVAL_S = 1.0
SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Failure:
    """One request that failed."""

    time_us: int
    """Its arrival, microseconds since 1970 UTC."""
    model: str
    endpoint: str
    """``predict``, ``oip_infer`` or ``invocations``."""
    status: int
    """Of the answer; 200 where the champion answered for the candidate."""
    outcome: str
    """How the version did: `error`, `timeout`, `invalid`, `crashed`; `refused` for a 4xx."""
    error: str
    """What went wrong, as it was said."""
    version: str = ""
    """The version that failed; empty where the request came to none."""
    request_id: str = ""
    ids: tuple[str, ...] = ()
    """Prediction ids of its rows; none where it could not be parsed."""
    headers: Mapping[str, str] = field(default_factory=dict)
    body_bytes: int = 0
    body: bytes | None = None
    """None where it was too large, is redacted, or came as a message of gRPC."""
    instances: Sequence[Mapping[str, Any]] | None = None
    """Its rows as JSON has them, where they were parsed from something else."""
    response: bytes | None = None

    def line(self) -> bytes:
        """Write it as a line of JSON; a body that is no text as base64, rows that JSON cannot hold not at all."""
        content = asdict(self) | {"schema_version": SCHEMA_VERSION}
        for name in ("body", "response"):
            content |= _as_text(name, content.pop(name))
        try:
            return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE)
        except orjson.JSONEncodeError:
            return orjson.dumps({**content, "instances": None, "ids": []}, option=orjson.OPT_APPEND_NEWLINE)

    @classmethod
    def from_line(cls, line: bytes) -> "Failure":
        """Read what ``line`` wrote.

        Raises:
            ValueError: It is something else.
        """
        content = orjson.loads(line)
        if content.pop("schema_version") > SCHEMA_VERSION:
            raise ValueError(f"a newer release wrote it; this one reads version {SCHEMA_VERSION}")
        for name in ("body", "response"):
            text, encoded = content.pop(name), content.pop(f"{name}_base64")
            content[name] = base64.b64decode(encoded) if text is None and encoded is not None else _bytes(text)
        return cls(**{**content, "ids": tuple(content["ids"])})

    def names(self, ids: set[str]) -> bool:
        """Whether it is about one of these prediction ids; what was not parsed is searched as text."""
        if self.ids:
            return not ids.isdisjoint(self.ids)
        return self.body is not None and any(name.encode() in self.body for name in ids)


class FailedRequests:
    """Takes failures on the event loop, writes them in a thread.

    Args:
        files: The store.
        replica: Name of this incarnation of the replica.
        config: What is kept, and how much.

    Attributes:
        counts: Failures `noted`, `written`, `dropped` (too many waited, or the store took none); `evicted` counts
            files that gave way to newer ones.
    """

    def __init__(self, files: Files, replica: str, config: FailedRequestsConfig) -> None:
        self.config = config
        self.counts: Counter[str] = Counter(noted=0, written=0, dropped=0, evicted=0)
        self._files, self._replica = files, replica
        self._max_body_bytes, self._max_bytes = int(config.max_body_kb * 1024), int(config.max_mb * 2**20)
        self._waiting: deque[Failure] = deque()
        self._waiting_bytes = 0
        self._held: dict[str, tuple[int, int]] = {}
        """Files and bytes of each model, about."""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Write in the background from now on."""
        self._task = asyncio.create_task(self._run())

    def wants(self, status: int) -> bool:
        """Whether an answer of this status is kept."""
        return self.config.enabled and (status >= 500 or (status >= 400 and self.config.client_errors))

    def fits(self, body: bytes | None) -> bytes | None:
        """A body, unless it is too large to be kept."""
        return body if body is not None and len(body) <= self._max_body_bytes else None

    def note(self, failure: Failure) -> None:
        """Take a failure, or drop it where too many wait."""
        self.counts["noted"] += 1
        size = _size(failure)
        if len(self._waiting) >= MAX_WAITING or self._waiting_bytes + size > MAX_WAITING_BYTES:
            self.counts["dropped"] += 1
            return
        self._waiting.append(failure)
        self._waiting_bytes += size

    async def flush(self) -> None:
        """Write what waits; what cannot be written waits on."""
        batch, self._waiting, self._waiting_bytes = self._waiting, deque(), 0
        for model, failures in _by_model(batch).items():
            try:
                await asyncio.to_thread(self._write, model, failures)
                self.counts["written"] += len(failures)
            except (StoreError, OSError) as error:
                logger.error("keep failed requests model=%s requests=%d because=%s", model, len(failures), error)
                self._waiting.extendleft(reversed(failures))
                self._waiting_bytes += sum(map(_size, failures))

    async def close(self) -> None:
        """Write what is left; what cannot be written is dropped."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self.flush()
        self.counts["dropped"] += len(self._waiting)
        self._waiting.clear()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(WRITE_INTERVAL_S)
            if self._waiting:
                await asyncio.shield(self.flush())

    def _write(self, model: str, failures: Sequence[Failure]) -> None:
        for day, lines in _by_day(failures).items():
            content = b"".join(lines)
            self._make_room(model, len(content))
            path = f"failed/{model}/day={day}/{failures[0].time_us:016d}-{self._replica}.jsonl"
            self._files.write(path, content)
            held_files, held_bytes = self._held[model]
            self._held[model] = held_files + 1, held_bytes + len(content)

    def _make_room(self, model: str, num_bytes: int) -> None:
        """Let the oldest files go, where there are too many or they are too large together."""
        held = self._held.get(model)
        if held is not None and held[0] < MAX_FILES and held[1] + num_bytes <= self._max_bytes:
            return
        sizes = {name: self._files.size(name) for name in self._files.names(f"failed/{model}")}
        total = sum(sizes.values())
        for name in list(sizes):
            if len(sizes) < MAX_FILES and total + num_bytes <= self._max_bytes:
                break
            self._files.delete(name)
            total -= sizes.pop(name)
            self.counts["evicted"] += 1
        self._held[model] = len(sizes), total


def read_failures(files: Files, path: str) -> list[Failure]:
    """Read the failures of one file.

    Raises:
        StoreError: It holds something else.
    """
    failures = []
    for line in files.read(path).splitlines():
        try:
            failures.append(Failure.from_line(line))
        except (ValueError, KeyError, TypeError) as error:
            problem = f"holds a line that is no failed request: {error}"
            raise StoreError(problem, files.uri(path), "restore the file, or delete it") from error
    return failures


def failures_since(files: Files, model: str, since_us: int = 0) -> Iterator[Failure]:
    """Read the failures of a model that arrived since a moment, oldest first.

    Raises:
        StoreError: A file holds something else.
    """
    for path in files.names(f"failed/{model}"):
        if path.endswith(".jsonl"):
            yield from (failure for failure in read_failures(files, path) if failure.time_us >= since_us)


def _size(failure: Failure) -> int:
    return len(failure.body or b"") + len(failure.response or b"") + 1000


def _by_model(failures: Sequence[Failure] | deque[Failure]) -> dict[str, list[Failure]]:
    models: dict[str, list[Failure]] = {}
    for failure in failures:
        models.setdefault(failure.model, []).append(failure)
    return models


def _by_day(failures: Sequence[Failure]) -> dict[str, list[bytes]]:
    days: dict[str, list[bytes]] = {}
    for failure in failures:
        day = datetime.fromtimestamp(failure.time_us / 1e6, UTC).date().isoformat()
        days.setdefault(day, []).append(failure.line())
    return days


def _as_text(name: str, content: bytes | None) -> dict[str, str | None]:
    if content is None:
        return {name: None, f"{name}_base64": None}
    try:
        return {name: content.decode(), f"{name}_base64": None}
    except UnicodeDecodeError:
        return {name: None, f"{name}_base64": base64.b64encode(content).decode()}


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else text.encode()
