"""Each state of the breaker, with a clock that is turned by hand."""

from itertools import pairwise

from ray_mlops.serving.breaker import BREAK_AFTER, FIRST_PAUSE_S, LONGEST_PAUSE_S, Breaker, Entry


def ask(breaker: Breaker, now: float, is_ok: bool) -> Entry:
    """One request from beginning to end."""
    entry = breaker.enter(now)
    if entry in ("ask", "probe"):
        breaker.leave(entry, now)
    if is_ok and entry in ("ask", "probe"):
        breaker.succeed()
    else:
        breaker.fail(entry, now)
    return entry


def opened(now: float = 0.0) -> Breaker:
    breaker = Breaker(max_running=4)
    assert [ask(breaker, now, False) for _ in range(BREAK_AFTER)] == ["ask"] * BREAK_AFTER
    return breaker


def test_failures_in_a_row_open_it_and_others_do_not() -> None:
    breaker = Breaker(max_running=4)
    for _ in range(3):
        assert {ask(breaker, 0.0, False) for _ in range(BREAK_AFTER - 1)} == {"ask"}
        assert ask(breaker, 0.0, True) == "ask"
    assert breaker.state(0.0) == "closed"
    assert opened().state(0.0) == "open"


def test_open_it_lets_nothing_through_until_the_pause_is_over() -> None:
    breaker = opened()
    assert {ask(breaker, 0.9 * FIRST_PAUSE_S, True) for _ in range(20)} == {"unavailable"}
    assert breaker.state(FIRST_PAUSE_S) == "half_open"


def test_half_open_one_probe_is_on_its_way_at_a_time() -> None:
    breaker = opened()
    assert breaker.enter(FIRST_PAUSE_S) == "probe"
    assert breaker.enter(100.0) == "unavailable", "though the probe hangs"
    breaker.leave("probe", 100.0)
    assert breaker.enter(100.0 + 0.9 * FIRST_PAUSE_S) == "unavailable"
    assert breaker.enter(100.0 + FIRST_PAUSE_S) == "probe", "a probe whose client has gone does not keep it open"


def test_probe_that_is_answered_closes_it() -> None:
    breaker = opened()
    assert ask(breaker, FIRST_PAUSE_S, True) == "probe"
    assert breaker.state(FIRST_PAUSE_S) == "closed"
    assert ask(breaker, FIRST_PAUSE_S, False) == "ask", "one failure does not open it again"


def test_probes_that_fail_come_less_often_and_never_cease() -> None:
    breaker, now, probes = opened(), 0.0, []
    while now < 60.0:
        now += 0.01
        if ask(breaker, now, False) == "probe":
            probes.append(now)
    gaps = [second - first for first, second in pairwise(probes)]
    assert gaps[0] < gaps[1] < gaps[2]
    assert LONGEST_PAUSE_S <= max(gaps) < LONGEST_PAUSE_S + 0.05
    assert len(probes) > 25


def test_requests_that_were_on_their_way_when_it_opened_do_not_lengthen_the_pause() -> None:
    breaker = Breaker(max_running=50)
    entries = [breaker.enter(0.0) for _ in range(50)]
    for entry in entries:
        breaker.leave(entry, 0.0)
        breaker.fail(entry, 0.0)
    assert breaker.state(FIRST_PAUSE_S) == "half_open"


def test_cap_holds_back_what_is_too_much_and_that_is_no_failure_of_its_own() -> None:
    breaker = Breaker(max_running=2)
    entries = [breaker.enter(0.0) for _ in range(20)]
    assert entries == ["ask", "ask"] + ["overloaded"] * 18
    for entry in entries[2:]:
        breaker.fail(entry, 0.0)
    assert breaker.state(0.0) == "closed"
    breaker.leave("ask", 0.0)
    assert breaker.enter(0.0) == "ask"


def test_new_routes_close_it_but_what_it_holds_it_still_holds() -> None:
    breaker = opened()
    assert breaker.enter(FIRST_PAUSE_S) == "probe"
    breaker.renew(max_running=1)
    assert breaker.state(FIRST_PAUSE_S) == "closed"
    assert breaker.enter(FIRST_PAUSE_S) == "overloaded"
