"""One reference epoch of one model: its bins, its channels, and the monitor over them.

An epoch begins when a version becomes champion. Its inputs are measured against the newest windows before
that: those of the version's own snapshot, and those logged since, counted on the same bins.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from ray_mlops.config import MonitoringConfig, ProjectConfig
from ray_mlops.data.reference import ReferenceProfile
from ray_mlops.errors import ModelNotFoundError, MonitoringError, RayMLOpsError
from ray_mlops.ledger import Ledger, current_routes, deployed_config
from ray_mlops.monitoring.breakdown import Slicing
from ray_mlops.monitoring.channels import DatasetMonitor
from ray_mlops.monitoring.feature import FeatureReference
from ray_mlops.monitoring.frozen import FrozenReference
from ray_mlops.monitoring.handover import LATENCY, SCORE, Reference, count_columns, without_rows_ahead
from ray_mlops.monitoring.history import History
from ray_mlops.monitoring.latency import LATENCY_BINS, LatencyWatch
from ray_mlops.monitoring.loss_parts import LossParts
from ray_mlops.monitoring.monitor import ModelMonitor, Watched
from ray_mlops.monitoring.monitor_state import in_windows_of
from ray_mlops.monitoring.strata import stratum_of
from ray_mlops.runtime.files import Files
from ray_mlops.serving.label_log import read_labels
from ray_mlops.serving.loaded import trusted_modules
from ray_mlops.serving.prediction_log.files import read_parts
from ray_mlops.serving.protocol import LabelRecord
from ray_mlops.serving.slicing import SliceColumn, freeze_slices
from ray_mlops.statistics.bins import Bins, ColumnCounts
from ray_mlops.statistics.estimators import Estimator
from ray_mlops.statistics.table import TableBins, TableCounts
from ray_mlops.training.bundle import ModelBundle

_MOST_VALUES = 20
"""Categories of a column whose performance is shown one by one."""


@dataclass(slots=True)
class Epoch:
    """What is watched now, and against what."""

    model: str
    version: str
    config: ProjectConfig
    config_hash: str
    reference: Reference
    reference_windows: list[int]
    """First and last window of the inputs' reference; empty without one."""
    source_rows: Mapping[int, int]
    """Rows of the version's snapshot by window."""
    monitor: ModelMonitor

    def is_current(self, ledger: Ledger) -> bool:
        """Whether no other version is champion. A model that is not served any more keeps its last epoch."""
        routes = current_routes(ledger)["models"].get(self.model)
        return routes is None or str(routes["champion"]["version"]) == self.version

    def follow_config(self, ledger: Ledger) -> None:
        """Take up the configuration in force, for the policy; the channels keep what the epoch began with."""
        routes = current_routes(ledger)["models"].get(self.model)
        if routes is not None and routes["config_hash"] != self.config_hash:
            self.config = ProjectConfig.model_validate(deployed_config(ledger, self.model, routes["config_hash"]))
            self.config_hash = routes["config_hash"]


def begin_epoch(model: str, ledger: Ledger, files: Files, checkpoint: Mapping[str, Any] | None) -> Epoch:
    """Begin the epoch of the present champion, or take it up again from its own checkpoint.

    Args:
        model: The model's name.
        ledger: Says who is champion, and with which configuration.
        files: The store.
        checkpoint: ``ModelMonitor.checkpoint`` of this epoch or of the one before; None for the first.

    Raises:
        ModelNotFoundError: The model is not deployed.
        BundleError: The champion's bundle cannot be loaded.
        MonitoringError: What is stored of the model does not fit it.
    """
    try:
        return _begin_epoch(model, ledger, files, checkpoint)
    except RayMLOpsError:
        raise
    except (KeyError, ValueError, TypeError, pa.ArrowException) as error:
        remedy = "deploy it again; if that does not help, delete this checkpoint, and it is watched anew from its logs"
        where = f"checkpoints/monitor/{model}.json"
        raise MonitoringError(f"what is stored of model {model!r} does not fit it: {error!r}", where, remedy) from error


