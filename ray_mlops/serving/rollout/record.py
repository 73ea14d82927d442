"""What the ledger says about one model, kept up to date by reading only what is new."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ray_mlops.config import ProjectConfig
from ray_mlops.errors import GateRefusedError, ModelNotFoundError, RolloutError
from ray_mlops.ledger import LedgerEvent
from ray_mlops.ledger.folds import ROUTES_COMMITTED, ROUTES_WITHDRAWN
from ray_mlops.serving.protocol import Arm, ModelRoutes
from ray_mlops.serving.rollout.drills import DRILL_FINISHED, DrilledFault, read_drill, unmet_power
from ray_mlops.serving.rollout.evidence import GateStanding
from ray_mlops.serving.rollout.shadow_book import ShadowBook, ShadowEntry
from ray_mlops.serving.rollout.state import Command, RolloutState, fold_rollout


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
    drilled: dict[str, dict[str, DrilledFault]] = field(default_factory=dict)
    """What drills of each version found, by fault, the newest of each."""
    aliases: dict[str, str] = field(default_factory=dict)
    rollouts: dict[str, int] = field(default_factory=dict)
    """How many rollouts each version has had."""
    shadows: ShadowBook = field(default_factory=ShadowBook)
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
        elif topic == "shadows":
            self.shadows.apply(event)
        elif topic == "routes":
            self._apply_routes(event)
        elif topic == "versions":
            self._apply_version(event)
        elif event.kind == "retrain.decided":
            self.holdout_end_us[event.payload["decision_id"]] = event.payload["holdout_end_us"]
        elif event.kind == DRILL_FINISHED:
            self.drilled.setdefault(str(event.payload["version"]), {}).update(read_drill(event.payload))
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
        drill = None if self.config is None else self.config.monitoring.drill
        unmet = None if drill is None else unmet_power(drill, version, self.drilled.get(version, {}))
        return ("passed", "") if unmet is None else unmet

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
            raise self._unknown(version)
        if self.rollout is not None and not self.rollout.is_over:
            remedy = "wait for it, or end it with 'ray-mlops rollout abort' or 'ray-mlops rollout rollback'"
            raise RolloutError(f"rollout {self.rollout.rollout_id} is under way ({self.rollout.name})", place, remedy)
        if self.routes.champion.version == version:
            raise RolloutError(f"version {version} is champion already", place)
        standing, problem = self.standing(version)
        if standing != "passed" and not is_overridden:
            raise GateRefusedError(problem, place, self._remedy(version, standing))

    def _remedy(self, version: str, standing: GateStanding) -> str:
        """What to do about a version that may not take traffic."""
        if standing != "waiting":
            return "give a reason to override the gate"
        is_approved = self.config is None or not self.config.gate.require_approval or version in self.approved
        return f"'ray-mlops {'drill --version' if is_approved else 'approve'} {version}'"

    def check_command(self, command: Command) -> RolloutState:
        """Return the rollout that a person may give a command to.

        Raises:
            RolloutError: There has been none, it is over, or its state does not allow the command.
        """
        state, place = self.rollout, f"model {self.model!r}"
        start = "start one with 'ray-mlops rollout start VERSION'"
        if state is None:
            raise RolloutError(f"cannot {command}: there has been no rollout", place, start)
        if state.allows(command):
            return state
        if state.is_over:
            problem = f"cannot {command}: no rollout is under way; the last, {state.rollout_id}, is {state.name}"
            raise RolloutError(problem, place, start)
        remedy = f"allowed now: {', '.join(state.allowed) or 'nothing; it passes by itself'}"
        raise RolloutError(f"cannot {command} rollout {state.rollout_id}, which is {state.name}", place, remedy)

    @property
    def on_trial(self) -> str | None:
        """The version of the rollout that is under way."""
        return None if self.rollout is None or self.rollout.is_over else self.rollout.version

    def check_shadow(self, version: str) -> None:
        """Check that a version may run as a shadow.

        It need not have passed the gate: nobody gets an answer from it, and how a version that was refused does on
        live rows is worth knowing. It must be registered, and answer its own parity rows to start.

        Raises:
            ModelNotFoundError: The model is not served, or the version is not registered.
            RolloutError: It answers, is on trial or a shadow already, there is no room, or rows cannot be scored.
        """
        place = f"model {self.model!r}"
        if self.routes is None or self.config is None:
            raise ModelNotFoundError("is not served", place, "deploy it with 'ray-mlops serve'")
        if version not in self.versions:
            raise self._unknown(version)
        if version in self.shadows.active:
            raise RolloutError(f"version {version} is a shadow already", place)
        if version == self.routes.champion.version:
            raise RolloutError(f"version {version} is champion: there is nothing to compare it with", place)
        if version == self.on_trial:
            problem = f"version {version} is on trial in rollout {self.rollout.rollout_id if self.rollout else ''}"
            raise RolloutError(problem, place, "'ray-mlops rollout show' compares it with the champion already")
        redacted = sorted(self.config.serving.log.redact)
        if redacted:
            problem = f"the log redacts {', '.join(redacted)}: its rows cannot be scored again"
            raise RolloutError(problem, place, "see serving.log.redact")
        if len(self.shadows.active) >= self.config.rollout.max_shadows:
            names = ", ".join(self.shadows.active) or "none"
            remedy = "stop one with 'ray-mlops rollout shadow VERSION --stop', or raise rollout.max_shadows"
            problem = f"{self.config.rollout.max_shadows} shadows may run at once; running: {names}"
            raise RolloutError(problem, place, remedy)

    def shadow(self, version: str) -> ShadowEntry:
        """A shadow that runs.

        Raises:
            RolloutError: The version is none.
        """
        if version in self.shadows.active:
            return self.shadows.active[version]
        names = ", ".join(self.shadows.active) or "none"
        raise RolloutError(f"version {version} is no shadow; running: {names}", f"model {self.model!r}")

    def shadow_arms(self) -> tuple[Arm, ...]:
        """The shadows as the route table names them."""
        bundles = {version: self.versions[version] for version in self.shadows.active}
        return tuple(Arm(v, b["bundle"], b["bundle_hash"], "isolated", 0.0) for v, b in bundles.items())

    def _unknown(self, version: str) -> ModelNotFoundError:
        known = ", ".join(list(self.versions)[-5:]) or "none"
        problem = f"no version {version} is registered; the newest are {known}"
        return ModelNotFoundError(problem, f"model {self.model!r}", "see 'ray-mlops versions'")

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
