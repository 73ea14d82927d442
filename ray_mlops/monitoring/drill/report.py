"""What a drill found: power, delay and naming of each monitor for each fault; false alarms; in numbers and words."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import inf
from typing import Any

import numpy as np

from ray_mlops.config import FaultName
from ray_mlops.monitoring.drill.injections import INJECTIONS
from ray_mlops.monitoring.drill.run import FaultRun, Plan, Repeat
from ray_mlops.monitoring.drill.watch import MONITORS, MonitorName


@dataclass(frozen=True, slots=True)
class Detection:
    """One monitor and one fault."""

    runs: int
    """Runs in which the monitor had been quiet before the fault."""
    power: float | None
    """Share of them in which it spoke while the fault lasted; None without a run."""
    median_delay: float | None
    """Windows until it spoke, over those runs; None where it spoke in fewer than half of them."""
    right_column: float | None
    """Where it spoke and names columns: the share in which the column that was hit came first."""


@dataclass(frozen=True, slots=True)
class FaultReport:
    """One fault."""

    fault: FaultName
    about: str
    monitors: Mapping[MonitorName, Detection]
    columns: Mapping[str, tuple[int, int]]
    """By column that was hit: runs, and runs in which anything spoke."""
    delays: tuple[int | None, ...]
    """Windows until anything spoke, run by run; None where nothing did. Runs with a false alarm before are left out."""
    alarms: tuple[Mapping[str, Any], ...] = ()
    """What was raised first, in the first run in which anything was."""
    alarmed_column: str = ""
    """The column that was hit in that run."""
    alarmed_after: int | None = None
    """Windows until then, in that run."""
    policy: Mapping[str, Any] = field(default_factory=dict)
    """What the policy made of it (see ``Spoken.policy``)."""


@dataclass(frozen=True, slots=True)
class DrillReport:
    """A whole drill."""

    plan: Plan
    rows: str
    """Where they came from."""
    num_windows: int
    num_reference: int
    """Windows of each run's reference."""
    own_reference: int
    """Windows that the model's own reference would have."""
    label_lag: int
    """Windows by which labels come late."""
    has_latencies: bool
    faults: tuple[FaultReport, ...]
    skipped: tuple[FaultName, ...]
    """Faults that can befall no column of this model."""
    false_alarms: Mapping[MonitorName, float]
    """Share of runs in which a monitor spoke in the clean windows."""
    is_warming_up: bool

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def summarise(repeats: Sequence[Repeat], monitors: Sequence[MonitorName] = MONITORS) -> tuple[FaultReport, ...]:
    """Add up the runs of each fault, in the order in which they were run."""
    by_fault: dict[FaultName, list[tuple[Repeat, FaultRun]]] = {}
    for repeat in repeats:
        for run in repeat.faults:
            by_fault.setdefault(run.fault, []).append((repeat, run))
    return tuple(_fault_report(fault, runs, monitors) for fault, runs in by_fault.items())


def false_alarms(repeats: Sequence[Repeat], monitors: Sequence[MonitorName] = MONITORS) -> dict[MonitorName, float]:
    """The share of runs in which each monitor spoke without a fault."""
    return {monitor: sum(monitor in repeat.clean for repeat in repeats) / len(repeats) for monitor in monitors}


def _fault_report(
    fault: FaultName, runs: Sequence[tuple[Repeat, FaultRun]], monitors: Sequence[MonitorName]
) -> FaultReport:
    columns: dict[str, tuple[int, int]] = {}
    quiet = [run for repeat, run in runs if "any" not in repeat.clean]
    for run in quiet:
        tried, found = columns.get(run.column, (0, 0))
        columns[run.column] = (tried + 1, found + ("any" in run.delays))
    delays = tuple(None if "any" not in run.delays else int(run.delays["any"]) for run in quiet)
    first = next((run for run in quiet if run.alarms), None)
    detections = {monitor: _detection(monitor, runs) for monitor in monitors}
    report = FaultReport(fault, INJECTIONS[fault].about, detections, columns, delays)
    if first is None:
        return report
    after = int(first.delays["any"]) if "any" in first.delays else None
    return replace(report, alarms=first.alarms, alarmed_column=first.column, alarmed_after=after, policy=first.policy)


