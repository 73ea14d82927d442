"""A person's word, where the configuration asks for one."""

from ray_mlops.config import ProjectConfig
from ray_mlops.errors import GateRefusedError, ModelNotFoundError
from ray_mlops.ledger import Ledger, registered_versions


def approve_version(config: ProjectConfig, version: str, *, by: str, reason: str) -> None:
    """Record that a person approves a version that passed the gate; harmless to repeat.

    Raises:
        ModelNotFoundError: No such version.
        GateRefusedError: The gate refused it: a person cannot approve away a failed gate.
    """
    ledger = Ledger.open(config.store)
    records = registered_versions(ledger, config.name)
    if version not in records:
        raise ModelNotFoundError(f"no version {version!r}", config.name, f"registered: {', '.join(records) or 'none'}")
    gate = records[version]["gate"]
    if not gate["passed"]:
        remedy = "an operator may start it with --override-gate, which is recorded"
        raise GateRefusedError(f"version {version} was refused: {gate['reason']}", config.name, remedy)
    payload = {"version": version, "by": by, "reason": reason}
    ledger.append(f"{config.name}/versions", "version.approved", f"{config.name}/versions/{version}/approved", payload)
