"""The detached ``monitor`` actor, and what replicas hold of it. Every ``if`` is in ``MonitorService``."""

import asyncio
import importlib
import logging
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from ray_mlops.config import StoreConfig
from ray_mlops.config.monitoring import RetrainAction
from ray_mlops.errors import NotFoundError, RayMLOpsError
from ray_mlops.ledger import Ledger, current_routes
from ray_mlops.monitoring.exposition import exposition
from ray_mlops.monitoring.handover import Handover, Receipt, Reference, build_handover
from ray_mlops.monitoring.history import Stretch
from ray_mlops.monitoring.notices.exposition import expose_notifications
from ray_mlops.monitoring.notices.notifier import Notifier
from ray_mlops.monitoring.service import MonitorService
from ray_mlops.runtime.addresses import recorded_url
from ray_mlops.runtime.files import Files
from ray_mlops.serving.prediction_log.compaction import compact
from ray_mlops.serving.protocol import MONITOR_ACTOR, NAMESPACE, LabelRecord

logger = logging.getLogger(__name__)

_SUPERVISE_S = 0.25
_COMPACT_S = 60.0
_CALL_TIMEOUT_S = 10.0
_MAX_PENDING_ROWS = 200_000
_DEFECTS = (RayTaskError, ValueError, KeyError, TypeError, pa.ArrowException)
"""What handing over may raise that another try would raise again."""


class MonitorActor:
    """Thin asynchronous shell of ``MonitorService``; created once in each cluster by ``start_monitor``."""

    def __init__(self, store: dict[str, Any], submitter: str) -> None:
        config = StoreConfig.model_validate(store)
        module, _, name = submitter.partition(":")
        self._ledger = Ledger.open(config)
        factory = getattr(importlib.import_module(module), name)
        self._files = Files(config.root_uri)
        self._service = MonitorService(self._ledger, self._files, factory(config))
        self._notifier = Notifier(self._ledger, self._files, partial(recorded_url, config))
        self._notifier.start()  # here, not in `start`: a restarted actor that nobody calls has notices to send
        self._started = False

    async def start(self) -> None:
        """Watch every model that has a route, and look after retraining jobs from now on."""
        if self._started:
            return
        self._started = True
        self._tasks = [asyncio.create_task(self._supervise()), asyncio.create_task(self._compact())]
        for model in current_routes(self._ledger)["models"]:
            try:
                self._service.watch(model)
            except RayMLOpsError as error:  # the other models are watched all the same
                logger.error("could not watch model=%s error=%s", model, error)

    async def watch(self, model: str) -> None:
        await self.start()
        self._service.watch(model)

    async def forget(self, model: str) -> None:
        self._service.forget(model)

    async def reference(self, model: str) -> Reference:
        await self.start()
        return self._service.reference(model)

    async def handover(self, sent: Handover) -> Receipt:
        await self.start()
        return self._service.handover(sent)

    async def add_labels(self, model: str, labels: list[LabelRecord]) -> dict[str, int]:
        await self.start()
        return self._service.add_labels(model, labels)

    async def view(self, model: str) -> dict[str, Any]:
        await self.start()
        return self._service.view(model)

    async def history(self, model: str) -> list[dict[str, Any]]:
        await self.start()
        return self._service.history(model)

    async def past(self, model: str, start_us: int, end_us: int) -> Stretch | None:
        await self.start()
        return self._service.past(model, start_us, end_us)

    async def status(self, model: str) -> dict[str, Any]:
        await self.start()
        return self._service.status(model)

    async def labelled(self, model: str, after_window: int) -> pa.Table:
        await self.start()
        return self._service.labelled(model, after_window)

    async def closed_window(self, model: str) -> int | None:
        await self.start()
        return self._service.closed_window(model)

    async def metrics(self) -> str:
        await self.start()
        views = {m: {**self._service.view(m), "rollout": self._service.rollout(m)} for m in self._service.models()}
        return exposition(views) + expose_notifications(self._notifier.states())

    async def request_retraining(
        self, model: str, key: str, by: str, reason: str, action: RetrainAction | None = None
    ) -> None:
        await self.start()
        self._service.request_retraining(model, key, by, reason, action)

    async def acknowledge(self, model: str, alarm: str, by: str) -> None:
        await self.start()
        self._service.acknowledge(model, alarm, by)

    async def _supervise(self) -> None:
        while True:
            await asyncio.sleep(_SUPERVISE_S)
            for model in self._service.models():
                try:
                    self._service.supervise(model)
                except (RayMLOpsError, OSError) as error:
                    logger.error("could not supervise retraining model=%s error=%s", model, error)

    async def _compact(self) -> None:
        """Compact the prediction log behind the watermark: this actor knows it, and there is one of its kind."""
        while True:
            await asyncio.sleep(_COMPACT_S)
            for model, before_day in self._service.days_to_compact().items():
                try:
                    await asyncio.to_thread(compact, self._files, model, before_day)
                except (RayMLOpsError, OSError, ValueError, pa.ArrowException) as error:
                    logger.error("could not compact the log model=%s error=%s", model, error)


