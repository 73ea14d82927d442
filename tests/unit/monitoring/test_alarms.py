"""Which alarms stand: raised once, cleared, raised again, and acknowledged only while they are up."""

from typing import Any

from ray_mlops.ledger import LedgerEvent
from ray_mlops.monitoring.alarms import CLEARED, RAISED, AlarmBook, AlarmChange


def event(change: AlarmChange, window: int, reference: str = "r", **payload: Any) -> LedgerEvent:
    content = {"alarm": change.alarm, "reference": reference, "window": window, **payload}
    return LedgerEvent(1, "m/monitor", 1, 0.0, None, change.kind, change.key, content, "", "")


def close(book: AlarmBook, window: int, *breaches: str, alarms: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    """Close a window as the service does; returns kind and key of what changed."""
    changes = book.changes(window, alarms, breaches)
    book.apply([event(change, window) for change in changes])
    return [(change.kind, change.key) for change in changes]


def test_breach_is_raised_once_cleared_and_raised_again_under_another_key() -> None:
    book = AlarmBook("m", "r")
    first = "m/monitor/r/contract/x:nulls"
    assert close(book, 5, "x:nulls") == [(RAISED, first)]
    assert close(book, 6, "x:nulls") == []
    assert close(book, 7) == [(CLEARED, f"{first}/cleared")]
    assert close(book, 8) == []
    assert close(book, 9, "x:nulls") == [(RAISED, f"{first}/9")]
    assert close(book, 10) == [(CLEARED, f"{first}/9/cleared")]


def test_drift_alarm_stands_until_the_epoch_ends() -> None:
    book = AlarmBook("m", "r")
    assert close(book, 5, alarms=("inputs",)) == [(RAISED, "m/monitor/r/drift/inputs")]
    assert close(book, 6) == []
    assert close(book, 7, alarms=("inputs",)) == []


def test_windows_that_are_closed_again_after_a_crash_change_nothing() -> None:
    book = AlarmBook("m", "r")
    close(book, 5, "x:nulls")
    close(book, 7)
    assert close(book, 5, "x:nulls") == []
    assert close(book, 6, "x:nulls") == []
    assert close(book, 7) == []


def test_sound_window_of_before_a_breach_does_not_clear_it() -> None:
    book = AlarmBook("m", "r")
    close(book, 5, "x:nulls")
    assert close(book, 4) == []
    assert close(book, 6) == [(CLEARED, "m/monitor/r/contract/x:nulls/cleared")]


def test_events_of_another_epoch_are_passed_over() -> None:
    book = AlarmBook("m", "r")
    book.apply([event(AlarmChange(RAISED, "k", "contract", "x:nulls"), 5, reference="before")])
    assert close(book, 6, "x:nulls") == [(RAISED, "m/monitor/r/contract/x:nulls")]


def test_acknowledgement_counts_for_the_breach_that_is_up_and_not_for_the_next() -> None:
    book = AlarmBook("m", "r")
    assert book.acknowledgement_key("contract:x:nulls") is None
    close(book, 5, "x:nulls")
    assert book.unacknowledged(["x:nulls"]) == ("x:nulls",)
    first = book.acknowledgement_key("contract:x:nulls")
    assert first == "m/monitor/r/acknowledged/x:nulls"
    book.apply([event(AlarmChange("monitor.acknowledged", first, "contract", "x:nulls"), 5)])
    assert book.unacknowledged(["x:nulls"]) == ()
    close(book, 6)
    assert book.acknowledgement_key("contract:x:nulls") is None
    close(book, 7, "x:nulls")
    assert book.unacknowledged(["x:nulls"]) == ("x:nulls",)
    assert book.acknowledgement_key("contract:x:nulls") == "m/monitor/r/acknowledged/x:nulls/7"


def test_drift_alarm_cannot_be_acknowledged() -> None:
    book = AlarmBook("m", "r")
    close(book, 5, alarms=("inputs",))
    assert book.acknowledgement_key("drift:inputs") is None


def test_news_of_a_window_is_what_was_raised_in_it() -> None:
    book = AlarmBook("m", "r")
    close(book, 5, "x:nulls")
    assert book.has_news(5)
    assert not book.has_news(6)
    close(book, 6)
    assert not book.has_news(6)
