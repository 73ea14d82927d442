"""Counts requests by slice, some hundreds at a time: on the request path a reference is kept, and nothing else."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ray_mlops.serving.protocol import ModelRoutes
from ray_mlops.serving.rollout.units import MAX_SLICE_KEYS, KnownKeys, slice_keys
from ray_mlops.serving.slicing import IntArray, SliceColumn, slice_labels

BoolArray = npt.NDArray[np.bool_]
WAITING_ROWS = 8192
"""Rows that wait for the next report, about; beyond that they are counted at once."""


@dataclass(slots=True)
class SliceTotals:
    """What one arm's requests of one epoch did in each slice, while it still grows."""

    plain: npt.NDArray[np.int32] | None = None
    """Requests without a routing key that touched each slice: all, failed, slow [3, S]; None before the first."""
    keys: list[tuple[int, int, int]] = field(default_factory=list)
    """Slice, key and what it did there for the first time, as in ``Tally.slice_keys``."""

    def counts(self) -> tuple[tuple[int, int, int, int], ...]:
        """Slice and counts, as in ``Tally.slices``."""
        if self.plain is None:
            return ()
        touched = np.flatnonzero(self.plain[0])
        return tuple(
            (number, *row) for number, row in zip(touched.tolist(), self.plain[:, touched].T.tolist(), strict=True)
        )


_Waiting = tuple[ModelRoutes, SliceTotals, Sequence[Mapping[str, Any]], int | None, bool, bool]
"""A request that is not counted yet. (A plain tuple: it is made for each request.)"""


class SliceCounter:
    """Counts requests of every model by slice. A request counts in each slice that one of its rows lies in."""

    def __init__(self) -> None:
        self._waiting: list[_Waiting] = []
        self._num_rows = 0
        self._keys: dict[str, tuple[str, KnownKeys]] = {}

    def add(
        self,
        routes: ModelRoutes,
        totals: SliceTotals,
        rows: Sequence[Mapping[str, Any]],
        key_hash: int | None,
        failed: bool,
        slow: bool,
    ) -> None:
        """Take a request; it is in ``totals`` after the next ``count``."""
        self._waiting.append((routes, totals, rows, key_hash, failed, slow))
        self._num_rows += len(rows)
        if self._num_rows >= WAITING_ROWS:
            self.count()

    def count(self) -> None:
        """Count what waits."""
        waiting, self._waiting, self._num_rows = self._waiting, [], 0
        groups: dict[tuple[str, int], list[_Waiting]] = {}
        for item in waiting:
            groups.setdefault((item[0].model, item[0].version), []).append(item)
        for group in groups.values():
            self._count(group)

    def _count(self, waiting: list[_Waiting]) -> None:
        routes = waiting[0][0]
        _, totals, rows, hashes, failures, slownesses = zip(*waiting, strict=True)
        failed, slow = np.array(failures), np.array(slownesses)
        requests, slices = touched_slices(routes.slices, rows)
        has_key = np.array([key is not None for key in hashes])[requests]
        if not has_key.all():
            plain = requests[~has_key], slices[~has_key]
            _add_plain(totals, *plain, (failed, slow), len(slice_labels(routes.slices)))
        if has_key.any():
            requests, slices = requests[has_key], slices[has_key]
            keys = slice_keys(np.array([key or 0 for key in hashes], np.uint64)[requests], slices).tolist()
            known, events = self._known_keys(routes), (failed[requests].tolist(), slow[requests].tolist())
            for place, news in known.note_all(keys, *events):
                totals[requests[place]].keys.append((int(slices[place]), keys[place], news))

    def _known_keys(self, routes: ModelRoutes) -> KnownKeys:
        rollout_id, keys = self._keys.get(routes.model, ("", None))
        if keys is None or rollout_id != routes.rollout_id:
            keys = KnownKeys(MAX_SLICE_KEYS)
            self._keys[routes.model] = (routes.rollout_id, keys)
        return keys


def touched_slices(
    columns: Sequence[SliceColumn], requests: Sequence[Sequence[Mapping[str, Any]]]
) -> tuple[IntArray, IntArray]:
    """Return which request touches which slice, as pairs of numbers [p], [p], each once and in their order."""
    used = [column for column in columns if column.labels]
    rows = [row for request in requests for row in request]
    if not rows or not used:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    sizes = [len(request) for request in requests]
    index = np.repeat(np.arange(len(requests)), sizes)
    starts = np.cumsum([0, *(len(column.labels) for column in used)])
    codes = [c.codes([row.get(c.name) for row in rows]) + start for c, start in zip(used, starts, strict=False)]
    if max(sizes) == 1:  # one row each, mostly: nothing is touched twice
        return np.tile(index, len(used)), np.concatenate(codes)
    pairs = np.unique(np.concatenate([index * starts[-1] + code for code in codes]))
    return pairs // starts[-1], pairs % starts[-1]


def _add_plain(
    totals: Sequence[SliceTotals], requests: IntArray, slices: IntArray, events: Sequence[BoolArray], num_slices: int
) -> None:
    """Add requests without a key to the totals that each belongs to.

    Args:
        totals: Of each request.
        requests: Request of each pair of a request and a slice that it touches [p].
        slices: Slice of each pair [p].
        events: Whether each request failed, and was slow.
        num_slices: How many slices there are.
    """
    places = {id(each): each for each in totals}
    numbers = {identity: number for number, identity in enumerate(places)}
    where = np.array([numbers[id(each)] for each in totals])[requests] * num_slices + slices
    length = len(places) * num_slices
    added = [np.bincount(where, minlength=length), *(np.bincount(where, event[requests], length) for event in events)]
    for each, part in zip(
        places.values(), np.split(np.stack(added).astype(np.int32), len(places), axis=1), strict=True
    ):
        each.plain = part if each.plain is None else each.plain + part
