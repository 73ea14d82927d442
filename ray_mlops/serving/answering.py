"""One request for predictions: which version answers, what happens when it does not, and what is booked."""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ray_mlops.config import ServingConfig
from ray_mlops.errors import FeatureError, NotFoundError, OverloadError, RayMLOpsError, RequestError
from ray_mlops.serving.breaker import BREAK_AFTER, Breaker, Entry
from ray_mlops.serving.http.parse import PredictRequest
from ray_mlops.serving.loaded import LoadedModel
from ray_mlops.serving.prediction_log.log import PredictionLog
from ray_mlops.serving.prediction_log.table import LogRecord
from ray_mlops.serving.predictor import Answer
from ray_mlops.serving.protocol import ArmName, Outcome
from ray_mlops.serving.routing import choose_arm, unit_hash
from ray_mlops.serving.telemetry import Served, Telemetry

logger = logging.getLogger(__name__)
PATIENCE_S = 0.1
"""A client that leaves sooner has not waited for us, and nothing is booked against the arm: an isolated candidate
has requests on their way for longer than the champion, and would get the blame for every client that stops."""


class ArmClient(Protocol):
    """Reaches candidates that live in processes of their own."""

    async def predict(self, model: str, version: str, rows: Sequence[Mapping[str, Any]]) -> Answer:
        """Predict.

        Raises:
            FeatureError: A value has the wrong type.
            ConnectionError: The process is gone.
        """

    def is_gone(self, model: str, version: str) -> bool:
        """Whether it is known that none of its processes runs: then a request that waited did not wait for it."""


@dataclass(slots=True)
class Assignment:
    """Which version a request is for. (Not frozen: see ``Answer``.)"""

    arm: ArmName
    version: str
    is_random: bool
    """False where routing had no say: pinned by an operator, or the arm is not loaded here yet."""
    weight: float
    """Share of traffic of this arm."""
    key_hash: int | None = None
    """Of the request's routing key, if it has one."""
    is_pinned: bool = False


@dataclass(frozen=True, slots=True)
class Failover:
    """Why the champion answered for another version."""

    version: str
    """The version that failed."""
    outcome: Outcome
    reason: object


@dataclass(slots=True)
class Answered:
    """A request's answer, and who gave it. (Not frozen: see ``Answer``.)"""

    answer: Answer
    arm: ArmName
    version: str
    failover: Failover | None = None
    """None where nobody failed, or the version was not asked at all."""


@dataclass(slots=True)
class _Trial:
    """How a version that is not the champion does in this replica."""

    route_version: int
    breaker: Breaker


