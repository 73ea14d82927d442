"""The reference of an epoch, stored when it begins: a restart measures against the very same windows.

Counting the prediction log again would not do: late rows join it, and old ones are deleted.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from ray_mlops.config import MonitoringConfig
from ray_mlops.errors import MonitoringError
from ray_mlops.runtime.files import Files
from ray_mlops.statistics.bins import ColumnCounts

_SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class FrozenReference:
    """What an epoch is measured against, and with which levels."""

    windows: Mapping[int, Mapping[str, ColumnCounts]]
    """Counts of the inputs by window and column, in time order."""
    monitoring: MonitoringConfig
    """As it was when the epoch began: evidence cannot change its rules half way."""

    def save(self, files: Files, model: str, reference_id: str) -> None:
        """Store it; an epoch that is begun again after a crash overwrites its own."""
        content = {
            "schema_version": _SCHEMA_VERSION,
            "monitoring": self.monitoring.model_dump(mode="json"),
            "windows": [
                [window, {name: column.to_json() for name, column in counts.items()}]
                for window, counts in self.windows.items()
            ],
        }
        files.write(_path(model, reference_id), json.dumps(content).encode())

    @classmethod
    def load(cls, files: Files, model: str, reference_id: str) -> "FrozenReference | None":
        """Read it; None when it was never stored.

        Raises:
            MonitoringError: A newer release wrote it.
        """
        path = _path(model, reference_id)
        if not files.exists(path):
            return None
        content = json.loads(files.read(path))
        if content["schema_version"] > _SCHEMA_VERSION:
            problem = f"reference is of version {content['schema_version']}, this release reads {_SCHEMA_VERSION}"
            raise MonitoringError(problem, path)
        windows = {
            window: {name: ColumnCounts.from_json(column) for name, column in counts.items()}
            for window, counts in content["windows"]
        }
        return cls(windows, MonitoringConfig.model_validate(content["monitoring"]))


def _path(model: str, reference_id: str) -> str:
    return f"checkpoints/monitor/{model}/{reference_id}.json"
