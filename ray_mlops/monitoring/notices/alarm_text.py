"""Alarms, breaches and what becomes of them, in words: what, since when, how sure, which, what was done, what to do."""

import shlex
from collections.abc import Mapping, Sequence
from math import exp
from typing import Any

from ray_mlops.ledger import LedgerEvent
from ray_mlops.monitoring.handover import SCORE
from ray_mlops.monitoring.notices.notice import Notice, moment, paragraphs
from ray_mlops.monitoring.notices.runbook import what_to_do
from ray_mlops.monitoring.notices.standing import Standing, model_of

_NAMED = 5
"""Columns that are named in a text; all of them are in the facts."""
_KINDS = {
    "concept": " (concept drift)",
    "covariate": " (covariate drift)",
    "both": " (covariate and concept drift)",
    "unclear": "",
}
"""Why a loss has risen, for the title; the reason says it at length."""
_DECLARED = ("declared_nulls", "domain")
"""Breaches of what a person declared; the others are read off the reference."""
_SUBJECTS = {"inputs": "the inputs have", "score": "the predictions have", "loss": "the loss has"}


def render_alarm(event: LedgerEvent, standing: Standing, followed: Sequence[LedgerEvent] = ()) -> Notice:
    """An alarm or a breach that was raised.

    Args:
        event: The event ``monitor.alarm``.
        standing: Not needed: an alarm says everything itself.
        followed: What was recorded after it.
    """
    done = what_followed(event, followed)
    return _breach(event, done) if event.payload.get("level") == "contract" else _drift(event, done)


def render_reminder(raised: LedgerEvent, number: int, now: float) -> Notice:
    """An alarm that still stands.

    Args:
        raised: The event that raised it.
        number: Counts the reminders of this alarm, from 1.
        now: Unix seconds.
    """
    first = render_alarm(raised, Standing())
    days = (now - raised.time) / 86400.0
    text = f"Reminder {number}: it was raised {days:.1f} days ago, and nobody has acknowledged it.\n{first.text}"
    return Notice(
        id=f"{raised.key}/reminder/{number}",
        kind=f"{first.kind}.reminder",
        severity=first.severity,
        model=first.model,
        time=now,
        title=f"{first.title} (still)",
        text=text,
        event_time=raised.event_time,
        facts=raised.payload,
        page=first.page,
        seq=raised.seq,
    )


def render_cleared(event: LedgerEvent, standing: Standing, followed: Sequence[LedgerEvent] = ()) -> Notice:
    """A breach that is over."""
    model, name = model_of(event), str(event.payload.get("name"))
    text = paragraphs(
        what=f"the breach {name} is over: the values of this window are sound.",
        since=_window_end(event),
        what_was_done="if nothing else stands in the way, retraining is allowed again.",
        to_do=what_to_do("breach.cleared"),
    )
    return _notice(event, "breach.cleared", "info", f"{model}: contract breach {name} is over", text)


def render_acknowledged(event: LedgerEvent, standing: Standing, followed: Sequence[LedgerEvent] = ()) -> Notice:
    """A breach that a person has taken note of."""
    alarm, by = event.payload.get("alarm"), event.payload.get("by")
    text = paragraphs(what=f"{by} has acknowledged {alarm}; it no longer blocks retraining.")
    return _notice(event, "acknowledged", "info", f"{model_of(event)}: {alarm} was acknowledged by {by}", text)


def render_epoch(event: LedgerEvent, standing: Standing, followed: Sequence[LedgerEvent] = ()) -> Notice:
    """A new reference epoch, and the alarms that end with the one before."""
    over = [str(raised.payload.get("alarm")) for raised in standing.ended_by(event)]
    version = event.payload.get("version")
    what = f"version {version} is measured against reference {event.payload.get('reference')} from now on."
    if not over:
        title = f"{model_of(event)}: version {version} is watched"
        return _notice(event, "epoch.began", "info", title, paragraphs(what=what))
    title = f"{model_of(event)}: {', '.join(over)} {'is' if len(over) == 1 else 'are'} over with version {version}"
    return _notice(event, "alarm.over", "info", title, paragraphs(what=what, to_do=what_to_do("alarm.over")))


def what_followed(event: LedgerEvent, followed: Sequence[LedgerEvent]) -> str | None:
    """Say what the policy did at the same moment; None where nothing is recorded (yet)."""
    same = [e for e in followed if model_of(e) == model_of(event) and e.event_time == event.event_time]
    for other in same:
        if other.kind == "retrain.decided":
            action, name = other.payload.get("action"), other.payload.get("decision_id")
            return f"retraining {name} ({action}) was decided: {other.payload.get('reason')}."
        if other.kind == "retrain.withheld":
            word = "retraining is blocked" if other.payload.get("blocked") else "no retraining"
            return f"{word}: {other.payload.get('reason')}."
    return None


def describe_column(name: str, found: Mapping[str, Any]) -> str:
    """Say how far a column has moved, beside what no drift would show.

    Example:
        >>> describe_column("temp", {"total_variation": 0.3, "expected": 0.02, "log_e": 12.0, "is_noise": False})
        'temp: total variation 0.300, no drift would show 0.020 (15 times that), log evidence 12.0'
        >>> describe_column("temp", {"log_e": 12.0, "moved": "mean 71 in this window, 38 in the reference"})
        'temp: mean 71 in this window, 38 in the reference, log evidence 12.0'
    """
    parts = [str(found["moved"])] if found.get("moved") else []
    distance, expected = found.get("total_variation"), found.get("expected")
    if distance is not None and expected is not None:
        times = f"{distance / expected:.2g} times that" if expected > 0.0 else "nothing"
        noise = "; not much for one window: the evidence is that of many" if found.get("is_noise") else ""
        parts.append(f"total variation {distance:.3f}, no drift would show {expected:.3f} ({times}{noise})")
    if found.get("log_e") is not None:
        parts.append(f"log evidence {found['log_e']:.1f}")
    return f"{name}: {', '.join(parts)}" if parts else name