def _begin_epoch(model: str, ledger: Ledger, files: Files, checkpoint: Mapping[str, Any] | None) -> Epoch:
    routes = current_routes(ledger)["models"].get(model)
    if routes is None:
        raise ModelNotFoundError(f"model {model!r} is not deployed", "monitor", "deploy it with 'ray-mlops serve'")
    champion = routes["champion"]
    version = str(champion["version"])
    config = ProjectConfig.model_validate(deployed_config(ledger, model, routes["config_hash"] or None))
    bundle = ModelBundle.load(champion["bundle"], trusted_modules(config))
    profile = without_redacted(bundle.profile, config)
    if checkpoint is not None:
        checkpoint = in_windows_of(checkpoint, profile.window_us)
    start = None if checkpoint is None else checkpoint["start_window"]
    resumes = checkpoint is not None and checkpoint["reference"] == _reference_id(champion, start)
    if checkpoint is not None and not resumes:
        start = None if checkpoint["closed"] is None else checkpoint["closed"] + 1
    reference_id = _reference_id(champion, start)
    columns = profile.counted
    bins: dict[str, Bins] = {name: column.bins for name, column in columns.items()}
    if profile.score is not None:
        bins[SCORE] = profile.score.bins
    bins[LATENCY] = LATENCY_BINS
    frozen = FrozenReference.load(files, model, reference_id) if resumes else None
    if frozen is None:
        last = None if start is None else start - 1
        windows = _reference_windows(model, files, profile, bins, last, config.monitoring)
        frozen = FrozenReference(windows, config.monitoring)
        frozen.save(files, model, reference_id)
    ratio = config.data.contract.max_quarantine_ratio
    dataset = build_channels(
        profile, frozen.windows, declared_null_limits(config), frozen.monitoring, max_violation_ratio=ratio
    )
    slicing = _slicing(champion["bundle"], config)
    max_ahead = config.monitoring.max_ahead
    reference = Reference(
        reference_id,
        bins,
        profile.window_us,
        config.data.contract.columns,
        version,
        None if max_ahead is None else max_ahead // timedelta(microseconds=1),
        profile.derivations,
        tuple(dict.fromkeys([*config.rollout.guards.slices, *slicing.columns])),
        estimator=profile.estimator,
    )
    watched = _watched(model, version, routes["config_hash"], bundle, start, slicing)
    monitor = ModelMonitor(watched, reference, dataset, config.monitoring, LatencyWatch(frozen.monitoring))
    if files.exists(_history_path(model)):
        monitor.history.restore(files.read(_history_path(model)))
        monitor.history.begin(reference_id, dataset.reference_counts())
    parts, labels = _logged(model, files, checkpoint, monitor.history, config.monitoring)
    monitor.restore(checkpoint, parts, labels)
    if resumes and checkpoint is not None:
        dataset.restore(checkpoint["dataset"])
        monitor.latency.restore(checkpoint.get("latency"))
    source_rows = {window: max(c[window].n for c in _by_column(profile) if window in c) for window in profile.windows}
    span = [min(frozen.windows), max(frozen.windows)] if frozen.windows else []
    return Epoch(model, version, config, routes["config_hash"], reference, span, source_rows, monitor)


def save_history(files: Files, model: str, history: History) -> None:
    """Store what is shown of the past, for the next start and for epochs to come."""
    files.write(_history_path(model), history.to_bytes())


def _history_path(model: str) -> str:
    return f"checkpoints/monitor/{model}/history.json.z"


def _reference_id(champion: Mapping[str, Any], start: int | None) -> str:
    """The same version may become champion again: that is another epoch."""
    name = f"v{champion['version']}-{champion['bundle_hash'][:8]}"
    return name if start is None else f"{name}-w{start}"


def without_redacted(profile: ReferenceProfile, config: ProjectConfig) -> ReferenceProfile:
    """The profile of what the prediction log shows as it was; what is left out or hashed cannot be watched."""
    redacted, estimator = config.serving.log.redact, profile.estimator
    kept = None if estimator is None or estimator.columns & set(redacted) else estimator
    return replace(profile.without(redacted), estimator=kept)


def build_channels(
    profile: ReferenceProfile,
    windows: Mapping[int, Mapping[str, ColumnCounts]],
    null_limits: Mapping[str, float],
    config: MonitoringConfig,
    *,
    max_violation_ratio: float = 0.05,
) -> DatasetMonitor:
    """The channels of a reference.

    Args:
        profile: Bins, roles, importances, score and losses.
        windows: Counts of the inputs by window and column, in time order.
        null_limits: Share of nulls that the user's contract allows, by column.
        config: Levels and tolerances.
        max_violation_ratio: Share of values that may break the declared range or domain.
    """
    references = [
        FeatureReference(
            name=name,
            bins=column.bins,
            windows=tuple(counts[name] for counts in windows.values() if name in counts),
            strata=_strata([window for window, counts in windows.items() if name in counts], config),
            role="calendar" if column.role == "calendar" else "feature",
            importance=profile.importance.get(name, 0.0),
            max_null_ratio=null_limits.get(name),
        )
        for name, column in profile.columns.items()
    ]
    references += [
        FeatureReference(
            name=name,
            bins=profile.counted[name].bins,
            windows=tuple(counts[name] for counts in windows.values() if name in counts),
            strata=_strata([window for window, counts in windows.items() if name in counts], config),
            derived_from=sources,
        )
        for name, sources in profile.derivations.sources.items()
    ]
    score = profile.score
    scored = None
    if score is not None:
        strata = _strata(score.windows, config)
        scored = FeatureReference(SCORE, score.bins, tuple(score.windows.values()), strata=strata)
    losses = [(loss.n, loss.total, loss.total_squares) for loss in profile.losses.values()]
    return DatasetMonitor(
        references,
        scored,
        losses,
        config,
        max_violation_ratio=max_violation_ratio,
        parts=build_parts(profile.estimator, config),
    )


def build_parts(estimator: Estimator | None, config: MonitoringConfig) -> LossParts | None:
    """What tells concept from covariate drift; None without an estimator, or windows that it was fitted on."""
    if estimator is None or not any(gap.excess.n for gap in estimator.windows.values()):
        return None
    return LossParts(list(estimator.windows.values()), estimator.bins.labels, config)


