"""Pairs what a version in the shadow says about logged rows with the champion's answers, once labels are there.

Pairing needs 6 to 15 times fewer labels than a split of traffic. Only rows that the candidate cannot have
seen count: those after the end of the data that it was trained and judged on.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ray_mlops.config.data import Task
from ray_mlops.errors import StoreError
from ray_mlops.runtime.files import Files
from ray_mlops.serving.prediction_log.listing import LogListing
from ray_mlops.serving.rollout.evidence import BoolArray, FloatArray, LossEvidence
from ray_mlops.statistics.losses import bounded_loss

logger = logging.getLogger(__name__)

LATENCY_REQUESTS = 2000
"""Newest requests of the champion from which the latency threshold is taken."""
MIN_LATENCY_REQUESTS = 100
SLOW_FACTOR, SLOW_MARGIN_MS = 1.5, 1.0
"""How far above the champion's quantile a model time must lie to count as slow."""


@dataclass(frozen=True, slots=True)
class BundleFacts:
    """What it takes to compute a version's loss; the champion's hold for both arms."""

    task: Task
    classes: tuple[str, ...] = ()
    loss_scale: float = 1.0
    threshold: float = 0.5
    """Binary: the probability from which the decision is the positive class."""


def answered_by_champion(table: pa.Table, champion: str, after_us: int) -> BoolArray:
    """Tell which rows may be paired [n]: answered by the champion, later than ``after_us``, and not pinned."""
    event_us = table["event_time"].cast(pa.timestamp("us", tz="UTC")).cast(pa.int64())
    by_champion = pc.and_(pc.equal(table["arm"], "champion"), pc.equal(table["version"], champion))
    mask = pc.and_(pc.and_(by_champion, pc.invert(table["pinned"])), pc.greater(event_us, after_us))
    return np.asarray(pc.fill_null(mask, False).to_numpy(zero_copy_only=False), dtype=np.bool_)


def gather_losses(
    labelled: pa.Table,
    scored: Mapping[str, FloatArray],
    facts: BundleFacts,
    *,
    champion: str,
    after_us: int,
    weights: Mapping[int, float],
    problem: str = "",
) -> LossEvidence:
    """Turn labelled rows into losses of units: routing keys where rows have one, else requests.

    A unit counts once, with the mean over its rows in the first window in which it has any: later ones of the
    same user would repeat the first, and a value that still changes could not be looked at again and again.

    Args:
        labelled: Rows as ``MonitorView.labelled`` gives them.
        scored: The candidate's predictions by prediction id.
        facts: Task, classes and scale of the champion's loss.
        champion: Version whose answers are paired.
        after_us: Only later rows are paired, microseconds since 1970 UTC.
        weights: The candidate's share of traffic under each route version of the rollout that splits it.
        problem: Why rows cannot be paired, if so.
    """
    if labelled.num_rows == 0:
        return LossEvidence(problem=problem)
    values = logged_predictions(labelled, facts)
    target = labelled["label"].to_numpy().astype(np.float64)
    losses = bounded_loss(facts.task, values, target, facts.loss_scale)
    units, windows = _units(labelled), labelled["window"].to_numpy()
    ids = labelled["prediction_id"].to_pylist()

    may_pair = answered_by_champion(labelled, champion, after_us) & np.array([name in scored for name in ids])
    paired = np.empty(0)
    if may_pair.any():
        candidate = np.array([scored[name] for name, wanted in zip(ids, may_pair, strict=True) if wanted])
        theirs = bounded_loss(facts.task, candidate, target[may_pair], facts.loss_scale)
        (paired,) = _by_unit(units[may_pair], [windows[may_pair]], theirs - losses[may_pair])

    share = np.array([weights.get(version, 0.0) for version in labelled["route_version"].to_pylist()])
    pinned = labelled["pinned"].to_numpy(zero_copy_only=False).astype(np.bool_)
    split = (share > 0.0) & (share < 1.0) & ~pinned
    assigned = _assigned_to_candidate(labelled, share).astype(float)[split]
    share, scores = share[split], (values if values.ndim == 1 else np.zeros(len(values)))[split]
    alike = [windows[split], assigned, share]
    means = _by_unit(units[split], alike, losses[split], assigned, share, scores)
    return LossEvidence(
        paired=paired,
        losses=means[0],
        is_candidate=means[1] > 0.5,
        weights=means[2],
        scores=means[3] if values.ndim == 1 else np.empty(0),
        problem=problem,
    )


