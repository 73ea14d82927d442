"""What is behind an alarm: the rows since the change against the reference's, from the store to a diagnosis."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import numpy.typing as npt

from ray_mlops.config import ProjectConfig
from ray_mlops.data.inputs import InputColumn
from ray_mlops.data.vectors import project_vectors, projection_of
from ray_mlops.errors import MonitoringError, NotFoundError
from ray_mlops.ledger import Ledger, LedgerEvent
from ray_mlops.monitoring.alarms import RAISED
from ray_mlops.monitoring.diagnosis.moved_slices import Side
from ray_mlops.monitoring.diagnosis.report import Diagnosis, diagnose, diagnosis_lines
from ray_mlops.monitoring.notices.notice import moment
from ray_mlops.orchestration.past_rows import PastRows, logged_past, snapshot_past
from ray_mlops.orchestration.phases import OnPhase, silent
from ray_mlops.orchestration.versions import find_version, load_bundle
from ray_mlops.runtime.files import Files
from ray_mlops.statistics.losses import bounded_loss
from ray_mlops.training.bundle import ModelBundle

_NEWEST = 7
"""Windows of now, where no alarm says since when."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is compared with what."""

    alarm: str | None
    """The alarm that is looked into; None looks at the newest windows."""
    version: str
    current_us: tuple[int, int]
    """Event time, the end exclusive."""
    reference_us: tuple[int, int]

    def to_json(self) -> dict[str, Any]:
        return {
            "alarm": self.alarm,
            "version": self.version,
            "current": [moment(us) for us in self.current_us],
            "reference": [moment(us) for us in self.reference_us],
        }


@dataclass(frozen=True, slots=True)
class Answer:
    """A diagnosis, and of what."""

    question: Question
    reference_rows: int
    current_rows: int
    diagnosis: Diagnosis

    def to_json(self) -> dict[str, Any]:
        rows = {"reference_rows": self.reference_rows, "current_rows": self.current_rows}
        return {**self.question.to_json(), **rows, **self.diagnosis.to_json()}


def diagnose_alarm(
    config: ProjectConfig, alarm: str | None = None, *, seed: int = 0, on_phase: OnPhase = silent
) -> Answer:
    """Look into an alarm: every column together, what the loss owes to which, and the slices that moved.

    Needs no running service: it reads the ledger, the logs and the version's snapshot.

    Args:
        config: Says which model and where its store is.
        alarm: ``LEVEL:NAME`` as `ray-mlops monitor` shows it (the level may be left out); None takes the newest, and
            without any the newest windows.
        seed: The same seed gives the same diagnosis.

    Raises:
        NotFoundError: There is no such alarm.
        ModelNotFoundError: The version is not there any more.
        MonitoringError: There are no rows to compare.
    """
    files, ledger = Files(config.store.root_uri), Ledger.open(config.store)
    event = find_alarm(ledger, config.name, alarm)
    version = "champion" if event is None else str(event.payload["version"])
    version, address = find_version(config, version)
    bundle = load_bundle(address, config)
    on_phase("rows", "prediction log and labels")
    logged = logged_past(config, bundle, files)
    if logged is None or not len(logged):
        remedy = "send traffic first; columns that serving.log.redact hides cannot be compared"
        raise MonitoringError("no served row has every input of the model", "prediction log", remedy)
    question = _question(event, version, bundle, ledger, config, logged)
    current = logged.between(*question.current_us)
    on_phase("rows", "reference")
    reference = _reference_rows(question, config, bundle, files, logged)
    if not len(current) or not len(reference):
        side = "current" if not len(current) else "reference"
        raise MonitoringError(f"no row lies in the {side} windows", config.name, "were they deleted by 'ray-mlops gc'?")
    on_phase("compare", f"{len(reference)} and {len(current)} rows")
    watched = [name for c in bundle.features.columns if c.role == "feature" for name in _compared(c)]
    then, now = (_side(rows, bundle, config) for rows in (reference, current))
    return Answer(question, len(reference), len(current), diagnose(then, now, watched, seed=seed))