class Answering:
    """Answers requests with the loaded versions, and books how each went.

    Args:
        telemetry: Counts.
        log: Takes the rows.
        arms: Reaches isolated candidates.
        serving: Timeouts and limits.
    """

    def __init__(self, telemetry: Telemetry, log: PredictionLog, arms: ArmClient, serving: ServingConfig) -> None:
        self._telemetry, self._log, self._arms, self._serving = telemetry, log, arms, serving
        self._trials: dict[tuple[str, str], _Trial] = {}
        self._max_on_trial = max(1, serving.max_ongoing_requests // 2)

    async def answer(
        self, loaded: LoadedModel, request: PredictRequest, arrival_s: float, pinned_to: str | None = None
    ) -> Answered:
        """Answer a request, by the champion if the candidate does not.

        Args:
            loaded: What the request sees from beginning to end.
            request: Checked, but for the types of values.
            arrival_s: Unix seconds.
            pinned_to: A version that an operator asks for.

        Raises:
            RequestError: A value has the wrong type, or there is no such version to pin to.
            OverloadError: The log is full, or the champion took too long.
            RayMLOpsError: The champion failed.
        """
        self._log.check_room(len(request.rows))
        start = time.perf_counter()
        chosen = assign(loaded, request, pinned_to)
        is_champion = chosen.version == loaded.routes.champion.version
        outcome: Outcome = "ok"
        assigned: Answer | None = None
        reason: object = None
        breaker: Breaker | None = None
        entry: Entry = "ask"
        try:
            if is_champion:
                answered = await self._ask_champion(loaded, request)
                assigned = answered.answer
            else:
                breaker = self._breaker(loaded, chosen.version)
                entry = breaker.enter(time.monotonic())
                assigned, outcome, reason = await self._ask_other(loaded, request, chosen.version, breaker, entry)
                if assigned is not None:
                    answered = Answered(assigned, chosen.arm, chosen.version)
                else:
                    answered = await self._ask_champion(loaded, request)
                    breaker.fail(entry, time.monotonic())
                    if reason is not None:
                        answered.failover = Failover(chosen.version, outcome, reason)
        except _ChampionError as failure:
            if is_champion:
                outcome = failure.outcome
            self._book(loaded, request, chosen, outcome, assigned, arrival_s, start)
            raise failure.error from failure.__cause__
        except asyncio.CancelledError:
            if outcome == "ok" and time.perf_counter() - start > PATIENCE_S:
                outcome = "timeout"
            if breaker is not None and outcome != "ok":
                breaker.fail(entry, time.monotonic())
            self._book(loaded, request, chosen, outcome, assigned, arrival_s, start)
            raise
        latency_s = self._book(loaded, request, chosen, outcome, assigned, arrival_s, start)
        self._write(loaded, request, chosen, outcome, answered, arrival_s, latency_s)
        return answered

    async def _ask_champion(self, loaded: LoadedModel, request: PredictRequest) -> Answered:
        champion, version, model = loaded.champion, loaded.routes.champion.version, loaded.routes.model
        try:
            if champion.is_quick(len(request.rows)):
                answer = await champion.answer(request.rows)
            else:
                async with asyncio.timeout(self._serving.request_timeout_s):
                    answer = await champion.answer(request.rows)
        except FeatureError as error:
            raise RequestError(error.problem, f"{request.where}: {error.where}", error.remedy) from error
        except TimeoutError as error:
            problem = f"version {version} took longer than {self._serving.request_timeout_s} s"
            raise _ChampionError(version, "timeout", OverloadError(problem, model, "try again")) from error
        except ConnectionError as error:  # it has an application of its own, and nobody answers in its place
            problem = f"version {version} is away: {error}"
            raise _ChampionError(version, "crashed", OverloadError(problem, model, "try again")) from error
        except Exception as error:  # a model is foreign code
            logger.exception("fail to predict model=%s version=%s", model, version)
            problem = f"version {version} failed: {type(error).__name__}: {error}"
            raise _ChampionError(version, "error", RayMLOpsError(problem, model)) from error
        if fault := champion.fault(answer.prediction, len(request.rows)):
            problem = f"the prediction of version {version} {fault}"
            raise _ChampionError(version, "invalid", RayMLOpsError(problem, model))
        return Answered(answer, "champion", version)

    async def _ask_other(
        self, loaded: LoadedModel, request: PredictRequest, version: str, breaker: Breaker, entry: Entry
    ) -> tuple[Answer | None, Outcome, object]:
        """Ask a version that is not the champion; no answer when it gave nothing that can be sent, and why.

        Nobody is to blame (None) where it was not asked.
        """
        if entry == "overloaded" or entry == "unavailable":
            return None, entry, None
        outcome: Outcome = "error"
        reason: object = ""
        timeout_s = loaded.settings.candidate_timeout_s or self._serving.candidate_timeout_s
        try:
            local = loaded.predictors.get(version)
            if local is not None and local.is_quick(len(request.rows)):
                answer = await local.answer(request.rows)
            else:
                async with asyncio.timeout(timeout_s):
                    answer = await self._predict(loaded, version, request.rows)
            reason = loaded.champion.fault(answer.prediction, len(request.rows))
            if not reason:
                breaker.succeed()
                return answer, "ok", None
            outcome = "invalid"
        except FeatureError as error:
            return None, "error", error  # whose mistake it is, the champion will tell
        except TimeoutError:
            is_gone = local is None and self._arms.is_gone(loaded.routes.model, version)
            outcome, reason = ("crashed" if is_gone else "timeout"), f"no answer in {timeout_s:g} s"
        except ConnectionError as error:
            outcome, reason = "crashed", error
        except Exception as error:  # a model is foreign code, and the champion can still answer
            reason = f"{type(error).__name__}: {error}"
        finally:
            breaker.leave(entry, time.monotonic())
        if breaker.failures < BREAK_AFTER:
            model = loaded.routes.model
            logger.warning("fail over model=%s version=%s outcome=%s because=%s", model, version, outcome, reason)
        return None, outcome, reason

    def _breaker(self, loaded: LoadedModel, version: str) -> Breaker:
        """The breaker of a version. New routes give it another chance; what it holds, it still holds."""
        key, route_version = (loaded.routes.model, version), loaded.routes.version
        max_running = loaded.settings.max_on_trial or self._max_on_trial
        trial = self._trials.get(key)
        if trial is None:
            trial = self._trials[key] = _Trial(route_version, Breaker(max_running))
        elif trial.route_version < route_version:
            trial.route_version = route_version
            trial.breaker.renew(max_running)
        return trial.breaker

    async def _predict(self, loaded: LoadedModel, version: str, rows: Sequence[dict[str, Any]]) -> Answer:
        local = loaded.predictors.get(version)
        if local is not None:
            return await local.answer(rows)
        return await self._arms.predict(loaded.routes.model, version, rows)

    def _book(
        self,
        loaded: LoadedModel,
        request: PredictRequest,
        chosen: Assignment,
        outcome: Outcome,
        assigned: Answer | None,
        arrival_s: float,
        start: float,
    ) -> float:
        latency_s = time.perf_counter() - start
        settings = loaded.settings
        if settings.by_window:
            first_us = request.event_us[0] if request.event_us else int(arrival_s * 1e6)
            epoch = first_us // settings.window_us
        else:
            epoch = int(arrival_s)
        served = Served(
            loaded.routes,
            chosen.arm,
            chosen.version,
            outcome,
            epoch,
            assigned.seconds if assigned is not None else 0.0,
            latency_s,
            settings.slo_s,
            chosen.is_random,
            chosen.key_hash,
            request.rows,
        )
        self._telemetry.book(served)
        return latency_s

    def _write(
        self,
        loaded: LoadedModel,
        request: PredictRequest,
        chosen: Assignment,
        outcome: Outcome,
        answered: Answered,
        arrival_s: float,
        latency_s: float,
    ) -> None:
        style, event_us, arrival_us = loaded.format, request.event_us, int(arrival_s * 1e6)
        rows, hashes = style.redacted(request.rows) if style.redact else (request.rows, {})
        answer = answered.answer
        record = LogRecord(  # in the order of its fields: seventeen names would take half a microsecond
            style,
            request.request_id,
            request.ids,
            rows,
            hashes,
            event_us,
            arrival_us,
            answered.arm,
            answered.version,
            loaded.routes.version,
            chosen.key_hash,
            not chosen.is_random,
            outcome,
            chosen.weight,
            int(answer.seconds * 1e6 + 0.5),
            int(latency_s * 1e6 + 0.5),
            answer.prediction.values,
        )
        newest_us = max(event_us) if event_us else arrival_us
        self._log.accept(record, is_named=request.is_named, window=newest_us // loaded.settings.window_us)


def assign(loaded: LoadedModel, request: PredictRequest, pinned_to: str | None = None) -> Assignment:
    """Choose the version for a request.

    Raises:
        NotFoundError: It is pinned to a version that is not loaded.
    """
    routes, key = loaded.routes, request.routing_key
    candidate = routes.candidate
    share = candidate.weight if candidate is not None else 0.0
    key_hash = None if key is None else unit_hash(key)
    if pinned_to is not None:
        if pinned_to not in loaded.versions():
            known = ", ".join(loaded.versions())
            raise NotFoundError(f"version {pinned_to!r} is not loaded", "x-model-version", f"loaded: {known}")
        is_candidate = candidate is not None and pinned_to == candidate.version
        weight = share if is_candidate else 1.0 - share
        arm: ArmName = "candidate" if is_candidate else "champion"
        return Assignment(arm, pinned_to, False, weight, key_hash, is_pinned=True)
    arm = choose_arm(routes, request.request_id, sticky_key=key)
    if arm == "champion" or candidate is None:
        return Assignment("champion", routes.champion.version, True, 1.0 - share, key_hash)
    if candidate.placement == "in_replica" and candidate.version not in loaded.predictors:
        return Assignment("champion", routes.champion.version, False, 1.0 - share, key_hash)
    return Assignment("candidate", candidate.version, True, share, key_hash)


class _ChampionError(Exception):
    """Carries what is booked and what is said; outside this module ``blamed`` finds it behind the error."""

    def __init__(self, version: str, outcome: Outcome, error: RayMLOpsError) -> None:
        super().__init__(version, outcome, error)
        self.version, self.outcome, self.error = version, outcome, error


def blamed(error: Exception) -> tuple[str, Outcome] | None:
    """The version that failed, and how, of an error that ``Answering.answer`` raised; None where none failed."""
    failure = error.__context__
    return (failure.version, failure.outcome) if isinstance(failure, _ChampionError) else None
