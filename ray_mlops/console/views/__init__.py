"""One module for each page: what it asks for, and what it makes of the answers."""

from collections.abc import Awaitable, Callable

from ray_mlops.console.address import Visit
from ray_mlops.console.render import Screen
from ray_mlops.console.sources import ConsoleData
from ray_mlops.console.views.drift import show_drift
from ray_mlops.console.views.ledger import show_event, show_ledger
from ray_mlops.console.views.lineage import show_lineage
from ray_mlops.console.views.overview import show_overview
from ray_mlops.console.views.performance import show_performance
from ray_mlops.console.views.rollout import show_rollout

View = Callable[[ConsoleData, Visit], Awaitable[Screen]]

VIEWS: dict[str, View] = {
    "overview": show_overview,
    "rollout": show_rollout,
    "drift": show_drift,
    "performance": show_performance,
    "lineage": show_lineage,
    "ledger": show_ledger,
    "event": show_event,
}
"""The view of each page (see ``address.Address.page``)."""
