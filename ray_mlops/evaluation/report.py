"""The evaluation report: everything that was measured about one candidate, as one value."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ray_mlops.config.data import Task
from ray_mlops.evaluation.compare import Comparison
from ray_mlops.evaluation.curves import CalibrationBin, Confusion, Curve, Histogram
from ray_mlops.evaluation.evidence import LoadReport, ParityReport, ReplayReport
from ray_mlops.evaluation.fairness import FairnessGap
from ray_mlops.evaluation.intervals import Interval
from ray_mlops.evaluation.records import check_schema_version, decode_record, encode_record
from ray_mlops.evaluation.slices import SliceReport

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class BaselineReport:
    """How always predicting the same does: the mean, or the class shares.

    Args:
        kind: Where that constant comes from: `training`, or the most favourable one, `holdout`.
        difference: Candidate minus baseline, with paired intervals.
    """

    kind: str
    metrics: dict[str, float]
    difference: dict[str, Interval]


@dataclass(frozen=True, slots=True)
class EvaluationReport:
    """What was measured on the holdout, and on a real replica once ``with_evidence`` has added it."""

    model: str
    task: Task
    bundle_hash: str
    rows: int
    confidence: float
    metrics: dict[str, Interval]
    baseline: BaselineReport
    calibration: tuple[CalibrationBin, ...] = ()
    curves: tuple[Curve, ...] = ()
    histogram: Histogram | None = None
    confusion: Confusion | None = None
    slices: tuple[SliceReport, ...] = ()
    fairness: tuple[FairnessGap, ...] = ()
    comparison: Comparison | None = None
    """Against the champion, on the same rows; None when there is no champion."""
    parity: ParityReport | None = None
    load: LoadReport | None = None
    replay: ReplayReport | None = None
    lineage: dict[str, str] = field(default_factory=dict)
    """Where the model comes from: snapshot, run, configuration, code."""
    notes: tuple[str, ...] = ()
    """What a reader should know about the numbers, such as why a metric is undefined."""
    schema_version: int = SCHEMA_VERSION

    def with_evidence(
        self,
        *,
        parity: ParityReport | None = None,
        load: LoadReport | None = None,
        replay: ReplayReport | None = None,
    ) -> "EvaluationReport":
        """Return the report with what was measured on a replica; None leaves a part as it is."""
        given = {"parity": parity, "load": load, "replay": replay}
        return replace(self, **{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]

    def to_json(self) -> dict[str, Any]:
        """Return what ``json.dumps`` takes; numbers that are undefined become null."""
        content: dict[str, Any] = encode_record(self)
        return content

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "EvaluationReport":
        """Rebuild a report.

        Raises:
            EvaluationError: It is of a newer form, or damaged.
        """
        check_schema_version(content, SCHEMA_VERSION, "evaluation report")
        return decode_record(cls, content)
