"""The tests of a rollout: what may stop it, and what it must show before it is promoted.

Two questions, two families. *Regression*: is the candidate worse? The guards that may roll back share
``alpha``, so that a candidate that is no worse is ever rolled back with probability at most ``alpha``.
*Non-inferiority*: has it been shown to be good enough? Here all must pass, so each is tested at
``promote_alpha``. No evidence of the first is no evidence of the second. All tests are valid however
often they are looked at, and while the weight changes.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from math import log
from typing import Any, Literal

import numpy as np

from ray_mlops.config import GuardsConfig, ShadowConfig
from ray_mlops.config.serving import GuardName
from ray_mlops.serving.rollout.evidence import ArmCounts, FloatArray, LossEvidence, Observation, RouteCounts, UnitCounts
from ray_mlops.statistics.betting import log_e_difference, log_e_paired_noninferiority, log_e_paired_regression
from ray_mlops.statistics.confidence import error_upper_bound, log_e_rate_above, log_e_rate_below
from ray_mlops.statistics.counts import (
    log_e_noninferiority,
    log_e_regression,
    log_e_score_shift,
    sample_ratio_log_e,
)

Question = Literal["regression", "noninferiority", "limit", "integrity"]
Verdict = Literal["pass", "fail", "inconclusive"]

ALPHA_SHARES: dict[GuardName, float] = {"errors": 2.0, "latency": 1.0, "loss": 1.0, "score_shift": 1.0}
"""Guards that may roll back, and how ``alpha`` is shared by those that act. Errors are few and urgent: with equal
shares it takes 10 % more requests to find five times as many."""
PROMOTION_GUARDS: tuple[GuardName, ...] = ("errors", "latency_slo", "loss")

SLOW_TOLERANCE = 2.0
"""The candidate may be slow this many times as often as the champion before that counts as a regression.
Two processes with the same model are never equally fast: an isolated candidate answers fewer requests with
colder caches, and a test without a tolerance would find that out in the end."""

ABSOLUTE_SHARE = 0.8
"""Of the evidence that errors are no reason against a promotion, the share staked on the absolute limit; the rest
is on the comparison with the champion, which takes some 30 times as many requests where both would do."""

SCORE_BINS = 10


@dataclass(frozen=True, slots=True)
class GuardVerdict:
    """What one guard says, ready to be printed and stored.

    To the question of regression, a limit or integrity, `fail` is evidence against the candidate and `pass`
    means none so far; to the question of non-inferiority, `pass` is evidence and anything else is none.
    """

    name: GuardName
    question: Question
    verdict: Verdict
    log_e: float | None
    """Natural log of the evidence; None for a limit, which needs none."""
    threshold: float
    """``log_e`` at which the guard speaks; for a limit, the limit."""
    detail: str
    dry_run: bool = False
    """Computed and shown, but never acted upon."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def judge(
    observation: Observation, guards: GuardsConfig, shadow: ShadowConfig, *, loss_is_proven: bool = False
) -> tuple[GuardVerdict, ...]:
    """Compute every guard.

    Args:
        observation: What is known.
        guards: Error probabilities, limits, and which guards only show.
        shadow: Margin and least number of pairs of the loss test.
        loss_is_proven: Non-inferiority of the loss was concluded earlier in this rollout.
    """
    acting = sum(share for name, share in ALPHA_SHARES.items() if name not in guards.dry_run)
    regress = {name: log(max(acting, share) / share / guards.alpha) for name, share in ALPHA_SHARES.items()}
    promote = log(1.0 / guards.promote_alpha)
    split = tuple(counts for counts in observation.counts if 0.0 < counts.weight < 1.0)
    total = sum((counts.candidate_units for counts in split), UnitCounts())

    def verdict(name: GuardName, question: Question, said: Verdict, log_e: float | None, at: float, why: str) -> Any:
        finite = None if log_e is None else float(np.clip(log_e, -1e6, 1e6))
        return GuardVerdict(name, question, said, finite, at, why, name in guards.dry_run)

    return (
        verdict("errors", "regression", *_counted(split, _errors, 1.0, regress["errors"])),
        verdict("latency", "regression", *_latency(split, total, guards, regress["latency"])),
        verdict("loss", "regression", *_loss_regression(observation.losses, regress["loss"])),
        verdict("score_shift", "regression", *_score_shift(observation.losses, regress["score_shift"])),
        verdict("errors", "limit", *_hard_errors(observation.recent, guards)),
        verdict("sample_ratio", "integrity", *_sample_ratio(split, log(1.0 / guards.sample_ratio_alpha))),
        verdict("errors", "noninferiority", *_errors_are_fine(split, total, guards, promote)),
        verdict("latency_slo", "noninferiority", *_slo_is_kept(total, guards, promote)),
        verdict("loss", "noninferiority", *_loss_is_fine(observation.losses, shadow, promote, loss_is_proven)),
    )


