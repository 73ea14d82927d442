"""Snapshots: immutable, content-addressed descriptions of a dataset.

Files are described where they lie, by the hash of their content; what a function or the loop itself made is
written into the store as Parquet. The id is a hash of content alone: the same data elsewhere, or in another
order of rows, is the same snapshot. Whoever reads one sees first that its files are what they were.
"""

import base64
import hashlib
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray.data

from ray_mlops.config import DataConfig, SourceConfig
from ray_mlops.config.store import base_directory
from ray_mlops.data.hashing import hash_rows
from ray_mlops.data.manifest import Snapshot, content_digest, is_intact, load_snapshot, save_snapshot, verified_files
from ray_mlops.data.readers import conform, normalise_event_time, read_file
from ray_mlops.data.source import dataset_of_files, source_tables
from ray_mlops.data.source_files import FileRecord, SourceDescription, describe_files
from ray_mlops.data.statistics_pass import event_times
from ray_mlops.errors import SnapshotError, SourceError
from ray_mlops.runtime.files import Files
from ray_mlops.runtime.parquet import for_parquet

__all__ = ["Snapshot", "create_snapshot", "load_snapshot", "narrow_snapshot", "snapshot_dataset", "snapshot_table"]

PART_ROWS = 250_000
"""Rows of one Parquet file that we write."""


def create_snapshot(
    data: DataConfig,
    files: Files,
    *,
    table: pa.Table | None = None,
    origin: Mapping[str, Any] | None = None,
    parents: Iterable[str] = (),
) -> Snapshot:
    """Describe the source, or store a given table; the same content gives the same id.

    Args:
        data: Source and event time.
        files: The store.
        table: Rows to store instead of the source's.
        origin: Where they came from; worked out when None.
        parents: Snapshots that they were made of.

    Raises:
        SourceError: The source is missing, empty or unreadable.
    """
    source = data.source
    if table is None and source.function is None and not _is_passing(source):
        found = describe_files(source, event_time=data.event_time, hashed=True)
        snapshot = _in_place(found, data, origin or {"kind": "files", "path": source.path}, tuple(parents))
        return save_snapshot(snapshot, files)
    if table is None:
        tables: Iterable[pa.Table] = source_tables(source, event_time=data.event_time)
        kind = {"kind": "function", "function": source.function, "arguments": source.arguments}
        origin = origin or (kind if source.function is not None else {"kind": "files", "path": source.path})
    else:
        tables = [normalise_event_time(table.replace_schema_metadata(None), data.event_time, "table")]
    return _copied(tables, data, files, origin or {"kind": "table"}, tuple(parents))


def narrow_snapshot(snapshot: Snapshot, files: Files, start_us: int, end_us: int) -> Snapshot:
    """The rows of a snapshot with an event time in [start, end), without copying them.

    Raises:
        SnapshotError: It has no event time, or no row lies in the range.
    """
    if snapshot.event_time is None:
        raise SnapshotError("it has no event time to narrow by", f"snapshot {snapshot.id}", "set data.event_time")
    if snapshot.time_range is not None:
        start_us, end_us = max(start_us, snapshot.time_range[0]), min(end_us, snapshot.time_range[1])
    limited = replace(snapshot, time_range=(start_us, end_us), parents=(snapshot.id,))
    times = event_times(snapshot_table(limited, files, [snapshot.event_time]), snapshot.event_time)
    if not len(times):
        raise SnapshotError(f"no row lies in [{start_us}, {end_us}) us", f"snapshot {snapshot.id}")
    id = content_digest({"parent": snapshot.id, "start_us": start_us, "end_us": end_us})
    limits = (int(times.min()), int(times.max()))
    return save_snapshot(replace(limited, id=id, rows=len(times), event_range=limits), files)


def snapshot_dataset(snapshot: Snapshot, files: Files, columns: list[str] | None = None) -> ray.data.Dataset:
    """A snapshot's rows as a lazy dataset; ``materialise`` it before training.

    Raises:
        SnapshotError: A file is missing or has changed.
    """
    found = verified_files(snapshot, files)
    keep = _TimeFilter(snapshot.event_time, snapshot.time_range, columns) if snapshot.time_range else None
    return dataset_of_files(found, snapshot.event_time, _columns_to_read(snapshot, columns), keep)


def snapshot_table(snapshot: Snapshot, files: Files, columns: list[str] | None = None) -> pa.Table:
    """A snapshot's rows as one table, without Ray.

    Raises:
        SnapshotError: A file is missing or has changed.
    """
    found = verified_files(snapshot, files)
    read = _columns_to_read(snapshot, columns)
    keep = _TimeFilter(snapshot.event_time, snapshot.time_range, columns)
    tables = [
        keep(read_file(file.path, found.format, schema=found.schema, columns=read, event_time=snapshot.event_time))
        for file in found.files
    ]
    return pa.concat_tables(tables)


