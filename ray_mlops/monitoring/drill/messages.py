"""What a person would have been sent: the alarms of a drill, by the words that are used in service."""

from collections.abc import Sequence
from dataclasses import dataclass

from ray_mlops.ledger import LedgerEvent
from ray_mlops.monitoring.drill.report import FaultReport
from ray_mlops.monitoring.notices.alarm_text import render_alarm
from ray_mlops.monitoring.notices.notice import Notice
from ray_mlops.monitoring.notices.standing import Standing


@dataclass(frozen=True, slots=True)
class Told:
    """What a person would be told of one fault."""

    fault: str
    about: str
    column: str
    """The column that was hit; empty where none was."""
    delay: int | None
    """Windows until then, the first with the fault counted as 1; None where nobody would be told."""
    notices: tuple[Notice, ...]
    nothing: str
    """Why nobody would be sent anything; empty with notices."""


def told_of(found: FaultReport, model: str, version: str) -> Told:
    """What is sent at the close of the first window in which a fault is noticed."""
    notices = tuple(_notices(found, model, version))
    delay = found.alarmed_after if notices else None
    column = found.alarmed_column if notices else ""
    return Told(found.fault, found.about, column, delay, notices, "" if notices else _nothing(found))


def message_lines(faults: Sequence[FaultReport], model: str, version: str) -> list[str]:
    """The texts for people, fault by fault."""
    lines = []
    for told in (told_of(found, model, version) for found in faults):
        where = f", here {told.column}" if told.column else ""
        when = "" if told.delay is None else f" (noticed in window {told.delay})"
        lines += ["", f"== {told.fault}: {told.about}{where}{when}"]
        lines += [told.nothing] if told.nothing else []
        for notice in told.notices:
            lines += [f"[{notice.severity}] {notice.title}", *(f"  {line}" for line in notice.text.splitlines())]
    return lines


def _notices(found: FaultReport, model: str, version: str) -> list[Notice]:
    notices = []
    for payload in found.alarms:
        end_us = (payload["window"] + 1) * payload["window_us"]
        content = {"version": version, "reference": "drill", **payload}
        raised = _event(1, f"{model}/monitor", end_us, "monitor.alarm", content)
        followed = []
        if found.policy:
            followed = [_event(2, f"{model}/retrain", end_us, found.policy["kind"], found.policy["payload"])]
        notices.append(render_alarm(raised, Standing(), followed))
    return notices


def _event(seq: int, stream: str, event_us: int, kind: str, payload: object) -> LedgerEvent:
    return LedgerEvent(seq, stream, seq, event_us / 1e6, event_us, kind, "drill", dict(payload), "", "")  # type: ignore[call-overload]


def _nothing(found: FaultReport) -> str:
    if not found.monitors["any"].power:
        return "Nobody would be sent anything: it was not noticed."
    return "Nobody would be sent anything: it is no alarm. `ray-mlops monitor` and the console name it while it lasts."
