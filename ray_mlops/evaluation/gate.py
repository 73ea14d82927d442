"""The gate: a pure decision from what was measured. What was not measured never passes."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray_mlops.config import GateConfig
from ray_mlops.evaluation.compare import Comparison, find_worse_slices
from ray_mlops.evaluation.evidence import PARITY_BATCH_SIZES
from ray_mlops.evaluation.metrics import METRIC_DIRECTION, PRIMARY_METRIC
from ray_mlops.evaluation.records import check_schema_version, decode_record, encode_record
from ray_mlops.evaluation.report import EvaluationReport

SCHEMA_VERSION = 1
DEFAULT_MARGIN = 0.01
"""Margin of the task's own loss when the user gives none: absolute, but a share of the champion's for rmse."""
NUM_NAMED_FAILURES = 3
FIRST_MODEL = "first model: there is no champion to compare with"
NOT_MEASURED = "not measured"


@dataclass(frozen=True, slots=True)
class GateCheck:
    """One thing that the candidate had to show.

    Args:
        name: ``group:what``, such as ``minimum:auc`` or ``load:p99_ms``.
        value: What was measured; NaN when it was not.
        limit: What it was held against; NaN for a check that has none.
        detail: A sentence for people.
    """

    name: str
    passed: bool
    value: float
    limit: float
    detail: str


@dataclass(frozen=True, slots=True)
class GateDecision:
    """Whether a candidate may be registered as one, and why."""

    passed: bool
    checks: tuple[GateCheck, ...]
    reason: str
    needs_approval: bool = False
    """A person must approve it before it may take traffic."""
    schema_version: int = SCHEMA_VERSION

    @property
    def failures(self) -> tuple[GateCheck, ...]:
        """The checks that failed, in the order in which they were made."""
        return tuple(check for check in self.checks if not check.passed)

    def to_json(self) -> dict[str, Any]:
        """Return what ``json.dumps`` takes."""
        content: dict[str, Any] = encode_record(self)
        return content

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "GateDecision":
        """Rebuild a decision.

        Raises:
            EvaluationError: It is of a newer form, or damaged.
        """
        check_schema_version(content, SCHEMA_VERSION, "gate decision")
        return decode_record(cls, content)


def decide_gate(report: EvaluationReport, champion_report: EvaluationReport | None, config: GateConfig) -> GateDecision:
    """Decide whether a candidate passes. Every check is listed, whether it passed or not.

    Args:
        report: What was measured about the candidate, evidence of a replica included.
        champion_report: The champion's own report; None when there is no champion. With one, ``report`` must
            hold a comparison with that very champion.
        config: The limits.
    """
    comparison = report.comparison
    has_champion = champion_report is not None or comparison is not None
    checks = (
        *_check_limits(report, config),
        *_check_classes(report),
        _check_baseline(report),
        *_check_champion(report, champion_report, config, has_champion),
        _check_slices(comparison, report.confidence, config, has_champion),
        *_check_fairness(report),
        *_check_parity(report, config),
        *_check_load(report, config),
        _check_replay(report, config, has_champion),
    )
    failures = [check for check in checks if not check.passed]
    return GateDecision(not failures, checks, _explain(checks, failures, config), config.require_approval)


def _at_least(name: str, value: float, limit: float, detail: str) -> GateCheck:
    return GateCheck(name, value >= limit, value, limit, detail if not math.isnan(value) else _undefined(detail))


def _at_most(name: str, value: float, limit: float, detail: str) -> GateCheck:
    return GateCheck(name, value <= limit, value, limit, detail if not math.isnan(value) else _undefined(detail))


def _undefined(detail: str) -> str:
    return f"undefined on these rows; {detail}"


def _missing(name: str, limit: float, detail: str = NOT_MEASURED) -> GateCheck:
    return GateCheck(name, False, math.nan, limit, detail)


def _passing(name: str, limit: float, detail: str) -> GateCheck:
    return GateCheck(name, True, math.nan, limit, detail)


def _check_limits(report: EvaluationReport, config: GateConfig) -> Iterator[GateCheck]:
    for group, limits, wanted in (("minimum", config.minimum, 1), ("maximum", config.maximum, -1)):
        for metric, limit in limits.items():
            name = f"{group}:{metric}"
            if metric not in report.metrics:
                yield _missing(name, limit, f"{report.task} models have: {', '.join(report.metrics)}")
            elif METRIC_DIRECTION[metric] != wanted:
                other, sense = ("maximum", "less") if wanted == 1 else ("minimum", "more")
                yield _missing(name, limit, f"{sense} {metric} is better: write it under gate.{other}")
            elif wanted == 1:
                yield _at_least(name, report.metrics[metric].value, limit, f"{metric} must be at least the limit")
            else:
                yield _at_most(name, report.metrics[metric].value, limit, f"{metric} must be at most the limit")


def _check_classes(report: EvaluationReport) -> Iterator[GateCheck]:
    """A holdout of one class says nothing about a binary model; without both there is no AUC."""
    if report.task != "binary":
        return
    found = 1.0 if math.isnan(report.metrics["auc"].value) else 2.0
    yield _at_least("holdout:classes", found, 2.0, "classes among the holdout's rows; see data.split")


def _check_baseline(report: EvaluationReport) -> GateCheck:
    """The whole interval of the difference must lie on the better side of always predicting the same."""
    metric = PRIMARY_METRIC[report.task]
    worst = _worst_case(report.baseline.difference[metric].high, report.baseline.difference[metric].low, metric)
    values = f"{_write(report.metrics[metric].value)} against {_write(report.baseline.metrics[metric])}"
    detail = f"worse end of the difference to always predicting the {report.baseline.kind} mean ({values})"
    return GateCheck(f"baseline:{metric}", worst < 0, worst, 0.0, detail)


def _check_champion(
    report: EvaluationReport, champion: EvaluationReport | None, config: GateConfig, has_champion: bool
) -> Iterator[GateCheck]:
    primary = PRIMARY_METRIC[report.task]
    margins = config.margin or {primary: DEFAULT_MARGIN}
    comparison = report.comparison
    if comparison is not None and champion is not None and comparison.champion_hash != champion.bundle_hash:
        versions = f"compared with {comparison.champion_hash or '(unnamed)'}, but {champion.bundle_hash} is champion"
        yield _missing("champion:identity", math.nan, versions)
    for metric, margin in margins.items():
        name = f"champion:{metric}"
        if not has_champion:
            yield _passing(name, margin, FIRST_MODEL)
        elif comparison is None:
            yield _missing(name, margin)
        elif metric not in comparison.metrics:
            yield _missing(name, margin, f"{report.task} models have: {', '.join(comparison.metrics)}")
        else:
            found = comparison.metrics[metric]
            is_relative = not config.margin and metric == "rmse"
            limit = margin * found.champion if is_relative else margin
            worst = _worst_case(found.difference.high, found.difference.low, metric)
            values = f"{_write(found.candidate)} against {_write(found.champion)}"
            detail = f"worse end of the difference to the champion ({values})"
            yield _at_most(name, worst, limit, detail)


def _check_slices(
    comparison: Comparison | None, confidence: float, config: GateConfig, has_champion: bool
) -> GateCheck:
    limit = config.max_slice_drop
    if not has_champion:
        return _passing("slices", limit, FIRST_MODEL)
    if comparison is None:
        return _missing("slices", limit)
    judged = [item for item in comparison.slices if item.is_judged]
    if not judged:
        return _passing("slices", limit, "no slice is configured and large enough")
    if any(math.isnan(item.difference.value) for item in judged):
        return _missing("slices", limit, _undefined("a loss is not a number"))
    worse = find_worse_slices(judged, limit, confidence)
    if worse:
        item, p_value = worse[0]
        more = f" and {len(worse) - 1} more" if len(worse) > 1 else ""
        detail = f"{item.column} = {item.label}{more} is worse than allowed (adjusted p {p_value:.2g})"
        return GateCheck("slices", False, item.difference.value, limit, detail)
    item = max(judged, key=lambda one: one.difference.value)
    detail = (
        f"none of {len(judged)} slices is shown to be worse than allowed; the worst is {item.column} = {item.label}"
    )
    return GateCheck("slices", True, item.difference.value, limit, detail)


def _check_fairness(report: EvaluationReport) -> Iterator[GateCheck]:
    for gap in report.fairness:
        if gap.limit is None:
            continue
        name = ":".join(part for part in ("fairness", gap.column, gap.measure) if part)
        if gap.problem:
            yield _missing(name, gap.limit, f"{NOT_MEASURED}: {gap.problem}")
        else:
            judged = sorted((group for group in gap.groups if group.is_judged), key=lambda group: group.rate.value)
            ends = (
                f"{judged[0].label} {_write(judged[0].rate.value)}, {judged[-1].label} {_write(judged[-1].rate.value)}"
            )
            interval = f"interval {_write(gap.gap.low)} to {_write(gap.gap.high)}"
            yield _at_most(name, gap.gap.value, gap.limit, f"largest gap between groups: {ends}; {interval}")


def _check_parity(report: EvaluationReport, config: GateConfig) -> Iterator[GateCheck]:
    parity, atol = report.parity, config.parity.atol
    if parity is None or not parity.batches or parity.rows == 0:
        yield _missing("parity:features", 0.0)
        yield _missing("parity:predictions", atol)
        yield _missing("parity:decisions", 0.0)
        return
    sizes = sorted({batch.batch_size for batch in parity.batches})
    untried = sorted(set(PARITY_BATCH_SIZES) - set(sizes))
    if untried:
        yield _missing("parity:batch_sizes", math.nan, f"{NOT_MEASURED} in batches of {_list(untried)}")
    place = f"{parity.rows} rows in batches of {_list(sizes)}"
    unequal = sum(not batch.features_equal for batch in parity.batches)
    detail = f"{place}: features equal to the bit" if not unequal else parity.problem
    yield GateCheck("parity:features", unequal == 0, float(unequal), 0.0, detail)
    largest = parity.max_abs_difference
    is_close = largest <= atol and all(batch.predictions_equal for batch in parity.batches if batch.must_be_equal)
    detail = f"{place}: largest difference of a prediction" if is_close else parity.problem
    yield GateCheck("parity:predictions", is_close, largest, atol, detail)
    flipped = sum(not batch.decisions_equal for batch in parity.batches)
    detail = f"{place}: decisions equal" if not flipped else parity.problem
    yield GateCheck("parity:decisions", flipped == 0, float(flipped), 0.0, detail)


def _check_load(report: EvaluationReport, config: GateConfig) -> Iterator[GateCheck]:
    load, limits = report.load, config.load
    if load is None or load.requests == 0:
        yield _missing("load:failures", 0.0)
        yield _missing("load:p99_ms", limits.max_p99_ms)
        yield _missing("load:memory_mb", limits.max_memory_mb)
        yield _missing("load:start_s", limits.max_start_s)
        return
    yield _at_most("load:failures", float(load.failures), 0.0, f"failed of {load.requests} requests to a real replica")
    yield _at_most("load:p99_ms", load.p99_ms, limits.max_p99_ms, f"99th percentile; median {_write(load.p50_ms)} ms")
    yield _at_most("load:memory_mb", load.memory_mb, limits.max_memory_mb, "resident memory of the replica, MiB")
    yield _at_most("load:start_s", load.start_s, limits.max_start_s, "seconds from creation to the first answer")


def _check_replay(report: EvaluationReport, config: GateConfig, has_champion: bool) -> GateCheck:
    replay = report.replay
    if config.replay_rows == 0:
        return _passing("replay", 0.0, "gate.replay_rows is 0")
    if replay is None:
        return _missing("replay", 0.0) if has_champion else _passing("replay", 0.0, FIRST_MODEL)
    if replay.rows == 0:
        return _passing("replay", 0.0, "no traffic is logged yet")
    detail = f"rows without a valid answer, of {replay.rows} logged rows"
    return _at_most("replay", float(replay.invalid), 0.0, detail)


def _worst_case(high: float, low: float, metric: str) -> float:
    """The end of a difference's interval at which the candidate looks worst; positive is worse."""
    return high if METRIC_DIRECTION[metric] == -1 else -low


def _list(numbers: Sequence[int]) -> str:
    return ", ".join(str(number) for number in numbers)


def _write(value: float) -> str:
    return f"{value:.4g}"


def _explain(checks: Sequence[GateCheck], failures: Sequence[GateCheck], config: GateConfig) -> str:
    if not failures:
        approval = "; a person must approve it" if config.require_approval else ""
        return f"Passed all {len(checks)} checks{approval}."
    named = [f"{check.name} ({_verdict(check)})" for check in failures[:NUM_NAMED_FAILURES]]
    more = f" and {len(failures) - NUM_NAMED_FAILURES} more" if len(failures) > NUM_NAMED_FAILURES else ""
    return f"Refused: {len(failures)} of {len(checks)} checks failed: {', '.join(named)}{more}."


def _verdict(check: GateCheck) -> str:
    if math.isnan(check.value):
        return check.detail
    return f"{_write(check.value)}, limit {_write(check.limit)}"
