"""The pipeline: data, tune, train, evaluate, gate, register. A retraining is the same, on other rows."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from ray_mlops.config import ProjectConfig, config_hash
from ray_mlops.config.monitoring import RetrainAction
from ray_mlops.data.snapshot import Snapshot, create_snapshot, load_snapshot
from ray_mlops.errors import BundleError, ModelNotFoundError
from ray_mlops.evaluation import EvaluationReport, GateDecision, decide_gate, evaluate, render_report
from ray_mlops.ledger import Ledger, current_routes, registered_versions
from ray_mlops.orchestration.dataset import Dataset, prepare_dataset
from ray_mlops.orchestration.drill import drill_as_required
from ray_mlops.orchestration.fit import (
    Fitted,
    code_version,
    fit_bundle,
    recalibrate_bundle,
    run_name,
    search_parameters,
)
from ray_mlops.orchestration.gate_evidence import measure_replica, replay_log
from ray_mlops.orchestration.phases import OnPhase, silent
from ray_mlops.orchestration.versions import find_bundle, load_bundle
from ray_mlops.registry import MlflowRegistry, TrackedRun, Tracker
from ray_mlops.runtime.files import Files
from ray_mlops.training.bundle import BundleRef, ModelBundle


@dataclass(frozen=True, slots=True)
class PipelineReport:
    """What a run of the pipeline came to."""

    model: str
    snapshot: str
    run_id: str
    bundle: str
    bundle_hash: str
    metrics: Mapping[str, float]
    overrides: Mapping[str, Any]
    report: str
    """Address of the HTML report."""
    version: str | None = None
    gate: GateDecision | None = None
    """None where the gate was not asked."""
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        return {**fields, "gate": None if self.gate is None else self.gate.to_json()}

    def summary(self) -> str:
        """A few lines for people."""
        metrics = "  ".join(f"{name} {value:.4f}" for name, value in self.metrics.items())
        lines = [f"{self.model}: {metrics}", f"bundle {self.bundle}", f"report {self.report}"]
        if self.gate is not None:
            lines.append(f"gate {'passed' if self.gate.passed else 'REFUSED'}: {self.gate.reason}")
        if self.version is not None:
            lines.append(f"registered as version {self.version}")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Champion:
    """The version in force, as the gate compares with it."""

    version: str
    record: Mapping[str, Any]
    bundle: ModelBundle


@dataclass(frozen=True, slots=True)
class Workplace:
    """The store's parts that a run works with."""

    config: ProjectConfig
    files: Files
    ledger: Ledger
    tracker: Tracker

    @classmethod
    def open(cls, config: ProjectConfig) -> "Workplace":
        """Open the store of a configuration."""
        store = config.store
        return cls(config, Files(store.root_uri), Ledger.open(store), Tracker.open(store, config.name))


STARTS_FROM_CHAMPION: frozenset[RetrainAction] = frozenset({"recalibrate", "fine_tune"})


@dataclass(frozen=True, slots=True)
class Purpose:
    """Why a model is trained; the defaults are those of a run by hand."""

    decision_id: str | None = None
    as_of_us: int | None = None
    holdout_start_us: int | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """What an earlier search chose, where there is none now."""
    action: RetrainAction = "full"
    initial: ModelBundle | None = None
    """The champion's bundle, where the action starts from it."""
    note: str = ""


def run_pipeline(
    config: ProjectConfig, *, tune: bool = True, register: bool = True, on_phase: OnPhase = silent
) -> PipelineReport:
    """Run the whole pipeline on the configured source.

    Args:
        config: The configuration.
        tune: Search hyperparameters first, where ``tune.num_trials`` is not 0.
        register: Ask the gate and register; False stops after the evaluation.
        on_phase: Progress.

    Returns:
        The report; ``gate.passed`` says whether the version may take traffic.

    Raises:
        DataError: The source cannot be read or breaks the contract.
        TrainingError: Training failed.
    """
    place = Workplace.open(config)
    on_phase("data", "snapshot")
    snapshot = create_snapshot(config.data, place.files)
    return run_on_snapshot(place, snapshot, Purpose(), tune=tune, register=register, on_phase=on_phase)