def _units(labelled: pa.Table) -> npt.NDArray[np.object_]:
    """Name the unit of each row [n]."""
    requests = labelled["request_id"].to_pylist()
    if "routing_key_hash" not in labelled.column_names:
        return np.array(requests, dtype=object)
    hashes = labelled["routing_key_hash"].to_pylist()
    return np.array(
        [f"request {r}" if key is None else f"key {key}" for r, key in zip(requests, hashes, strict=True)], dtype=object
    )


def logged_predictions(table: pa.Table, facts: BundleFacts) -> FloatArray:
    """Return the logged predictions of rows [n] or [n, k]."""
    if facts.task != "multiclass":
        return np.asarray(table["prediction"].to_numpy(), dtype=np.float64)
    return np.column_stack([table[f"prediction.{name}"].to_numpy() for name in facts.classes]).astype(np.float64)


def _assigned_to_candidate(labelled: pa.Table, share: FloatArray) -> BoolArray:
    """Whether the candidate was assigned each row [n], whichever arm answered in the end.

    A row that failed over is marked as the champion's, but has the share of traffic of the arm that was
    chosen. With equal shares it cannot be told, and counts for the champion.
    """
    answered: BoolArray = np.array(labelled["arm"].to_pylist(), dtype=object) == "candidate"
    chosen = labelled["weight"].to_numpy().astype(np.float64)
    failed_over: BoolArray = np.abs(chosen - share) < np.abs(chosen - (1.0 - share))
    return answered | failed_over


def _by_unit(
    units: npt.NDArray[np.object_], alike: Sequence[npt.NDArray[Any]], *columns: FloatArray
) -> list[FloatArray]:
    """Average columns [n] over the rows of each unit; units stay in order of their first row.

    Args:
        units: Name of each row's unit [n].
        alike: Only rows that have the same here as the unit's first row enter the mean.
        columns: Numbers [n].
    """
    if not len(units):
        return [np.empty(0) for _ in columns]
    _, first, index = np.unique(units.astype(str), return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    kept = np.logical_and.reduce([values == values[first][index] for values in alike])
    counts = np.bincount(index, weights=kept)
    return [(np.bincount(index, weights=column * kept) / counts)[order] for column in columns]


def aligned(values: FloatArray, classes: tuple[str, ...], wanted: tuple[str, ...]) -> FloatArray:
    """Put probabilities [n, k] in the order of other classes; a class that the version does not know gets 0."""
    if values.ndim == 1 or classes == wanted:
        return values
    known = {name: values[:, index] for index, name in enumerate(classes)}
    return np.column_stack([known.get(name, np.zeros(len(values))) for name in wanted])


def champion_slow_ms(files: Files, model: str, version: str, quantile: float) -> float | None:
    """Return from where a model time counts as slow, milliseconds; None with too few requests.

    It lies somewhat above a quantile of the champion's newest times: a candidate that is a tenth slower, or half a
    millisecond because its process has colder caches, harms nobody.
    """
    times: dict[str, int] = {}
    for name in reversed(LogListing(files, model).live()):  # by day
        try:
            table = files.read_table(name, columns=["request_id", "version", "arm", "pinned", "model_time_us"])
        except StoreError:
            continue
        mine = table.filter(pc.and_(pc.equal(table["version"], version), pc.equal(table["arm"], "champion")))
        times.update(zip(mine["request_id"].to_pylist(), mine["model_time_us"].to_pylist(), strict=True))
        if len(times) >= LATENCY_REQUESTS:
            break
    if len(times) < MIN_LATENCY_REQUESTS:
        return None
    usual_ms = float(np.quantile(np.array(list(times.values())), quantile)) / 1000.0
    return SLOW_FACTOR * usual_ms + SLOW_MARGIN_MS
