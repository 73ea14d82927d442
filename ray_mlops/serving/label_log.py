"""Labels, on disk before they are acknowledged: JSON lines, many requests to one flush of the disk."""

import asyncio
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from io import BytesIO
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from ray_mlops.data.target import TargetEncoder
from ray_mlops.errors import DataError, RequestError, StoreError
from ray_mlops.runtime.files import Files, open_alone
from ray_mlops.serving.http.parse import shorten
from ray_mlops.serving.protocol import LabelRecord

LABEL_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("label", pa.string()),
        ("time", pa.int64()),
        ("arrival", pa.int64()),
        ("is_correction", pa.bool_()),
    ]
)
"""``label`` is JSON; the times are microseconds since 1970 UTC, ``time`` null when the client did not say."""
_READ_BYTES = 1 << 22
"""Lines are turned into columns this many bytes at a time."""


class LabelLog:
    """Appends labels durably: ``labels/{model}/day=YYYY-MM-DD/{replica}-{n}.jsonl``, day by arrival.

    On a local store a replica appends to one file a day; on an object store each commit is an object.
    Requests that arrive while a commit is under way share the next one.

    Args:
        files: The store.
        replica: Name of this incarnation of the replica.
    """

    def __init__(self, files: Files, replica: str) -> None:
        self._files, self._replica = files, replica
        self._waiting: list[tuple[str, bytes]] = []
        self._next_commit: asyncio.Future[None] | None = None
        self._committing = asyncio.Lock()
        self._file_number = 1

    async def append(self, model: str, labels: Sequence[LabelRecord]) -> None:
        """Return once the labels are on disk.

        Raises:
            StoreError: They could not be written; none of them may be acknowledged.
        """
        for arrival_us, together in groupby(labels, attrgetter("arrival")):  # one moment a request
            lines = b"".join(map(_line, together))
            self._waiting.append((f"labels/{model}/day={_day(arrival_us)}", lines))
        if self._next_commit is None:
            self._next_commit = asyncio.get_running_loop().create_future()
            commit = asyncio.create_task(self._commit())
            commit.add_done_callback(lambda task: task.exception())
        await asyncio.shield(self._next_commit)

    async def _commit(self) -> None:
        async with self._committing:
            waiting, self._waiting = self._waiting, []
            done, self._next_commit = self._next_commit, None
            assert done is not None
            try:
                await asyncio.to_thread(self._write, waiting)
            except StoreError as error:
                done.set_exception(error)
            except OSError as error:
                self._file_number += 1  # the last line may be torn; nothing may follow it
                problem, remedy = f"labels cannot be written: {error}", "check permissions and free space"
                done.set_exception(StoreError(problem, self._files.root, remedy))
            else:
                done.set_result(None)

    def _write(self, waiting: Sequence[tuple[str, bytes]]) -> None:
        groups: dict[str, list[bytes]] = {}
        for directory, content in waiting:
            groups.setdefault(directory, []).append(content)
        if not self._files.is_local:
            for directory, lines in groups.items():
                self._files.write(f"{directory}/{self._replica}-{self._file_number}.jsonl", b"".join(lines))
                self._file_number += 1
            return
        with ExitStack() as stack:
            opened: list[BinaryIO] = []
            for directory, lines in groups.items():
                path = self._files.local(f"{directory}/{self._replica}-{self._file_number}.jsonl")
                opened.append(stack.enter_context(_open_durably(path)))
                opened[-1].write(b"".join(lines))
            for stream in opened:
                stream.flush()
                os.fsync(stream.fileno())


def read_labels(files: Files, model: str, only_id: str | None = None) -> pa.Table:
    """Read every label of a model in order of arrival, repeats and conflicts included.

    Args:
        files: The store.
        model: The model's name.
        only_id: Only those of this prediction; the lines of others are passed over unread. None reads all.

    Returns:
        Columns as ``LABEL_SCHEMA``.

    Raises:
        StoreError: A file holds something else than labels.
    """
    parts = []
    wanted = b"" if only_id is None else orjson.dumps(only_id)
    for path in files.names(f"labels/{model}"):
        if path.endswith(".jsonl"):
            try:
                parts += [_columns(lines) for lines in _whole_lines(files.read(path), wanted)]
            except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError, pa.ArrowException) as error:
                raise StoreError(f"holds a line that is no label: {error}", files.uri(path)) from error
    labels = pa.Table.from_batches(parts, LABEL_SCHEMA)
    if only_id is not None:
        labels = labels.filter(pc.equal(labels["id"], only_id))  # a label may read like an id
    arrival_us = labels["arrival"].to_numpy()
    return labels if (np.diff(arrival_us) >= 0).all() else labels.sort_by("arrival")


def check_labels(encoder: TargetEncoder, labels: Sequence[LabelRecord]) -> None:
    """Check the labels of a request; see ``check_label``.

    Raises:
        RequestError: Names the first that is wrong.
    """
    for index, label in enumerate(labels):
        try:
            check_label(encoder, label.label)
        except RequestError as error:
            raise RequestError(error.problem, f"labels[{index}].label", error.remedy) from None


def check_label(encoder: TargetEncoder, value: Any, where: str = "label") -> None:
    """Check that a label is one of the model's classes, or a number for a regression.

    Raises:
        RequestError: It is not; ``where`` names its place in the request.

    Example:
        >>> check_label(TargetEncoder("late", "binary", (0, 1)), 1, "labels[0].label")
    """
    try:
        is_missing = math.isnan(encoder.encode_value(value))
    except DataError as error:
        raise RequestError(error.problem, where) from error
    if is_missing:
        raise RequestError(f"expected {encoder.expected}, got {shorten(value)}", where)


def _line(label: LabelRecord) -> bytes:
    content = {"id": label.id, "label": label.label, "time": label.time, "arrival": label.arrival}
    if label.is_correction:
        content["is_correction"] = True
    return orjson.dumps(content, option=orjson.OPT_APPEND_NEWLINE)


def _whole_lines(content: bytes, wanted: bytes) -> Iterator[list[bytes]]:
    """Some lines with the wanted bytes at a time.

    The last line is left out where the replica's death tore it: it was never acknowledged.
    """
    if wanted not in content:
        return
    stream = BytesIO(content)
    while lines := stream.readlines(_READ_BYTES):
        if not lines[-1].endswith(b"\n"):
            lines.pop()
        yield [line for line in lines if wanted in line] if wanted else lines


def _columns(lines: Sequence[bytes]) -> pa.RecordBatch:
    rows = [orjson.loads(line) for line in lines]
    columns = (
        [row["id"] for row in rows],
        [orjson.dumps(row["label"]).decode() for row in rows],
        [row["time"] for row in rows],
        [row["arrival"] for row in rows],
        [row.get("is_correction", False) for row in rows],
    )
    arrays = [pa.array(values, kind) for values, kind in zip(columns, LABEL_SCHEMA.types, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=LABEL_SCHEMA)


def _open_durably(path: Path) -> BinaryIO:
    is_new = not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    stream = open_alone(path)  # `forget` may be rewriting it
    if is_new:
        for directory in (path.parent, path.parent.parent, path.parent.parent.parent):
            descriptor = os.open(directory, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    return stream


def _day(arrival_us: int) -> str:
    return str(datetime.fromtimestamp(arrival_us / 1e6, UTC).date())
