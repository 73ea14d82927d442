"""Waits that end. Ray waits for ever where nothing is free; here each wait names what it waited for."""

import contextlib
import ctypes
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

from ray_mlops.errors import DeadlineError

logger = logging.getLogger(__name__)

T = TypeVar("T")
_FIRST_PAUSE_S = 0.01
_LONGEST_PAUSE_S = 0.5
_ASK_RAY_S = 2.0
_AGAIN_S = 5.0
"""The alarm is repeated, as code that calls back from C may lose one."""


def wait_for(
    what: str,
    predicate: Callable[[], T],
    timeout_s: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """Ask again and again until the answer is true.

    Args:
        what: What is waited for, for the error.
        predicate: Its first answer that is true is returned. Its errors are not caught.
        timeout_s: Seconds until the deadline.
        clock: Seconds, rising.
        sleep: Waits.

    Raises:
        DeadlineError: It was not true in time. Says what Ray has free.

    Example:
        >>> answers = iter([False, False, "here"])
        >>> wait_for("a word", lambda: next(answers), timeout_s=1.0)
        'here'
    """
    deadline = clock() + timeout_s
    pause = _FIRST_PAUSE_S
    while True:
        answer = predicate()
        if answer:
            return answer
        left = deadline - clock()
        if left <= 0:
            raise _late(what, timeout_s)
        sleep(min(pause, left))
        pause = min(2 * pause, _LONGEST_PAUSE_S)


def get(ref: Any, what: str, timeout_s: float) -> Any:
    """``ray.get`` with a deadline.

    Args:
        ref: An object reference, or a list of them.
        what: What is waited for, for the error.
        timeout_s: Seconds until the deadline.

    Raises:
        DeadlineError: No answer in time. Says what Ray has free. The task goes on; cancel it if it must not.
    """
    import ray  # so that programs without a cluster can use the rest

    try:
        return ray.get(ref, timeout=timeout_s)
    except ray.exceptions.GetTimeoutError as error:
        raise _late(what, timeout_s) from error


@contextmanager
def deadline(what: str, timeout_s: float) -> Iterator[None]:
    """End a block that takes too long, whatever it waits for.

    In the main thread a timer signal interrupts system calls, and Ray's waits, which look for signals once a
    second; inside the block it looks like Ctrl-C. In another thread the error is raised at the next Python
    instruction, so a wait inside a library ends first. Deadlines nest: the outer one goes on counting inside
    the inner one.

    Args:
        what: What the block does, for the error.
        timeout_s: Seconds until the deadline.

    Raises:
        DeadlineError: The block was not done in time. Says what Ray has free.

    Example:
        >>> with deadline("count to three", timeout_s=60.0):
        ...     sum(range(4))
        6
    """
    if threading.current_thread() is threading.main_thread():
        with _timer_deadline(what, timeout_s):
            yield
    else:
        with _thread_deadline(what, timeout_s):
            yield


class _Alarm(KeyboardInterrupt):
    """Raised by the timer. Ray's waits let only ``KeyboardInterrupt`` and ``SystemExit`` of a handler through."""


@contextmanager
def _timer_deadline(what: str, timeout_s: float) -> Iterator[None]:
    start = time.monotonic()
    is_late = False

    def raise_late(number: int, frame: FrameType | None) -> None:
        nonlocal is_late
        is_late = True
        raise _Alarm

    before = signal.signal(signal.SIGALRM, raise_late)
    outer_left, _ = signal.setitimer(signal.ITIMER_REAL, timeout_s, _AGAIN_S)
    if 0 < outer_left < timeout_s:  # the outer deadline comes first
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, outer_left, _AGAIN_S)
        yield
        return
    try:
        yield
    except BaseException as error:
        signal.setitimer(signal.ITIMER_REAL, 0)
        if is_late:  # whatever the block made of the alarm
            raise _late(what, timeout_s) from error
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if outer_left > 0:
            left = max(0.001, outer_left - (time.monotonic() - start))
            signal.setitimer(signal.ITIMER_REAL, left, _AGAIN_S)


class _Late(BaseException):
    """Raised in another thread; no ``except Exception`` on the way stops it."""


@contextmanager
def _thread_deadline(what: str, timeout_s: float) -> Iterator[None]:
    thread = threading.get_ident()
    done = threading.Event()
    is_over = threading.Lock()

    def watch() -> None:
        if not done.wait(timeout_s):
            with is_over:
                if not done.is_set():
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(_Late))

    watcher = threading.Thread(target=watch, name=f"deadline {what}", daemon=True)
    watcher.start()
    try:
        yield
        with is_over:
            done.set()
    except _Late as error:
        raise _late(what, timeout_s) from error
    finally:
        done.set()


def _late(what: str, timeout_s: float) -> DeadlineError:
    problem = f"{what} was not done within {timeout_s:g} s{_free_now()}"
    logger.error("deadline passed: what=%r timeout_s=%g", what, timeout_s)
    return DeadlineError(problem, "", "free resources, or raise cluster.step_timeout_s")


def _free_now() -> str:
    """What Ray has free, in words; empty where no cluster is joined. A dead GCS must not hold us up again."""
    ray: Any = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return ""
    answers: list[dict[str, float]] = []

    def ask() -> None:
        with contextlib.suppress(ray.exceptions.RayError, RuntimeError, ConnectionError):
            answers.extend((ray.available_resources(), ray.cluster_resources()))

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_ASK_RAY_S)
    if len(answers) < 2:
        return "; Ray does not answer"
    free, total = answers
    parts = [f"{free.get(name, 0.0):g} of {total[name]:g} {name}" for name in ("CPU", "GPU") if name in total]
    return f"; free now: {', '.join(parts) or 'nothing'}"
