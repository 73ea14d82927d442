"""What an event alone does not say: which alarms stand, and which version a rollout is about. A fold."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from ray_mlops.ledger import Ledger, LedgerEvent
from ray_mlops.monitoring.alarms import ACKNOWLEDGED, CLEARED, RAISED

_EPOCH, _REQUESTED = "monitor.epoch", "rollout.requested"


def model_of(event: LedgerEvent) -> str:
    """The model that an event is about: its stream up to the slash."""
    return event.stream.rpartition("/")[0]


@dataclass(slots=True)
class Standing:
    """What is known before an event, of all models."""

    _alarms: dict[tuple[str, str], LedgerEvent] = field(default_factory=dict)
    """By model and alarm: the event that raised it."""
    _acknowledged: set[tuple[str, str]] = field(default_factory=set)
    _versions: dict[tuple[str, str], str] = field(default_factory=dict)
    """By model and rollout."""

    @classmethod
    def read(cls, ledger: Ledger, up_to_seq: int) -> "Standing":
        """What the ledger says up to an event, that one included."""
        kinds = (_EPOCH, RAISED, CLEARED, ACKNOWLEDGED, _REQUESTED)
        events = [event for kind in kinds for event in ledger.read(kind=kind) if event.seq <= up_to_seq]
        standing = cls()
        standing.apply(sorted(events, key=lambda event: event.seq))
        return standing

    def apply(self, events: Iterable[LedgerEvent]) -> None:
        """Take up further events, in order."""
        for event in events:
            model, name = model_of(event), (model_of(event), str(event.payload.get("alarm")))
            if event.kind == RAISED:
                self._alarms[name] = event
                self._acknowledged.discard(name)
            elif event.kind == CLEARED:
                self._alarms.pop(name, None)
            elif event.kind == ACKNOWLEDGED:
                self._acknowledged.add(name)
            elif event.kind == _EPOCH:
                for over in self.ended_by(event):
                    del self._alarms[model, str(over.payload.get("alarm"))]
            elif event.kind == _REQUESTED:
                self._versions[model, str(event.payload.get("rollout_id"))] = str(event.payload.get("version"))

    def ended_by(self, epoch: LedgerEvent) -> list[LedgerEvent]:
        """Alarms that stand until this epoch begins."""
        reference = epoch.payload.get("reference")
        ours = [event for (model, _), event in self._alarms.items() if model == model_of(epoch)]
        return [event for event in ours if event.payload.get("reference") != reference]

    def version(self, model: str, rollout_id: str) -> str:
        """The version on trial; where nothing is known of the rollout, its name tells."""
        return self._versions.get((model, rollout_id)) or rollout_id.removeprefix(f"{model}-v") or "unknown"

    def unanswered(self) -> Iterator[LedgerEvent]:
        """Alarms that stand and that nobody has acknowledged, in the order they were raised."""
        for name, event in self._alarms.items():
            if name not in self._acknowledged:
                yield event
