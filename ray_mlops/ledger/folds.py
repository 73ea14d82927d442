"""State as a fold over events, and the folds that several layers read.

Nothing here writes. Rollout, monitor and retraining fold their own streams, with ``fold``.
"""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from ray_mlops.errors import ModelNotFoundError
from ray_mlops.ledger.event import LedgerEvent
from ray_mlops.ledger.ledger import Ledger

State = TypeVar("State")

ROUTES_COMMITTED = "routes.committed"
ROUTES_WITHDRAWN = "routes.withdrawn"
"""In stream ``{model}/routes``: the model is not served any more, until routes are committed again."""


def fold(events: Iterable[LedgerEvent], initial: State, apply: Callable[[State, LedgerEvent], State]) -> State:
    """Apply events in order, and return the state they lead to.

    Example:
        >>> event = LedgerEvent(1, "m/x", 1, 0.0, None, "added", "k", {"n": 2}, "", "")
        >>> fold([event, event], 0, lambda total, event: total + event.payload["n"])
        4
    """
    state = initial
    for event in events:
        state = apply(state, event)
    return state


def deployed_config(ledger: Ledger, model: str, config_hash: str | None = None) -> dict[str, Any]:
    """Return a configuration that was deployed: the one of a hash, or the newest.

    Raises:
        ModelNotFoundError: None was deployed, or none with this hash.
    """
    stream = f"{model}/config"
    event = ledger.get(f"{stream}/{config_hash}") if config_hash else ledger.last(stream, "config.deployed")
    if event is None:
        which = f"configuration {config_hash}" if config_hash else "configuration"
        raise ModelNotFoundError(f"no {which} was deployed", f"model {model!r}", "deploy it with 'ray-mlops serve'")
    return dict(event.payload["config"])


def current_routes(ledger: Ledger) -> dict[str, Any]:
    """Return the routes in force, as the JSON of ``RouteTable``.

    Returns:
        ``{"version": int, "models": {model: payload of its newest routes.committed}}``. ``version`` is the
        sequence number of the newest change (a withdrawal is one), 0 before the first.
    """
    newest = ledger.newest_by_stream(ROUTES_COMMITTED, ROUTES_WITHDRAWN)
    committed = [event for event in newest if event.kind == ROUTES_COMMITTED]
    return {
        "version": newest[-1].seq if newest else 0,
        "models": {event.stream.removesuffix("/routes"): event.payload for event in committed},
    }


def registered_versions(ledger: Ledger, model: str) -> dict[str, dict[str, Any]]:
    """Return the payload of each ``version.registered`` by version, in the order of registration."""
    events = ledger.read(f"{model}/versions", kind="version.registered")
    return {str(event.payload["version"]): event.payload for event in events}


def approvals(ledger: Ledger, model: str) -> dict[str, dict[str, Any]]:
    """Return the payload of the newest ``version.approved`` of each approved version."""
    events = ledger.read(f"{model}/versions", kind="version.approved")
    return {str(event.payload["version"]): event.payload for event in events}


def aliases_in_force(ledger: Ledger, model: str) -> dict[str, str]:
    """Return the version of each alias; an alias set to None is gone."""
    events = ledger.read(f"{model}/versions", kind="alias.set")
    newest = {event.payload["alias"]: event.payload["version"] for event in events}
    return {alias: str(version) for alias, version in newest.items() if version is not None}
