"""The shadow: a candidate scores logged rows, off the request path, and is paired with the champion's answers.

Pairing needs 6 to 15 times fewer labels than a split of traffic. Only rows that the candidate cannot have
seen count: those after the end of the data that it was trained and judged on.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ray_mlops.config.data import Task
from ray_mlops.errors import StoreError
from ray_mlops.runtime.files import Files
from ray_mlops.serving.prediction_log.listing import LogListing, is_compacted
from ray_mlops.serving.rollout.evidence import BoolArray, FloatArray, LossEvidence
from ray_mlops.statistics.losses import bounded_loss

logger = logging.getLogger(__name__)

_SOURCES = b"ray_mlops.sources"
_FEATURE = "features."
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


class ShadowLog:
    """The rows of a model's prediction log that a candidate has scored.

    Scores are kept in ``predictions-shadow/{model}/{rollout_id}/``, so that a restart scores nothing twice.

    Args:
        files: The store.
        model: The model's name.
        rollout_id: The rollout.
        champion: Version whose answers are paired.
        after_us: Only rows with a later event time, microseconds since 1970 UTC.
        max_rows: Rows scored at most.
    """

    def __init__(self, files: Files, model: str, rollout_id: str, champion: str, after_us: int, max_rows: int) -> None:
        self._files = files
        self._listing = LogListing(files, model)
        self._kept = f"predictions-shadow/{model}/{rollout_id}"
        self._champion = champion
        self._after_us = after_us
        self._max_rows = max_rows
        self._read: set[str] = set()
        self._gone: set[str] = set()
        self._parts = 0
        self.predictions: dict[str, FloatArray] = {}
        """The candidate's prediction [] or [k] by prediction id."""
        self._restore()

    @property
    def is_full(self) -> bool:
        return len(self.predictions) >= self._max_rows

    @property
    def has_missed(self) -> bool:
        """Whether a file was gone when it was to be read, since ``unread`` was asked."""
        return bool(self._gone)

    def unread(self) -> list[str]:
        """Log files that have not been scored yet, oldest day first.

        One that others were compacted to is new only if one of those is: a row is scored once, wherever it lies.
        """
        self._gone.clear()
        first_day = datetime.fromtimestamp(self._after_us / 1e6, UTC).strftime("%Y-%m-%d")
        names = self._listing.live((first_day, "9999-12-31"))
        return [name for name in names if name not in self._read and not self._has_read(name)]

    def rows(self, name: str) -> pa.Table:
        """Read the rows of a log file that may be paired: ``prediction_id`` and the raw inputs.

        A file that cannot be read any more (it was deleted with its day, or compacted) has none.
        """
        try:
            table = self._files.read_table(name)
        except StoreError as error:
            self._gone.add(name)
            logger.warning("skipped log file name=%s error=%s", name, error)
            return pa.table({"prediction_id": pa.array([], pa.string())})
        chosen = table.filter(pa.array(_answered_by_champion(table, self._champion, self._after_us)))
        if is_compacted(name):
            fresh = [each not in self.predictions for each in chosen["prediction_id"].to_pylist()]
            chosen = chosen.filter(pa.array(fresh, pa.bool_()))
        chosen = chosen.slice(0, max(self._max_rows - len(self.predictions), 0))
        inputs = [column for column in chosen.column_names if column.startswith(_FEATURE)]
        return chosen.select(["prediction_id", *inputs]).rename_columns(
            ["prediction_id", *(column.removeprefix(_FEATURE) for column in inputs)]
        )

    def keep(self, names: Sequence[str], rows: pa.Table, values: FloatArray) -> None:
        """Store the candidate's predictions [n] or [n, k] for the rows of log files."""
        names = [name for name in names if name not in self._gone]  # whose rows may lie in another file by now
        if rows.num_rows:
            columns = values.reshape(len(values), -1)
            table = pa.table({"prediction_id": rows["prediction_id"], **{str(i): c for i, c in enumerate(columns.T)}})
            table = table.replace_schema_metadata({_SOURCES: json.dumps(names)})
            self._files.write_table(f"{self._kept}/{self._parts:08d}.parquet", table)
            self._parts += 1
            self._remember(table)
        self._read.update(names)

    def _has_read(self, name: str) -> bool:
        flushes = [source for source in self._listing.sources(name) if not is_compacted(source)]
        return bool(flushes) and self._read.issuperset(flushes)

    def _restore(self) -> None:
        for name in self._files.names(self._kept):
            table = self._files.read_table(name)
            self._remember(table)
            self._read.update(json.loads(table.schema.metadata[_SOURCES]))
            self._parts = int(name.rsplit("/", 1)[1].removesuffix(".parquet")) + 1

    def _remember(self, table: pa.Table) -> None:
        columns = [column.to_numpy() for column in table.columns[1:]]
        values = columns[0] if len(columns) == 1 else np.column_stack(columns)
        for prediction_id, value in zip(table["prediction_id"].to_pylist(), values, strict=True):
            self.predictions.setdefault(prediction_id, value)


def _answered_by_champion(table: pa.Table, champion: str, after_us: int) -> BoolArray:
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
    values = _logged_predictions(labelled, facts)
    target = labelled["label"].to_numpy().astype(np.float64)
    losses = bounded_loss(facts.task, values, target, facts.loss_scale)
    units, windows = _units(labelled), labelled["window"].to_numpy()
    ids = labelled["prediction_id"].to_pylist()

    may_pair = _answered_by_champion(labelled, champion, after_us) & np.array([name in scored for name in ids])
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


def _logged_predictions(table: pa.Table, facts: BundleFacts) -> FloatArray:
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
