"""What a registry is: numbered versions of each model, and aliases that point at them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

CHAMPION, CANDIDATE, PREVIOUS = "champion", "candidate", "previous"
"""The aliases that we set."""
KEY_TAG = "ray_mlops.key"
"""Tag that holds the key under which a version was created."""


@dataclass(frozen=True, slots=True)
class RegisteredVersion:
    """One version of a model."""

    model: str
    version: str
    """``"1"``, ``"2"``, ..."""
    bundle: str
    """Address of its bundle."""
    run_id: str | None
    """The tracked run that trained it; None for a model that was trained elsewhere."""
    tags: Mapping[str, str]
    created: float
    """Unix seconds."""


class Registry(Protocol):
    """Names and aliases of versions.

    The ledger says why a version exists and which one is in force; a registry shows it to other tools.
    Every method may raise ``RegistryError``.
    """

    def create_version(
        self, model: str, bundle_uri: str, *, run_id: str | None, tags: Mapping[str, str], key: str
    ) -> RegisteredVersion:
        """Create the next version, once for each key: a repeat returns the version that is there."""

    def get(self, model: str, version_or_alias: str) -> RegisteredVersion:
        """Return a version; raises ``ModelNotFoundError``."""

    def versions(self, model: str) -> list[RegisteredVersion]:
        """Return all versions of a model, the oldest first; empty for an unknown model."""

    def set_alias(self, model: str, alias: str, version: str) -> None:
        """Point an alias at a version; raises ``ModelNotFoundError``."""

    def aliases(self, model: str) -> dict[str, str]:
        """Return the version of each alias; empty for an unknown model."""

    def delete_alias(self, model: str, alias: str) -> None:
        """Take an alias away; nothing happens where there is none."""