def _strata(windows: Iterable[int], config: MonitoringConfig) -> tuple[int, ...]:
    """The stratum of each window; empty without strata."""
    if config.strata == "none":
        return ()
    window_us = config.window // timedelta(microseconds=1)
    return tuple(stratum_of(window, window_us, config.strata) for window in windows)


def _reference_windows(
    model: str,
    files: Files,
    profile: ReferenceProfile,
    bins: Mapping[str, Bins],
    last: int | None,
    config: MonitoringConfig,
) -> dict[int, dict[str, ColumnCounts]]:
    """The newest windows up to ``last``: the profile's, and after them those of the prediction log."""
    columns = profile.counted
    found: dict[int, dict[str, ColumnCounts]] = {
        window: {name: column.windows[window] for name, column in columns.items() if window in column.windows}
        for window in profile.windows
    }
    newest = max(found, default=None)
    if last is not None and newest is not None and last > newest:
        found |= _counted_log(model, files, bins, profile, (newest + 1, last), config.max_ahead)
    kept = [window for window in sorted(found) if last is None or window <= last]
    return {window: found[window] for window in kept[-config.reference_windows :]}


def _counted_log(
    model: str,
    files: Files,
    bins: Mapping[str, Bins],
    profile: ReferenceProfile,
    span: tuple[int, int],
    max_ahead: timedelta | None,
) -> dict[int, dict[str, ColumnCounts]]:
    (first, last), window_us = span, profile.window_us
    inputs = TableBins({name: b for name, b in bins.items() if name not in (SCORE, LATENCY)})
    ahead_us = None if max_ahead is None else max_ahead // timedelta(microseconds=1)
    found: dict[int, TableCounts] = {}
    for part in read_parts(files, model, (_day(first * window_us), _day((last + 1) * window_us - 1))):
        rows = without_rows_ahead(part, ahead_us)
        windows = rows["event_time"].cast(pa.int64()).to_numpy() // window_us
        for window in np.unique(windows[(windows >= first) & (windows <= last)]).tolist():
            own = rows.filter(pa.array(windows == window))
            counts = count_columns(own, inputs, derivations=profile.derivations)
            found[window] = found[window] + counts if window in found else counts
    return {window: dict(found[window]) for window in sorted(found)}


def _logged(
    model: str, files: Files, checkpoint: Mapping[str, Any] | None, history: History, config: MonitoringConfig
) -> tuple[list[pa.Table], list[LabelRecord]]:
    """What the logs hold within the label horizon of a checkpoint, and since the history was stored; else everything.

    Rows of versions that logged other columns stay apart.
    """
    closed = None if checkpoint is None else checkpoint["closed"]
    days = None
    if closed is not None:
        oldest_us = (closed + 1) * history.window_us - config.labels.horizon // timedelta(microseconds=1)
        if history.through is not None:
            oldest_us = min(oldest_us, (history.through + 1) * history.window_us)
        days = (_day(oldest_us), "9999-12-31")
    told = read_labels(files, model)
    columns = (told[name].to_pylist() for name in ("id", "label", "time", "arrival", "is_correction"))
    labels = [LabelRecord(name, orjson.loads(label), *rest) for name, label, *rest in zip(*columns, strict=True)]
    return read_parts(files, model, days), labels


def _slicing(bundle: str, config: ProjectConfig) -> Slicing:
    """The slices and groups of the gate, cut as the champion's reference was; a rollout's are cut like that, too."""
    hidden, most = config.serving.log.redact, min(config.evaluation.max_slices, _MOST_VALUES)

    def cut(names: Sequence[str]) -> tuple[SliceColumn, ...]:
        found = freeze_slices(bundle, names, most)
        problem = "serving.log.redact leaves it out of the log"
        return tuple(SliceColumn(column.name, problem=problem) if column.name in hidden else column for column in found)

    return Slicing(cut(config.evaluation.slices), cut(config.evaluation.fairness.groups))


def _watched(
    model: str, version: str, config_hash: str, bundle: ModelBundle, start: int | None, slicing: Slicing
) -> Watched:
    encoder = bundle.encoder
    return Watched(
        model=model,
        version=version,
        config_hash=config_hash,
        task=bundle.task,
        classes=tuple(str(name) for name in bundle.classes),
        loss_scale=bundle.loss_scale,
        encode=encoder.encode_value,
        start_window=start,
        threshold=bundle.threshold,
        slicing=slicing,
    )


def declared_null_limits(config: ProjectConfig) -> dict[str, float]:
    """Share of nulls that a person declared; what was inferred is no promise."""
    rules = config.data.contract.columns
    return {name: rule.max_null_ratio for name, rule in rules.items() if rule.max_null_ratio < 1.0}


def _by_column(profile: ReferenceProfile) -> list[Mapping[int, ColumnCounts]]:
    return [column.windows for column in profile.columns.values()]


def _day(event_us: int) -> str:
    return datetime.fromtimestamp(event_us / 1e6, UTC).date().isoformat()
