"""What fire drills of a version have found, as far as a rollout asks for it. A fold over stream ``{model}/drill``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ray_mlops.config import DrillConfig
from ray_mlops.errors import LedgerError

DRILL_FINISHED = "drill.finished"
"""In stream ``{model}/drill``: version, windows, and by fault the windows until it was noticed, run by run."""
SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class DrilledFault:
    """The newest drill of one fault on one version."""

    windows: int
    """How many windows the fault lasted."""
    delays: tuple[int | None, ...]
    """Windows until it was noticed, run by run; None where it was not."""

    def power(self, within: int) -> float:
        """Share of runs in which it was noticed within so many windows; 0 without a run.

        Example:
            >>> DrilledFault(10, (1, 4, None, 2)).power(within=2)
            0.5
        """
        noticed = sum(delay is not None and delay <= within for delay in self.delays)
        return noticed / len(self.delays) if self.delays else 0.0


Drilled = Mapping[str, DrilledFault]
"""By fault."""


def drill_payload(version: str, windows: int, delays: Mapping[str, Sequence[int | None]]) -> dict[str, Any]:
    """What the ledger stores of a drill."""
    found = {fault: list(each) for fault, each in delays.items()}
    return {"schema_version": SCHEMA_VERSION, "version": version, "windows": windows, "delays": found}


def read_drill(payload: Mapping[str, Any]) -> dict[str, DrilledFault]:
    """Read what the ledger stores.

    Raises:
        LedgerError: It was written by a newer release.
    """
    if payload.get("schema_version", 0) > SCHEMA_VERSION:
        problem = f"a drill of schema_version {payload['schema_version']}, this release reads {SCHEMA_VERSION}"
        raise LedgerError(problem, DRILL_FINISHED, "upgrade ray-mlops")
    windows = int(payload["windows"])
    return {fault: DrilledFault(windows, tuple(each)) for fault, each in payload["delays"].items()}


def unmet_power(
    config: DrillConfig, version: str, drilled: Drilled
) -> tuple[Literal["waiting", "refused"], str] | None:
    """Say what a version's drills leave to be desired.

    Returns:
        ``("waiting", why)`` where a drill is missing or too short, ``("refused", why)`` where the power is too small;
        None where all is well, or nothing is required.
    """
    missing = [fault for fault in config.required_power if fault not in drilled]
    if missing:
        return "waiting", f"version {version} has not been drilled for {', '.join(missing)}"
    for fault, required in config.required_power.items():
        found = drilled[fault]
        if len(found.delays) < config.repeats:
            short = f"version {version} was drilled {len(found.delays)} times only for {fault}"
            return "waiting", f"{short}, monitoring.drill.repeats asks for {config.repeats}"
        power = found.power(config.within_windows)
        if power >= required:
            continue
        of = f"{power:.0%} of {len(found.delays)} runs within {config.within_windows} windows"
        what = f"{fault} noticed in {of}, required {required:.0%}"
        if found.windows < config.within_windows:
            return "waiting", f"version {version} was drilled for {found.windows} windows only: {what}"
        return "refused", f"a drill of version {version}: {what}"
    return None
