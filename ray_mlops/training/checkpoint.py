"""The state of the epoch loop as bytes: what a run goes on from after a failure."""

import io
import pickle
from typing import Any

import torch

from ray_mlops.errors import TrainingError

STATE_VERSION = 1

State = dict[str, Any]
"""Numbers, text, lists, dicts and tensors only, so that it loads with ``weights_only``."""


def state_to_bytes(state: State) -> bytes:
    """Write a state for a checkpoint."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def state_from_bytes(content: bytes) -> State:
    """Read a state; runs no code that it carries.

    Raises:
        TrainingError: A newer release wrote it, or it is damaged.
    """
    try:
        state: State = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        problem = f"the checkpoint cannot be read: {str(error).splitlines()[0]}"
        raise TrainingError(problem, "training", "start afresh under another run name") from error
    if state.get("schema_version") != STATE_VERSION:
        version = state.get("schema_version")
        raise TrainingError(f"the checkpoint has schema_version {version!r}, this release reads {STATE_VERSION}")
    return state
