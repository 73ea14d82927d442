"""Waits end in an error that names what was waited for."""

import signal
import threading
import time

import pytest

from ray_mlops.errors import DeadlineError
from ray_mlops.runtime.deadline import deadline, wait_for


class FakeClock:
    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


def test_wait_for_never_true_says_what_and_how_long() -> None:
    clock = FakeClock()
    with pytest.raises(DeadlineError, match="the moon was not done within 3 s"):
        wait_for("the moon", lambda: False, 3.0, clock=clock, sleep=clock.sleep)
    assert clock.now == pytest.approx(3.0)
    assert max(clock.pauses) == 0.5


def test_wait_for_true_at_the_deadline_is_in_time() -> None:
    clock = FakeClock()
    assert wait_for("x", lambda: clock.now >= 1.0 and "yes", 1.0, clock=clock, sleep=clock.sleep) == "yes"


def test_wait_for_errors_of_the_predicate_come_through() -> None:
    with pytest.raises(ZeroDivisionError):
        wait_for("x", lambda: 1 / 0, 1.0)


def test_deadline_interrupts_a_blocking_wait() -> None:
    start = time.monotonic()
    with pytest.raises(DeadlineError, match=r"a lock was not done within 0\.05 s"), deadline("a lock", 0.05):
        threading.Event().wait(30.0)
    assert time.monotonic() - start < 5.0


def test_deadline_leaves_no_timer_behind() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with deadline("quick", 30.0):
        pass
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGALRM) is before


def test_deadline_other_errors_come_through() -> None:
    with pytest.raises(KeyError), deadline("x", 30.0):
        raise KeyError("mine")


def test_deadline_hidden_by_another_error_is_still_a_deadline() -> None:
    def library() -> None:
        try:
            threading.Event().wait(30.0)
        except KeyboardInterrupt as error:
            raise ValueError("translated") from error

    with pytest.raises(DeadlineError, match="hidden"), deadline("hidden", 0.05):
        library()


def test_deadline_inner_later_than_outer_the_outer_ends_it() -> None:
    with pytest.raises(DeadlineError, match="outer"), deadline("outer", 0.05), deadline("inner", 30.0):
        threading.Event().wait(30.0)


def test_deadline_outer_goes_on_after_an_inner_one() -> None:
    def two_waits() -> None:
        with pytest.raises(DeadlineError, match="inner"), deadline("inner", 0.05):
            threading.Event().wait(30.0)
        threading.Event().wait(30.0)

    with pytest.raises(DeadlineError, match="outer"), deadline("outer", 0.2):
        two_waits()


def test_deadline_in_another_thread() -> None:
    caught: list[BaseException] = []

    def work() -> None:
        try:
            with deadline("a loop", 0.05):
                while True:
                    time.sleep(0.005)
        except DeadlineError as error:
            caught.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(10.0)
    assert [str(error).startswith("a loop") for error in caught] == [True]
