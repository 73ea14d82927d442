"""The store's files: atomic writes and plain reads on a local directory or any fsspec URI."""

import fcntl
import os
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from ray_mlops.errors import StoreError
from ray_mlops.runtime.parquet import for_parquet

_TROUBLE = (
    ("botocore.exceptions", "BotoCoreError"),
    ("aiohttp", "ClientError"),
    ("google.auth.exceptions", "GoogleAuthError"),
    ("azure.core.exceptions", "AzureError"),
)


class Files:
    """Files under one root. Paths are relative, with forward slashes, and never leave the root.

    A local write goes to a temporary name, is flushed to disk and renamed; object stores put a whole
    object or none. A reader never sees half a file.

    Example:
        >>> import tempfile
        >>> files = Files(tempfile.mkdtemp())
        >>> files.write("a/b.txt", b"hello")
        >>> files.read("a/b.txt"), list(files.names("a"))
        (b'hello', ['a/b.txt'])
    """

    def __init__(self, root: str) -> None:
        self.root = root.rstrip("/")
        self.is_local = "://" not in root or root.startswith("file://")
        # Without a cache of listings: other processes write here too.
        options = {} if self.is_local else {"use_listings_cache": False}
        self._filesystem, self._base = fsspec.core.url_to_fs(self.root, **options)

    def __reduce__(self) -> tuple[type["Files"], tuple[str]]:
        return Files, (self.root,)

    def uri(self, path: str) -> str:
        """The absolute address of a file: a local path, or a URI."""
        return f"{self._base if self.is_local else self.root}/{self._check(path)}"

    def local(self, path: str) -> Path:
        """The path on this machine.

        Raises:
            StoreError: The store is not a local directory.
        """
        if not self.is_local:
            raise StoreError("this store is not a local directory", self.root)
        return Path(self._base) / self._check(path)

    def write(self, path: str, content: bytes) -> None:
        """Write a whole file, atomically and durably.

        Raises:
            StoreError: No permission, no space, or the store cannot be reached.
        """
        target = f"{self._base}/{self._check(path)}"
        with self._trouble(path, "cannot be written", "check permissions and free space"):
            if self.is_local:
                write_atomically(Path(target), content)
            else:
                self._filesystem.pipe_file(target, content)

    def create(self, path: str, content: bytes) -> bytes:
        """Write a secret, unless it is there already; returns what is there. On a local disk its mode is 0600.

        Of several processes that do this at once one wins, and all return the same content.

        Raises:
            StoreError: It can be neither written nor read.
        """
        target = f"{self._base}/{self._check(path)}"
        if not self.exists(path):
            with (
                self._trouble(path, "cannot be written", "check permissions and free space"),
                suppress(FileExistsError),  # another process was first; its content counts
            ):
                if self.is_local:
                    _create(Path(target), content)
                else:
                    self._filesystem.pipe_file(target, content, mode="create")
        return self.read(path)

    def read(self, path: str) -> bytes:
        """Read a whole file.

        Raises:
            StoreError: It is missing or cannot be read.
        """
        with self._trouble(path, "cannot be read"):
            return bytes(self._filesystem.cat_file(f"{self._base}/{self._check(path)}"))

    def exists(self, path: str) -> bool:
        """Whether a file or directory is there.

        Raises:
            StoreError: The store cannot be reached.
        """
        with self._trouble(path, "cannot be looked for"):
            return bool(self._filesystem.exists(f"{self._base}/{self._check(path)}"))

    def names(self, path: str) -> Iterator[str]:
        """Files below a directory, as relative paths, sorted; nothing where there is no directory.

        Raises:
            StoreError: The store cannot be reached, or has no such bucket.
        """
        with self._trouble(path, "cannot be listed"):
            found = self._filesystem.find(f"{self._base}/{self._check(path)}")
        prefix = len(self._base.rstrip("/")) + 1
        return iter(sorted(name[prefix:] for name in found if not name.endswith(".tmp")))

    def delete(self, path: str) -> None:
        """Delete a file or a directory with all in it; nothing happens where there is none."""
        target = f"{self._base}/{self._check(path)}"
        with self._trouble(path, "cannot be deleted", "check permissions"):
            if self._filesystem.exists(target):
                self._filesystem.rm(target, recursive=True)

    def modified(self, path: str) -> float:
        """Unix time of the last change, seconds.

        Raises:
            StoreError: It is missing.
        """
        with self._trouble(path, "cannot be read"):
            return float(self._filesystem.modified(f"{self._base}/{self._check(path)}").timestamp())

    def fingerprint(self, path: str) -> str:
        """What changes whenever a file does.

        Raises:
            StoreError: It is missing.
        """
        with self._trouble(path, "cannot be read"):
            return str(self._filesystem.checksum(f"{self._base}/{self._check(path)}"))

    def size(self, path: str) -> int:
        """Bytes of a file; 0 where there is none."""
        target = f"{self._base}/{self._check(path)}"
        with self._trouble(path, "cannot be read"), suppress(FileNotFoundError):
            return int(self._filesystem.size(target) or 0)
        return 0

    def read_footer(self, path: str) -> pq.FileMetaData:
        """Read the rows, columns and metadata of a Parquet file, and not its content.

        Raises:
            StoreError: It is missing, or no Parquet file.
        """
        with (
            self._trouble(path, "cannot be read", also=(pa.ArrowException,)),
            self._filesystem.open(f"{self._base}/{self._check(path)}", "rb") as stream,
        ):
            return pq.read_metadata(stream)

    def write_table(self, path: str, table: pa.Table, **options: Any) -> None:
        """Write an Arrow table as one Parquet file, atomically; ``options`` are of ``pyarrow.parquet.write_table``."""
        sink = pa.BufferOutputStream()
        pq.write_table(for_parquet(table), sink, **{"compression": "zstd", **options})
        self.write(path, sink.getvalue().to_pybytes())

    def read_table(self, path: str, columns: list[str] | None = None, filters: Any = None) -> pa.Table:
        """Read one Parquet file."""
        return pq.read_table(pa.BufferReader(self.read(path)), columns=columns, filters=filters)

    def arrow(self) -> tuple[pafs.FileSystem, str]:
        """A pyarrow filesystem and the root's path in it, for Ray and Parquet datasets."""
        if self.is_local:
            return pafs.LocalFileSystem(), str(self._base)
        return pafs.PyFileSystem(pafs.FSSpecHandler(self._filesystem)), str(self._base)

    @contextmanager
    def _trouble(
        self, path: str, what: str, remedy: str = "", also: tuple[type[Exception], ...] = ()
    ) -> Iterator[None]:
        """Raise ``StoreError`` for what a filesystem raises."""
        try:
            yield
        except (*_trouble_of_stores(), *also) as error:
            raise StoreError(f"{what}: {error}", self.uri(path), remedy) from error

    def _check(self, path: str) -> str:
        if path.startswith("/") or "\\" in path or "\0" in path or ".." in path.split("/"):
            raise StoreError(f"path {path!r} leaves the store", self.root)
        return path