def _detection(monitor: MonitorName, runs: Sequence[tuple[Repeat, FaultRun]]) -> Detection:
    quiet = [run for repeat, run in runs if monitor not in repeat.clean]
    if not quiet:
        return Detection(0, None, None, None)
    delays = [run.delays.get(monitor, inf) for run in quiet]
    named = [run.is_named[monitor] for run in quiet if monitor in run.is_named]
    median = float(np.sort(delays)[(len(delays) - 1) // 2])
    power = float(np.isfinite(delays).mean())
    return Detection(
        len(quiet), power, median if np.isfinite(median) else None, float(np.mean(named)) if named else None
    )


def report_lines(report: DrillReport) -> list[str]:
    """The report for people: what each monitor notices of each fault."""
    shown = [m for m in MONITORS if m != "rows" or report.is_warming_up]
    width = max(len(found.fault) for found in report.faults) + 1
    head = f"{'':{width}}" + "".join(f"{monitor:>10}" for monitor in shown) + f"{'right column':>14}"
    lines = [
        f"{report.plan.repeats} runs over real windows in random order ({report.rows}, {report.num_windows} windows): "
        f"{report.num_reference} of reference, {report.plan.clean} clean, {report.plan.windows} with the fault.",
        "power, and median windows until it speaks (the first is 1):",
        head,
    ]
    for found in report.faults:
        cells = "".join(f"{_cell(found.monitors[monitor]):>10}" for monitor in shown)
        right = found.monitors["any"].right_column
        lines.append(f"{found.fault:{width}}{cells}{'-' if right is None else f'{right:.0%}':>14}")
    cells = "".join(f"{report.false_alarms[monitor]:>10.0%}" for monitor in shown)
    lines += [f"{'false alarms':{width}}{cells}", "", *_weak_lines(report), *_note_lines(report)]
    return lines


def _cell(found: Detection) -> str:
    if found.power is None:
        return "-"
    delay = "" if found.median_delay is None else f" {found.median_delay:g}w"
    return f"{found.power:.0%}{delay}"


def _weak_lines(report: DrillReport) -> list[str]:
    """Where a fault stays unnoticed, by column."""
    lines = []
    for found in report.faults:
        weak = {column: runs for column, runs in found.columns.items() if column and runs[1] < runs[0]}
        if weak:
            told = ", ".join(f"{column} {seen}/{tried}" for column, (tried, seen) in weak.items())
            lines.append(f"{found.fault} ({found.about}), noticed in: {told}")
    return [*lines, ""] if lines else []


def _note_lines(report: DrillReport) -> list[str]:
    notes = [
        "any: what people hear of, a breach, an alarm or a notice on latency; the others are one kind of channel each."
    ]
    if report.num_reference < report.own_reference:
        notes.append(
            f"The reference of a run is shorter than the model's own ({report.own_reference}): in service power is "
            "rather better than here."
        )
    if report.label_lag >= report.plan.windows:
        notes.append(
            f"Labels come {report.label_lag} windows late, the fault lasts {report.plan.windows}: the loss cannot "
            "speak; see --windows."
        )
    elif report.label_lag:
        notes.append(f"Labels come {report.label_lag} windows late; delays of the loss contain that.")
    if not report.has_latencies:
        notes.append("There are no latencies in these rows, so that nothing can be said of that monitor.")
    if report.is_warming_up:
        notes.append("Some columns have a reference too short for window-level channels; for them 'rows' acts.")
    notes += [f"{fault}: no column of this model can have it." for fault in report.skipped]
    return notes