def start_monitor(store: StoreConfig, submitter: str) -> Any:
    """Create the detached actor, or find the one that is there.

    Args:
        store: Where the ledger and the logs are.
        submitter: Import path of a factory ``(StoreConfig) -> Submitter``.
    """
    remote: Any = ray.remote(MonitorActor)
    options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": 0, "max_concurrency": 64}
    identity = {"name": MONITOR_ACTOR, "namespace": NAMESPACE, "lifetime": "detached", "get_if_exists": True}
    return remote.options(**options, **identity).remote(store.model_dump(mode="json"), submitter)


def monitor_actor() -> Any:
    """The running actor.

    Raises:
        NotFoundError: It is not there.
    """
    try:
        return ray.get_actor(MONITOR_ACTOR, namespace=NAMESPACE)
    except ValueError as error:
        raise NotFoundError("the monitor is not running", MONITOR_ACTOR, "start it with 'ray-mlops serve'") from error


class MonitorSink:
    """Hands each flush of a replica to the monitor; what cannot be handed over now is kept and tried again.

    Nothing is lost by that: rows beyond the bound are in the prediction log, from which a restarted monitor
    reads what it lacks.
    """

    def __init__(self, actor: Callable[[], Any] = monitor_actor) -> None:
        self._find = actor
        self._actor: Any | None = None
        self._replica = uuid.uuid4().hex[:12]
        self._sequence = 0
        self._references: dict[str, Reference] = {}
        self._pending: deque[tuple[str, pa.Table]] = deque()
        self.failures = 0
        self.lost_rows = 0
        """Rows that cannot be counted, or that the monitor refused; the prediction log has them."""

    def accept(self, model: str, version: str, rows: pa.Table) -> None:
        """Take a flush of rows."""
        self._pending.append((model, rows))
        while sum(part.num_rows for _, part in self._pending) > _MAX_PENDING_ROWS:
            self._pending.popleft()
        while self._pending:
            flush = self._pending.popleft()
            try:
                self._hand_over(*flush)
            except (RayActorError, GetTimeoutError, RayMLOpsError) as error:
                self._pending.appendleft(flush)
                self.failures += 1
                self._actor = None
                self._references.clear()
                logger.warning("kept rows for the monitor pending=%d error=%s", len(self._pending), error)
                return
            except _DEFECTS as error:  # there or here: these rows would fail again, and hold up all others
                self.failures += 1
                self.lost_rows += flush[1].num_rows
                logger.error("lost rows for the monitor model=%s rows=%d error=%r", flush[0], flush[1].num_rows, error)

    def close(self) -> None:
        """Forget what is left; the prediction log has it."""
        self._pending.clear()

    def _hand_over(self, model: str, rows: pa.Table) -> None:
        actor = self._handle()
        while rows.num_rows:
            if model not in self._references:
                self._references[model] = self._call(actor.reference.remote(model))
            self._sequence += 1
            sent = build_handover(model, self._replica, self._sequence, rows, self._references[model])
            receipt: Receipt = self._call(actor.handover.remote(sent))
            if receipt.accepted:
                return
            if receipt.reference is not None:
                self._references[model] = receipt.reference
            if receipt.known:
                known = set(receipt.known)
                fresh = [name not in known for name in rows["prediction_id"].to_pylist()]
                rows = rows.filter(pa.array(fresh))

    def _call(self, reference: Any) -> Any:
        return ray.get(reference, timeout=_CALL_TIMEOUT_S)

    def _handle(self) -> Any:
        if self._actor is None:
            self._actor = self._find()
        return self._actor


class MonitorClient:
    """The monitor as serving sees it: implements ``LabelSink`` and ``MonitorView``."""

    def __init__(self, actor: Callable[[], Any] = monitor_actor) -> None:
        self._find = actor

    async def accept(self, model: str, labels: Sequence[LabelRecord]) -> Mapping[str, int]:
        return dict(await self._find().add_labels.remote(model, list(labels)))

    async def view(self, model: str) -> Mapping[str, Any]:
        return dict(await self._find().view.remote(model))

    async def status(self, model: str) -> Mapping[str, Any]:
        return dict(await self._find().status.remote(model))

    async def labelled(self, model: str, after_window: int) -> pa.Table:
        return await self._find().labelled.remote(model, after_window)

    async def closed_window(self, model: str) -> int | None:
        closed: int | None = await self._find().closed_window.remote(model)
        return closed

    async def metrics(self) -> str:
        return str(await self._find().metrics.remote())


def prediction_sink(store: StoreConfig) -> MonitorSink:
    """Factory named in ``serving.protocol.Hooks``."""
    return MonitorSink()


def monitor_client(store: StoreConfig) -> MonitorClient:
    """Factory named in ``serving.protocol.Hooks``, for the label sink and the view."""
    return MonitorClient()
