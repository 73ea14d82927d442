"""One target's way through the ledger: at least once, in order, and never ahead of what is delivered.

A plain class that is stepped by its thread. Everything that must outlive it is in ``TargetState``; a process that is
killed between a delivery and the note of it delivers that one notice again, with the same id.
"""

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from ray_mlops.ledger import Ledger, LedgerEvent
from ray_mlops.monitoring.notices.alarm_text import render_reminder
from ray_mlops.monitoring.notices.delivery import Attempt, Transport, decide_delivery
from ray_mlops.monitoring.notices.notice import Notice
from ray_mlops.monitoring.notices.outbox import TargetState, load_state, save_state
from ray_mlops.monitoring.notices.rendering import GIVEN_UP, in_words, render
from ray_mlops.monitoring.notices.standing import Standing, model_of
from ray_mlops.monitoring.notices.subscription import Subscription
from ray_mlops.runtime.files import Files

logger = logging.getLogger(__name__)

POLL_S = 1.0
"""How often the ledger is looked at."""
SETTLE_S = 2.0
"""An event is told this long after it was recorded: what the policy does about an alarm belongs to its text."""
BATCH = 256


@dataclass(slots=True)
class _Head:
    """The notice that is next."""

    notice: Notice
    event: LedgerEvent | None
    """None for a reminder."""
    reminder: tuple[str, int] = ("", 0)
    attempts: int = 0


