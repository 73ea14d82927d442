"""What one run of the benchmark was asked for."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Options:
    """The same for every part."""

    keys: frozenset[str]
    """Figures that are wanted."""
    quick: bool
    """Shorter, for development: the figures are rougher."""
    directory: Path
    """For the stores of the clusters; deleted in the end."""
    environments: Path
    """For the environments of the peers; kept."""
    workers: int
    """Processes of a simulation."""
    out: Path | None = None
    """Where pages and pictures go, for those that make some."""

    def wants(self, keys: Collection[str]) -> bool:
        """Whether any of these figures is wanted."""
        return not self.keys.isdisjoint(keys)