def _trouble_of_stores() -> tuple[type[Exception], ...]:
    """What filesystems raise: not every library of a cloud has an ``OSError`` for a store that cannot be reached."""
    loaded = [(sys.modules[module], name) for module, name in _TROUBLE if module in sys.modules]
    return (OSError, *(getattr(module, name) for module, name in loaded))


def open_alone(path: Path) -> BinaryIO:
    """Open a local file for appending, and keep others who do so out until it is closed.

    Waits for them. A file that was replaced meanwhile is opened again: what is appended is never lost with the old one.
    """
    while True:
        stream = path.open("ab")
        fcntl.flock(stream, fcntl.LOCK_EX)
        if path.exists() and os.path.samestat(path.stat(), os.fstat(stream.fileno())):
            return stream
        stream.close()


def _create(target: Path, content: bytes) -> None:
    """Write a local file that only its owner may read, by a temporary name, and give it its name if that is free."""
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    write_atomically(temporary, content, 0o600)
    try:
        os.link(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(target: Path, content: bytes, mode: int = 0o644) -> None:
    """Write a local file by a temporary name, flush and rename; leaves nothing behind on failure."""
    target.parent.mkdir(parents=True, exist_ok=True)
    # Hidden: a reader of the directory passes over what a killed writer has left behind.
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
