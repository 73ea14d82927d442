"""From an event of the ledger to a notice: which module has the words for which kind."""

import logging
from collections.abc import Callable, Mapping, Sequence

from ray_mlops.ledger import LedgerEvent
from ray_mlops.monitoring.notices import alarm_text, rollout_text, version_text
from ray_mlops.monitoring.notices.notice import Notice, paragraphs
from ray_mlops.monitoring.notices.runbook import what_to_do
from ray_mlops.monitoring.notices.standing import Standing, model_of

logger = logging.getLogger(__name__)

Render = Callable[[LedgerEvent, Standing, Sequence[LedgerEvent]], Notice | None]

GIVEN_UP = "delivery.given_up"
SILENT: frozenset[str] = frozenset(
    {"snapshot.created", "config.recorded", "routes.committed", "alias.set", "version.refused"}
)
"""Kinds that follow from a decision of which there is a notice, and say nothing new to a person."""


def render(event: LedgerEvent, standing: Standing, followed: Sequence[LedgerEvent] = ()) -> Notice | None:
    """Make the notice of an event; None where it has none.

    Args:
        event: What happened.
        standing: What was known before it.
        followed: What was recorded after it, as far as it is known.
    """
    words = _WORDS.get(event.kind)
    return None if words is None else in_words(event, lambda: words(event, standing, followed))


def in_words(event: LedgerEvent, words: Callable[[], Notice | None]) -> Notice | None:
    """The notice that words of an event make; a plain one where they fail."""
    try:
        return words()
    except (KeyError, TypeError, ValueError, AttributeError) as error:  # one odd event must not silence all after it
        logger.error("fail to put into words key=%s error=%r", event.key, error)
        text = paragraphs(what=f"{event.kind} was recorded; its text could not be made ({error!r}).")
        title = f"{model_of(event)}: {event.kind}"
        return Notice(event.key, _KINDS[event.kind], "warning", model_of(event), event.time, title, text, seq=event.seq)


def _render_undeployed(event: LedgerEvent, standing: Standing, followed: Sequence[LedgerEvent] = ()) -> Notice:
    text = paragraphs(what="the model is not served any more; its versions, logs and decisions stay.")
    return _plain(event, "model.undeployed", "was taken out of service", text)


def _render_config(event: LedgerEvent, standing: Standing, followed: Sequence[LedgerEvent] = ()) -> Notice:
    text = paragraphs(what=f"configuration {event.payload.get('hash')} is in force from now on.")
    return _plain(event, "config.deployed", "a configuration was deployed", text, facts={})


def _render_forgotten(event: LedgerEvent, standing: Standing, followed: Sequence[LedgerEvent] = ()) -> Notice:
    p = event.payload
    what = (
        f"{p.get('by')} had {p.get('ids')} ids forgotten: {p.get('predictions')} predictions, {p.get('labels')} labels."
    )
    return _plain(event, "data.forgotten", "data was forgotten on request", paragraphs(what=what))


def _render_collected(event: LedgerEvent, standing: Standing, followed: Sequence[LedgerEvent] = ()) -> Notice:
    counts = ", ".join(f"{name} {value}" for name, value in event.payload.items())
    return _plain(event, "data.collected", "old data was deleted by the retention rules", paragraphs(what=counts))


def _render_given_up(event: LedgerEvent, standing: Standing, followed: Sequence[LedgerEvent] = ()) -> Notice | None:
    """Only the first notice that a target did not get is told to the others: they learn that it is dead, once."""
    p = event.payload
    if not p.get("is_first"):
        return None
    target = str(p.get("target"))
    text = paragraphs(
        what=f"the target {target} was not told of {p.get('kind')}: {p.get('title')}.",
        why=f"{p.get('reason')}.",
        to_do=what_to_do(GIVEN_UP, target=target),
    )
    title = f"{model_of(event)}: the target {target} does not accept notices"
    return Notice(
        event.key, GIVEN_UP, "critical", model_of(event), event.time, title, text, event.event_time, p, "", event.seq
    )


def _plain(event: LedgerEvent, kind: str, title: str, text: str, facts: Mapping[str, object] | None = None) -> Notice:
    model = model_of(event)
    shown = event.payload if facts is None else facts
    return Notice(
        event.key, kind, "info", model, event.time, f"{model}: {title}", text, event.event_time, shown, "", event.seq
    )


_WORDS: Mapping[str, Render] = {
    "rollout.requested": rollout_text.render_requested,
    "rollout.commanded": rollout_text.render_commanded,
    "rollout.moved": rollout_text.render_moved,
    "shadow.started": rollout_text.render_shadow,
    "shadow.stopped": rollout_text.render_shadow,
    "version.registered": version_text.render_registered,
    "version.approved": version_text.render_approved,
    "retrain.requested": version_text.render_requested,
    "retrain.decided": version_text.render_decided,
    "retrain.withheld": version_text.render_withheld,
    "retrain.submitted": version_text.render_submitted,
    "retrain.finished": version_text.render_finished,
    "monitor.alarm": alarm_text.render_alarm,
    "monitor.cleared": alarm_text.render_cleared,
    "monitor.acknowledged": alarm_text.render_acknowledged,
    "monitor.epoch": alarm_text.render_epoch,
    "routes.withdrawn": _render_undeployed,
    "config.deployed": _render_config,
    "data.forgotten": _render_forgotten,
    "data.collected": _render_collected,
    GIVEN_UP: _render_given_up,
}
_KINDS = {
    **{kind: kind for kind in _WORDS},
    "rollout.moved": "rollout.commanded",
    "version.registered": "gate.passed",
    "version.approved": "approval.given",
    "retrain.decided": "retrain.scheduled",
    "retrain.submitted": "retrain.retried",
    "retrain.finished": "retrain.failed",
    "monitor.alarm": "alarm",
    "monitor.cleared": "breach.cleared",
    "monitor.acknowledged": "acknowledged",
    "monitor.epoch": "epoch.began",
    "routes.withdrawn": "model.undeployed",
}
"""The kind of notice of an event whose text could not be made."""
