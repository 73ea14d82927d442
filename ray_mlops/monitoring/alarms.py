"""Which alarms stand in one reference epoch, and what a closed window changes about that. Pure.

A drift alarm stands until the epoch ends. A breach of the contract may clear, and be raised again later;
a person's word counts for the breach that was up when it was given, not for the next one.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from ray_mlops.ledger import LedgerEvent

RAISED, CLEARED, ACKNOWLEDGED = "monitor.alarm", "monitor.cleared", "monitor.acknowledged"
Level = Literal["drift", "contract"]


@dataclass(frozen=True, slots=True)
class AlarmChange:
    """An alarm that is newly raised, or over."""

    kind: str
    """Of the event."""
    key: str
    """Of the event: the same whenever the window is closed again after a crash."""
    level: Level
    name: str

    @property
    def alarm(self) -> str:
        """How people call it: ``LEVEL:NAME``."""
        return f"{self.level}:{self.name}"


@dataclass(slots=True)
class _Raised:
    key: str
    window: int
    """In which it was raised, or cleared."""
    is_up: bool = True
    is_acknowledged: bool = False


class AlarmBook:
    """A fold over the alarms of one model in one reference epoch.

    Args:
        model: The model's name.
        reference: The epoch's reference.

    Example:
        >>> book = AlarmBook("m", "v1")
        >>> [(change.kind, change.alarm) for change in book.changes(7, ["inputs"], ["x:nulls"])]
        [('monitor.alarm', 'drift:inputs'), ('monitor.alarm', 'contract:x:nulls')]
    """

    def __init__(self, model: str, reference: str) -> None:
        self._prefix, self._reference = f"{model}/monitor/{reference}", reference
        self._known: dict[str, _Raised] = {}

    def apply(self, events: Iterable[LedgerEvent]) -> None:
        """Take up events of stream ``{model}/monitor``, in order; those of other epochs are passed over."""
        for event in events:
            if event.payload.get("reference") != self._reference:
                continue
            alarm = str(event.payload.get("alarm"))
            known = self._known.get(alarm)
            if event.kind == RAISED:
                self._known[alarm] = _Raised(event.key, event.payload["window"])
            elif event.kind == CLEARED and known is not None:
                known.is_up, known.window = False, event.payload["window"]
            elif event.kind == ACKNOWLEDGED and known is not None:
                known.is_acknowledged = True

    def changes(self, window: int, alarms: Sequence[str], breaches: Sequence[str]) -> list[AlarmChange]:
        """Return what a window changes; a window that was closed before changes nothing again.

        Args:
            window: The window that was closed.
            alarms: Action-level alarms that are up.
            breaches: Breaches of the contract that are up.
        """
        up: list[tuple[Level, str]] = [*(("drift", n) for n in alarms), *(("contract", n) for n in breaches)]  # type: ignore[list-item]
        raised = [self._raise(window, level, name) for level, name in up]
        cleared = [
            AlarmChange(CLEARED, f"{known.key}/cleared", "contract", alarm.removeprefix("contract:"))
            for alarm, known in self._known.items()
            if alarm.startswith("contract:") and known.is_up and ("contract", alarm.removeprefix("contract:")) not in up
            if window > known.window
        ]
        return [*(change for change in raised if change is not None), *cleared]

    def _raise(self, window: int, level: Level, name: str) -> AlarmChange | None:
        known = self._known.get(f"{level}:{name}")
        first = f"{self._prefix}/{level}/{name}"
        if known is None:
            return AlarmChange(RAISED, first, level, name)
        if known.is_up or window <= known.window:
            return None
        return AlarmChange(RAISED, f"{first}/{window}", level, name)

    def has_news(self, window: int) -> bool:
        """Whether an alarm was raised in a window."""
        return any(known.is_up and known.window == window for known in self._known.values())

    def unacknowledged(self, breaches: Sequence[str]) -> tuple[str, ...]:
        """Of breaches that are up, those that nobody has acknowledged."""
        known = {name: self._known.get(f"contract:{name}") for name in breaches}
        return tuple(name for name, raised in known.items() if raised is None or not raised.is_acknowledged)

    def acknowledgement_key(self, alarm: str) -> str | None:
        """Key of the event by which a person acknowledges a contract alarm; None where it does not stand."""
        known = self._known.get(alarm)
        if known is None or not known.is_up or not alarm.startswith("contract:"):
            return None
        suffix = known.key.removeprefix(f"{self._prefix}/contract/")
        return f"{self._prefix}/acknowledged/{suffix}"