def find_alarm(ledger: Ledger, model: str, alarm: str | None) -> LedgerEvent | None:
    """The newest event that raised an alarm; None where none was ever raised and none is asked for.

    Raises:
        NotFoundError: This alarm was never raised; names those that were.
    """
    raised = ledger.read(f"{model}/monitor", kind=RAISED, newest_first=True)
    if alarm is None:
        return raised[0] if raised else None
    for event in raised:
        if alarm in (event.payload["alarm"], event.payload["name"]):
            return event
    known = ", ".join(dict.fromkeys(str(event.payload["alarm"]) for event in raised)) or "none"
    raise NotFoundError(f"alarm {alarm!r} was never raised", model, f"raised: {known}")


def answer_lines(found: Answer) -> list[str]:
    """The answer for people."""
    question = found.question
    what = "the newest windows" if question.alarm is None else question.alarm
    current, reference = (
        " to ".join(moment(us) for us in span) for span in (question.current_us, question.reference_us)
    )
    head = [
        f"{what} of version {question.version}",
        f"  now:       {current}, {found.current_rows} served rows",
        f"  reference: {reference}, {found.reference_rows} rows",
        "",
    ]
    return [*head, *diagnosis_lines(found.diagnosis)]


def _question(
    event: LedgerEvent | None,
    version: str,
    bundle: ModelBundle,
    ledger: Ledger,
    config: ProjectConfig,
    logged: PastRows,
) -> Question:
    window_us = bundle.profile.window_us
    payload: Mapping[str, Any] = {} if event is None else event.payload
    newest = int(logged.event_us[-1]) // window_us
    last = payload.get("window", newest)
    change = payload.get("change_point")
    first = (last if event is not None else newest - _NEWEST + 1) if change is None else min(change, last)
    windows = _reference_windows(ledger, config.name, payload.get("reference"), bundle)
    end = min(windows[1] + 1, first)
    return Question(
        None if event is None else str(payload["alarm"]),
        version,
        (first * window_us, (last + 1) * window_us),
        (windows[0] * window_us, end * window_us),
    )


def _reference_windows(ledger: Ledger, model: str, reference: str | None, bundle: ModelBundle) -> tuple[int, int]:
    """First and last window of the reference that was in force."""
    for event in ledger.read(f"{model}/monitor", kind="monitor.epoch", newest_first=True):
        if event.payload["reference"] == reference and event.payload["reference_windows"]:
            first, last = event.payload["reference_windows"]
            return int(first), int(last)
    windows = bundle.profile.windows
    return windows[0], windows[-1]


def _reference_rows(
    question: Question, config: ProjectConfig, bundle: ModelBundle, files: Files, logged: PastRows
) -> PastRows:
    """The reference's rows: as the monitor has them, the snapshot's and after those the log's."""
    sourced = snapshot_past(config, bundle, files)
    own = sourced.between(*question.reference_us)
    newest = int(sourced.event_us[-1]) + 1 if len(sourced) else 0
    window_us = config.monitoring.window // timedelta(microseconds=1)
    after = (newest + window_us - 1) // window_us * window_us
    later = logged.between(max(after, question.reference_us[0]), question.reference_us[1])
    return own.followed_by(later)


def _compared(column: InputColumn) -> tuple[str, ...]:
    """The columns that stand for an input: none for times, norm and directions for vectors."""
    if column.length:
        return column.name, *projection_of(column.name, column.length).directions
    return () if column.input_type == "datetime" else (column.name,)


def _side(rows: PastRows, bundle: ModelBundle, config: ProjectConfig) -> Side:
    """Rows with the loss of the version's own predictions, whoever answered them."""
    known = np.isfinite(rows.target)
    loss: npt.NDArray[np.float64] = np.full(len(rows), np.nan)
    if known.any():
        values = bundle.predict(rows.take(np.flatnonzero(known)).inputs).values
        loss[known] = bounded_loss(bundle.task, values, rows.target[known], bundle.loss_scale)
    window_us = config.monitoring.window // timedelta(microseconds=1)
    inputs = project_vectors(rows.inputs, bundle.features.columns)
    return Side(inputs, rows.event_us // window_us, loss)
