"""A copy of the stream: real windows of a stream, put into a random order, in which nothing changes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Stretch:
    """Rows of some windows, one window after the other."""

    inputs: pa.Table
    """Raw inputs in canonical types [n]."""
    target: FloatArray
    """Encoded labels [n]; NaN where there is none."""
    window: IntArray
    """Window of each row [n], rising."""
    latency_us: FloatArray
    """Times that answers took [m]; there need not be one of each row."""
    latency_window: IntArray
    """Their windows [m], rising."""
    num_classes: int = 0
    """Of the labels; 0 where they are values."""

    @property
    def windows(self) -> tuple[int, ...]:
        """The windows that have rows."""
        return tuple(np.unique(self.window).tolist())

    def part(self, window: int) -> "Stretch":
        """The rows of one window."""
        first, last = np.searchsorted(self.window, [window, window + 1])
        start, end = np.searchsorted(self.latency_window, [window, window + 1])
        return replace(
            self,
            inputs=self.inputs.slice(first, last - first),
            target=self.target[first:last],
            window=self.window[first:last],
            latency_us=self.latency_us[start:end],
            latency_window=self.latency_window[start:end],
        )

    def moved(self, window: int) -> "Stretch":
        """The rows of a single window, in another place."""
        return replace(
            self,
            window=np.full(len(self.window), window),
            latency_window=np.full(len(self.latency_window), window),
        )

    def with_column(self, name: str, values: pa.Array | pa.ChunkedArray) -> "Stretch":
        """The same with another column of inputs, in its type."""
        index = self.inputs.column_names.index(name)
        kind = self.inputs.schema.field(index).type
        fitting = values if values.type == kind else values.cast(kind)
        return replace(self, inputs=self.inputs.set_column(index, self.inputs.schema.field(index), fitting))


def joined(parts: Sequence[Stretch]) -> Stretch:
    """Stretches one after the other."""
    return Stretch(
        pa.concat_tables([part.inputs for part in parts]),
        np.concatenate([part.target for part in parts]),
        np.concatenate([part.window for part in parts]),
        np.concatenate([part.latency_us for part in parts]),
        np.concatenate([part.latency_window for part in parts]),
        parts[0].num_classes,
    )


def permuted(windows: Sequence[int], strata: Sequence[int], rng: np.random.Generator) -> dict[int, int]:
    """Put windows into a random order; each takes the place of one of its own stratum.

    Args:
        windows: Indices, rising.
        strata: The stratum of each; all alike where there are none.
        rng: Draws the order.

    Returns:
        By place, in order: the window whose rows are there.

    Example:
        >>> found = permuted([4, 5, 6, 7], [0, 1, 0, 1], np.random.default_rng(1))
        >>> list(found), sorted(found[place] for place in (4, 6)), sorted(found[place] for place in (5, 7))
        ([4, 5, 6, 7], [4, 6], [5, 7])
    """
    places, kinds = np.array(windows), np.array(strata)
    found = np.empty_like(places)
    for kind in np.unique(kinds):
        own = kinds == kind
        found[own] = rng.permutation(places[own])
    return dict(zip(places.tolist(), found.tolist(), strict=True))
