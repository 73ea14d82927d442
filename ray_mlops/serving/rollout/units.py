"""Units of a rollout's tests where routing is sticky: each routing key counts once, however often it comes.

A key's requests all go to one arm. Were each of them counted, one busy user with bad luck would look like
hundreds of independent failures: on heavy-tailed traffic 9 of 10 rollouts of an equal candidate are stopped then.
So a replica notes what a key does for the first time, and the reconciler counts the first of all replicas.
"""

import base64
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

FIRST: Final = 1
"""A key's first request under a split of traffic."""
FIRST_FAILED: Final = 2
"""Together with ``FIRST``: that request failed."""
FIRST_OVER_SLO: Final = 4
"""Together with ``FIRST``: that request took longer than the objective."""
FAILED: Final = 8
"""A key's first failure."""
SLOW: Final = 16
"""A key's first request above the champion's latency threshold."""
_LASTING: Final = FIRST | FAILED | SLOW

MAX_KEYS: Final = 65_536
"""Keys of one rollout that a replica, and the reconciler, can tell apart. A key that is new when all places are
taken stays out of the tests, which costs power and not validity: who comes late does not depend on the arm."""

MAX_SLICE_KEYS: Final = 2 * MAX_KEYS
"""The same for pairs of a key and a slice."""
_HASH_STEP = 0x9E3779B97F4A7C15

KeyNews = tuple[int, int]
"""Hash of a routing key, and what it did for the first time."""


def slice_keys(key_hashes: Any, slice_numbers: Any) -> npt.NDArray[np.uint64]:
    """Hash routing keys within slices, unsigned 64-bit integers [n]: the units of the tests on those slices.

    Example:
        >>> slice_keys([7, 7, 8], [0, 1, 0]).tolist() == slice_keys([7, 7, 8], [0, 1, 0]).tolist()
        True
        >>> len(set(slice_keys([7, 7, 8], [0, 1, 0]).tolist()))
        3
    """
    step = np.asarray(slice_numbers, np.uint64) + np.uint64(1)
    return np.asarray(key_hashes, np.uint64) + step * np.uint64(_HASH_STEP)  # wraps around, as it should


class KnownKeys:
    """Remembers what each key has done.

    Args:
        capacity: Keys that are remembered at most.

    Example:
        >>> keys = KnownKeys()
        >>> keys.note(7, False, False, False) == FIRST, keys.note(7, True, False, False) == FAILED
        (True, True)
        >>> keys.note(7, True, False, False)
        0
    """

    __slots__ = ("_capacity", "_known", "left_out")

    def __init__(self, capacity: int = MAX_KEYS) -> None:
        self._capacity = capacity
        self._known: dict[int, int] = {}
        self.left_out = 0
        """News of keys for which there was no place."""

    def __len__(self) -> int:
        return len(self._known)

    def note(self, key: int, failed: bool, slow: bool, over_slo: bool) -> int:
        """Take a request; returns what its key did for the first time, 0 for nothing."""
        known = self._known.get(key, 0)
        if known:
            news = (FAILED if failed and not known & FAILED else 0) | (SLOW if slow and not known & SLOW else 0)
            if news:
                self._known[key] = known | news
            return news
        if len(self._known) >= self._capacity:
            self.left_out += 1
            return 0
        news = FIRST | (FIRST_FAILED | FAILED if failed else 0) | (SLOW if slow else 0)
        self._known[key] = news & _LASTING
        return news | (FIRST_OVER_SLO if over_slo else 0)

    def note_all(self, keys: Sequence[int], failed: Sequence[bool], slow: Sequence[bool]) -> list[tuple[int, int]]:
        """Take requests [n] in order; returns the place and the news of those that bring any."""
        known, found = self._known, []
        for place, key in enumerate(keys):
            if key in known and not failed[place] and not slow[place]:
                continue
            if news := self.note(key, failed[place], slow[place], False):
                found.append((place, news))
        return found

    def merge(self, news: Iterable[KeyNews]) -> list[int]:
        """Take news of one replica; returns, for each item, what is new to all replicas.

        Of a key whose first request came in too late to count, nothing counts.
        """
        found = []
        for key, said in news:
            known = self._known.get(key)
            if known is None and (not said & FIRST or len(self._known) >= self._capacity):
                self.left_out += 1
                found.append(0)
                continue
            fresh = said & ~(known or 0)
            if known is not None:
                fresh &= FAILED | SLOW
            self._known[key] = (known or 0) | (said & _LASTING)
            found.append(fresh)
        return found

    def to_json(self) -> dict[str, Any]:
        """Everything, in 12 bytes a key."""
        keys = np.fromiter(self._known, np.uint64, len(self._known))
        states = np.fromiter(self._known.values(), np.uint8, len(self._known))
        return {"keys": _encoded(keys), "states": _encoded(states), "left_out": self.left_out}

    @classmethod
    def from_json(cls, content: Mapping[str, Any], capacity: int = MAX_KEYS) -> "KnownKeys":
        """Rebuild what ``to_json`` wrote."""
        known = cls(capacity)
        keys, states = (base64.b64decode(content[name]) for name in ("keys", "states"))
        known._known = dict(zip(np.frombuffer(keys, "<u8").tolist(), list(states), strict=True))
        known.left_out = content["left_out"]
        return known


def _encoded(values: Any) -> str:
    return base64.b64encode(values.astype(values.dtype.newbyteorder("<")).tobytes()).decode()
