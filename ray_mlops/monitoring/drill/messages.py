"""What a person would have been sent: the alarms of a drill, by the words that are used in service."""

from collections.abc import Sequence

from ray_mlops.ledger import LedgerEvent
from ray_mlops.monitoring.drill.report import FaultReport
from ray_mlops.monitoring.notices.alarm_text import render_alarm
from ray_mlops.monitoring.notices.notice import Notice
from ray_mlops.monitoring.notices.standing import Standing


def notices_of(found: FaultReport, model: str, version: str) -> list[Notice]:
    """The notices of the first window in which a fault was noticed; none where it never was, or is only shown."""
    notices = []
    for payload in found.alarms:
        end_us = (payload["window"] + 1) * payload["window_us"]
        content = {"version": version, "reference": "drill", **payload}
        event = LedgerEvent(0, f"{model}/monitor", 0, end_us / 1e6, end_us, "monitor.alarm", "drill", content, "", "")
        notices.append(render_alarm(event, Standing()))
    return notices


def message_lines(faults: Sequence[FaultReport], model: str, version: str) -> list[str]:
    """The texts for people, fault by fault."""
    lines = []
    for found in faults:
        lines += ["", f"== {found.fault}: {found.about}"]
        notices = notices_of(found, model, version)
        if not notices:
            heard = found.monitors["any"].power
            only = "is shown by `ray-mlops monitor` only" if heard else "was not noticed"
            lines.append(f"Nobody would be sent anything: it {only}.")
        for notice in notices:
            lines += [f"[{notice.severity}] {notice.title}", *(f"  {line}" for line in notice.text.splitlines())]
    return lines
