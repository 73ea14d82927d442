"""The whole life of a model as one closed loop on Ray.

Names are imported when they are first used, so that ``import ray_mlops`` is quick and Ray is imported only
after its environment has been set (see ``ray_mlops.runtime``).
"""

import importlib
from typing import Any

_EXPORTS = {
    "Client": "ray_mlops.serving.client",
    "FeaturePipeline": "ray_mlops.data.features",
    "Ledger": "ray_mlops.ledger",
    "ModelBundle": "ray_mlops.training.bundle",
    "ProjectConfig": "ray_mlops.config",
    "RayMLOpsError": "ray_mlops.errors",
    "compare": "ray_mlops.monitoring.comparison",
    "connect": "ray_mlops.runtime.cluster",
    "deploy": "ray_mlops.orchestration.deploy",
    "import_labels": "ray_mlops.orchestration.labels_import",
    "load_config": "ray_mlops.config",
    "run_pipeline": "ray_mlops.orchestration.pipeline",
    "undeploy": "ray_mlops.orchestration.deploy",
    "verify_webhook": "ray_mlops.monitoring.notices.signature",
    "with_overrides": "ray_mlops.config",
}

__all__ = list(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'ray_mlops' has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted(_EXPORTS)