_Said = tuple[Verdict, float | None, float, str]


def _units(counts: UnitCounts) -> int:
    return counts.units


def _errors(counts: UnitCounts) -> int:
    return counts.errors


def _first_errors(counts: UnitCounts) -> int:
    return counts.first_errors


def _slow(counts: UnitCounts) -> int:
    return counts.slow


def _arrays(
    split: tuple[RouteCounts, ...], event: Callable[[UnitCounts], int]
) -> tuple[FloatArray, FloatArray, FloatArray]:
    weights = np.array([counts.weight for counts in split])
    candidate = np.array([event(counts.candidate_units) for counts in split], dtype=np.float64)
    champion = np.array([event(counts.champion_units) for counts in split], dtype=np.float64)
    return weights, candidate, champion


def _counted(
    split: tuple[RouteCounts, ...], event: Callable[[UnitCounts], int], tolerance: float, threshold: float
) -> _Said:
    """Test whether an event is more than ``tolerance`` times as frequent on the candidate.

    That hypothesis about rates is the plain one about weights whose odds are multiplied by the tolerance. A
    unit's first event decides: later ones of the same routing key tell nothing new about the arms. A candidate
    that is no worse than the champion only has its units' first events later, so that the error probability
    holds for it as well.
    """
    weights, candidate, champion = _arrays(split, event)
    odds = tolerance * weights / (1.0 - weights)
    log_e = log_e_regression(odds / (1.0 + odds), candidate, champion)
    on_candidate, on_champion = (int(arm.sum()) for arm in _arrays(split, _units)[1:])
    detail = f"{int(candidate.sum())} of {on_candidate} against the champion's {int(champion.sum())} of {on_champion}"
    return _against(log_e, threshold, on_candidate, detail)


def _latency(split: tuple[RouteCounts, ...], total: UnitCounts, guards: GuardsConfig, threshold: float) -> _Said:
    """Ask for evidence of both: slow more than twice as often as the champion, and that often at all.

    Two processes are never equally fast. On many requests the first alone would in the end find that out, were
    it 0.8 % against 0.2 %, and take an equal candidate back because it runs in a process of its own.
    """
    _, log_e, _, detail = _counted(split, _slow, SLOW_TOLERANCE, threshold)
    share = min(SLOW_TOLERANCE * (1.0 - guards.latency_quantile), 0.5)
    lower = min(log_e or 0.0, log_e_rate_above(total.slow, total.units, share))
    return _against(lower, threshold, total.units, f"{detail}; tolerated: twice as often, and {share:.0%}")


def _against(log_e: float, threshold: float, n: int, detail: str) -> _Said:
    said: Verdict = "fail" if log_e >= threshold else "pass" if n else "inconclusive"
    return said, log_e, threshold, detail


def _loss_regression(losses: LossEvidence, threshold: float) -> _Said:
    """Average the evidence of pairs and of the split: of two e-values the mean is one, whatever they share."""
    evidence, details = [], []
    if len(losses.paired):
        evidence.append(log_e_paired_regression(losses.paired))
        details.append(f"{losses.paired.mean():+.4f} on {len(losses.paired)} pairs")
    if len(losses.losses):
        evidence.append(log_e_difference(losses.losses, losses.is_candidate, losses.weights))
        details.append(_difference(losses))
    log_e = float(np.logaddexp.reduce(evidence)) - log(len(evidence)) if evidence else 0.0
    return _against(log_e, threshold, len(evidence), "; ".join(details) or losses.problem or "no labels yet")


def _difference(losses: LossEvidence) -> str:
    on = losses.is_candidate
    means = [f"{arm.mean():.4f}" if len(arm) else "?" for arm in (losses.losses[on], losses.losses[~on])]
    return f"{means[0]} on {int(on.sum())} requests against the champion's {means[1]} on {int((~on).sum())}"


