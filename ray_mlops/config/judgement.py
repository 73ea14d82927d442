"""How a model is evaluated, and what it must show to pass the gate."""

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from ray_mlops.config.section import Section


class FairnessConfig(Section):
    """Gaps between groups, on the holdout."""

    groups: list[str] = []
    """Columns whose values are the groups; they need not be features."""
    max_gap: dict[str, NonNegativeFloat] = {}
    """Largest allowed gap by measure: `selection_rate`, `true_positive_rate`, `false_positive_rate`
    (binary), `accuracy` (multiclass), `mean_error` (regression). Unlisted gaps are reported only."""
    min_support: PositiveInt = 200
    """Smaller groups are shown but not judged."""


class EvaluationConfig(Section):
    """What is measured on the holdout."""

    bootstrap_samples: PositiveInt = 500
    confidence: float = Field(0.95, gt=0.5, lt=1)
    slices: list[str] = []
    """Columns by whose values metrics are broken down (numbers by quartile)."""
    min_support: PositiveInt = 100
    """Smaller slices are shown but not judged."""
    max_slices: PositiveInt = 50
    """At most this many slices per column, the largest first."""
    fairness: FairnessConfig = FairnessConfig()
    seed: int = 0


class ParityConfig(Section):
    """Does the served model give what the trained one gave?"""

    rows: PositiveInt = 256
    """Raw rows kept with their expected predictions in the bundle."""
    atol: PositiveFloat = 1e-5
    """Largest absolute difference of a prediction at a different batch shape."""


class LoadConfig(Section):
    """Can a real replica carry it?"""

    requests: PositiveInt = 100
    """Single-row requests, one after the other."""
    max_p99_ms: PositiveFloat = 250.0
    """Budget of the 99th percentile of end-to-end latency."""
    max_memory_mb: PositiveFloat = 4096.0
    """Budget of the replica's resident memory."""
    max_start_s: PositiveFloat = 120.0
    """Budget from creation to the first answer."""


class GateConfig(Section):
    """What a candidate must show, all of it, before it is registered as one."""

    minimum: dict[str, float] = {}
    """Least values of metrics where more is better (`auc`, `accuracy`, `r2`)."""
    maximum: dict[str, float] = {}
    """Greatest values of metrics where less is better (`log_loss`, `brier`, `mae`, `rmse`)."""
    margin: dict[str, NonNegativeFloat] = {}
    """How much worse than the champion each metric may be, with its whole confidence interval.
    Empty means the task's own loss (`log_loss`, `rmse`) with a margin of 0.01 (relative for `rmse`)."""
    max_slice_drop: NonNegativeFloat = 0.05
    """How much worse than the champion's loss a slice may be, after multiplicity control."""
    parity: ParityConfig = ParityConfig()
    load: LoadConfig = LoadConfig()
    replay_rows: NonNegativeInt = 2000
    """Newest logged rows that the candidate must answer with valid outputs, where there are any."""
    require_approval: bool = False
    """A person must run ``ray-mlops approve`` before the candidate may take traffic."""
