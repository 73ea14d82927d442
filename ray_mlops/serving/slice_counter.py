"""Counts requests by slice, some hundreds at a time: on the request path a reference is kept, and nothing else."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ray_mlops.serving.protocol import ModelRoutes
from ray_mlops.serving.rollout.units import MAX_SLICE_KEYS, KnownKeys, slice_key
from ray_mlops.serving.slicing import IntArray, SliceColumn, slice_labels

WAITING_ROWS = 1024
"""Rows that wait to be counted together, about; then they are counted at once."""


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


@dataclass(slots=True)
class _Waiting:
    """A request that is not counted yet."""

    routes: ModelRoutes
    totals: SliceTotals
    rows: Sequence[Mapping[str, Any]]
    key_hash: int | None
    failed: bool
    slow: bool


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
        self._waiting.append(_Waiting(routes, totals, rows, key_hash, failed, slow))
        self._num_rows += len(rows)
        if self._num_rows >= WAITING_ROWS:
            self.count()

    def count(self) -> None:
        """Count what waits."""
        waiting, self._waiting, self._num_rows = self._waiting, [], 0
        groups: dict[tuple[str, int], list[_Waiting]] = {}
        for item in waiting:
            groups.setdefault((item.routes.model, item.routes.version), []).append(item)
        for group in groups.values():
            self._count(group)

    def _count(self, waiting: list[_Waiting]) -> None:
        routes = waiting[0].routes
        requests, slices = touched_slices(routes.slices, [item.rows for item in waiting])
        has_key = np.array([item.key_hash is not None for item in waiting])[requests]
        if not has_key.all():
            _add_plain(waiting, requests[~has_key], slices[~has_key], len(slice_labels(routes.slices)))
        if has_key.any():
            self._note_keys(waiting, requests[has_key], slices[has_key])

    def _note_keys(self, waiting: list[_Waiting], requests: IntArray, slices: IntArray) -> None:
        known = self._known_keys(waiting[0].routes)
        for request, number in zip(requests.tolist(), slices.tolist(), strict=True):
            item = waiting[request]
            key = slice_key(item.key_hash or 0, number)
            if news := known.note(key, item.failed, item.slow, False):
                item.totals.keys.append((number, key, news))

    def _known_keys(self, routes: ModelRoutes) -> KnownKeys:
        rollout_id, keys = self._keys.get(routes.model, ("", None))
        if keys is None or rollout_id != routes.rollout_id:
            keys = KnownKeys(MAX_SLICE_KEYS)
            self._keys[routes.model] = (routes.rollout_id, keys)
        return keys


def touched_slices(
    columns: Sequence[SliceColumn], requests: Sequence[Sequence[Mapping[str, Any]]]
) -> tuple[IntArray, IntArray]:
    """Return which request touches which slice, as pairs of numbers [p], [p], in the requests' order, each once."""
    used = [column for column in columns if column.labels]
    rows = [row for request in requests for row in request]
    if not rows or not used:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    index = np.repeat(np.arange(len(requests)), [len(request) for request in requests])
    starts = np.cumsum([0, *(len(column.labels) for column in used)])
    codes = [c.codes([row.get(c.name) for row in rows]) + start for c, start in zip(used, starts, strict=False)]
    pairs = np.unique(np.concatenate([index * starts[-1] + code for code in codes]))
    return pairs // starts[-1], pairs % starts[-1]


def _add_plain(waiting: list[_Waiting], requests: IntArray, slices: IntArray, num_slices: int) -> None:
    """Add requests without a key to the totals that each belongs to."""
    places: dict[int, SliceTotals] = {id(item.totals): item.totals for item in waiting}
    numbers = {identity: number for number, identity in enumerate(places)}
    where = np.array([numbers[id(item.totals)] for item in waiting])[requests] * num_slices + slices
    ones = np.ones(len(waiting))
    events = (ones, np.array([item.failed for item in waiting]), np.array([item.slow for item in waiting]))
    added = np.stack([np.bincount(where, event[requests], len(places) * num_slices) for event in events])
    for number, totals in enumerate(places.values()):
        part = added[:, number * num_slices : (number + 1) * num_slices].astype(np.int32)
        totals.plain = part if totals.plain is None else totals.plain + part