@dataclass(frozen=True, slots=True)
class _TimeFilter:
    """Keeps rows of a time range, then the wanted columns."""

    event_time: str | None
    time_range: tuple[int, int] | None
    columns: list[str] | None

    def __call__(self, table: pa.Table) -> pa.Table:
        if self.event_time is not None and self.time_range is not None:
            times = event_times(table, self.event_time)
            table = table.filter(pa.array((times >= self.time_range[0]) & (times < self.time_range[1])))
        return table if self.columns is None else table.select(self.columns)


def _columns_to_read(snapshot: Snapshot, columns: list[str] | None) -> list[str] | None:
    unknown = [name for name in columns or () if name not in snapshot.schema]
    if unknown:
        raise SnapshotError(f"no columns {unknown}", f"snapshot {snapshot.id}", f"it has {', '.join(snapshot.schema)}")
    if columns is None or snapshot.time_range is None or snapshot.event_time in columns:
        return columns
    return [*columns, str(snapshot.event_time)]


def _is_passing(source: SourceConfig) -> bool:
    """Whether files were uploaded with a job's working directory, which Ray deletes: they are copied, then."""
    here = Path.cwd()
    paths = [source.path] if isinstance(source.path, str) else source.path or []
    return base_directory(here) != here and any("://" not in p and (here / p).is_relative_to(here) for p in paths)


def _in_place(
    found: SourceDescription, data: DataConfig, origin: Mapping[str, Any], parents: tuple[str, ...]
) -> Snapshot:
    content = {
        "files": sorted([file.name, file.sha256] for file in found.files),
        "format": found.format,
        "event_time": data.event_time,
    }
    return _describe(content_digest(content), found, data, origin, parents, is_copied=False)


def _copied(
    tables: Iterable[pa.Table], data: DataConfig, files: Files, origin: Mapping[str, Any], parents: tuple[str, ...]
) -> Snapshot:
    """Write rows as Parquet: first to a local directory, since the id is known only after the last row."""
    hashes: list[Any] = []
    records: list[FileRecord] = []
    schema: pa.Schema | None = None
    limits: list[int] = []
    with tempfile.TemporaryDirectory(prefix="ray-mlops-snapshot-") as scratch:
        for table in tables:
            schema = schema or table.schema
            table = conform(table, schema, None, "rows")
            hashes.append(hash_rows(table))
            if data.event_time in schema.names:
                times = event_times(table.filter(table[data.event_time].is_valid()), data.event_time)
                limits.extend([int(times.min()), int(times.max())] if len(times) else [])
            for start in range(0, len(table), PART_ROWS):
                records.append(_write_part(Path(scratch), len(records), table.slice(start, PART_ROWS)))
        if schema is None or not records:
            raise SourceError("there are no rows", str(origin.get("kind", "rows")), "check the source")
        types = sorted([field.name, str(field.type)] for field in schema)
        rows_digest = hashlib.sha256(np.sort(np.concatenate(hashes)).tobytes()).hexdigest()
        id = content_digest({"rows": rows_digest, "schema": types, "event_time": data.event_time})
        if files.exists(f"snapshots/{id}.json"):
            known = load_snapshot(files, id)
            if is_intact(known, files):
                return known
        stored = [_store_part(Path(scratch), record, id, files) for record in records]
    span = (min(limits), max(limits)) if limits else None
    found = SourceDescription("parquet", tuple(stored), schema, span)
    return save_snapshot(_describe(id, found, data, origin, parents, is_copied=True), files)


def _write_part(directory: Path, index: int, table: pa.Table) -> FileRecord:
    name = f"part-{index:05d}.parquet"
    pq.write_table(for_parquet(table), directory / name, compression="zstd")
    content = (directory / name).read_bytes()
    return FileRecord(name, name, len(content), len(table), hashlib.sha256(content).hexdigest(), None, (len(table),))


def _store_part(directory: Path, record: FileRecord, id: str, files: Files) -> FileRecord:
    path = f"snapshots/{id}/{record.name}"
    files.write(path, (directory / record.name).read_bytes())
    return replace(record, path=path)


def _describe(
    id: str,
    found: SourceDescription,
    data: DataConfig,
    origin: Mapping[str, Any],
    parents: tuple[str, ...],
    *,
    is_copied: bool,
) -> Snapshot:
    return Snapshot(
        id=id,
        rows=found.rows,
        schema={field.name: str(field.type) for field in found.schema},
        files=found.files,
        origin=dict(origin),
        event_range=found.event_range,
        parents=parents,
        format=found.format,
        is_copied=is_copied,
        event_time=data.event_time,
        arrow_schema=base64.b64encode(found.schema.serialize().to_pybytes()).decode(),
    )
