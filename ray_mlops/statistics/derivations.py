"""Numbers that are computed from raw columns, to be binned, counted and tested as columns are."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ray_mlops.statistics.embeddings import EmbeddingProjection
from ray_mlops.statistics.projections import NO_PROJECTIONS, Projections


@dataclass(frozen=True, slots=True)
class Derivations:
    """All of one reference: how columns hang together, and where vectors point.

    Example:
        >>> import numpy as np
        >>> found = Derivations(vectors=(EmbeddingProjection("v", 2),)).of({"v": np.array([[3.0, 4.0]])})
        >>> found["v"].tolist(), len(found)
        ([5.0], 17)
    """

    joint: Projections = NO_PROJECTIONS
    vectors: tuple[EmbeddingProjection, ...] = ()

    @property
    def sources(self) -> dict[str, tuple[str, ...]]:
        """By name of a derived column: the columns that it speaks of, the foremost first."""
        joint = {member.name: (member.target, *member.explained_by) for member in self.joint.members}
        return joint | {name: (found.column,) for found in self.vectors for name in found.directions}

    def of(self, columns: Mapping[str, Any]) -> dict[str, Any]:
        """Return the derived columns [n]; under the name of a column of vectors, their norms.

        Args:
            columns: Raw columns by name. What is computed from one that is not there is left out.
        """
        found: dict[str, Any] = dict(self.joint.of(columns))
        for projection in self.vectors:
            if projection.column in columns:
                found |= projection.columns_of(columns[projection.column])
        return found


NO_DERIVATIONS = Derivations()