def _score_shift(losses: LossEvidence, threshold: float) -> _Said:
    if not len(losses.scores):
        return "inconclusive", 0.0, threshold, "no scores yet"
    edges = np.unique(np.quantile(losses.scores, np.linspace(0, 1, SCORE_BINS + 1)[1:-1]))
    bins = np.searchsorted(edges, losses.scores)
    weights = np.unique(losses.weights)
    counts = np.zeros((2, len(weights), len(edges) + 1))
    np.add.at(counts, ((~losses.is_candidate).astype(int), np.searchsorted(weights, losses.weights), bins), 1.0)
    log_e = log_e_score_shift(weights, counts[0], counts[1])
    shares = counts.sum(axis=1) / np.maximum(counts.sum(axis=(1, 2)), 1.0)[:, None]
    return _against(log_e, threshold, 1, f"total variation {np.abs(shares[0] - shares[1]).sum() / 2:.3f}")


def _hard_errors(recent: ArmCounts, guards: GuardsConfig) -> _Said:
    limit = guards.hard_error_ratio
    detail = f"{recent.errors} of the newest {recent.requests} requests"
    if recent.requests < guards.hard_error_requests:
        return "inconclusive", None, limit, detail
    return ("fail" if recent.errors > limit * recent.requests else "pass"), None, limit, detail


def _sample_ratio(split: tuple[RouteCounts, ...], threshold: float) -> _Said:
    pairs = [[counts.candidate_units.units, counts.champion_units.units] for counts in split]
    total = int(np.sum(pairs)) if pairs else 0
    log_e = sample_ratio_log_e(pairs, [counts.weight for counts in split]) if pairs else 0.0
    expected = sum(counts.weight * sum(pair) for counts, pair in zip(split, pairs, strict=True))
    got = sum(pair[0] for pair in pairs)
    return _against(log_e, threshold, total, f"{got} of {total} requests, {expected:.1f} expected")


def _errors_are_fine(
    split: tuple[RouteCounts, ...], total: UnitCounts, guards: GuardsConfig, threshold: float
) -> _Said:
    """Ask for evidence that errors are below the absolute limit, or not much more frequent than the champion's.

    A candidate that keeps neither must pass with probability at most ``promote_alpha``, so the two kinds of
    evidence are averaged and not looked at one after the other.
    """
    log_e = joint_log_e(
        float(log_e_rate_below(total.first_errors, total.units, guards.error_limit)),
        log_e_noninferiority(*_arrays(split, _first_errors), guards.error_margin),
    )
    bound = _upper_bound(total.first_errors, total.units, guards.promote_alpha * ABSOLUTE_SHARE)
    detail = f"{total.first_errors} errors in {total.units} requests, below {bound:.4f} (limit {guards.error_limit:g})"
    return ("pass" if log_e >= threshold else "inconclusive"), log_e, threshold, detail


def joint_log_e(absolute: Any, relative: Any) -> Any:
    """Average two kinds of log evidence [...] about errors; of e-values a mean is one, whatever they share."""
    return np.logaddexp(absolute + log(ABSOLUTE_SHARE), relative + log(1.0 - ABSOLUTE_SHARE))


def _slo_is_kept(total: UnitCounts, guards: GuardsConfig, threshold: float) -> _Said:
    bound = _upper_bound(total.first_slo_violations, total.units, guards.promote_alpha)
    detail = (
        f"{total.first_slo_violations} of {total.units} requests above {guards.latency_slo_ms:g} ms, "
        f"below {bound:.4f} (limit {guards.slo_limit:g})"
    )
    return ("pass" if bound < guards.slo_limit else "inconclusive"), None, guards.slo_limit, detail


@lru_cache(maxsize=1024)
def _upper_bound(events: int, requests: int, alpha: float) -> float:
    """``error_upper_bound``, which takes milliseconds, once for each pair of counts."""
    return error_upper_bound(events, requests, alpha)


def _loss_is_fine(losses: LossEvidence, shadow: ShadowConfig, threshold: float, is_proven: bool) -> _Said:
    """Non-inferiority on pairs; without a shadow, on the requests of the split."""
    if is_proven:
        return "pass", None, threshold, "shown on paired rows in the shadow"
    margin = shadow.loss_margin
    if len(losses.paired):
        log_e = log_e_paired_noninferiority(losses.paired, margin)
        detail = f"{losses.paired.mean():+.4f} on {len(losses.paired)} pairs (margin {margin:g})"
        enough = len(losses.paired) >= shadow.min_pairs
    elif len(losses.losses):
        log_e = log_e_difference(losses.losses, ~losses.is_candidate, 1.0 - losses.weights, -margin)
        detail, enough = f"{_difference(losses)} (margin {margin:g})", True
    else:
        return "inconclusive", 0.0, threshold, losses.problem or "no labels yet"
    return ("pass" if enough and log_e >= threshold else "inconclusive"), log_e, threshold, detail
