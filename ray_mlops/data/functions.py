"""User functions by dotted path: found, recorded by the hash of their source, imported only when trusted."""

import hashlib
import importlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ray_mlops.errors import BundleError, FeatureError

ArrayFunction = Callable[[pa.Array], pa.Array]


@dataclass(frozen=True, slots=True)
class UserFunction:
    """A user function as a pipeline records it."""

    path: str
    """``package.module:function``."""
    source_hash: str
    """Hash of the function's source text; 16 hexadecimal digits."""


def find_function(path: str, where: str) -> ArrayFunction:
    """Import a function by its dotted path.

    Raises:
        FeatureError: No such module or function, or it cannot be called.
    """
    module, _, name = path.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise FeatureError(f"cannot import {path!r}: {error}", where, "is its package on PYTHONPATH?") from error
    if not callable(function):
        raise FeatureError(f"{path!r} is not a function", where)
    return function  # type: ignore[no-any-return]


def record_function(path: str, where: str) -> UserFunction:
    """Import a function and record the hash of its source."""
    return UserFunction(path, _source_hash(find_function(path, where)))


def load_trusted(recorded: UserFunction, trusted: Sequence[str], where: str) -> ArrayFunction:
    """Import a function that a stored pipeline names.

    Args:
        recorded: As stored.
        trusted: Packages and modules that may be imported (``my_package`` covers ``my_package.features``).
        where: The column, for errors.

    Raises:
        BundleError: Its module is not trusted; nothing was imported.
        FeatureError: Its source is not what it was when the pipeline was fitted.
    """
    module = recorded.path.partition(":")[0]
    if not any(f"{module}.".startswith(f"{prefix.rstrip('.')}.") for prefix in trusted):
        remedy = "name its module in the configuration's features, or trust its package when loading"
        raise BundleError(f"the stored pipeline wants to import {recorded.path!r}, which is not trusted", where, remedy)
    function = find_function(recorded.path, where)
    found = _source_hash(function)
    if found != recorded.source_hash:
        problem = f"the source of {recorded.path!r} has changed since the pipeline was fitted"
        remedy = f"restore the code (hash {recorded.source_hash}, found {found}) or train again"
        raise FeatureError(problem, where, remedy)
    return function


def call_function(function: ArrayFunction, array: pa.Array, where: str) -> pa.Array:
    """Call a user function on a canonical array, and hold it to its contract.

    Raises:
        FeatureError: It failed, or did not return an Arrow array of the same length.
    """
    try:
        result: Any = function(array)
    except Exception as error:  # the user's code may raise anything; it is named and passed on
        raise FeatureError(f"the feature function failed: {type(error).__name__}: {error}", where) from error
    if isinstance(result, pa.ChunkedArray):
        result = result.combine_chunks()
    if not isinstance(result, pa.Array) or len(result) != len(array):
        got = f"{len(result)} values" if isinstance(result, pa.Array) else type(result).__name__
        raise FeatureError(f"the feature function returned {got}", where, f"return an Arrow array of {len(array)}")
    return result


def _source_hash(function: Callable[..., Any]) -> str:
    try:
        source = inspect.getsource(function)
    except (OSError, TypeError):
        source = getattr(getattr(function, "__code__", None), "co_code", b"").hex()
    return hashlib.sha256(source.encode()).hexdigest()[:16]
