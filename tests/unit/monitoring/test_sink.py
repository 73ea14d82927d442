"""A replica's sink: what it keeps for another try, and what it lets go of so that later rows come through."""

from typing import Any

import pyarrow as pa
import pytest

from ray_mlops.errors import MonitoringError
from ray_mlops.monitoring.actor import MonitorSink
from ray_mlops.monitoring.handover import Handover, Receipt, Reference
from ray_mlops.statistics.bins import NumericBins

HOUR = 3_600_000_000


def flush(window: int) -> pa.Table:
    times = pa.array([window * HOUR + k for k in range(3)], pa.int64()).cast(pa.timestamp("us", "UTC"))
    ids = [f"{window}-{k}" for k in range(3)]
    return pa.table({"prediction_id": ids, "event_time": times, "features.x": [0.5, 1.5, None]})


class Method:
    def __init__(self, call: Any) -> None:
        self.remote = call


class Actor:
    """Answers as the monitor does; ``fail`` is raised instead, once."""

    def __init__(self) -> None:
        self.taken: list[Handover] = []
        self.fail: Exception | None = None
        self.reference = Method(lambda model: Reference("r", {"x": NumericBins([0.0, 1.0, 2.0])}, HOUR))
        self.handover = Method(self._take)

    def _take(self, sent: Handover) -> Receipt:
        if self.fail is not None:
            error, self.fail = self.fail, None
            raise error
        self.taken.append(sent)
        return Receipt(True)


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> tuple[MonitorSink, Actor]:
    actor = Actor()
    sink = MonitorSink(lambda: actor)
    monkeypatch.setattr(sink, "_call", lambda answer: answer)
    return sink, actor


def windows(actor: Actor) -> list[int]:
    return [window for sent in actor.taken for window in sent.counts]


def test_flush_that_cannot_be_counted_is_lost_and_holds_up_no_other(pair: tuple[MonitorSink, Actor]) -> None:
    sink, actor = pair
    sink.accept("m", "1", flush(1))
    sink.accept("m", "1", flush(2).drop_columns(["event_time"]))
    sink.accept("m", "1", flush(3))
    assert windows(actor) == [1, 3]
    assert (sink.failures, sink.lost_rows) == (1, 3)


@pytest.mark.parametrize("error", [ValueError("odd"), KeyError("x"), TypeError("odd"), pa.ArrowInvalid("odd")])
def test_flush_that_the_monitor_cannot_take_is_lost_and_holds_up_no_other(
    pair: tuple[MonitorSink, Actor], error: Exception
) -> None:
    sink, actor = pair
    actor.fail = error
    sink.accept("m", "1", flush(1))
    sink.accept("m", "1", flush(2))
    assert windows(actor) == [2]
    assert sink.lost_rows == 3


def test_flush_is_kept_while_the_monitor_is_away_and_handed_over_in_order(pair: tuple[MonitorSink, Actor]) -> None:
    sink, actor = pair
    actor.fail = MonitoringError("not now", "m", "wait")
    sink.accept("m", "1", flush(1))
    assert windows(actor) == []
    sink.accept("m", "1", flush(2))
    assert windows(actor) == [1, 2]
    assert (sink.failures, sink.lost_rows) == (1, 0)
