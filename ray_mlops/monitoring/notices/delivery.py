"""What follows from one attempt to deliver a notice. Pure: the time and the jitter are arguments."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, Protocol

from ray_mlops.config import RetryConfig
from ray_mlops.monitoring.notices.notice import Notice

Outcome = Literal["delivered", "failed", "refused"]


@dataclass(frozen=True, slots=True)
class Attempt:
    """How one attempt went."""

    outcome: Outcome
    """`failed` may go better the next time; `refused` says that this notice never will."""
    detail: str
    """For people; names no secret."""
    retry_after_s: float | None = None
    """What the target asks for."""


class Transport(Protocol):
    """Delivers notices to one target. Never raises for what the target, the network or a secret does."""

    def send(self, notice: Notice) -> Attempt:
        """Try once, within the target's timeout."""


@dataclass(frozen=True, slots=True)
class DeliveryDecision:
    """What is done next."""

    action: Literal["next", "retry", "give_up"]
    wait_s: float
    """Before the next attempt, whichever notice it is about."""
    reason: str


def decide_delivery(
    attempt: Attempt, *, failures: int, age_s: float, retry: RetryConfig, jitter: float
) -> DeliveryDecision:
    """Decide what follows from an attempt.

    A notice that is too old is given up on its next failure, so that a target that was down for days does not come
    back to a backlog of days, and so that each notice gets at least one attempt.

    Args:
        attempt: How it went.
        failures: Attempts in a row that failed, this one included.
        age_s: Since the event was recorded.
        retry: The policy.
        jitter: Uniform in [0, 1): spreads the retries of many processes.

    Example:
        >>> failed = Attempt("failed", "HTTP 503")
        >>> decide_delivery(failed, failures=3, age_s=60.0, retry=RetryConfig(), jitter=0.5)
        DeliveryDecision(action='retry', wait_s=6.0, reason='HTTP 503')
    """
    if attempt.outcome == "delivered":
        return DeliveryDecision("next", 0.0, attempt.detail)
    if attempt.outcome == "refused":
        return DeliveryDecision("give_up", 0.0, attempt.detail)
    most_s = retry.give_up_after.total_seconds()
    if age_s >= most_s:
        hours = timedelta(seconds=round(age_s))
        return DeliveryDecision("give_up", 0.0, f"not delivered within {hours}: {attempt.detail}")
    wait_s = retry_wait_s(failures, retry) * (0.5 + 0.5 * jitter)
    return DeliveryDecision("retry", min(max(wait_s, attempt.retry_after_s or 0.0), most_s), attempt.detail)


def retry_wait_s(failures: int, retry: RetryConfig) -> float:
    """The longest wait after a number of failures in a row, seconds.

    Example:
        >>> [retry_wait_s(n, RetryConfig()) for n in (1, 2, 3, 50)]
        [2.0, 4.0, 8.0, 300.0]
    """
    doublings = min(failures - 1, 32)
    return min(retry.first.total_seconds() * 2.0**doublings, retry.most.total_seconds())
