"""The benchmark's model: a small perceptron that a user brings by dotted path."""

from itertools import pairwise

import torch
from torch import nn

from ray_mlops.training.models import ModelSpec


class Perceptron(nn.Module):
    """12-128-64-1 on the numeric inputs."""

    def __init__(self, num_numeric: int, num_outputs: int) -> None:
        super().__init__()
        widths = (num_numeric, 128, 64)
        hidden = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
        self.layers = nn.Sequential(*hidden, nn.Linear(widths[-1], num_outputs))

    def forward(self, numeric: torch.Tensor, categorical: torch.Tensor) -> torch.Tensor:
        return self.layers(numeric)


def perceptron(spec: ModelSpec) -> nn.Module:
    """The factory, as ``training.model`` names it."""
    return Perceptron(spec.num_numeric, spec.num_outputs)
