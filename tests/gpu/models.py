"""A model that tells a GPU from a CPU."""

from typing import Any

from torch import Tensor, nn

from ray_mlops.training.models import ModelSpec, tabular

PROBE_ROWS = 2
"""As many rows show a model's shapes on the CPU whenever it is built; they alone are let through."""


def refuse_cpu(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Raise where weights or rows are not on a GPU."""
    devices = {tensor.device.type for tensor in (*inputs, *layer.parameters())}
    if devices != {"cuda"} and inputs[0].shape[-2] != PROBE_ROWS:
        raise RuntimeError(f"expected a GPU, the model and its rows are on {sorted(devices)}")


def only_on_gpu(spec: ModelSpec, **params: Any) -> nn.Module:
    """The network of ``tabular``, which refuses to compute on a CPU."""
    network = tabular(spec, **params)
    network.layers[0].register_forward_pre_hook(refuse_cpu)
    return network
