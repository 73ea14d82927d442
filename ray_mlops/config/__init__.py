"""The user's configuration file: frozen sections, precise errors, a JSON Schema."""

from ray_mlops.config.data import ColumnContract, ContractConfig, DataConfig, FeatureConfig, SourceConfig, SplitConfig
from ray_mlops.config.demo import DemoConfig, ReplayConfig, SabotageConfig
from ray_mlops.config.judgement import EvaluationConfig, FairnessConfig, GateConfig, LoadConfig, ParityConfig
from ray_mlops.config.load import build_config, config_hash, json_schema, load_config, parse_overrides, with_overrides
from ray_mlops.config.monitoring import (
    BudgetConfig,
    DrillConfig,
    EstimationConfig,
    FaultName,
    HistoryConfig,
    LabelsConfig,
    MonitoringConfig,
    ReferenceConfig,
    RetrainingConfig,
)
from ray_mlops.config.notifications import (
    EmailTarget,
    NotificationsConfig,
    RetryConfig,
    Severity,
    SlackTarget,
    TargetConfig,
    WebhookTarget,
)
from ray_mlops.config.project import ProjectConfig
from ray_mlops.config.runtime_env import RuntimeEnvConfig
from ray_mlops.config.section import Section, format_duration, parse_duration
from ray_mlops.config.serving import (
    CandidateConfig,
    FailedRequestsConfig,
    GuardsConfig,
    PredictionLogConfig,
    RolloutConfig,
    ServingConfig,
    ShadowConfig,
)
from ray_mlops.config.store import ClusterConfig, RetentionConfig, StoreConfig
from ray_mlops.config.training import SpaceConfig, TrainingConfig, TuneConfig

__all__ = [
    "BudgetConfig",
    "CandidateConfig",
    "ClusterConfig",
    "ColumnContract",
    "ContractConfig",
    "DataConfig",
    "DemoConfig",
    "DrillConfig",
    "EmailTarget",
    "EstimationConfig",
    "EvaluationConfig",
    "FailedRequestsConfig",
    "FairnessConfig",
    "FaultName",
    "FeatureConfig",
    "GateConfig",
    "GuardsConfig",
    "HistoryConfig",
    "LabelsConfig",
    "LoadConfig",
    "MonitoringConfig",
    "NotificationsConfig",
    "ParityConfig",
    "PredictionLogConfig",
    "ProjectConfig",
    "ReferenceConfig",
    "ReplayConfig",
    "RetentionConfig",
    "RetrainingConfig",
    "RetryConfig",
    "RolloutConfig",
    "RuntimeEnvConfig",
    "SabotageConfig",
    "Section",
    "ServingConfig",
    "Severity",
    "ShadowConfig",
    "SlackTarget",
    "SourceConfig",
    "SpaceConfig",
    "SplitConfig",
    "StoreConfig",
    "TargetConfig",
    "TrainingConfig",
    "TuneConfig",
    "WebhookTarget",
    "build_config",
    "config_hash",
    "format_duration",
    "json_schema",
    "load_config",
    "parse_duration",
    "parse_overrides",
    "with_overrides",
]
