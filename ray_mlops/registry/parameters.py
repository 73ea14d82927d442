"""Fit our names and values into what MLflow accepts."""

import hashlib
import json
import posixpath
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

MAX_NAME_LENGTH = 250
MAX_PARAMETER_LENGTH = 6000
MAX_TAG_LENGTH = 5000
MAX_PARAMETERS_PER_BATCH = 100
MAX_METRICS_PER_BATCH = 1000
MAX_DIGEST_LENGTH = 36
"""MLflow's limits, as of 3.12."""
_FORBIDDEN = re.compile(r"[^\w.\- /:]")


def flatten_parameters(parameters: Mapping[str, Any] | BaseModel) -> dict[str, str]:
    """Return a tree of settings as dotted names and texts; lists are written as JSON.

    Example:
        >>> flatten_parameters({"training": {"epochs": 3, "params": {}}, "steps": [0.1, 0.5]})
        {'training.epochs': '3', 'training.params': '{}', 'steps': '[0.1, 0.5]'}
    """
    tree = parameters.model_dump(mode="json") if isinstance(parameters, BaseModel) else parameters
    return {accepted_name(name): truncate(text, MAX_PARAMETER_LENGTH) for name, text in _leaves(tree, "")}


def accepted_name(name: str) -> str:
    """Return the name if MLflow accepts it; else one that it does, ending in a hash to keep it apart.

    Example:
        >>> accepted_name("training.epochs"), accepted_name("auc@origin=JFK")
        ('training.epochs', 'auc_origin_JFK-ae438d5a')
    """
    is_path = posixpath.normpath(name) == name and not name.startswith(("/", ".."))
    if 0 < len(name) <= MAX_NAME_LENGTH and is_path and name != "." and not _FORBIDDEN.search(name):
        return name
    digest = hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:8]
    cleaned = re.sub(r"[^\w.\- :]", "_", name).lstrip(".")[: MAX_NAME_LENGTH - 9]
    return f"{cleaned}-{digest}"


def truncate(text: str, length: int) -> str:
    """Cut a text that is too long, and let it end in dots.

    Example:
        >>> truncate("abcdefgh", 6)
        'abc...'
    """
    return text if len(text) <= length else f"{text[: length - 3]}..."


def _leaves(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{name}.")
        else:
            yield name, value if isinstance(value, str) else json.dumps(value, default=str)
