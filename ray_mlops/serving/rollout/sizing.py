"""How many replicas a share of traffic asks for, and what is said when the cluster has no room for them. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

from ray_mlops.config import CandidateConfig

_ROUNDING = 1e-9
MIB = 2**20


@dataclass(frozen=True, slots=True)
class Load:
    """What a model's traffic takes, measured on its newest requests."""

    requests_per_s: float
    champion_s: float
    """Time of a request in the champion's model, seconds."""
    model_s: float
    """In the model of the version that is to take a share; the champion's, as long as it has answered nothing."""


@dataclass(frozen=True, slots=True)
class ScalePlan:
    """How many replicas, and why."""

    replicas: int
    reason: str


def plan_replicas(
    weight: float, candidate: CandidateConfig, champion_replicas: int, load: Load | None = None
) -> ScalePlan:
    """Size a version for its share of traffic.

    The champion's replicas carry the whole traffic, so that a share of them carries the share. Where the version is
    slower, or is to be less busy, the measured load asks for more. That load is never taken for more than keeps the
    champion's replicas busy: requests that were predicted together have each been given the time of all.

    Args:
        weight: Share of traffic, in [0, 1].
        candidate: ``num_replicas`` and ``target_utilisation``.
        champion_replicas: Replicas that carry the traffic now.
        load: None where nothing was measured.

    Example:
        >>> plan_replicas(0.25, CandidateConfig(), 8).replicas
        2
        >>> plan_replicas(0.25, CandidateConfig(), 8, Load(100.0, 0.02, 0.08)).reason
        '4 replicas: 0.25 of the 8 of the champion are 2, and 100 requests/s of 80 ms keep 2 busy of 4'
    """
    if candidate.num_replicas != "auto":
        return ScalePlan(candidate.num_replicas, f"{_count(candidate.num_replicas)}: rollout.candidate.num_replicas")
    share = max(1, ceil(weight * champion_replicas - _ROUNDING))
    words = f"{weight:g} of the {champion_replicas} of the champion are {share}"
    if load is None or load.champion_s <= 0.0:
        return ScalePlan(share, f"{_count(share)}: {words}")
    carried = min(load.requests_per_s * load.champion_s, float(champion_replicas))
    busy = weight * carried * load.model_s / load.champion_s
    asked = ceil(busy / candidate.target_utilisation - _ROUNDING)
    replicas = max(share, asked)
    traffic = f"{load.requests_per_s:.3g} requests/s of {load.model_s * 1e3:.3g} ms keep {busy:.2g} busy of {asked}"
    return ScalePlan(replicas, f"{_count(replicas)}: {words}, and {traffic}")


def actor_resources(candidate: CandidateConfig, cpus_per_replica: float) -> dict[str, float]:
    """What Ray sets aside for one replica, by its own names for it; zeros are left out."""
    cpus = cpus_per_replica if candidate.cpus is None else candidate.cpus
    wanted = {"CPU": cpus, "GPU": candidate.gpus, "memory": (candidate.memory_mb or 0) * MIB}
    return {name: float(amount) for name, amount in wanted.items() if amount}


def explain_shortage(
    asked: int, running: int, each: Mapping[str, float], free: Mapping[str, float], total: Mapping[str, float]
) -> str:
    """Say what was asked for and what was free.

    Args:
        asked: Replicas that are needed.
        running: Those that run.
        each: What one of them takes, as ``actor_resources`` gives it.
        free: What Ray has free.
        total: What it has altogether.

    Example:
        >>> explain_shortage(3, 1, {"CPU": 1.0, "GPU": 0.5}, {"CPU": 0.5}, {"CPU": 4.0})
        'asked for 3 replicas of 1 CPU and 0.5 GPU each, 1 runs; free: 0.5 of 4 CPU, 0 of 0 GPU'
    """
    size = " and ".join(_amount(name, amount) for name, amount in each.items()) or "nothing"
    left = ", ".join(f"{_number(name, free.get(name, 0.0))} of {_amount(name, total.get(name, 0.0))}" for name in each)
    runs = f"{running} runs" if running == 1 else f"{running} run"
    return f"asked for {_count(asked)} of {size} each, {runs}" + (f"; free: {left}" if left else "")


def _count(replicas: int) -> str:
    return f"{replicas} replica" + ("s" if replicas != 1 else "")


def _number(name: str, amount: float) -> str:
    return f"{amount / MIB:.0f}" if name == "memory" else f"{amount:.3g}"


def _amount(name: str, amount: float) -> str:
    return f"{_number(name, amount)} {'MiB' if name == 'memory' else name}"