def run_on_snapshot(
    place: Workplace,
    snapshot: Snapshot,
    purpose: Purpose,
    *,
    tune: bool = False,
    register: bool = True,
    on_phase: OnPhase = silent,
) -> PipelineReport:
    """Run the pipeline from a snapshot on; see ``run_pipeline``."""
    started = time.monotonic()
    config = place.config
    champion = read_champion(place)
    on_phase("data", f"validate, split and fit features on {snapshot.rows} rows")
    dataset = _prepare(place, snapshot, purpose, champion)
    name = run_name(config, dataset, purpose.decision_id or "")
    tags = {"snapshot": snapshot.id, "decision": purpose.decision_id or "", "code": code_version()}
    with place.tracker.run(name, config.training, tags) as run:
        run.log_dataset(snapshot.id, str(snapshot.origin))
        overrides = dict(purpose.overrides)
        if tune and config.tune.num_trials:
            overrides = dict(search_parameters(config, dataset, f"{name}-tune", on_phase).best_overrides)
            run.log_params({f"chosen.{key}": value for key, value in overrides.items()})
        parent = None if champion is None else champion.version
        fitted = _fit(config, dataset, run, purpose, name=name, overrides=overrides, parent=parent, on_phase=on_phase)
        on_phase("evaluate", f"{len(dataset.holdout)} holdout rows")
        ref = fitted.bundle.save(place.files)
        report = _evaluate(fitted, dataset, ref, champion, run.run_id)
        judged = _judge(place, fitted.bundle, ref, report, champion, on_phase) if register else None
        report, decision = judged if judged is not None else (report, None)
        address = _publish(place, report, decision, ref, run)
        version = None
        if decision is not None:
            on_phase("register", "")
            data_end_us = dataset.holdout_end_us
            version = _register(
                place, ref, decision, report, address, fitted, snapshot, purpose, parent, run.run_id, data_end_us
            )
            if decision.passed:
                drill_as_required(config, version, fitted.bundle, on_phase)
    return PipelineReport(
        model=config.name,
        snapshot=snapshot.id,
        run_id=run.run_id,
        bundle=ref.uri,
        bundle_hash=ref.hash,
        metrics={name: interval.value for name, interval in report.metrics.items()},
        overrides=fitted.overrides,
        report=address,
        version=version,
        gate=decision,
        seconds=time.monotonic() - started,
    )


def read_champion(place: Workplace) -> Champion | None:
    """The version that answers now; None before the first deployment."""
    routes = current_routes(place.ledger)["models"].get(place.config.name)
    if routes is None:
        return None
    version = str(routes["champion"]["version"])
    record = registered_versions(place.ledger, place.config.name).get(version, {})
    return Champion(version, record, load_bundle(routes["champion"]["bundle"], place.config))


def run_search(config: ProjectConfig, trials: int | None, *, on_phase: OnPhase = silent) -> dict[str, Any]:
    """Only search; returns the best values and every trial."""
    count = trials or config.tune.num_trials or 10
    config = config.model_copy(update={"tune": config.tune.model_copy(update={"num_trials": count})})
    place = Workplace.open(config)
    on_phase("data", "snapshot")
    snapshot = create_snapshot(config.data, place.files)
    on_phase("data", f"validate, split and fit features on {snapshot.rows} rows")
    dataset = _prepare(place, snapshot, Purpose(), None)
    found = search_parameters(config, dataset, run_name(config, dataset, "search"), on_phase)
    with place.tracker.run(f"{config.name}-search", config.tune) as run:
        run.log_params({f"best.{key}": value for key, value in found.best_overrides.items()})
    trials_shown = [
        {"loss": trial.loss, "epochs": trial.epochs, "overrides": dict(trial.overrides)} for trial in found.trials
    ]
    return {"best": dict(found.best_overrides), "trials": trials_shown}


def evaluate_version(config: ProjectConfig, model: str) -> EvaluationReport:
    """Evaluate a version, an alias or a bundle on the holdout of the source's rows."""
    place = Workplace.open(config)
    bundle = find_bundle(config, model)
    snapshot = create_snapshot(config.data, place.files)
    dataset = prepare_dataset(config, snapshot, place.files, now=time.time(), encoder=bundle.encoder)
    prediction = bundle.predict(dataset.holdout)
    return evaluate(
        prediction,
        dataset.holdout,
        dataset.holdout_target,
        config.evaluation,
        model=config.name,
        bundle_hash=bundle.hash,
        baseline=dataset.baseline,
        loss_scale=bundle.loss_scale,
    )


