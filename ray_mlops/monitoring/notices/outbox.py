"""One target's place in the ledger, and what became of its last notices; a small file in the store."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ray_mlops.errors import MonitoringError
from ray_mlops.runtime.files import Files

SCHEMA_VERSION = 1
_ROOT = "checkpoints/monitor-notices"
"""Beside the monitor's own checkpoints; ``ray-mlops gc`` leaves both alone."""


@dataclass(slots=True)
class TargetState:
    """What must outlive the process."""

    model: str
    """Whose configuration names the target."""
    target: str
    cursor: int
    """Every event up to this one is dealt with."""
    since: float
    """When the target was first seen, unix seconds."""
    delivered: int = 0
    failed: int = 0
    """Attempts that failed."""
    given_up: int = 0
    failures: int = 0
    """Attempts in a row that failed; 0 while the target accepts."""
    problem: str = ""
    """Of the last failure; empty while the target accepts."""
    is_dead: bool = False
    """Whether a notice was given up and none was delivered since."""
    reminded: dict[str, int] = field(default_factory=dict)
    """Number of the last reminder, by the key of the event that raised the alarm."""
    recent: list[dict[str, Any]] = field(default_factory=list)
    """The last notices that are dealt with, oldest first."""
    schema_version: int = SCHEMA_VERSION

    def book(self, entry: Mapping[str, Any], keep: int) -> None:
        """Remember what became of a notice."""
        self.recent = [*self.recent, dict(entry)][-keep:] if keep else []


def load_state(files: Files, model: str, target: str) -> TargetState | None:
    """Read a target's state; None where it was never seen.

    Raises:
        MonitoringError: It is damaged, or a newer release wrote it.
    """
    path = _path(model, target)
    if not files.exists(path):
        return None
    try:
        content: dict[str, Any] = json.loads(files.read(path))
        version = content.get("schema_version", 0)
        if version <= SCHEMA_VERSION:
            return TargetState(**content)
    except (ValueError, TypeError, AttributeError) as error:
        remedy = "delete it: the target then begins anew"
        raise MonitoringError(f"is damaged: {error}", files.uri(path), remedy) from error
    problem = f"is of version {version}, this release reads {SCHEMA_VERSION}"
    raise MonitoringError(problem, files.uri(path), "upgrade ray-mlops")


def save_state(files: Files, state: TargetState) -> None:
    """Write a target's state, atomically and durably."""
    files.write(_path(state.model, state.target), json.dumps(asdict(state)).encode())


def stored_targets(files: Files) -> list[tuple[str, str]]:
    """Model and target of every state there is."""
    paths = (path.removeprefix(f"{_ROOT}/").removesuffix(".json") for path in files.names(_ROOT))
    return [(model, target) for model, _, target in (path.partition("/") for path in paths)]


def drop_state(files: Files, model: str, target: str) -> None:
    """Forget a target that is not configured any more; should it come back, it begins anew."""
    files.delete(_path(model, target))


def _path(model: str, target: str) -> str:
    return f"{_ROOT}/{model}/{target}.json"
