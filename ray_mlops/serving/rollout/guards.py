"""The tests of a rollout: what may stop it, and what it must show before it is promoted.

Two questions, two families. *Regression*: is the candidate worse? The guards that may roll back share
``alpha``, so that a candidate that is no worse is ever rolled back with probability at most ``alpha``.
*Non-inferiority*: has it been shown to be good enough? Here all must pass, so each is tested at
``promote_alpha``. No evidence of the first is no evidence of the second. All tests are valid however
often they are looked at, and while the weight changes.
"""

from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from math import log
from typing import Any, Literal

import numpy as np

from ray_mlops.config import GuardsConfig, ShadowConfig
from ray_mlops.config.serving import GuardName
from ray_mlops.serving.rollout.comparison import (
    Said,
    Verdict,
    against,
    compare_events,
    compare_latency,
    compare_losses,
    describe_difference,
    errors_of,
    event_arrays,
    first_errors_of,
)
from ray_mlops.serving.rollout.evidence import LossEvidence, Observation, RouteCounts, UnitCounts
from ray_mlops.serving.rollout.slice_guard import SliceVerdict, judge_slices
from ray_mlops.statistics.betting import log_e_difference, log_e_paired_noninferiority
from ray_mlops.statistics.confidence import error_upper_bound, log_e_rate_below
from ray_mlops.statistics.counts import log_e_noninferiority, log_e_score_shift, sample_ratio_log_e

Question = Literal["regression", "noninferiority", "limit", "integrity"]

ALPHA_SHARES: dict[GuardName, float] = {"errors": 2.0, "latency": 1.0, "loss": 1.0, "score_shift": 1.0, "slices": 2.0}
"""Guards that may roll back, and how ``alpha`` is shared by those that act. Errors are few and urgent: with equal
shares it takes 10 % more requests to find five times as many. Without slices nothing is kept for them."""
PROMOTION_GUARDS: tuple[GuardName, ...] = ("errors", "latency_slo", "loss")

ABSOLUTE_SHARE = 0.8
"""Of the evidence that errors are no reason against a promotion, the share staked on the absolute limit; the rest
is on the comparison with the champion, which takes some 30 times as many requests where both would do."""

SCORE_BINS = 10
SCORE_BIN_UNITS = 200
"""The first this many scores, of either arm, cut the bins."""


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
    slices: tuple[SliceVerdict, ...] = ()
    """The slices with most evidence against the candidate, worst first."""

    def to_json(self) -> dict[str, Any]:
        content = asdict(self)
        slices = content.pop("slices")
        return {**content, "slices": list(slices)} if slices else content


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
    regress = regression_thresholds(guards)
    promote = log(1.0 / guards.promote_alpha)
    split = tuple(counts for counts in observation.counts if 0.0 < counts.weight < 1.0)
    total = sum((counts.candidate_units for counts in split), UnitCounts())

    def verdict(name: GuardName, question: Question, said: Verdict, log_e: float | None, at: float, why: str) -> Any:
        finite = None if log_e is None else float(np.clip(log_e, -1e6, 1e6))
        return GuardVerdict(name, question, said, finite, at, why, name in guards.dry_run)

    on_slices: tuple[GuardVerdict, ...] = ()
    if guards.slices:
        said, worst = judge_slices(observation.slices, observation.slice_problem, guards, regress["slices"])
        on_slices = (replace(verdict("slices", "regression", *said), slices=worst),)
    return (
        verdict("errors", "regression", *compare_events(split, errors_of, 1.0, regress["errors"])),
        verdict("latency", "regression", *compare_latency(split, total, guards, regress["latency"])),
        verdict("loss", "regression", *compare_losses(observation.losses, regress["loss"])),
        verdict("score_shift", "regression", *_score_shift(observation.losses, regress["score_shift"])),
        *on_slices,
        verdict("errors", "limit", *judge_limit(observation, guards)),
        verdict("sample_ratio", "integrity", *_sample_ratio(split, log(1.0 / guards.sample_ratio_alpha))),
        verdict("errors", "noninferiority", *_errors_are_fine(split, total, guards, promote)),
        verdict("latency_slo", "noninferiority", *_slo_is_kept(total, guards, promote)),
        verdict("loss", "noninferiority", *_loss_is_fine(observation.losses, shadow, promote, loss_is_proven)),
    )


def regression_thresholds(guards: GuardsConfig) -> dict[GuardName, float]:
    """Return from which log evidence each guard speaks; those that act share ``alpha``."""
    shares = {name: share for name, share in ALPHA_SHARES.items() if name != "slices" or guards.slices}
    acting = sum(share for name, share in shares.items() if name not in guards.dry_run)
    return {name: log(max(acting, share) / share / guards.alpha) for name, share in shares.items()}


