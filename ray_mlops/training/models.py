"""What a model is, and the default one: an ensemble of small networks that share their weights.

A model is any ``torch.nn.Module`` built by a factory ``(spec: ModelSpec, **params)``. Its contract:

* ``forward(numeric [n, spec.num_numeric] float32, categorical [n, len(spec.categorical_sizes)] int64)`` returns
  float32 ``[n, spec.num_outputs]``: one logit (binary), a logit per class (multiclass), or the standardised
  target (regression; the bundle turns it back into the target's own unit).
* optionally ``training_loss(numeric, categorical, target [n], weight [n]) -> scalar``: what training minimises.
  Without it, training minimises the task's loss of ``forward``. Weights have mean 1 over the training rows.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from ray_mlops.config.data import Task
from ray_mlops.training.objective import mean_loss

TABULAR_DEFAULTS: Mapping[str, Any] = {
    "hidden": 64,
    "depth": 2,
    "members": 8,
    "dropout": 0.2,
    "embedding_size": 8,
    "numeric_embedding": "none",
    "numeric_embedding_size": 8,
}
"""Default parameters of ``tabular``."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What a model factory needs to know about the data."""

    task: Task
    num_numeric: int
    categorical_sizes: tuple[int, ...]
    """Number of ids of each categorical input, missing (0) and unknown (1) included."""
    num_outputs: int
    """1 for binary and regression, the number of classes for multiclass."""

    def to_json(self) -> dict[str, Any]:
        return {
            "task": self.task,
            "num_numeric": self.num_numeric,
            "categorical_sizes": list(self.categorical_sizes),
            "num_outputs": self.num_outputs,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "ModelSpec":
        return cls(**{**content, "categorical_sizes": tuple(content["categorical_sizes"])})


def tabular(
    spec: ModelSpec,
    *,
    hidden: int = 64,
    depth: int = 2,
    members: int = 8,
    dropout: float = 0.2,
    embedding_size: int = 8,
    numeric_embedding: Literal["none", "piecewise_linear", "periodic"] = "none",
    numeric_embedding_size: int = 8,
) -> "TabularNetwork":
    """Build the default model.

    Args:
        spec: Inputs and outputs.
        hidden: Width of each hidden layer.
        depth: Number of hidden layers, at least 1.
        members: Number of networks in the ensemble.
        dropout: Probability of dropping a hidden unit, in [0, 1).
        embedding_size: Numbers that stand for a category.
        numeric_embedding: How a number is spread over several inputs inside the model.
        numeric_embedding_size: Numbers that stand for a number, where ``numeric_embedding`` is not `none`.
    """
    if min(hidden, depth, members, embedding_size, numeric_embedding_size) < 1 or not 0 <= dropout < 1:
        raise ValueError("sizes must be at least 1 and dropout in [0, 1)")
    embedding = NumericEmbedding(spec.num_numeric, numeric_embedding, numeric_embedding_size)
    return TabularNetwork(spec, embedding, hidden, depth, members, dropout, embedding_size)


class NumericEmbedding(nn.Module):
    """Spread each number over several inputs; numbers are expected to be roughly standardised.

    `piecewise_linear` encodes over the quantiles of a normal distribution and adds the number itself;
    `periodic` gives sines and cosines of learnt frequencies, mixed per column, and adds the number itself.

    References:
        Gorishniy, Rubachev, Babenko: On Embeddings for Numerical Features in Tabular Deep Learning.
        NeurIPS 2022, https://arxiv.org/abs/2203.05556. Its bins are quantiles of the data; here the feature
        pipeline has scaled the data already, so the bins are those of a normal distribution.
    """

    edges: Tensor

    def __init__(self, num_numeric: int, kind: Literal["none", "piecewise_linear", "periodic"], size: int) -> None:
        super().__init__()
        if kind not in ("none", "piecewise_linear", "periodic"):
            raise ValueError(f"numeric_embedding must be 'none', 'piecewise_linear' or 'periodic', got {kind!r}")
        self.kind = kind
        self.width = num_numeric * (1 if kind == "none" else size + 1)
        if kind == "piecewise_linear":
            ratios = torch.linspace(0.0, 1.0, size + 1, dtype=torch.float64).clamp(0.005, 0.995)
            self.register_buffer("edges", torch.special.ndtri(ratios).float(), persistent=False)
        elif kind == "periodic":
            self.frequencies = nn.Parameter(torch.randn(num_numeric, size) * 0.1)
            self.mix = nn.Parameter(torch.randn(num_numeric, 2 * size, size) / math.sqrt(2 * size))

    def forward(self, numeric: Tensor) -> Tensor:
        """Map [n, d] to [n, width]."""
        if self.kind == "none":
            return numeric
        column = numeric.unsqueeze(-1)
        if self.kind == "piecewise_linear":
            spread = ((column - self.edges[:-1]) / (self.edges[1:] - self.edges[:-1])).clamp(0.0, 1.0)
        else:
            angle = 2 * math.pi * self.frequencies * column
            waves = torch.cat([angle.sin(), angle.cos()], -1)
            spread = torch.einsum("ndf,dfs->nds", waves, self.mix).relu()
        return torch.cat([numeric, spread.flatten(1)], 1)


class SharedLinear(nn.Module):
    """One linear layer for all members: each scales its inputs and outputs and has a bias of its own.

    References:
        Wen, Tran, Ba: BatchEnsemble. ICLR 2020, https://arxiv.org/abs/2002.06715.
    """

    def __init__(self, num_inputs: int, num_outputs: int, members: int, *, random_signs: bool) -> None:
        super().__init__()
        bound = 1.0 / math.sqrt(max(num_inputs, 1))
        self.weight = nn.Parameter(torch.empty(num_inputs, num_outputs).uniform_(-bound, bound))
        ones = torch.ones(members, 1, num_inputs)
        self.scale_in = nn.Parameter(torch.randint(0, 2, ones.shape) * 2.0 - 1.0 if random_signs else ones)
        self.scale_out = nn.Parameter(torch.ones(members, 1, num_outputs))
        self.bias = nn.Parameter(torch.empty(members, 1, num_outputs).uniform_(-bound, bound))

    def forward(self, inputs: Tensor) -> Tensor:
        """Map [members or 1, n, inputs] to [members, n, outputs]."""
        return torch.baddbmm(self.bias, inputs.expand(len(self.bias), -1, -1), self._member_weights())

    def _member_weights(self) -> Tensor:
        # Folding the scales into the weights costs [members, inputs, outputs] once per batch, instead of
        # two products over [members, n, width].
        return self.weight * self.scale_in.transpose(1, 2) * self.scale_out


class TabularNetwork(nn.Module):
    """An efficient ensemble of multilayer perceptrons over numbers and embedded categories.

    Members share their large weight matrices and differ by rank-1 adapters, by biases and by output heads; each
    is trained on its own loss. ``forward`` averages what members predict: the mean of their probabilities, given
    back as a logit (binary) or as log-probabilities (multiclass), or the mean of their values (regression).

    References:
        Gorishniy, Kotelnikov, Babenko: TabM. ICLR 2025, https://arxiv.org/abs/2410.24210. Here, adapters are folded
        into the weights of each batch, and every categorical column has an embedding of the same width.
    """

    offsets: Tensor

    def __init__(
        self,
        spec: ModelSpec,
        numeric_embedding: NumericEmbedding,
        hidden: int,
        depth: int,
        members: int,
        dropout: float,
        embedding_size: int,
    ) -> None:
        super().__init__()
        self.spec, self.members = spec, members
        self.numeric_embedding = numeric_embedding
        starts = [sum(spec.categorical_sizes[:column]) for column in range(len(spec.categorical_sizes))]
        self.register_buffer("offsets", torch.tensor(starts, dtype=torch.int64), persistent=False)
        self.embedding = nn.Parameter(torch.randn(sum(spec.categorical_sizes), embedding_size) * 0.1)
        width = numeric_embedding.width + embedding_size * len(spec.categorical_sizes)
        widths = [width] + [hidden] * depth
        self.layers = nn.ModuleList(
            SharedLinear(widths[layer], widths[layer + 1], members, random_signs=layer == 0) for layer in range(depth)
        )
        self.dropout = dropout
        bound = 1.0 / math.sqrt(hidden)
        self.head = nn.Parameter(torch.empty(members, hidden, spec.num_outputs).uniform_(-bound, bound))
        self.head_bias = nn.Parameter(torch.zeros(members, 1, spec.num_outputs))

    def member_outputs(self, numeric: Tensor, categorical: Tensor) -> Tensor:
        """Map numeric [n, d] and categorical [n, c] to outputs [members, n, num_outputs]."""
        embedded = functional.embedding(categorical + self.offsets, self.embedding).flatten(1)
        hidden = torch.cat([self.numeric_embedding(numeric), embedded], 1).unsqueeze(0)
        for layer in self.layers:
            hidden = functional.relu_(self._drop(layer(hidden)))
        return torch.baddbmm(self.head_bias, hidden, self.head)

    def _drop(self, hidden: Tensor) -> Tensor:
        # One mask for all members, and before the rectifier (which a factor of 0 or more passes): in place and
        # with an eighth of the random numbers, this halves the time of a training step on a CPU.
        if not self.training or self.dropout == 0:
            return hidden
        keep = 1.0 - self.dropout
        return hidden.mul_(hidden.new_empty(hidden.shape[1:]).bernoulli_(keep).div_(keep))

    def forward(self, numeric: Tensor, categorical: Tensor) -> Tensor:
        """Map numeric [n, d] and categorical [n, c] to the ensemble's [n, num_outputs]."""
        return _average(self.spec.task, self.member_outputs(numeric, categorical))

    def training_loss(self, numeric: Tensor, categorical: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        """Mean over members of each member's own weighted loss."""
        outputs = self.member_outputs(numeric, categorical)
        rows = outputs.flatten(0, 1)
        return mean_loss(self.spec.task, rows, target.repeat(self.members), weight.repeat(self.members))


def _average(task: Task, outputs: Tensor) -> Tensor:
    """Average members' predictions [members, n, k] to [n, k]; the constant ``log(members)`` cancels or shifts."""
    if task == "regression":
        return outputs.mean(0)
    if task == "binary":
        positive = torch.logsumexp(functional.logsigmoid(outputs), 0)
        return positive - torch.logsumexp(functional.logsigmoid(-outputs), 0)
    return torch.logsumexp(functional.log_softmax(outputs, -1), 0) - math.log(len(outputs))