class TargetFollower:
    """Delivers to one target what it wants of the ledger.

    Args:
        ledger: The events.
        files: Where the target's state is.
        subscription: The target.
        transport: Delivers one notice.
        clock: Unix seconds.
        jitter: Uniform in [0, 1).
    """

    def __init__(
        self,
        ledger: Ledger,
        files: Files,
        subscription: Subscription,
        transport: Transport,
        clock: Callable[[], float],
        jitter: Callable[[], float],
    ) -> None:
        self._ledger, self._files, self._subscription = ledger, files, subscription
        self._transport, self._clock, self._jitter = transport, clock, jitter
        self._state: TargetState | None = None
        self._standing = Standing()
        self._queue: deque[LedgerEvent] = deque()
        self._head: _Head | None = None
        self._not_before = 0.0

    @property
    def state(self) -> TargetState | None:
        """Where it stands; None before the first step."""
        return self._state

    def step(self) -> float:
        """Make one attempt, or look for something to send; returns the seconds until there may be more to do.

        Raises:
            LedgerError: The ledger cannot be read or written; the next step tries again.
            StoreError: The state cannot be written.
        """
        state = self._state or self._open()
        now = self._clock()
        if now < self._not_before:
            return min(self._not_before - now, POLL_S)
        self._head = self._head or self._next_event(state, now) or self._next_reminder(state, now)
        if self._head is None:
            return POLL_S
        self._attempt(state, self._head)
        return max(self._not_before - self._clock(), 0.0)

    def _open(self) -> TargetState:
        """Take up where the target was left; a new one begins a little before now."""
        name = self._subscription.target.name
        state = load_state(self._files, self._subscription.model, name)
        if state is None:
            now = self._clock()
            since = now - self._subscription.config.catch_up.total_seconds()
            state = TargetState(self._subscription.model, name, last_before(self._ledger, since), now)
            save_state(self._files, state)
            logger.info("following target=%s model=%s from=%d", name, state.model, state.cursor)
        self._standing = Standing.read(self._ledger, state.cursor)
        self._state = state
        return state

    # -- what is next ---------------------------------------------------------------------------------

    def _next_event(self, state: TargetState, now: float) -> _Head | None:
        """The next event that the target wants; passes over those that it does not."""
        if not self._queue:
            self._queue.extend(self._settled(state.cursor, now))
        before = state.cursor
        head = None
        while self._queue and head is None:
            event = self._queue[0]
            notice = self._notice(event)
            if notice is None:
                self._pass(state)
            else:
                head = _Head(notice, event)
        if state.cursor != before:
            save_state(self._files, state)
        return head

    def _settled(self, cursor: int, now: float) -> list[LedgerEvent]:
        found = self._ledger.read(prefix=self._subscription.prefix, after_seq=cursor, limit=BATCH)
        young = (index for index, event in enumerate(found) if 0.0 <= now - event.time < SETTLE_S)
        return found[: next(young, len(found))]

    def _notice(self, event: LedgerEvent) -> Notice | None:
        if not self._subscription.follows(model_of(event)):
            return None
        notice = render(event, self._standing, list(self._queue)[1:] if event.kind == "monitor.alarm" else ())
        return notice if notice is not None and self._subscription.wants(notice) else None

    def _pass(self, state: TargetState) -> None:
        """Leave the first event of the queue behind."""
        event = self._queue.popleft()
        self._standing.apply([event])
        state.cursor = event.seq

    def _next_reminder(self, state: TargetState, now: float) -> _Head | None:
        """An alarm that has stood for another while."""
        every = self._subscription.config.remind_after
        if every is None or self._queue:
            return None
        for raised in self._standing.unanswered():
            number = int((now - raised.time) / max(every.total_seconds(), 1.0))
            if number <= state.reminded.get(raised.key, 0):
                continue
            notice = in_words(raised, partial(render_reminder, raised, number, now))
            if notice is not None and self._subscription.wants(notice):
                return _Head(notice, None, (raised.key, number))
        return None

    # -- delivery -------------------------------------------------------------------------------------

    def _attempt(self, state: TargetState, head: _Head) -> None:
        attempt = self._transport.send(head.notice)
        head.attempts += 1
        state.failures = 0 if attempt.outcome == "delivered" else state.failures + 1
        decision = decide_delivery(
            attempt,
            failures=state.failures,
            age_s=self._clock() - head.notice.time,
            retry=self._subscription.config.retry,
            jitter=self._jitter(),
        )
        self._not_before = self._clock() + decision.wait_s
        if decision.action == "next":
            self._done(state, head, "delivered", decision.reason)
        elif decision.action == "give_up":
            self._give_up(state, head, decision.reason)
        else:
            self._note_failure(state, head, attempt, decision.wait_s)

    def _note_failure(self, state: TargetState, head: _Head, attempt: Attempt, wait_s: float) -> None:
        state.failed += 1
        state.problem = attempt.detail
        save_state(self._files, state)
        logger.warning(
            "failed to deliver id=%s target=%s attempt=%d wait_s=%.0f because=%s",
            *(head.notice.id, state.target, head.attempts, wait_s, attempt.detail),
        )

    def _give_up(self, state: TargetState, head: _Head, reason: str) -> None:
        """Record that a notice was not delivered.

        One that tells of such a record is left out: two dead targets would tell each other of their deaths for ever.
        """
        notice = head.notice
        if notice.kind != GIVEN_UP:
            stream = f"{notice.model}/notices"
            payload = {
                "target": state.target,
                "notice": notice.id,
                "kind": notice.kind,
                "title": notice.title,
                "reason": reason,
                "attempts": head.attempts,
                "is_first": not state.is_dead,
            }
            key = f"{stream}/{state.model}/{state.target}/{notice.seq}" + (f"/{head.reminder[1]}" * (not head.event))
            self._ledger.append(stream, GIVEN_UP, key, payload)
        logger.error("gave up notice id=%s target=%s because=%s", notice.id, state.target, reason)
        state.failed += 1
        state.is_dead = True
        state.problem = reason
        self._done(state, head, "given_up", reason)

    def _done(self, state: TargetState, head: _Head, outcome: str, detail: str) -> None:
        notice = head.notice
        if outcome == "delivered":
            state.delivered += 1
            state.is_dead, state.problem = False, ""
        else:
            state.given_up += 1
        entry = {"id": notice.id, "kind": notice.kind, "title": notice.title, "outcome": outcome}
        state.book({**entry, "attempts": head.attempts, "time": self._clock(), "detail": detail}, self._keep)
        if head.event is not None:
            self._pass(state)
        else:
            state.reminded[head.reminder[0]] = head.reminder[1]
            state.reminded = {key: state.reminded[key] for key in self._standing_keys() if key in state.reminded}
        self._head = None
        save_state(self._files, state)

    @property
    def _keep(self) -> int:
        return self._subscription.config.keep

    def _standing_keys(self) -> list[str]:
        return [event.key for event in self._standing.unanswered()]


def last_before(ledger: Ledger, time_s: float) -> int:
    """Number of the last event that was recorded before a moment, unix seconds; 0 where there is none.

    Writers' clocks may differ a little, so the order of times is the order of numbers only roughly; an event more or
    less at the edge is as good.
    """
    newest = ledger.read(limit=1, newest_first=True)
    if not newest or newest[0].time < time_s:
        return newest[0].seq if newest else 0
    low, high = 0, newest[0].seq  # the last before is at low or after it, the first since at high or before it
    while high - low > 1:
        middle = (low + high) // 2
        event = ledger.read(after_seq=middle - 1, limit=1)[0]
        low, high = (middle, high) if event.time < time_s else (low, middle)
    return low
