"""Commands as a user runs them: real processes in a directory of their own."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 300


def environment() -> dict[str, str]:
    """This environment, with the checkout to import from and without another cluster."""
    found = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    found.pop("RAY_ADDRESS", None)
    return found


@dataclass(frozen=True, slots=True)
class Project:
    """A directory with a configuration, in which commands are run."""

    directory: Path
    environment: dict[str, str] = field(default_factory=environment)

    def call(self, *arguments: str, code: int = 0) -> tuple[str, str]:
        """Run ``ray-mlops``; returns its output and errors, and fails with both when the exit code is another."""
        return self.python("-m", "ray_mlops.cli", *arguments, code=code)

    def run(self, *arguments: str, code: int = 0) -> str:
        """Run ``ray-mlops``; returns its output and errors as one text."""
        return "".join(self.call(*arguments, code=code))

    def json(self, *arguments: str) -> Any:
        """Run a command with ``--json`` and read its document."""
        return json.loads(self.call(*arguments, "--json")[0])

    def python(self, *arguments: str, code: int = 0) -> tuple[str, str]:
        """Run Python; as ``call``."""
        done = subprocess.run(self._command(arguments), **self._options(), capture_output=True, timeout=TIMEOUT_S)
        assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout, done.stderr

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        """Start ``ray-mlops`` and do not wait for it; its output goes nowhere."""
        nowhere = subprocess.DEVNULL
        command = self._command(("-m", "ray_mlops.cli", *arguments))
        return subprocess.Popen(command, **self._options(), stdout=nowhere, stderr=nowhere)

    def configure(self, sections: dict[str, Any]) -> None:
        """Append sections to the configuration that ``init`` has written."""
        config = self.directory / "ray-mlops.yaml"
        extra = "".join(f"{name}: {json.dumps(content)}\n" for name, content in sections.items())
        config.write_text(config.read_text() + extra)

    def _command(self, arguments: tuple[str, ...]) -> list[str]:
        return [sys.executable, *arguments]

    def _options(self) -> dict[str, Any]:
        return {"cwd": self.directory, "env": self.environment, "text": True}
