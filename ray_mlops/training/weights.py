"""Weights as bytes, in the safetensors format: no pickle."""

from collections.abc import Mapping

import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors
from torch import nn

from ray_mlops.errors import BundleError


def weights_to_bytes(state: Mapping[str, torch.Tensor]) -> bytes:
    """Write a model's state; equal states give equal bytes. Tied tensors are written once for each name."""
    return bytes(safetensors.save({name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.items()}))


def weights_from_bytes(content: bytes) -> dict[str, torch.Tensor]:
    """Read a state.

    Raises:
        BundleError: It is no safetensors file.
    """
    try:
        return dict(safetensors.load(content))
    except SafetensorError as error:
        raise BundleError(f"is no safetensors file: {error}", "weights.safetensors") from error


def find_mismatch(model: nn.Module, weights: Mapping[str, torch.Tensor]) -> str:
    """Why these weights cannot be loaded into a model; empty when they can.

    Example:
        >>> find_mismatch(nn.Linear(2, 1), {"weight": torch.zeros(1, 3)})
        'weight is [1, 3], expected [1, 2] (and 1 more)'
    """
    expected = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    got = {name: list(tensor.shape) for name, tensor in weights.items()}
    wrong = [name for name in expected if got.get(name) != expected[name]] + [
        name for name in got if name not in expected
    ]
    if not wrong:
        return ""
    first = wrong[0]
    more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
    return f"{first} is {got.get(first, 'missing')}, expected {expected.get(first, 'nothing')}{more}"
