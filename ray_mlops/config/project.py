"""The whole configuration file."""

from typing import Literal, Self

from pydantic import Field, model_validator

from ray_mlops.config.data import DataConfig
from ray_mlops.config.demo import DemoConfig
from ray_mlops.config.judgement import EvaluationConfig, GateConfig
from ray_mlops.config.monitoring import MonitoringConfig, RetrainingConfig
from ray_mlops.config.notifications import NotificationsConfig
from ray_mlops.config.section import Section
from ray_mlops.config.serving import RolloutConfig, ServingConfig
from ray_mlops.config.store import ClusterConfig, StoreConfig
from ray_mlops.config.training import TrainingConfig, TuneConfig


class ProjectConfig(Section):
    """One model's whole life, in one file."""

    schema_version: Literal[1] = 1
    """Version of this file's format; a newer one is refused."""
    name: str = Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")
    """The model's name: in URLs, in the registry, in the ledger's streams."""
    store: StoreConfig = StoreConfig()
    cluster: ClusterConfig = ClusterConfig()
    data: DataConfig
    training: TrainingConfig = TrainingConfig()
    tune: TuneConfig = TuneConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    gate: GateConfig = GateConfig()
    serving: ServingConfig = ServingConfig()
    rollout: RolloutConfig = RolloutConfig()
    monitoring: MonitoringConfig = MonitoringConfig()
    retraining: RetrainingConfig = RetrainingConfig()
    notifications: NotificationsConfig = NotificationsConfig()
    demo: DemoConfig | None = None

    @model_validator(mode="after")
    def _slices_can_be_told_apart(self) -> Self:
        slices = self.rollout.guards.slices
        if hidden := [name for name in slices if name in self.serving.log.redact]:
            raise ValueError(
                f"rollout.guards.slices names {', '.join(hidden)}, which serving.log.redact hides: a verdict "
                "would show its values; take it out of one of them"
            )
        known = None if self.data.features is None else {feature.name for feature in self.data.features}
        if known is not None and (unknown := [name for name in slices if name not in known]):
            raise ValueError(
                f"rollout.guards.slices names {', '.join(unknown)}, which is not in data.features "
                f"({', '.join(sorted(known))})"
            )
        return self

    @model_validator(mode="after")
    def _champion_can_follow_the_candidate(self) -> Self:
        if self.serving.placement == "deployment" and self.rollout.isolation == "in_replica":
            raise ValueError(
                "serving.placement: deployment keeps versions out of the gateway, rollout.isolation: in_replica puts "
                "the candidate into it; set rollout.isolation: isolated"
            )
        return self
