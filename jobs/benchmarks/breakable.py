"""The benchmark's network, and what can go wrong with it when the process is a candidate's.

A file beside the store tells each call what to do, so that a fault can be switched on in a running process.
"""

import os
import time
from pathlib import Path

import torch

from jobs.benchmarks.mlp import Perceptron
from ray_mlops.training.models import ModelSpec

HANG_S = 3600.0


class Breakable(Perceptron):
    """A perceptron that crashes, hangs or fills the memory on demand."""

    def __init__(self, spec: ModelSpec, switch: str) -> None:
        super().__init__(spec.num_numeric, spec.num_outputs)
        self._switch = Path(switch)
        self._hoard: list[torch.Tensor] = []

    def forward(self, numeric: torch.Tensor, categorical: torch.Tensor) -> torch.Tensor:
        fault = self._fault()
        if fault == "crash":
            os._exit(1)
        if fault == "hang":
            time.sleep(HANG_S)
        if fault == "oom":
            self._hoard.append(torch.ones(16 * 1024 * 1024))  # 64 MiB a call, until the kernel or Ray ends us
        return super().forward(numeric, categorical)

    def _fault(self) -> str:
        """What to do; the champion, which is not in a process of its own, never does it."""
        if not self._switch.exists() or "CandidateArm" not in _command_line():
            return ""
        return self._switch.read_text(encoding="utf-8").strip()


def _command_line() -> str:
    return Path("/proc/self/cmdline").read_text(encoding="utf-8", errors="replace")


def breakable(spec: ModelSpec, switch: str) -> Breakable:
    """The factory, as ``training.model`` names it."""
    return Breakable(spec, switch)
