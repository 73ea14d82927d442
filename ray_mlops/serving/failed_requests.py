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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

import orjson

from ray_mlops.config import FailedRequestsConfig
from ray_mlops.errors import StoreError
from ray_mlops.runtime.files import Files
from ray_mlops.serving.prediction_log.listing import day_of

logger = logging.getLogger(__name__)
KEPT_HEADERS = ("content-type", "inference-header-content-length")
"""Headers without which a body cannot be read. No other is ever kept."""
MAX_WAITING, MAX_WAITING_BYTES = 1000, 8 * 2**20
"""Failures in memory, those being written included, and what they hold; more are dropped, and counted."""
MAX_FILES = 2000
"""Files of one model; the oldest give way."""
ROOM_RATIO = 0.9
"""Of both limits, what is left once files had to give way: the store is not listed again for each file."""
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
            content |= {"instances": None, "ids": []}
            texts = {name: _clean(value) for name, value in content.items() if isinstance(value, str)}
            return orjson.dumps(content | texts, option=orjson.OPT_APPEND_NEWLINE)

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

    @property
    def num_bytes(self) -> int:
        """What it holds in memory, about."""
        contents = len(self.body or b"") + len(self.response or b"") + sum(map(len, self.ids))
        return contents + sum(map(row_bytes, self.instances or ())) + 1000

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
        self._num_held = self._held_bytes = 0
        """What is in memory: what waits, and what is being written."""
        self._flushing = asyncio.Lock()
        self._sequence = 0
        self._stored: dict[str, tuple[int, int]] = {}
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

    def rows_that_fit(self, rows: Sequence[Mapping[str, Any]] | None) -> Sequence[Mapping[str, Any]] | None:
        """The rows of a request, unless they are too large to be kept."""
        left = self._max_body_bytes
        for row in rows or ():
            left -= row_bytes(row)
            if left < 0:
                return None
        return rows

    def note(self, failure: Failure) -> None:
        """Take a failure, or drop it where too many are held."""
        self.counts["noted"] += 1
        num_bytes = failure.num_bytes
        if self._num_held >= MAX_WAITING or self._held_bytes + num_bytes > MAX_WAITING_BYTES:
            self.counts["dropped"] += 1
            return
        self._waiting.append(failure)
        self._num_held += 1
        self._held_bytes += num_bytes

    async def flush(self) -> None:
        """Write what waits; what cannot be written waits on, and is held all the while."""
        async with self._flushing:
            batch, self._waiting = self._waiting, deque()
            for (model, day), failures in _by_file(batch).items():
                try:
                    await asyncio.to_thread(self._write, model, day, failures)
                except (StoreError, OSError) as error:
                    logger.error("keep failed requests model=%s requests=%d because=%s", model, len(failures), error)
                    self._waiting.extendleft(reversed(failures))
                    continue
                self.counts["written"] += len(failures)
                self._num_held -= len(failures)
                self._held_bytes -= sum(failure.num_bytes for failure in failures)

    async def close(self) -> None:
        """Write what is left, after what is being written; what cannot be written is dropped."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self.flush()
        self.counts["dropped"] += len(self._waiting)
        self._waiting.clear()
        self._num_held = self._held_bytes = 0

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(WRITE_INTERVAL_S)
            if self._waiting:
                await asyncio.shield(self.flush())

    def _write(self, model: str, day: str, failures: Sequence[Failure]) -> None:
        content = b"".join(failure.line() for failure in failures)
        self._make_room(model, len(content))
        self._sequence += 1
        name = f"{failures[0].time_us:016d}-{self._replica}-{self._sequence:08d}.jsonl"
        self._files.write(f"failed/{model}/day={day}/{name}", content)
        num_files, num_bytes = self._stored[model]
        self._stored[model] = num_files + 1, num_bytes + len(content)

    def _make_room(self, model: str, num_bytes: int) -> None:
        """Let the oldest files go, where there are too many or they are too large together."""
        stored = self._stored.get(model)
        if stored is not None and self._has_room(stored[0], stored[1] + num_bytes):
            return
        sizes = {name: self._files.size(name) for name in self._files.names(f"failed/{model}")}
        num_files, total = len(sizes), sum(sizes.values())
        for name, size in sizes.items():
            if self._has_room(num_files, total + num_bytes, ROOM_RATIO):
                break
            self._files.delete(name)
            num_files, total = num_files - 1, total - size
            self.counts["evicted"] += 1
        self._stored[model] = num_files, total

    def _has_room(self, num_files: int, num_bytes: int, ratio: float = 1.0) -> bool:
        """Whether one more file fits into a share of the limits, given the files there are, and all bytes."""
        return num_files < ratio * MAX_FILES and num_bytes <= ratio * self._max_bytes


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
    names = [name for name in files.names(f"failed/{model}") if name.endswith(".jsonl")]
    for day, paths in groupby(names, key=day_of):
        if day >= _day(since_us):
            found = [failure for path in paths for failure in read_failures(files, path)]
            yield from sorted((one for one in found if one.time_us >= since_us), key=lambda one: one.time_us)


def row_bytes(row: Mapping[str, Any]) -> int:
    """How much a row holds, about.

    Example:
        >>> row_bytes({"carrier": "UA", "distance": 200.0})
        25
    """
    return sum(len(name) + (len(value) if isinstance(value, str) else 8) for name, value in row.items())


def _by_file(failures: Iterable[Failure]) -> dict[tuple[str, str], list[Failure]]:
    found: dict[tuple[str, str], list[Failure]] = {}
    for failure in failures:
        found.setdefault((failure.model, _day(failure.time_us)), []).append(failure)
    return found


def _day(time_us: int) -> str:
    return datetime.fromtimestamp(time_us / 1e6, UTC).date().isoformat()


def _clean(text: str) -> str:
    """Replace halves of surrogate pairs, which no JSON can hold."""
    return text.encode(errors="replace").decode()


def _as_text(name: str, content: bytes | None) -> dict[str, str | None]:
    if content is None:
        return {name: None, f"{name}_base64": None}
    try:
        return {name: content.decode(), f"{name}_base64": None}
    except UnicodeDecodeError:
        return {name: None, f"{name}_base64": base64.b64encode(content).decode()}


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else text.encode()
