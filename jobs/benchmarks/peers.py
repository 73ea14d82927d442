"""Other ways to serve the same network, each as one process tree on a free port."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from jobs.benchmarks.environments import InstallError, ensure_environment, installed_version
from jobs.benchmarks.load import Target, measure_idle
from jobs.benchmarks.workbench import BODY
from ray_mlops.runtime.ports import free_port
from ray_mlops.runtime.processes import ProcessRecord, find_family, find_process

APPS = Path(__file__).resolve().parent / "peer_apps"
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 30.0


class PeerError(RuntimeError):
    """A peer could not be installed or started; the others are measured without it."""


@contextlib.contextmanager
def running_peer(name: str, environments: Path) -> Iterator[Target]:
    """Start a peer, and stop it in the end.

    Raises:
        PeerError: It cannot be installed, or does not answer.
    """
    port = free_port(0, "127.0.0.1")
    with tempfile.TemporaryDirectory(prefix="bench-peer-") as directory:
        try:
            command, label = _command(name, port, environments, Path(directory))
        except InstallError as error:
            raise PeerError(f"cannot be installed: {error}") from error
        log = Path(directory) / "log"
        with log.open("wb") as stream:
            process = subprocess.Popen(
                command,
                cwd=APPS,
                env=_environment(name, environments),
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )
        try:
            path = "/invocations" if name == "mlflow" else "/predict"
            _wait_for_answer(process, port, path, log)

            def family() -> list[ProcessRecord]:
                found = find_process(process.pid)
                return find_family([found]) if found is not None else []

            yield Target(label, port, path, BODY, family, measure_idle(family, 2.0))
        finally:
            _stop(process)


def _command(name: str, port: int, environments: Path, directory: Path) -> tuple[list[str], str]:
    if name == "stock_serve":
        return [sys.executable, str(APPS / "stock_serve_app.py"), str(port)], "Ray Serve as installed"
    tools = ensure_environment(name, environments)
    python, label = str(tools / "python"), f"{name} {installed_version(name, environments)}"
    if name == "bentoml":
        options = ["--host", "127.0.0.1", "--port", str(port), "--working-dir", str(APPS)]
        return [str(tools / "bentoml"), "serve", "bentoml_app:Perceptron", *options], label
    if name == "mlflow":
        saved = str(directory / "model")
        made = subprocess.run(
            [python, str(APPS / "mlflow_app.py"), saved],
            env=_environment(name, environments),
            cwd=directory,
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode:
            raise PeerError(f"cannot save its model: {made.stderr.strip()[-500:]}")
        options = ["-m", saved, "--port", str(port), "--host", "127.0.0.1", "--env-manager", "local"]
        return [str(tools / "mlflow"), "models", "serve", *options], label
    return [python, str(APPS / f"{name}_app.py"), str(port)], label


def _environment(name: str, environments: Path) -> dict[str, str]:
    """The user's environment without ours: no Ray settings, one thread, the peer's own programs first."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "PYTHON"))}
    kept["PATH"] = os.pathsep.join((str(environments / name / "bin"), kept.get("PATH", os.defpath)))
    return {**kept, "OMP_NUM_THREADS": "1", "BENTOML_DO_NOT_TRACK": "True"} | (
        {"RAY_USAGE_STATS_ENABLED": "0"} if name == "stock_serve" else {}
    )


def _wait_for_answer(process: "subprocess.Popen[bytes]", port: int, path: str, log: Path) -> None:
    deadline, reason = time.monotonic() + START_TIMEOUT_S, "nothing"
    with httpx.Client(timeout=5.0, trust_env=False) as client:
        while time.monotonic() < deadline and process.poll() is None:
            try:
                headers = {"content-type": "application/json"}
                answer = client.post(f"http://127.0.0.1:{port}{path}", content=BODY, headers=headers)
                if answer.status_code == 200 and "predictions" in answer.text:
                    return
                reason = f"{answer.status_code} {answer.text[:200]}"
            except httpx.HTTPError as error:
                reason = repr(error)
            time.sleep(0.2)
    end = log.read_text(encoding="utf-8", errors="replace").strip()[-500:]
    raise PeerError(f"does not answer: {reason}; its log ends: {end}")


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """End the whole session that was started for it."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT_S)
            break
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
