"""Which arm answers a request: a pure function of the route and the request's unit.

The hash is MurmurHash3 with the rollout's salt as its *seed*. A checksum of ``salt + key`` will not do:
CRC is affine, so two salts of equal length shuffle the same users together, and successive rollouts reuse
or avoid the same cohort.
"""

import mmh3

from ray_mlops.serving.protocol import ArmName, ModelRoutes

_LOW_64_BITS = 2**64 - 1
_TO_UNIT = 2.0**-53


def unit_hash(key: str) -> int:
    """Hash a routing key without a salt, as the prediction log stores it; an unsigned 64-bit integer.

    Example:
        >>> unit_hash("user-1") == unit_hash("user-1"), unit_hash("user-1") < 2**64
        (True, True)
    """
    return mmh3.mmh3_x64_128_uintdigest(key.encode("utf-8", "surrogatepass"), 0) & _LOW_64_BITS


def unit_position(unit: str, salt: int) -> float:
    """Place a unit uniformly in [0, 1): the candidate answers it where the position lies below its weight.

    Args:
        unit: A routing key or request id.
        salt: Unsigned 32-bit seed of the rollout.
    """
    return ((mmh3.mmh3_x64_128_uintdigest(unit.encode("utf-8", "surrogatepass"), salt) & _LOW_64_BITS) >> 11) * _TO_UNIT


def rollout_salt(rollout_id: str) -> int:
    """The routing salt of a rollout: an unsigned 32-bit hash of its id, so that a repeat routes alike."""
    return mmh3.hash(rollout_id, signed=False)


def choose_arm(routes: ModelRoutes, unit: str, *, sticky_key: str | None = None) -> ArmName:
    """Choose the arm that answers a request.

    The same unit gets the same arm while the weight stands; as the weight grows, units only move to the
    candidate, and without a candidate all return to the champion.

    Args:
        routes: The model's routes.
        unit: The request's id; with deterministic ids a replay is routed the same way again.
        sticky_key: The client's routing key, which then decides in place of the request's id.

    Example:
        >>> from ray_mlops.serving.protocol import Arm
        >>> champion, candidate = Arm("1", "a", "x"), Arm("2", "b", "y", "isolated", weight=0.25)
        >>> routes = ModelRoutes("flights", 3, champion, candidate, salt=7)
        >>> chosen = [choose_arm(routes, f"request-{i}") for i in range(1000)]
        >>> 200 < chosen.count("candidate") < 300
        True
    """
    candidate = routes.candidate
    if candidate is None or candidate.weight <= 0.0:
        return "champion"
    return "candidate" if unit_position(sticky_key or unit, routes.salt) < candidate.weight else "champion"
