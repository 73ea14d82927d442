"""Names and aliases of versions, and the runs that made them, in MLflow. Importing it takes about a second."""

from ray_mlops.registry.connection import quiet_mlflow
from ray_mlops.registry.mlflow_registry import MlflowRegistry
from ray_mlops.registry.tracking import TrackedRun, Tracker
from ray_mlops.registry.versions import CANDIDATE, CHAMPION, PREVIOUS, RegisteredVersion, Registry

__all__ = [
    "CANDIDATE",
    "CHAMPION",
    "PREVIOUS",
    "MlflowRegistry",
    "RegisteredVersion",
    "Registry",
    "TrackedRun",
    "Tracker",
    "quiet_mlflow",
]
