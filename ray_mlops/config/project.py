"""The whole configuration file."""

from typing import Literal

from pydantic import Field

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
