"""Environments of the peers: each its own, made on demand below one directory, kept for the next run."""

import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

INSTALL_TIMEOUT_S = 1800.0


class InstallError(RuntimeError):
    """An environment could not be made; the benchmark goes on without its figure."""


@dataclass(frozen=True, slots=True)
class PeerEnvironment:
    """What a peer needs."""

    name: str
    packages: tuple[str, ...]
    options: tuple[str, ...] = ()
    """Further options of pip."""
    needs_torch: bool = True
    """Whether it serves a network."""


def torch_requirement() -> str:
    """The torch that the project uses, so that the peers run the same kernels."""
    return f"torch=={version('torch').partition('+')[0]}"


PEERS = {
    peer.name: peer
    for peer in (
        PeerEnvironment("fastapi", ("fastapi", "uvicorn[standard]", "numpy")),
        PeerEnvironment("litserve", ("litserve", "numpy")),
        PeerEnvironment("bentoml", ("bentoml", "numpy"), ("--only-binary", "grpcio")),
        PeerEnvironment("mlflow", ("mlflow", "numpy")),
        PeerEnvironment("evidently", ("evidently==0.7.23", "pandas<3", "pyarrow"), needs_torch=False),
        PeerEnvironment(
            "whylogs",
            ("whylogs==1.6.4", "numpy<2", "pandas<3", "pyarrow<20", "scipy", "ipython"),
            needs_torch=False,
        ),
        PeerEnvironment("nannyml", ("nannyml==0.13.1", "statsmodels", "pandas<3", "pyarrow"), needs_torch=False),
        PeerEnvironment("scipy", ("scipy", "numpy", "pandas<3", "pyarrow"), needs_torch=False),
    )
}


def ensure_environment(name: str, directory: Path) -> Path:
    """Return the ``bin`` directory of a peer's environment; makes it where it is missing.

    Raises:
        InstallError: pip failed; carries the end of its output.
    """
    peer, home = PEERS[name], directory.expanduser() / name
    complete = home / "complete"
    if not complete.exists():
        print(f"installing {name} into {home}", file=sys.stderr)
        home.parent.mkdir(parents=True, exist_ok=True)
        _run([sys.executable, "-m", "venv", "--clear", str(home)])
        pip = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        torch = [torch_requirement()] if peer.needs_torch else []
        _run([*pip, *peer.options, *peer.packages, *torch])
        complete.touch()
    return home / "bin"


def installed_version(name: str, directory: Path) -> str:
    """Version of the peer's main package."""
    python = directory.expanduser() / name / "bin" / "python"
    program = f"from importlib.metadata import version; print(version({name!r}))"
    return subprocess.run([str(python), "-c", program], capture_output=True, text=True, check=False).stdout.strip()


def _run(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False)
    if result.returncode:
        raise InstallError(f"{' '.join(command[:4])} ...: {result.stderr.strip()[-800:]}")
