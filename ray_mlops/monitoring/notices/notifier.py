"""The threads that tell others: one for each target, so that a slow or dead one holds up nobody.

Started by the monitor's actor. Nothing on its event loop, in a rollout or in a replica waits for any of this.
"""

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from ray_mlops.config import ProjectConfig, TargetConfig
from ray_mlops.errors import RayMLOpsError
from ray_mlops.ledger import Ledger
from ray_mlops.monitoring.notices.delivery import Transport
from ray_mlops.monitoring.notices.follower import TargetFollower
from ray_mlops.monitoring.notices.outbox import TargetState, drop_state, stored_targets
from ray_mlops.monitoring.notices.subscription import Subscription, read_subscriptions, subscriptions_of
from ray_mlops.monitoring.notices.transports import build_transport
from ray_mlops.runtime.files import Files

logger = logging.getLogger(__name__)

REFRESH_S = 2.0
"""How often the configurations in force are looked at."""
TROUBLE_S = 5.0
"""Wait after the ledger or the store could not be used."""

Name = tuple[str, str]
"""Model and target."""


@dataclass(slots=True)
class _Worker:
    subscription: Subscription
    follower: TargetFollower
    stop: threading.Event
    thread: threading.Thread


class Notifier:
    """Follows the ledger for every target of the configurations in force.

    Args:
        ledger: The outbox.
        files: Where the targets' states are.
        console_url: Says where people reach the service, for links; called when a target is taken up.
        transport: Makes what delivers to a target.
        clock: Unix seconds.
    """

    def __init__(
        self,
        ledger: Ledger,
        files: Files,
        console_url: Callable[[], str] = str,
        transport: Callable[[TargetConfig, str], Transport] = build_transport,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._ledger, self._files, self._clock = ledger, files, clock
        self._console_url, self._transport = console_url, transport
        self._configs: Mapping[str, ProjectConfig] = {}
        self._workers: dict[Name, _Worker] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="notifier", daemon=True)

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread.start()

    def stop(self) -> None:
        """End every thread; one that waits for a target is left to end by itself."""
        self._stop.set()
        for worker in self._workers.values():
            worker.stop.set()

    def states(self) -> list[TargetState]:
        """Where each target stands, for metrics."""
        states = [worker.follower.state for worker in list(self._workers.values())]
        return [replace(state) for state in states if state is not None]

    def _run(self) -> None:
        is_tidy = False
        while not self._stop.is_set():
            try:
                self.refresh()
                if not is_tidy:
                    self._drop_strangers()
                    is_tidy = True
            except (RayMLOpsError, OSError, ValueError) as error:  # ValueError: a stored configuration
                logger.error("could not read whom to tell error=%s", error)
            self._stop.wait(REFRESH_S)

    def refresh(self) -> None:
        """Take up targets that are new or have changed, and let go of those that are gone."""
        self._configs = read_subscriptions(self._ledger, self._configs)
        wanted = subscriptions_of(self._configs)
        for name, worker in list(self._workers.items()):
            if wanted.get(name) != worker.subscription:
                worker.stop.set()
            if worker.thread.is_alive():
                continue  # also one that has been stopped: it may still write the state
            del self._workers[name]
            if name not in wanted and self._is_read(name[0]):
                drop_state(self._files, *name)
        for name, subscription in wanted.items():
            if name not in self._workers:
                self._workers[name] = self._begin(subscription)

    def _drop_strangers(self) -> None:
        """Forget targets that left the configuration while nobody was here."""
        for name in stored_targets(self._files):
            if name not in self._workers and self._is_read(name[0]):
                drop_state(self._files, *name)

    def _is_read(self, model: str) -> bool:
        """Whether the configuration of a model is known; one that cannot be read may still have its targets."""
        return any(config.name == model for config in self._configs.values())

    def _begin(self, subscription: Subscription) -> _Worker:
        url = subscription.config.console_url or self._console_url()
        transport = self._transport(subscription.target, url)
        follower = TargetFollower(self._ledger, self._files, subscription, transport, self._clock, random.random)
        stop = threading.Event()
        name = f"notify-{subscription.target.name}"
        thread = threading.Thread(target=_work, args=(follower, stop), name=name, daemon=True)
        thread.start()
        return _Worker(subscription, follower, stop, thread)


def _work(follower: TargetFollower, stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            wait_s = follower.step()
        except (RayMLOpsError, OSError) as error:
            logger.error("could not follow the ledger error=%s", error)
            wait_s = TROUBLE_S
        stop.wait(wait_s)
