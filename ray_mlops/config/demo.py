"""The replay of history through the service, and the demo's sabotage."""

from datetime import date, timedelta
from typing import Literal, Self

from pydantic import PositiveFloat, PositiveInt, model_validator

from ray_mlops.config.data import Scalar, SourceConfig
from ray_mlops.config.section import Duration, Section


class SabotageConfig(Section):
    """A candidate trained on the same rows with the labels of one group flipped."""

    start: date
    """Event day on which its rollout starts, at the earliest; it waits for a running one."""
    column: str
    value: Scalar


class ReplayConfig(Section):
    """Rows of the past, posted in order of event time through HTTP."""

    source: SourceConfig | None = None
    """Where the replayed rows come from; None means ``data.source``."""
    start: date
    end: date
    rows_per_day: PositiveInt = 300
    """A seeded sample of each day, kept in order."""
    rows_per_request: PositiveInt = 5
    concurrency: PositiveInt = 8
    seed: int = 0
    label_delay: Duration = timedelta(days=2)
    """Event time between a prediction and its label."""
    pace: Literal["barrier", "wall"] = "barrier"
    """`barrier` holds event time until the loop has seen it; `wall` posts without waiting."""
    day_timeout_s: PositiveFloat = 300.0
    """How long the barrier of one day may take."""

    @model_validator(mode="after")
    def _dates_in_order(self) -> Self:
        if self.end < self.start:
            raise ValueError("'end' lies before 'start'")
        return self


class DemoConfig(Section):
    """What ``ray-mlops demo`` shows."""

    replay: ReplayConfig
    sabotage: SabotageConfig | None = None
