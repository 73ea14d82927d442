"""What the ledger says about one model, kept up to date by reading only what is new."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ray_mlops.config import ProjectConfig
from ray_mlops.errors import GateRefusedError, ModelNotFoundError, RolloutError
from ray_mlops.ledger import LedgerEvent
from ray_mlops.ledger.folds import ROUTES_COMMITTED, ROUTES_WITHDRAWN
from ray_mlops.serving.protocol import ModelRoutes
from ray_mlops.serving.rollout.evidence import GateStanding
from ray_mlops.serving.rollout.state import RolloutState, fold_rollout


@dataclass(slots=True)
class ModelRecord:
    """A fold over every stream of one model that serving cares for."""

    model: str
    seq: int = 0
    """The last event that is in it."""
    config: ProjectConfig | None = None
    routes: ModelRoutes | None = None
    route_stream_version: int = 0
    rollout: RolloutState | None = None
    rollout_stream_version: int = 0
    versions: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """Payload of ``version.registered`` by version, in order of registration."""
    registered_us: dict[str, int | None] = field(default_factory=dict)
    """Event time of each registration, microseconds since 1970 UTC."""
    holdout_end_us: dict[str, int] = field(default_factory=dict)
    """By retraining decision: the end of the data that its candidate was trained and judged on, exclusive."""
    approved: set[str] = field(default_factory=set)
    aliases: dict[str, str] = field(default_factory=dict)
    rollouts: dict[str, int] = field(default_factory=dict)
    """How many rollouts each version has had."""
    weights: dict[int, float] = field(default_factory=dict)
    """The candidate's share of traffic under each route version of the newest rollout."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """Transitions of the newest rollout."""
    last_move: Mapping[str, Any] = field(default_factory=dict)
    """Payload of the newest of them."""

    def apply(self, events: Iterable[LedgerEvent]) -> None:
        """Take up further events, in order."""
        for event in events:
            self._apply(event)
            self.seq = event.seq

    def _apply(self, event: LedgerEvent) -> None:
        topic = event.stream.removeprefix(f"{self.model}/")
        if topic == "rollout":
            self._apply_rollout(event)
        elif topic == "routes":
            self._apply_routes(event)
        elif topic == "versions":
            self._apply_version(event)
        elif event.kind == "retrain.decided":
            self.holdout_end_us[event.payload["decision_id"]] = event.payload["holdout_end_us"]
        elif event.kind == "config.deployed":
            self.config = ProjectConfig.model_validate(event.payload["config"])

    def _apply_rollout(self, event: LedgerEvent) -> None:
        self.rollout = fold_rollout([event], self.rollout)
        self.rollout_stream_version = event.version
        if event.kind == "rollout.requested":
            version = str(event.payload["version"])
            self.rollouts[version] = self.rollouts.get(version, 0) + 1
            self.weights, self.history, self.last_move = {}, [], {}
        elif event.kind == "rollout.moved":
            self.last_move = event.payload
            shown = {name: event.payload[name] for name in ("from", "to", "reason", "weight")}
            self.history.append({**shown, "time": event.time, "event_time": event.event_time, "seq": event.seq})

    def _apply_routes(self, event: LedgerEvent) -> None:
        self.route_stream_version = event.version
        if event.kind == ROUTES_WITHDRAWN:
            self.routes = None
        elif event.kind == ROUTES_COMMITTED:
            self.routes = ModelRoutes.from_json(event.payload)
            if self.rollout is not None and self.routes.rollout_id == self.rollout.rollout_id:
                candidate = self.routes.candidate
                self.weights[event.version] = candidate.weight if candidate else 0.0

    def _apply_version(self, event: LedgerEvent) -> None:
        version = str(event.payload.get("version"))
        if event.kind == "version.registered":
            self.versions[version] = event.payload
            self.registered_us[version] = event.event_time
        elif event.kind == "version.approved":
            self.approved.add(version)
        elif event.kind == "alias.set":
            if event.payload["version"] is None:
                self.aliases.pop(event.payload["alias"], None)
            else:
                self.aliases[event.payload["alias"]] = version

    def standing(self, version: str) -> tuple[GateStanding, str]:
        """Whether a version may take traffic, and why not."""
        registered = self.versions.get(version)
        if registered is None:
            return "refused", f"version {version} is not registered"
        gate = registered.get("gate") or {}
        if not gate.get("passed"):
            return "refused", gate.get("reason") or f"version {version} has not passed the gate"
        if self.config is not None and self.config.gate.require_approval and version not in self.approved:
            return "waiting", f"version {version} waits for approval"
        return "passed", ""

    def check_request(self, version: str, is_overridden: bool = False) -> None:
        """Check that a rollout of a version may begin.

        Args:
            version: The version to put on trial.
            is_overridden: A person takes it on without a passed gate.

        Raises:
            ModelNotFoundError: The model is not served, or the version is not registered.
            RolloutError: Another rollout is under way, or the version is champion already.
            GateRefusedError: The version has not passed the gate, or is not approved.
        """
        place = f"model {self.model!r}"
        if self.routes is None:
            raise ModelNotFoundError("is not served", place, "deploy it with 'ray-mlops serve'")
        if version not in self.versions:
            raise ModelNotFoundError(f"no version {version} is registered", place, "see 'ray-mlops versions'")
        if self.rollout is not None and not self.rollout.is_over:
            remedy = "wait for it, or run 'ray-mlops rollout rollback'"
            raise RolloutError(f"rollout {self.rollout.rollout_id} is under way ({self.rollout.name})", place, remedy)
        if self.routes.champion.version == version:
            raise RolloutError(f"version {version} is champion already", place)
        standing, problem = self.standing(version)
        if standing != "passed" and not is_overridden:
            remedy = f"'ray-mlops approve {version}'" if standing == "waiting" else "give a reason to override the gate"
            raise GateRefusedError(problem, place, remedy)

    def next_candidate(self) -> str | None:
        """Return the newest version that may start a rollout by itself; None when there is none.

        It passed the gate (and was approved, where that is required), was registered after the champion,
        and has had no rollout.
        """
        if self.config is None or not self.config.rollout.auto_start or self.routes is None:
            return None
        order = list(self.versions)
        champion = self.routes.champion.version
        newer = order[order.index(champion) + 1 :] if champion in order else order
        fit = [version for version in newer if self.standing(version)[0] == "passed" and version not in self.rollouts]
        return fit[-1] if fit else None

    def rollout_id(self, version: str) -> str:
        """Name the next rollout of a version."""
        repeat = self.rollouts.get(version, 0)
        return f"{self.model}-v{version}" + (f"-{repeat + 1}" if repeat else "")

    def unseen_after_us(self, version: str) -> int:
        """Return the event time after which a version cannot have seen a row, microseconds since 1970 UTC.

        Taken from ``data_end_us`` of its registration, else from the decision to retrain it, else from the event time
        of the registration, else of the request for the rollout; without any the wall clock of that request.
        """
        registered = self.versions.get(version, {})
        requested = self.rollout
        known = (
            registered.get("data_end_us"),
            _before(self.holdout_end_us.get(registered.get("decision_id") or "")),
            self.registered_us.get(version),
            requested.requested_event_us if requested else None,
            round(requested.requested_at * 1e6) if requested else 0,
        )
        return int(next(moment for moment in known if moment is not None))


def _before(end_us: int | None) -> int | None:
    """The last moment before an end that is exclusive."""
    return None if end_us is None else end_us - 1
