"""A model of a user's own, as their package would have it: ``training.model: my_package.models:wide_and_deep``."""

import os
from pathlib import Path

import torch
from torch import Tensor, nn

from ray_mlops.training.models import ModelSpec


class WideAndDeep(nn.Module):
    """A linear part and a small network, added up."""

    def __init__(self, spec: ModelSpec, width: int) -> None:
        super().__init__()
        self.embeddings = nn.ModuleList(nn.Embedding(size, 4) for size in spec.categorical_sizes)
        inputs = spec.num_numeric + 4 * len(spec.categorical_sizes)
        self.wide = nn.Linear(inputs, spec.num_outputs)
        self.deep = nn.Sequential(nn.Linear(inputs, width), nn.GELU(), nn.Linear(width, spec.num_outputs))

    def forward(self, numeric: Tensor, categorical: Tensor) -> Tensor:
        embedded = [embedding(categorical[:, column]) for column, embedding in enumerate(self.embeddings)]
        inputs = torch.cat([numeric, *embedded], 1)
        return self.wide(inputs) + self.deep(inputs)


def wide_and_deep(spec: ModelSpec, width: int = 16) -> nn.Module:
    """The factory named in the configuration."""
    return WideAndDeep(spec, width)


class DiesOnce(WideAndDeep):
    """Takes its worker down in the middle of training, once for each marker file."""

    def __init__(self, spec: ModelSpec, width: int, marker: str, steps: int) -> None:
        super().__init__(spec, width)
        self.marker, self.steps, self.seen = Path(marker), steps, 0

    def forward(self, numeric: Tensor, categorical: Tensor) -> Tensor:
        self.seen += self.training
        if self.seen > self.steps and not self.marker.exists():
            self.marker.touch()
            os._exit(1)
        return super().forward(numeric, categorical)


def dies_once(spec: ModelSpec, marker: str, width: int = 16, steps: int = 5) -> nn.Module:
    """The same network as ``wide_and_deep``."""
    return DiesOnce(spec, width, marker, steps)


def always_fails(spec: ModelSpec) -> nn.Module:
    """A network that fails in training only."""

    class Fails(WideAndDeep):
        def forward(self, numeric: Tensor, categorical: Tensor) -> Tensor:
            if self.training:
                raise ValueError("this model cannot train")
            return super().forward(numeric, categorical)

    return Fails(spec, 4)


def wrong_shape(spec: ModelSpec) -> nn.Module:
    """Returns one output too many."""
    return WideAndDeep(ModelSpec(spec.task, spec.num_numeric, spec.categorical_sizes, spec.num_outputs + 1), 4)
