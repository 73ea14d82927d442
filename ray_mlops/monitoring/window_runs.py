"""Which windows were taken, in order, in the room of their gaps."""

from collections.abc import Iterable, Sequence


class WindowRuns:
    """Indices of windows, rising, as runs without a gap.

    Example:
        >>> runs = WindowRuns([5, 6, 7, 20])
        >>> len(runs), runs[2], runs[3], runs.to_json()
        (4, 7, 20, [[5, 3], [20, 1]])
    """

    def __init__(self, windows: Iterable[int | Sequence[int]] = ()) -> None:
        self._runs: list[list[int]] = []
        self._length = 0
        for item in windows:
            first, length = (item, 1) if isinstance(item, int) else item
            self._add(first, length)

    def append(self, window: int) -> None:
        """Take one more window."""
        self._add(window, 1)

    def _add(self, first: int, length: int) -> None:
        if self._runs and sum(self._runs[-1]) == first:
            self._runs[-1][1] += length
        else:
            self._runs.append([first, length])
        self._length += length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, place: int) -> int:
        """The window that was taken at a place, from 0.

        Raises:
            IndexError: There is none.
        """
        left = place
        for first, length in self._runs:
            if 0 <= left < length:
                return first + left
            left -= length
        raise IndexError(f"{place} of {self._length} windows")

    def to_json(self) -> list[list[int]]:
        """First window and length of each run."""
        return [list(run) for run in self._runs]
