"""The files of a source, looked at but not kept: sizes, rows, schema, event times, content hashes. No Ray here."""

import hashlib
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from ray_mlops.config import SourceConfig
from ray_mlops.data.readers import (
    check_columns,
    check_names,
    file_format,
    list_files,
    normalise_event_time,
    open_filesystem,
    read_file,
    unify,
    usual_schema,
)
from ray_mlops.data.statistics_pass import event_times
from ray_mlops.errors import SourceError

logger = logging.getLogger(__name__)

READ_ROWS = 250_000
"""A read of Parquet takes row groups of about this many rows."""
_CHUNK_BYTES = 1 << 22
_THREADS = 8


@dataclass(frozen=True, slots=True)
class FileRecord:
    """One file of a source or snapshot."""

    path: str
    """An address; relative to the store where the snapshot holds a copy."""
    name: str
    """Relative to the source: the same wherever the data lies."""
    bytes: int
    rows: int
    sha256: str = ""
    modified: float | None = None
    """Unix time of the last change, where the filesystem tells."""
    row_groups: tuple[int, ...] = ()
    """Rows of each row group of a Parquet file."""


@dataclass(frozen=True, slots=True)
class ReadUnit:
    """What one task reads: a file, or some row groups of it."""

    file: FileRecord
    row_groups: tuple[int, ...] | None
    """None: all of the file."""
    first_row: int
    """Of the file, from 0."""
    rows: int


@dataclass(frozen=True, slots=True)
class SourceDescription:
    """What is in the files of a source."""

    format: str
    files: tuple[FileRecord, ...]
    schema: pa.Schema
    """Of what is read: the event time is ``timestamp(us, UTC)``."""
    event_range: tuple[int, int] | None
    """Least and greatest event time, microseconds since 1970 UTC."""

    @property
    def rows(self) -> int:
        return sum(file.rows for file in self.files)


def describe_files(source: SourceConfig, *, event_time: str | None = None, hashed: bool = False) -> SourceDescription:
    """Look at every file: size, rows, schema, range of event times, and the hash of its content if wanted.

    Parquet is described by its footers and one column, text by reading it.

    Raises:
        SourceError: As ``read_source``; also for files of different formats.
    """
    found = list_files(source)
    formats = {file_format(source, uri) for uri, _ in found}
    if len(formats) > 1:
        raise SourceError(f"files of several formats: {', '.join(sorted(formats))}", str(source.path), "give one")
    format = formats.pop()
    with ThreadPoolExecutor(_THREADS) as threads:
        looked = list(threads.map(lambda pair: _look(pair[0], pair[1], format, event_time, hashed), found))
    schema = unify({file.path: schema for file, schema, _ in looked}, format)
    check_columns(schema.names, [event_time], str(source.path))
    ranges = [limits for _, _, limits in looked if limits is not None]
    limits = (min(low for low, _ in ranges), max(high for _, high in ranges)) if ranges else None
    files = tuple(file for file, _, _ in looked)
    if not sum(file.rows for file in files):
        raise SourceError("there are no rows", str(source.path), "check the source")
    logger.info("described source path=%s files=%d rows=%d", source.path, len(files), sum(f.rows for f in files))
    return SourceDescription(format, files, schema, limits)


def read_units(file: FileRecord) -> Iterator[ReadUnit]:
    """Cut a file into reads: neighbouring row groups of about ``READ_ROWS`` rows together; none for an empty file.

    Example:
        >>> file = FileRecord("a.parquet", "a.parquet", 1, 500_000, row_groups=(200_000, 100_000, 200_000))
        >>> [(unit.row_groups, unit.first_row, unit.rows) for unit in read_units(file)]
        [((0, 1), 0, 300000), ((2,), 300000, 200000)]
    """
    if len(file.row_groups) < 2:
        if file.rows:
            yield ReadUnit(file, None, 0, file.rows)
        return
    groups: list[int] = []
    first = rows = 0
    for index, size in enumerate(file.row_groups):
        groups.append(index)
        rows += size
        if rows and (rows >= READ_ROWS or index == len(file.row_groups) - 1):
            yield ReadUnit(file, tuple(groups), first, rows)
            groups, first, rows = [], first + rows, 0


def file_hash(filesystem: fsspec.AbstractFileSystem, path: str) -> str:
    """SHA-256 of a file's content, hexadecimal."""
    digest = hashlib.sha256()
    with filesystem.open(path, "rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def file_modified(filesystem: fsspec.AbstractFileSystem, path: str) -> float | None:
    """Unix time of the last change; None where the filesystem does not tell."""
    try:
        return float(filesystem.modified(path).timestamp())
    except NotImplementedError:  # what fsspec's base class raises for a filesystem that keeps no times
        return None


def _look(
    uri: str, name: str, format: str, event_time: str | None, hashed: bool
) -> tuple[FileRecord, pa.Schema, tuple[int, int] | None]:
    filesystem, path = open_filesystem(uri)
    row_groups: tuple[int, ...] = ()
    try:
        if format == "parquet":
            rows, schema, row_groups, times = _look_at_parquet(filesystem, path, uri, event_time)
        else:
            times = read_file(uri, format, event_time=event_time)
            rows, schema = len(times), times.schema
        size, digest = int(filesystem.size(path)), file_hash(filesystem, path) if hashed else ""
    except (OSError, pa.ArrowException) as error:
        raise SourceError(
            f"cannot be read as {format}: {error}", uri, "is the file whole, and of this format?"
        ) from error
    limits = _limits(times, event_time)
    return FileRecord(uri, name, size, rows, digest, file_modified(filesystem, path), row_groups), schema, limits


def _look_at_parquet(
    filesystem: fsspec.AbstractFileSystem, path: str, uri: str, event_time: str | None
) -> tuple[int, pa.Schema, tuple[int, ...], pa.Table]:
    with filesystem.open(path, "rb") as stream:
        file = pq.ParquetFile(stream)
        check_names(file.schema_arrow.names, uri)
        schema = usual_schema(file.schema_arrow)
        metadata = file.metadata
        groups = tuple(metadata.row_group(index).num_rows for index in range(metadata.num_row_groups))
        if event_time is None or event_time not in schema.names:
            return metadata.num_rows, schema, groups, pa.table({})
        times = normalise_event_time(file.read([event_time]), event_time, uri)
    at = schema.names.index(event_time)
    return metadata.num_rows, schema.set(at, pa.field(event_time, times.schema.types[0])), groups, times


def _limits(times: pa.Table, event_time: str | None) -> tuple[int, int] | None:
    if event_time is None or event_time not in times.column_names:
        return None
    present = event_times(times.filter(times[event_time].is_valid()), event_time)
    return (int(present.min()), int(present.max())) if len(present) else None