def describe_evidence(payload: Mapping[str, Any]) -> str | None:
    """Say how sure an alarm is.

    Example:
        >>> describe_evidence({"log_e": 9.3, "limit": 5.2983174})
        'log evidence 9.3, the alarm is at 5.3. If nothing had changed, that would ever be reached with a probability of 0.5 % at most.'
    """  # noqa: E501
    log_e, limit = payload.get("log_e"), payload.get("limit")
    if log_e is None or limit is None:
        return None
    alpha = f"{100.0 * exp(-limit):.2g} %"
    chance = f"If nothing had changed, that would ever be reached with a probability of {alpha} at most."
    return f"log evidence {log_e:.1f}, the alarm is at {limit:.1f}. {chance}"


def _drift(event: LedgerEvent, done: str | None) -> Notice:
    model, payload = model_of(event), event.payload
    name = str(payload.get("name"))
    guilty = [str(column) for column in payload.get("guilty") or ()]
    named = ", ".join(guilty[:_NAMED]) + (f" and {len(guilty) - _NAMED} more" if len(guilty) > _NAMED else "")
    columns = payload.get("columns") or {}
    which = "; ".join(describe_column(column, columns.get(column) or {}) for column in guilty[:_NAMED])
    if any("~" in column for column in guilty[:_NAMED]):
        which += ". a~b is how a hangs together with b: each alone may look as it always did"
    if name == "loss" and not which:
        which = "a loss has no column of its own; `ray-mlops monitor diagnose` says to which ones it is owed"
    subject = _SUBJECTS.get(name, f"{name} has")
    kind = _KINDS.get(str(payload.get("kind")), "") if name == "loss" else ""
    verb = "risen" if name == "loss" else "drifted"
    text = paragraphs(
        what=f"{subject} {verb} from the reference of version {payload.get('version')}: {payload.get('reason')}.",
        since=f"about {moment(_change_us(event))}, the estimated change point. Raised {_window_end(event)}.",
        how_sure=describe_evidence(payload),
        which_features=f"{which}." if which else None,
        what_was_done=done or "nothing is recorded yet; see `ray-mlops monitor`.",
        to_do=what_to_do("alarm", page="drift"),
    )
    title = f"{model}: drift alarm on {name}{kind}" + (f": {named}" * bool(named))
    return _notice(event, "alarm", "critical", title, text)


def _breach(event: LedgerEvent, done: str | None) -> Notice:
    model, payload = model_of(event), event.payload
    name, reason = str(payload.get("name")), str(payload.get("reason"))
    feature, _, kind = name.rpartition(":")
    column = str(payload.get("feature") or feature)
    place = f"the model's own answers ({column})" if column == SCORE else f"column {column}"
    basis = "the declared contract is broken by" if kind in _DECLARED else "the data are broken:"
    text = paragraphs(
        what=f"{basis} {place}: {reason}. That is a fault of the pipe, not a change of the world.",
        since=f"the window that begins {moment(_window_us(event))}. Raised {_window_end(event)}.",
        how_sure=describe_breach(kind, payload),
        which_features=f"{column}.",
        what_was_done=done or "retraining is blocked.",
        to_do=what_to_do("breach", alarm=shlex.quote(str(payload.get("alarm")))),
    )
    return _notice(event, "breach", "critical", f"{model}: contract breach {name}: {reason}", text)


def describe_breach(kind: str, payload: Mapping[str, Any]) -> str | None:
    """Say how sure a breach is, and what would have been accepted; None where nothing is known.

    Example:
        >>> describe_breach("nulls", {"value": 0.2, "limit": 0.05})
        '20.0 % in this window, up to 5.0 % is accepted.'
        >>> describe_breach("scale", {"value": 1680.0, "limit": 1050.0})
        'mean 1680 in this window, 1050 in those before.'
    """
    value, limit = payload.get("value"), payload.get("limit")
    if value is None or limit is None:
        return None
    if kind == "scale":
        return f"mean {value:.4g} in this window, {limit:.4g} in those before."
    if kind == "missing":
        return "certain: other columns of the window were counted, and of this one not a single row."
    if kind == "empty":
        return f"certain: no row of the window has a value; in the reference {_percent(limit)} at most had none."
    if kind == "constant":
        return f"all rows of the window have one value; {_percent(limit)} of windows may be like that."
    return f"{_percent(value)} in this window, up to {_percent(limit)} is accepted."


def _percent(share: float) -> str:
    return f"{100.0 * share:.1f} %"


def _notice(event: LedgerEvent, kind: str, severity: Any, title: str, text: str) -> Notice:
    return Notice(
        event.key, kind, severity, model_of(event), event.time, title, text, event.event_time, event.payload, "drift",
        event.seq,
    )  # fmt: skip


def _length_us(event: LedgerEvent) -> int | None:
    """Length of a window. Events of before it was recorded carry the end of their window as event time."""
    window, recorded = event.payload.get("window"), event.payload.get("window_us")
    if recorded is not None or window is None or event.event_time is None:
        return recorded
    return int(event.event_time // (window + 1))


def _window_us(event: LedgerEvent) -> int | None:
    length, window = _length_us(event), event.payload.get("window")
    return None if length is None or window is None else length * window


def _change_us(event: LedgerEvent) -> int | None:
    length, change = _length_us(event), event.payload.get("change_point")
    return _window_us(event) if length is None or change is None else length * change


def _window_end(event: LedgerEvent) -> str:
    return f"at the close of the window that ends {moment(event.event_time)}"