def _score_shift(losses: LossEvidence, threshold: float) -> Said:
    """Bins are frozen from the first scores: with bins that move, looking again and again would not be free."""
    if len(losses.scores) < SCORE_BIN_UNITS:
        return "inconclusive", 0.0, threshold, f"{len(losses.scores)} of {SCORE_BIN_UNITS} scores to cut bins from"
    edges = np.unique(np.quantile(losses.scores[:SCORE_BIN_UNITS], np.linspace(0, 1, SCORE_BINS + 1)[1:-1]))
    bins = np.searchsorted(edges, losses.scores)
    weights = np.unique(losses.weights)
    counts = np.zeros((2, len(weights), len(edges) + 1))
    np.add.at(counts, ((~losses.is_candidate).astype(int), np.searchsorted(weights, losses.weights), bins), 1.0)
    log_e = log_e_score_shift(weights, counts[0], counts[1])
    shares = counts.sum(axis=1) / np.maximum(counts.sum(axis=(1, 2)), 1.0)[:, None]
    return against(log_e, threshold, 1, f"total variation {np.abs(shares[0] - shares[1]).sum() / 2:.3f}")


def judge_limit(observation: Observation, guards: GuardsConfig) -> Said:
    """Compare the errors of the newest requests with the limit, which needs no evidence."""
    recent, limit = observation.recent, guards.hard_error_ratio
    detail = f"{recent.errors} of the newest {recent.requests} requests"
    if recent.requests < guards.hard_error_requests:
        return "inconclusive", None, limit, detail
    return ("fail" if recent.errors > limit * recent.requests else "pass"), None, limit, detail


def _sample_ratio(split: tuple[RouteCounts, ...], threshold: float) -> Said:
    pairs = [[counts.candidate_units.units, counts.champion_units.units] for counts in split]
    total = int(np.sum(pairs)) if pairs else 0
    log_e = sample_ratio_log_e(pairs, [counts.weight for counts in split]) if pairs else 0.0
    expected = sum(counts.weight * sum(pair) for counts, pair in zip(split, pairs, strict=True))
    got = sum(pair[0] for pair in pairs)
    return against(log_e, threshold, total, f"{got} of {total} requests, {expected:.1f} expected")


def _errors_are_fine(split: tuple[RouteCounts, ...], total: UnitCounts, guards: GuardsConfig, threshold: float) -> Said:
    """Ask for evidence that errors are below the absolute limit, or not much more frequent than the champion's.

    A candidate that keeps neither must pass with probability at most ``promote_alpha``, so the two kinds of
    evidence are averaged and not looked at one after the other.
    """
    log_e = joint_log_e(
        float(log_e_rate_below(total.first_errors, total.units, guards.error_limit)),
        log_e_noninferiority(*event_arrays(split, first_errors_of), guards.error_margin),
    )
    bound = _upper_bound(total.first_errors, total.units, guards.promote_alpha * ABSOLUTE_SHARE)
    detail = f"{total.first_errors} errors in {total.units} requests, below {bound:.4f} (limit {guards.error_limit:g})"
    return ("pass" if log_e >= threshold else "inconclusive"), log_e, threshold, detail


def joint_log_e(absolute: Any, relative: Any) -> Any:
    """Average two kinds of log evidence [...] about errors; of e-values a mean is one, whatever they share."""
    return np.logaddexp(absolute + log(ABSOLUTE_SHARE), relative + log(1.0 - ABSOLUTE_SHARE))


def _slo_is_kept(total: UnitCounts, guards: GuardsConfig, threshold: float) -> Said:
    bound = slo_bound(total, guards)
    detail = (
        f"{total.first_slo_violations} of {total.units} requests above {guards.latency_slo_ms:g} ms, "
        f"below {bound:.4f} (limit {guards.slo_limit:g})"
    )
    return ("pass" if bound < guards.slo_limit else "inconclusive"), None, guards.slo_limit, detail


def slo_bound(total: UnitCounts, guards: GuardsConfig) -> float:
    """What the share of the candidate's requests that are too slow is shown to be below."""
    return _upper_bound(total.first_slo_violations, total.units, guards.promote_alpha)


@lru_cache(maxsize=1024)
def _upper_bound(events: int, requests: int, alpha: float) -> float:
    """``error_upper_bound``, which takes milliseconds, once for each pair of counts."""
    return error_upper_bound(events, requests, alpha)


def _loss_is_fine(losses: LossEvidence, shadow: ShadowConfig, threshold: float, is_proven: bool) -> Said:
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
        detail, enough = f"{describe_difference(losses)} (margin {margin:g})", True
    else:
        return "inconclusive", 0.0, threshold, losses.problem or "no labels yet"
    return ("pass" if enough and log_e >= threshold else "inconclusive"), log_e, threshold, detail
