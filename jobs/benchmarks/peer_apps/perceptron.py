"""The benchmark's network without any framework around it: what every peer serves."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

FEATURES = tuple(f"x{index}" for index in range(12))


class Net:
    """12-128-64-1, predicting JSON-like rows on one thread."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(0)
        self._model = nn.Sequential(
            nn.Linear(12, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 1)
        ).eval()

    def predict(self, rows: Sequence[Mapping[str, Any]]) -> list[float]:
        """Predict rows ``{"x0": ..., ..., "x11": ...}``."""
        with torch.inference_mode():
            numbers = torch.tensor([[row[name] for name in FEATURES] for row in rows], dtype=torch.float32)
            return [float(value) for value in self._model(numbers)[:, 0].tolist()]
