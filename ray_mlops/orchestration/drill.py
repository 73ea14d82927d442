"""Fire drills of a model: from the store to a report, and what a rollout may ask for into the ledger.

Nothing here touches what runs: rows are read, faults are put into a copy in memory, and the one thing that is
written is the ledger's event on what was found.
"""

import logging
from dataclasses import dataclass
from typing import Literal

from ray_mlops.config import FaultName, ProjectConfig
from ray_mlops.errors import DataError, RayMLOpsError
from ray_mlops.ledger import Ledger, LedgerEvent, registered_versions
from ray_mlops.monitoring.drill.injections import INJECTIONS
from ray_mlops.monitoring.drill.report import DrillReport, false_alarms, summarise
from ray_mlops.monitoring.drill.run import Drill, OnRun, Plan
from ray_mlops.monitoring.drill.stream import Stretch
from ray_mlops.monitoring.drill.watch import label_lag
from ray_mlops.orchestration.past_rows import Origin, logged_past, origins, snapshot_past, stretch_of_newest
from ray_mlops.orchestration.phases import OnPhase, silent
from ray_mlops.orchestration.versions import find_version, load_bundle
from ray_mlops.runtime.files import Files
from ray_mlops.serving.rollout.drills import DRILL_FINISHED, drill_payload
from ray_mlops.training.bundle import ModelBundle

logger = logging.getLogger(__name__)

RowsFrom = Literal["auto", "log", "snapshot"]
_WORDS = {"log": "served rows", "snapshot": "rows of its own snapshot"}


@dataclass(frozen=True, slots=True)
class Drilled:
    """What a drill came to."""

    version: str
    report: DrillReport
    recorded: bool
    """Whether the ledger knows of it."""


def default_plan(config: ProjectConfig, faults: tuple[FaultName, ...] = (), column: str | None = None) -> Plan:
    """The configured drill, of all faults unless some are named."""
    drill = config.monitoring.drill
    return Plan(faults or tuple(INJECTIONS), drill.repeats, drill.clean_windows, drill.within_windows, column)


def drill_bundle(
    config: ProjectConfig,
    version: str,
    bundle: ModelBundle,
    plan: Plan,
    *,
    rows_from: RowsFrom = "auto",
    rows_per_window: int = 1000,
    record: bool = True,
    on_phase: OnPhase = silent,
) -> Drilled:
    """Drill a model.

    Args:
        config: The configuration that it is, or would be, watched by.
        version: What it is called; the ledger is told only where such a version is registered.
        bundle: The model.
        plan: What is done.
        rows_from: `auto` takes the served rows where there are enough windows of them, else the version's snapshot.
        rows_per_window: At most this many rows of each window.
        record: Tell the ledger, where every column had its turn.
        on_phase: Progress.

    Raises:
        DataError: There are too few windows.
        MonitoringError: No fault can befall the plan's column.
    """
    on_phase("rows", "")
    origin, stretch = _rows(config, bundle, plan, rows_from, rows_per_window)
    drill = Drill(bundle, config, stretch, plan)
    on_phase("windows", f"{len(drill.windows)} windows, {len(stretch.window)} rows")
    _ = drill.seen  # scored here, so that the time it takes is not the first run's
    report = run_drill(drill, origin, lambda done, total: on_phase("drill", f"run {done} of {total}"))
    recorded = record and plan.column is None and _record(config, version, report)
    return Drilled(version, report, recorded)


def drill_version(
    config: ProjectConfig,
    model: str,
    plan: Plan,
    *,
    rows_from: RowsFrom = "auto",
    rows_per_window: int = 1000,
    record: bool = True,
    on_phase: OnPhase = silent,
) -> Drilled:
    """Drill a version, an alias or a bundle's path; see ``drill_bundle``.

    Raises:
        ModelNotFoundError: It is none of them.
        DataError: There are too few windows.
        MonitoringError: No fault can befall the plan's column.
    """
    version, address = find_version(config, model)
    return drill_bundle(
        config,
        version,
        load_bundle(address, config),
        plan,
        rows_from=rows_from,
        rows_per_window=rows_per_window,
        record=record,
        on_phase=on_phase,
    )


def drill_as_required(config: ProjectConfig, version: str, bundle: ModelBundle, on_phase: OnPhase = silent) -> None:
    """Drill a new version for the faults of ``monitoring.drill.required_power``; nothing where none is required.

    Where that cannot be done the version waits for a drill by hand.
    """
    required = tuple(config.monitoring.drill.required_power)
    if not required:
        return
    try:
        drill_bundle(config, version, bundle, default_plan(config, required), on_phase=on_phase)
    except RayMLOpsError as error:
        logger.warning("could not drill model=%s version=%s error=%s", config.name, version, error)


def run_drill(drill: Drill, origin: Origin, on_run: OnRun | None = None) -> DrillReport:
    """Run a drill and add it up."""
    repeats = drill.run(on_run)
    return DrillReport(
        plan=drill.plan,
        rows=_WORDS[origin],
        num_windows=len(drill.windows),
        num_reference=drill.num_reference,
        own_reference=min(len(drill.profile.windows), drill.config.monitoring.reference_windows),
        label_lag=label_lag(drill.config.monitoring),
        has_latencies=len(drill.stretch.latency_us) > 0,
        faults=summarise(repeats),
        skipped=tuple(fault for fault in drill.plan.faults if not drill.columns_of(fault)),
        false_alarms=false_alarms(repeats),
        is_warming_up=any(repeat.is_warming_up for repeat in repeats),
    )


def _rows(
    config: ProjectConfig, bundle: ModelBundle, plan: Plan, rows_from: RowsFrom, rows_per_window: int
) -> tuple[Origin, Stretch]:
    files = Files(config.store.root_uri)
    wanted = config.monitoring.reference_windows + plan.clean + plan.windows
    needed = config.monitoring.reference.min_windows + plan.clean + plan.windows
    for origin in origins(rows_from):
        past = logged_past(config, bundle, files) if origin == "log" else snapshot_past(config, bundle, files)
        if past is None:
            continue
        stretch = stretch_of_newest(
            past, config, bundle, num_windows=wanted, rows_per_window=rows_per_window, seed=plan.seed
        )
        if len(stretch.windows) >= needed or origin == origins(rows_from)[-1]:
            return origin, stretch
    remedy = "serve rows first, keep the model's inputs in the log (serving.log.redact), or drill with --rows snapshot"
    raise DataError("no served row has every input of the model", "prediction log", remedy)


def _record(config: ProjectConfig, version: str, report: DrillReport) -> bool:
    """Tell the ledger what was found; returns whether there is such a version."""
    ledger = Ledger.open(config.store)
    if version not in registered_versions(ledger, config.name):
        return False
    append_drill(ledger, config.name, version, report)
    return True


def append_drill(ledger: Ledger, model: str, version: str, report: DrillReport) -> LedgerEvent:
    """Append what a drill found; each drill is an event of its own."""
    stream = f"{model}/drill"
    before = ledger.last_version(stream)
    payload = drill_payload(version, report.plan.windows, {found.fault: found.delays for found in report.faults})
    payload |= {"rows": report.rows, "seed": report.plan.seed, "false_alarms": dict(report.false_alarms)}
    key = f"{stream}/{version}/{before + 1}"
    return ledger.append(stream, DRILL_FINISHED, key, payload, expect_version=before)
