"""Is the candidate worse in any slice of traffic? Errors, slow requests and loss, slice by slice.

Each slice and kind of harm is a hypothesis of its own, with an e-process of its own and a share of the guard's
alpha that was fixed when the rollout began. One that reaches ``log(1 / its share)`` stops the rollout, and is named:
by the union bound the probability that any slice is ever named wrongly is at most the guard's alpha.

Why not the mean of the e-values, which would never be smaller than this? A mean of e-processes is an e-process if
all are so for the same past. Where routing is sticky they are not: what a user did in one slice gives away the arm
on which the user's first failure in another slice will land. The union bound needs no common past. For the same
reason slices are named by it and not by e-BH, whose guarantee is about one moment of a common past.
"""

from dataclasses import asdict, dataclass
from math import log
from typing import Any

from ray_mlops.config import GuardsConfig
from ray_mlops.config.serving import GuardName
from ray_mlops.serving.rollout.comparison import (
    Said,
    Verdict,
    compare_events,
    compare_latency,
    compare_losses,
    errors_of,
)
from ray_mlops.serving.rollout.evidence import SliceEvidence, UnitCounts

KIND_SHARES: dict[GuardName, float] = {"errors": 2.0, "latency": 1.0, "loss": 1.0}
"""Kinds of harm, and how they share the guard's alpha."""
NUM_SHOWN = 5
"""Slices that a verdict carries: those with most evidence against the candidate."""
NUM_NAMED = 3
"""Slices that a sentence names."""


@dataclass(frozen=True, slots=True)
class SliceVerdict:
    """What one kind of harm looks like in one slice; ``log_e`` and ``threshold`` as in ``GuardVerdict``."""

    slice: str
    kind: GuardName
    verdict: Verdict
    """`inconclusive` as long as the slice has too few units."""
    log_e: float
    threshold: float
    detail: str

    @property
    def excess(self) -> float:
        """How far beyond its threshold the evidence is."""
        return self.log_e - self.threshold

    @property
    def words(self) -> str:
        return f"{self.kind} on {self.slice}: {self.detail}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def judge_slices(
    slices: tuple[SliceEvidence, ...], problem: str, guards: GuardsConfig, threshold: float
) -> tuple[Said, tuple[SliceVerdict, ...]]:
    """Compute the guard on slices.

    Args:
        slices: Every slice that was defined when the rollout began: those without traffic have their share too.
        problem: Why a column has no slices, if so.
        guards: Which kinds of harm act on all traffic (only those are looked at here), and the support needed.
        threshold: The guard's own, ``log(1 / alpha)`` of its alpha.

    Returns:
        What the guard says (its log evidence is that of the worst slice, less the price of having looked at so
        many), and the slices with most evidence.
    """
    prices = slice_prices(len(slices), guards)
    found = [
        verdict
        for item in slices
        for kind, price in prices.items()
        if (verdict := _judge(item, kind, guards, threshold + price)) is not None
    ]
    worst = tuple(sorted(found, key=lambda verdict: -verdict.excess)[:NUM_SHOWN])
    judged = [verdict for verdict in found if verdict.verdict != "inconclusive"]
    log_e = threshold + max((verdict.excess for verdict in judged), default=-max(prices.values(), default=0.0))
    failed = sorted((v for v in judged if v.verdict == "fail"), key=lambda verdict: -verdict.excess)
    said: Verdict = "fail" if failed else "pass" if judged else "inconclusive"
    detail = "; ".join(part for part in (_in_words(failed, worst, len(slices)), problem) if part)
    return (said, log_e, threshold, detail), worst


def slice_prices(num_slices: int, guards: GuardsConfig) -> dict[GuardName, float]:
    """Return, for each kind of harm that acts, the log evidence that a slice needs beyond that of a lone test."""
    kinds = {kind: share for kind, share in KIND_SHARES.items() if kind not in guards.dry_run}
    return {kind: log(num_slices * sum(kinds.values()) / share) for kind, share in kinds.items()} if num_slices else {}


def _judge(item: SliceEvidence, kind: GuardName, guards: GuardsConfig, threshold: float) -> SliceVerdict | None:
    """What one kind of harm looks like in a slice; None without anything to look at."""
    split = tuple(counts for counts in item.counts if 0.0 < counts.weight < 1.0)
    on_candidate = sum((counts.candidate_units for counts in split), UnitCounts())
    units = on_candidate.units + sum(counts.champion_units.units for counts in split)
    if kind == "loss":
        said, units = compare_losses(item.losses, threshold), len(item.losses.paired) + len(item.losses.losses)
    elif kind == "latency":
        said = compare_latency(split, on_candidate, guards, threshold)
    else:
        said = compare_events(split, errors_of, 1.0, threshold)
    verdict, log_e, _, detail = said
    if not units:
        return None
    supported = verdict if units >= guards.min_slice_units else "inconclusive"
    return SliceVerdict(item.name, kind, supported, min(max(log_e or 0.0, -1e6), 1e6), threshold, detail)


def _in_words(failed: list[SliceVerdict], worst: tuple[SliceVerdict, ...], num_slices: int) -> str:
    if failed:
        more = f"; and {len(failed) - NUM_NAMED} more" if len(failed) > NUM_NAMED else ""
        return "; ".join(verdict.words for verdict in failed[:NUM_NAMED]) + more
    if worst:
        return f"none of {num_slices} slices; most evidence: {worst[0].words}"
    return f"nothing in {num_slices} slices yet" if num_slices else "no slices were defined when the rollout began"
