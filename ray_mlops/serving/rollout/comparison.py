"""Compares the arms in one kind of harm: log evidence that the candidate is worse, and the counts in words.

Whether that evidence is enough is for the guards to say, on all traffic and on each slice of it.
"""

from collections.abc import Callable
from math import log
from typing import Literal

import numpy as np

from ray_mlops.config import GuardsConfig
from ray_mlops.serving.rollout.evidence import FloatArray, LossEvidence, RouteCounts, UnitCounts
from ray_mlops.statistics.betting import log_e_difference, log_e_paired_regression
from ray_mlops.statistics.confidence import log_e_rate_above
from ray_mlops.statistics.counts import log_e_regression

Verdict = Literal["pass", "fail", "inconclusive"]

SLOW_TOLERANCE = 2.0
"""The candidate may be slow this many times as often as the champion before that counts as a regression.
Two processes with the same model are never equally fast: an isolated candidate answers fewer requests with
colder caches, and a test without a tolerance would find that out in the end."""

Said = tuple[Verdict, float | None, float, str]
"""Verdict, log evidence, threshold, the counts in words."""


def units_of(counts: UnitCounts) -> int:
    return counts.units


def errors_of(counts: UnitCounts) -> int:
    return counts.errors


def first_errors_of(counts: UnitCounts) -> int:
    return counts.first_errors


def slow_of(counts: UnitCounts) -> int:
    return counts.slow


def event_arrays(
    split: tuple[RouteCounts, ...], event: Callable[[UnitCounts], int]
) -> tuple[FloatArray, FloatArray, FloatArray]:
    weights = np.array([counts.weight for counts in split])
    candidate = np.array([event(counts.candidate_units) for counts in split], dtype=np.float64)
    champion = np.array([event(counts.champion_units) for counts in split], dtype=np.float64)
    return weights, candidate, champion


def compare_events(
    split: tuple[RouteCounts, ...], event: Callable[[UnitCounts], int], tolerance: float, threshold: float
) -> Said:
    """Test whether an event is more than ``tolerance`` times as frequent on the candidate.

    That hypothesis about rates is the plain one about weights whose odds are multiplied by the tolerance. A
    unit's first event decides: later ones of the same routing key tell nothing new about the arms. A candidate
    that is no worse than the champion only has its units' first events later, so that the error probability
    holds for it as well.
    """
    weights, candidate, champion = event_arrays(split, event)
    odds = tolerance * weights / (1.0 - weights)
    log_e = log_e_regression(odds / (1.0 + odds), candidate, champion)
    on_candidate, on_champion = (int(arm.sum()) for arm in event_arrays(split, units_of)[1:])
    detail = f"{int(candidate.sum())} of {on_candidate} against the champion's {int(champion.sum())} of {on_champion}"
    return against(log_e, threshold, on_candidate, detail)


def compare_latency(split: tuple[RouteCounts, ...], total: UnitCounts, guards: GuardsConfig, threshold: float) -> Said:
    """Ask for evidence of both: slow more than twice as often as the champion, and that often at all.

    Two processes are never equally fast. On many requests the first alone would in the end find that out, were
    it 0.8 % against 0.2 %, and take an equal candidate back because it runs in a process of its own.
    """
    _, log_e, _, detail = compare_events(split, slow_of, SLOW_TOLERANCE, threshold)
    share = min(SLOW_TOLERANCE * (1.0 - guards.latency_quantile), 0.5)
    lower = min(log_e or 0.0, log_e_rate_above(total.slow, total.units, share))
    return against(lower, threshold, total.units, f"{detail}; tolerated: twice as often, and {share:.0%}")


def against(log_e: float, threshold: float, n: int, detail: str) -> Said:
    said: Verdict = "fail" if log_e >= threshold else "pass" if n else "inconclusive"
    return said, log_e, threshold, detail


def compare_losses(losses: LossEvidence, threshold: float) -> Said:
    """Average the evidence of pairs and of the split: of two e-values the mean is one, whatever they share."""
    evidence, details = [], []
    if len(losses.paired):
        evidence.append(log_e_paired_regression(losses.paired))
        details.append(f"{losses.paired.mean():+.4f} on {len(losses.paired)} pairs")
    if len(losses.losses):
        evidence.append(log_e_difference(losses.losses, losses.is_candidate, losses.weights))
        details.append(describe_difference(losses))
    log_e = float(np.logaddexp.reduce(evidence)) - log(len(evidence)) if evidence else 0.0
    return against(log_e, threshold, len(evidence), "; ".join(details) or losses.problem or "no labels yet")


def describe_difference(losses: LossEvidence) -> str:
    on = losses.is_candidate
    means = [f"{arm.mean():.4f}" if len(arm) else "?" for arm in (losses.losses[on], losses.losses[~on])]
    return f"{means[0]} on {int(on.sum())} requests against the champion's {means[1]} on {int((~on).sum())}"
