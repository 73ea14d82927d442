"""What a request of the Open Inference Protocol says beside its tensors: parameters, and the outputs it wants."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray_mlops.errors import RequestError
from ray_mlops.serving.dialects.oip_columns import check_outputs
from ray_mlops.serving.http.parse import check_id, shorten
from ray_mlops.serving.remote import BundleView


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which outputs a request wants, and in which form."""

    outputs: tuple[str, ...] | None
    """None: all."""
    binary: frozenset[str]
    """Outputs that are sent in binary form."""
    is_binary: bool
    """Whether that holds for every output."""


def read_names(request_id: Any, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The request's id and routing key, for ``build_request``; the empty id is none.

    Raises:
        RequestError: The id is no valid one.
    """
    if request_id == "":
        request_id = None
    if request_id is not None:
        check_id(request_id, "id")
    return {"request_id": request_id, "routing_key": parameters.get("routing_key")}


def read_wanted(outputs: Sequence[tuple[Any, Mapping[str, Any]]], is_binary: bool, bundle: BundleView) -> Wanted:
    """Read the requested outputs.

    Args:
        outputs: Name and parameters of each; none asks for all.
        is_binary: Whether every output is wanted in binary form.
        bundle: The champion's.

    Raises:
        RequestError: An output is unknown or there twice, or an extension is asked for that we do not have.
    """
    if not outputs:
        return Wanted(None, frozenset(), is_binary)
    names = [name for name, _ in outputs]
    check_outputs(names, bundle)
    binary = set()
    for name, parameters in outputs:
        where = f"output {name!r}"
        if parameters.get("classification"):
            remedy = "ask for the outputs 'label' and 'prediction'"
            raise RequestError("the classification extension is not supported", where, remedy)
        if read_flag(parameters, "binary_data", where):
            binary.add(name)
    return Wanted(tuple(names), frozenset(binary), is_binary)


def check_parameters(parameters: Any, where: str) -> dict[str, Any]:
    """Check the parameters of a request, an input or an output; those that we do not know mean nothing to us.

    Raises:
        RequestError: They are no object, or put a tensor where we do not look.
    """
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise RequestError(f"expected 'parameters' to be an object, got {shorten(parameters)}", where)
    if "shared_memory_region" in parameters:
        raise RequestError("shared memory is not supported", where, "send the tensor in the request")
    return parameters


def read_flag(parameters: Mapping[str, Any], name: str, where: str) -> bool:
    """A parameter that is true or false; absent is false.

    Raises:
        RequestError: It is something else.
    """
    value = parameters.get(name, False)
    if not isinstance(value, bool):
        raise RequestError(f"expected {name} to be true or false, got {shorten(value)}", where)
    return value
