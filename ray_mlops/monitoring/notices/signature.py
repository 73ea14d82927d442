"""The signature of a webhook: how it is made, and how a receiver checks it."""

import hashlib
import hmac
import time

from ray_mlops.errors import UnauthorizedError

HEADER = "X-Ray-Mlops-Signature"
TOLERANCE_S = 300


def sign(secret: str, body: bytes, time_s: int) -> str:
    """Return the header's value: ``t=SECONDS,v1=HEX``, an HMAC-SHA256 of ``SECONDS.BODY``.

    Example:
        >>> sign("secret", b"{}", 1)[:16]
        't=1,v1=1122767b1'
    """
    return f"t={time_s},v1={_digest(secret, body, time_s)}"


def verify_webhook(
    secret: str, body: bytes, header: str, *, now: float | None = None, tolerance_s: float = TOLERANCE_S
) -> None:
    """Check that a webhook came from us, is as we sent it, and is not an old one that somebody sends again.

    A receiver then drops what it has seen: the header ``Idempotency-Key`` (and ``id`` in the body) is the same
    whenever a notice is sent again.

    Args:
        secret: The secret of the target.
        body: The request's body, byte for byte.
        header: The request's header ``X-Ray-Mlops-Signature``.
        now: Unix seconds; None reads the clock.
        tolerance_s: How far the sender's clock and this one may be apart, the way included.

    Raises:
        UnauthorizedError: It does not hold; says why.

    Example:
        >>> verify_webhook("secret", b"{}", sign("secret", b"{}", 100), now=110.0)
        >>> verify_webhook("secret", b"{ }", sign("secret", b"{}", 100), now=110.0)
        Traceback (most recent call last):
            ...
        ray_mlops.errors.UnauthorizedError: X-Ray-Mlops-Signature: does not fit the body and the secret
    """
    stamp, digests = _parse(header)
    if not any(hmac.compare_digest(digest.encode(), _digest(secret, body, stamp).encode()) for digest in digests):
        raise UnauthorizedError("does not fit the body and the secret", HEADER)
    age_s = (time.time() if now is None else now) - stamp
    if abs(age_s) > tolerance_s:
        raise UnauthorizedError(f"is {age_s:.0f} s old, {tolerance_s:g} s are allowed", HEADER, "compare the clocks")


def _parse(header: str) -> tuple[int, list[str]]:
    pairs = [part.strip().partition("=") for part in header.split(",")]
    stamps = [value for name, _, value in pairs if name == "t"]
    digests = [value for name, _, value in pairs if name == "v1"]
    if len(stamps) != 1 or not stamps[0].isdecimal() or not stamps[0].isascii() or not digests:
        raise UnauthorizedError("expected 't=SECONDS,v1=HEX'", HEADER)
    return int(stamps[0]), digests


def _digest(secret: str, body: bytes, time_s: int) -> str:
    return hmac.new(secret.encode(), f"{time_s}.".encode() + body, hashlib.sha256).hexdigest()
