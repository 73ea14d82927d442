"""The manifest of a snapshot: the record, kept in the store, and the check that its files are what they were."""

import base64
import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pyarrow as pa

from ray_mlops.data.readers import open_filesystem
from ray_mlops.data.source_files import FileRecord, SourceDescription, file_hash, file_modified
from ray_mlops.errors import SnapshotError, StoreError
from ray_mlops.runtime.files import Files

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a dataset was at one time."""

    id: str
    """Hash of the content; 16 hexadecimal digits."""
    rows: int
    schema: Mapping[str, str]
    """Arrow types by column."""
    files: tuple[FileRecord, ...]
    origin: Mapping[str, Any]
    """Where it came from, for people."""
    event_range: tuple[int, int] | None = None
    """Least and greatest event time, microseconds since 1970 UTC."""
    parents: tuple[str, ...] = ()
    """Snapshots that it was made of."""
    schema_version: int = SCHEMA_VERSION
    format: str = "parquet"
    is_copied: bool = False
    """Whether the files lie in the store, and their paths are relative to it."""
    event_time: str | None = None
    """Column of event times."""
    time_range: tuple[int, int] | None = None
    """Only rows with an event time in [start, end), microseconds; None means all."""
    arrow_schema: str = field(default="", repr=False)
    """The exact schema, as base64 of Arrow's own form."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Snapshot":
        version = content.get("schema_version", 0)
        if version != SCHEMA_VERSION:
            raise SnapshotError(f"schema_version {version!r}, this release reads {SCHEMA_VERSION}", "snapshot")
        files = tuple(FileRecord(**{**file, "row_groups": tuple(file["row_groups"])}) for file in content["files"])
        pairs = {name: tuple(content[name]) if content[name] else None for name in ("event_range", "time_range")}
        return cls(**{**content, **pairs, "files": files, "parents": tuple(content["parents"])})


def save_snapshot(snapshot: Snapshot, files: Files) -> Snapshot:
    """Write the manifest; one of the same id stays if its files are still good, since only it may be in use."""
    path = f"snapshots/{snapshot.id}.json"
    if files.exists(path):
        known = load_snapshot(files, snapshot.id)
        if is_intact(known, files):
            return known
    files.write(path, json.dumps(snapshot.to_json(), indent=1).encode())
    logger.info("created snapshot id=%s rows=%d files=%d", snapshot.id, snapshot.rows, len(snapshot.files))
    return snapshot


def is_intact(snapshot: Snapshot, files: Files) -> bool:
    try:
        verified_files(snapshot, files)
    except SnapshotError:
        return False
    return True


def verified_files(snapshot: Snapshot, files: Files) -> SourceDescription:
    """The files by absolute address, after seeing that each is what it was.

    Size and time of change settle it for most; a file whose time has moved is hashed again.
    """
    absolute = [replace(file, path=files.uri(file.path)) if snapshot.is_copied else file for file in snapshot.files]
    for file in absolute:
        problem = _what_changed(file)
        if problem:
            remedy = "restore the file, or create a new snapshot from what is there now"
            raise SnapshotError(problem, f"snapshot {snapshot.id}: {file.path}", remedy)
    schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(snapshot.arrow_schema)))
    return SourceDescription(snapshot.format, tuple(absolute), schema, snapshot.event_range)


def _what_changed(file: FileRecord) -> str:
    filesystem, path = open_filesystem(file.path)
    filesystem.invalidate_cache()
    if not filesystem.exists(path):
        return "the file is gone"
    size = int(filesystem.size(path))
    if size != file.bytes:
        return f"the file has changed: {size} bytes, {file.bytes} when the snapshot was taken"
    if file.modified is not None and file_modified(filesystem, path) == file.modified:
        return ""
    return "" if file_hash(filesystem, path) == file.sha256 else "the file's content has changed (same size)"


def load_snapshot(files: Files, id: str) -> Snapshot:
    """Read a snapshot's manifest.

    Raises:
        SnapshotError: There is none, or it is damaged.
    """
    try:
        content = json.loads(files.read(f"snapshots/{id}.json"))
        return Snapshot.from_json(content)
    except StoreError as error:
        raise SnapshotError("no such snapshot", f"snapshot {id}", "was it collected by 'ray-mlops gc'?") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, SnapshotError):
            raise
        raise SnapshotError(f"the manifest is damaged: {error!r}", f"snapshot {id}") from error


def content_digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
