"""A PostgreSQL of our own on a Unix socket, for tests; it ends with the block that asked for it."""

import glob
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote


def find_binaries() -> Path | None:
    """The directory of PostgreSQL's programs: on the PATH, or where Debian keeps them."""
    on_path = shutil.which("initdb")
    found = [Path(on_path).resolve()] if on_path else sorted(map(Path, glob.glob("/usr/lib/postgresql/*/bin/initdb")))
    return found[-1].parent if found and (found[-1].parent / "pg_ctl").exists() else None


def database_url(home: str, name: str = "postgres") -> str:
    """The SQLAlchemy URL of a database of the cluster whose socket lies in a directory."""
    return f"postgresql+psycopg://tester@/{name}?host={quote(home, safe='')}"


@contextmanager
def running_postgres(binaries: Path) -> Iterator[str]:
    """Start a cluster as a user other than root; yields the directory of its socket."""
    prefix: list[str] = []
    # Not tmp_path: PostgreSQL's own user must be able to enter it, and a socket's path is short.
    home = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    if os.geteuid() == 0:
        shutil.chown(home, "postgres", "postgres")
        prefix = ["runuser", "-u", "postgres", "--"]

    def run(program: str, *arguments: str) -> None:
        command = [*prefix, str(binaries / program), *arguments]
        subprocess.run(command, check=True, cwd="/", timeout=120, stdout=subprocess.DEVNULL)

    data = str(home / "data")
    try:
        run("initdb", "--pgdata", data, "--username", "tester", "--auth", "trust", "--encoding", "UTF8", "--no-sync")
        settings = f"-c listen_addresses='' -c unix_socket_directories={home} -c max_connections=100 -c fsync=off"
        run("pg_ctl", "start", "-w", "--pgdata", data, "--log", str(home / "log"), "-o", settings)
        try:
            yield str(home)
        finally:
            run("pg_ctl", "stop", "-w", "--mode", "immediate", "--pgdata", data)
    finally:
        shutil.rmtree(home, ignore_errors=True)
