"""What is watched, when it is an alarm, and what is done about it."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from ray_mlops.config.section import Duration, Schedule, Section

RetrainAction = Literal["recalibrate", "fine_tune", "full", "tune"]
"""What a retraining does, cheapest first: fit the calibration anew, go on from the champion's weights, train anew,
search hyperparameters and train."""
RUNGS: tuple[RetrainAction, ...] = ("recalibrate", "fine_tune", "full", "tune")


_CYCLES = {"none": 1, "hour_of_day": 24, "day_of_week": 7, "hour_of_week": 168}
_STRATUM_UNITS = {
    "hour_of_day": timedelta(hours=1),
    "day_of_week": timedelta(days=1),
    "hour_of_week": timedelta(hours=1),
}


class ReferenceConfig(Section):
    """What drift is measured against: a window of its own, not the training split."""

    windows: PositiveInt = 60
    """The newest this many windows before promotion, of each stratum."""
    min_windows: PositiveInt = Field(20, ge=8)
    """Below this (of a stratum) a window-level channel warms up: as many new windows are collected in its place."""


class LabelsConfig(Section):
    """Labels come late."""

    delay: Duration = timedelta(days=1)
    """Event time after which a cohort counts as matured."""
    horizon: Duration = timedelta(days=30)
    """Event time after which a prediction without a label is given up, and an unmatched label is `unknown`."""
    min_coverage: float = Field(0.5, ge=0, le=1)
    """Matured cohorts with a smaller share of labels are shown but not judged."""
    correct_delay: bool = True
    """Where the labels of one class take longer than those of another, weigh those that have come by how many of
    their class are still missing (classification)."""


class EstimationConfig(Section):
    """Performance without labels: advisory, and shown only where it may be believed."""

    interval: float = Field(0.95, gt=0, lt=1)
    """Probability that the realised metric lies within the band that is shown, if what it assumes holds."""
    max_outside_ratio: float = Field(0.2, ge=0, le=1)
    """Share of what an estimate rests on that may lie outside the rows that it was fitted on; above, it is not
    shown."""


class HistoryConfig(Section):
    """How much of the past is kept for display: windows roll up into hours, hours into days."""

    windows: PositiveInt = 120
    """The newest this many windows, one by one."""
    hours: PositiveInt = 168
    """Before them, this many hours."""
    days: PositiveInt = 400
    """Before them, this many days; what is older is forgotten."""


FaultName = Literal[
    "null_column",
    "nulls",
    "unit_change",
    "category_shift",
    "mean_shift",
    "label_flip",
    "latency",
    "frozen_feature",
    "joint_shuffle",
]
"""What a fire drill can do to a stream (see ``monitoring.drill.injections``)."""


class DrillConfig(Section):
    """Fire drills: known faults in a copy of the stream, to see what the monitor notices."""

    required_power: dict[FaultName, float] = {}
    """Share of runs, by fault, in which a drill of a version must have noticed it before the version may take
    traffic; `ray-mlops drill --version N` records what it found."""
    within_windows: PositiveInt = 10
    """Windows after the fault's beginning within which it must be noticed."""
    clean_windows: PositiveInt = 10
    """Windows without a fault before it."""
    repeats: PositiveInt = 20
    """Runs of each fault, each on other windows and, in turn, on other columns."""

    @model_validator(mode="after")
    def _powers_are_shares(self) -> Self:
        if wrong := {name: power for name, power in self.required_power.items() if not 0.0 < power <= 1.0}:
            raise ValueError(f"'required_power' holds shares of runs, above 0 and at most 1; got {wrong}")
        return self