def register_bundle(config: ProjectConfig, path: str, *, on_phase: OnPhase = silent) -> PipelineReport:
    """Bring a bundle that was trained elsewhere through the same evaluation and gate.

    Raises:
        BundleError: It is damaged, not trusted, or for another task or target.
    """
    started = time.monotonic()
    place = Workplace.open(config)
    on_phase("load", path)
    bundle = load_bundle(path, config)
    if (bundle.task, bundle.target) != (config.data.task, config.data.target):
        problem = f"predicts {bundle.target!r} ({bundle.task}), not {config.data.target!r} ({config.data.task})"
        raise BundleError(problem, path, "register it with the configuration that it was made for")
    champion = read_champion(place)
    on_phase("data", "snapshot")
    snapshot = create_snapshot(config.data, place.files)
    dataset = prepare_dataset(config, snapshot, place.files, now=time.time(), encoder=bundle.encoder)
    ref = bundle.save(place.files)
    with place.tracker.run(f"{config.name}-register", tags={"snapshot": snapshot.id, "bundle": ref.hash}) as run:
        on_phase("evaluate", f"{len(dataset.holdout)} holdout rows")
        fitted = Fitted(bundle, config, {}, bundle.predict(dataset.holdout))
        report = _evaluate(fitted, dataset, ref, champion, run.run_id)
        report, decision = _judge(place, bundle, ref, report, champion, on_phase)
        address = _publish(place, report, decision, ref, run)
        purpose = Purpose(note="trained elsewhere")
        parent = None if champion is None else champion.version
        end_us = dataset.holdout_end_us
        version = _register(
            place, ref, decision, report, address, fitted, snapshot, purpose, parent, run.run_id, end_us
        )
        if decision.passed:
            drill_as_required(config, version, bundle, on_phase)
    metrics = {name: interval.value for name, interval in report.metrics.items()}
    seconds = time.monotonic() - started
    return PipelineReport(
        config.name, snapshot.id, run.run_id, ref.uri, ref.hash, metrics, {}, address, version, decision, seconds
    )


def reproduce_version(config: ProjectConfig, version: str, *, on_phase: OnPhase = silent) -> tuple[str, str]:
    """Train a version again from its record; returns the recorded bundle hash and the one made now.

    Raises:
        ModelNotFoundError: No such version is recorded.
    """
    place = Workplace.open(config)
    record = registered_versions(place.ledger, config.name).get(version)
    if record is None:
        known = ", ".join(registered_versions(place.ledger, config.name)) or "none"
        raise ModelNotFoundError(f"no version {version!r}", config.name, f"registered: {known}")
    event = place.ledger.get(_config_key(config.name, record["config_hash"]))
    if event is None:
        raise ModelNotFoundError(f"the configuration {record['config_hash']} is not recorded", config.name)
    recorded = ProjectConfig.model_validate(event.payload["config"])
    place = replace(place, config=recorded)
    snapshot = load_snapshot(place.files, record["snapshot"])
    champion = _parent(place, record["parent"])
    purpose = Purpose(**record["purpose"])
    if purpose.action in STARTS_FROM_CHAMPION:
        purpose = replace(purpose, initial=None if champion is None else champion.bundle)
    on_phase("data", f"validate, split and fit features on {snapshot.rows} rows")
    dataset = _prepare(place, snapshot, purpose, champion)
    with place.tracker.run(f"{config.name}-reproduce-v{version}") as run:
        name = run_name(recorded, dataset, f"reproduce-{run.run_id}")
        chosen, parent = record["overrides"], record["parent"]
        fitted = _fit(recorded, dataset, run, purpose, name=name, overrides=chosen, parent=parent, on_phase=on_phase)
    return record["bundle_hash"], fitted.bundle.hash


def _parent(place: Workplace, version: str | None) -> Champion | None:
    """The version that was champion when another was trained: its classes, and maybe its weights, went into that.

    Raises:
        ModelNotFoundError: Its bundle is not recorded.
    """
    if version is None:
        return None
    record = registered_versions(place.ledger, place.config.name).get(version)
    if record is None:
        raise ModelNotFoundError(f"the parent, version {version}, is not recorded", place.config.name)
    return Champion(version, record, load_bundle(record["bundle"], place.config))


def record_config(ledger: Ledger, config: ProjectConfig) -> str:
    """Keep the configuration that a version is made with; returns its hash."""
    content_hash = config_hash(config)
    payload = {"config": config.model_dump(mode="json"), "hash": content_hash}
    ledger.append(f"{config.name}/config", "config.recorded", _config_key(config.name, content_hash), payload)
    return content_hash


def _config_key(model: str, content_hash: str) -> str:
    return f"{model}/config/recorded/{content_hash}"


def _prepare(place: Workplace, snapshot: Snapshot, purpose: Purpose, champion: Champion | None) -> Dataset:
    now = time.time() if purpose.as_of_us is None else purpose.as_of_us / 1e6
    encoder = None if champion is None else champion.bundle.encoder
    return prepare_dataset(
        place.config,
        snapshot,
        place.files,
        now=now,
        encoder=encoder,
        features=None if purpose.initial is None else purpose.initial.features,
        holdout_start_us=purpose.holdout_start_us,
    )