class MonitoringConfig(Section):
    """The monitor."""

    window: Duration = timedelta(days=1)
    """The unit of all tests: one seasonal cycle, in event time."""
    strata: Literal["none", "hour_of_day", "day_of_week", "hour_of_week"] = "none"
    """Where windows are shorter than the cycle: compare each only with reference windows of the same hour or day
    (UTC). `none` compares it with all."""
    allowed_lateness: Duration = timedelta(0)
    """The watermark stays this far behind the largest event time seen."""
    max_ahead: Duration | None = timedelta(days=366)
    """Rows whose event time is further ahead of their arrival than this are quarantined; None accepts all, and then
    one row of the year 9999 makes every other one late."""
    reference: ReferenceConfig = ReferenceConfig()
    min_window_rows: PositiveInt = 50
    """Windows with fewer rows are shown but not tested."""
    bins: PositiveInt = Field(32, ge=4, le=256)
    """Quantile bins of a numeric feature, frozen from the reference."""
    top_categories: PositiveInt = Field(32, ge=2, le=1024)
    """Categories counted by name; the rest are `other`."""
    alpha: float = Field(0.01, gt=0, lt=0.5)
    """Action level: probability of ever a false alarm in one reference epoch."""
    notification_windows: PositiveInt = 1000
    """Notification level: mean number of windows between false notices."""
    tolerance: float = Field(0.05, ge=0, lt=1)
    """Total variation that the row-level fallback tolerates."""
    null_tolerance: float = Field(0.05, ge=0, le=1)
    """Rise of the null ratio over the reference's that is still no breach."""
    loss_tolerance: NonNegativeFloat = 0.01
    """Rise of the mean loss (in [0, 1]) over the gate's that is still no decay."""
    score_weight: float = Field(0.3, ge=0, le=1)
    """Weight of the score's evidence in the dataset alarm; features share the rest by importance."""
    persistence: bool = True
    """Allow for windows that resemble the one before: fewer false alarms where they do, and later true ones."""
    joint_projections: NonNegativeInt = Field(4, le=32)
    """Most columns whose dependence on the others is watched (``a~b``); 0 watches each column by itself only."""
    joint_weight: float = Field(0.1, ge=0, lt=1)
    """Share of the inputs' weight that these have together."""
    labels: LabelsConfig = LabelsConfig()
    history: HistoryConfig = HistoryConfig()
    estimation: EstimationConfig = EstimationConfig()
    drill: DrillConfig = DrillConfig()

    @property
    def reference_windows(self) -> int:
        """Windows that the reference has in all strata together."""
        return self.reference.windows * _CYCLES[self.strata]

    @model_validator(mode="after")
    def _window_fits_its_stratum(self) -> Self:
        unit = _STRATUM_UNITS.get(self.strata)
        if unit is not None and (self.window <= timedelta(0) or unit % self.window):
            raise ValueError(f"'window' must divide {unit}, the length of a stratum of 'strata: {self.strata}'")
        return self


class BudgetConfig(Section):
    """A token bucket, in event time."""

    count: PositiveInt = 4
    per: Duration = timedelta(days=30)


class RetrainingConfig(Section):
    """When a model renews itself, and on what."""

    enabled: bool = True
    cool_down: Duration = timedelta(days=14)
    """Event time between two retrainings; at least the label delay plus one window. Doubled by a refusal."""
    budget: BudgetConfig = BudgetConfig()
    schedule: Schedule | None = None
    """A floor without any alarm: retrain at least this often (`30d`), or at these times (`0 3 * * 1`: Mondays at 3,
    in UTC and event time)."""
    window: Duration = timedelta(days=60)
    """Rolling training window, used where too few labelled rows lie after the change point."""
    holdout: Duration = timedelta(days=7)
    """The newest matured rows, kept for the gate."""
    min_rows: PositiveInt = 1000
    """Matured labelled rows that the training window needs."""
    half_life: Duration | None = None
    """Training weights halve for every this much age; None weighs all rows alike."""
    ladder: list[RetrainAction] = Field(["full"], min_length=1)
    """What is tried, cheapest first: `recalibrate` (weights stay; never against drift of the inputs),
    `fine_tune` (from the champion's weights), `full` (train anew), `tune` (search, then train). A retraining whose
    candidate did not become champion is followed by the next rung; a promotion begins at the first again."""
    deadline_s: float = Field(1800.0, gt=0)
    """Wall-clock seconds after which a retraining job gives up."""
    max_attempts: NonNegativeInt = 2
    """How often a job that died is submitted again for the same decision."""

    @model_validator(mode="before")
    @classmethod
    def _read_action(cls, content: Any) -> Any:
        """Read ``action``, which stored configurations have from before there was a ladder."""
        if isinstance(content, Mapping) and "action" in content and "ladder" not in content:
            return {**{key: value for key, value in content.items() if key != "action"}, "ladder": [content["action"]]}
        return content

    @model_validator(mode="after")
    def _holdout_fits(self) -> Self:
        if self.holdout >= self.window:
            raise ValueError("'holdout' must be shorter than 'window'")
        if sorted(set(self.ladder), key=RUNGS.index) != list(self.ladder):
            raise ValueError(f"'ladder' must rise, cheapest first, as in {list(RUNGS)}; got {list(self.ladder)}")
        return self