def _fit(
    config: ProjectConfig,
    dataset: Dataset,
    run: TrackedRun,
    purpose: Purpose,
    *,
    name: str,
    overrides: Mapping[str, Any],
    parent: str | None,
    on_phase: OnPhase,
) -> Fitted:
    """Train, or only recalibrate."""
    if purpose.action == "recalibrate" and purpose.initial is not None:
        return recalibrate_bundle(
            config, dataset, purpose.initial, overrides=overrides, parent=parent, on_phase=on_phase
        )
    return fit_bundle(
        config,
        dataset,
        run,
        name=name,
        overrides=overrides,
        initial=purpose.initial,
        parent=parent,
        on_phase=on_phase,
    )


def _evaluate(
    fitted: Fitted, dataset: Dataset, ref: BundleRef, champion: Champion | None, run_id: str
) -> EvaluationReport:
    config = fitted.config
    return evaluate(
        fitted.prediction,
        dataset.holdout,
        dataset.holdout_target,
        config.evaluation,
        model=config.name,
        bundle_hash=ref.hash,
        champion=None if champion is None else champion.bundle.predict(dataset.holdout),
        champion_hash="" if champion is None else champion.bundle.hash,
        baseline=dataset.baseline,
        loss_scale=fitted.bundle.loss_scale,
        lineage={"snapshot": dataset.snapshot.id, "run": run_id, "code": code_version()},
    )


def _judge(
    place: Workplace,
    bundle: ModelBundle,
    ref: BundleRef,
    report: EvaluationReport,
    champion: Champion | None,
    on_phase: OnPhase,
) -> tuple[EvaluationReport, GateDecision]:
    """Collect what only a real replica can show, and decide."""
    on_phase("gate", "parity and load on a real replica")
    parity, load = measure_replica(bundle, ref, place.config)
    replay = replay_log(bundle, place.files, place.config)
    report = report.with_evidence(parity=parity, load=load, replay=replay)
    before = None
    if champion is not None and champion.record.get("report_json"):
        before = EvaluationReport.from_json(champion.record["report_json"])
    return report, decide_gate(report, before, place.config.gate)


def _publish(
    place: Workplace, report: EvaluationReport, decision: GateDecision | None, ref: BundleRef, run: TrackedRun
) -> str:
    """Write the report into the store and the run; returns its address."""
    page = render_report(report, decision)
    path = f"reports/{place.config.name}/{ref.hash[:12]}/report.html"
    place.files.write(path, page.encode())
    run.log_text(page, "report.html")
    run.log_metrics({f"holdout_{name}": interval.value for name, interval in report.metrics.items()})
    run.log_tags({"bundle": ref.uri, "gate": "" if decision is None else decision.reason})
    return place.files.uri(path)


def _register(
    place: Workplace,
    ref: BundleRef,
    decision: GateDecision,
    report: EvaluationReport,
    address: str,
    fitted: Fitted,
    snapshot: Snapshot,
    purpose: Purpose,
    parent: str | None,
    run_id: str,
    data_end_us: int | None,
) -> str:
    """Give the candidate a version, whether it passed or not; only one that passed may take traffic."""
    config = place.config
    registry = MlflowRegistry(config.store.tracking_uri)
    verdict = "passed" if decision.passed else "refused"
    key = f"{ref.hash}/{purpose.decision_id or run_id}"
    registered = registry.create_version(
        config.name, ref.uri, run_id=run_id, tags={"gate": verdict, "bundle_hash": ref.hash}, key=key
    )
    record_config(place.ledger, config)
    payload = {
        "version": registered.version,
        "bundle": ref.uri,
        "bundle_hash": ref.hash,
        "snapshot": snapshot.id,
        "run_id": run_id,
        "config_hash": config_hash(config),
        "parent": parent,
        "decision_id": purpose.decision_id,
        "gate": decision.to_json(),
        "metrics": {name: _number(interval.value) for name, interval in report.metrics.items()},
        "code": code_version(),
        "report": address,
        "overrides": dict(fitted.overrides),
        "purpose": {
            "decision_id": purpose.decision_id,
            "as_of_us": purpose.as_of_us,
            "holdout_start_us": purpose.holdout_start_us,
            "action": purpose.action,
        },
        "data_end_us": data_end_us,
        "note": purpose.note,
        "registered_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    place.ledger.append(
        f"{config.name}/versions", "version.registered", f"{config.name}/versions/{key}", payload,
        event_time=purpose.as_of_us,
    )  # fmt: skip
    return registered.version


def _number(value: float) -> float | None:
    """A metric as the ledger takes it: None where there is none, such as an AUC of rows of one class.

    Example:
        >>> _number(0.5), _number(float("nan"))
        (0.5, None)
    """
    return value if math.isfinite(value) else None
