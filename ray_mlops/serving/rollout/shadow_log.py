"""The logged rows that a version in the shadow has scored, beside the champion's answers to them.

Scores are kept in the store, so that a restart scores nothing twice. Inputs are not: of the few rows that are shown
they are read from the prediction log again, which is where rows are deleted.
"""

import asyncio
import json
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ray_mlops.errors import StoreError
from ray_mlops.runtime.files import Files
from ray_mlops.serving.prediction_log.listing import LogListing, is_compacted
from ray_mlops.serving.rollout.arms import ArmControl
from ray_mlops.serving.rollout.disagreement import (
    MOST,
    DisagreeingRow,
    DisagreementReport,
    compare_answers,
    differences,
)
from ray_mlops.serving.rollout.evidence import FloatArray
from ray_mlops.serving.rollout.shadow import BundleFacts, aligned, answered_by_champion, logged_predictions

logger = logging.getLogger(__name__)

BATCH_ROWS = 4096
"""Rows scored in one call, roughly."""
SCHEMA_VERSION = b"2"
"""Of a file of scores; version 1, which did not say so, had no answers of the champion."""
_SOURCES, _VERSION = b"ray_mlops.sources", b"ray_mlops.schema_version"
_FEATURE, _CHAMPION = "features.", "champion."
_NO_ROWS = pa.table({"prediction_id": pa.array([], pa.string())})
Ranked = tuple[DisagreeingRow, Sequence[str]]
"""A row without its inputs, and the files of the log of which one had it."""


@dataclass(frozen=True, slots=True)
class LoggedRows:
    """Rows of the prediction log that may be paired."""

    ids: pa.ChunkedArray | pa.Array
    inputs: pa.Table
    answers: pa.Table
    """The champion's: column ``prediction``, or one for each class."""

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def of(cls, table: pa.Table) -> "LoggedRows":
        """Take them out of a table of the log."""
        inputs = [column for column in table.column_names if column.startswith(_FEATURE)]
        answers = [column for column in table.column_names if column.partition(".")[0] == "prediction"]
        named = table.select(inputs).rename_columns([column.removeprefix(_FEATURE) for column in inputs])
        return cls(table["prediction_id"], named, table.select(answers))


class ShadowLog:
    """What one version in the shadow says, paired row by row with one champion.

    Args:
        files: The store.
        model: The model's name.
        name: Where scores are kept: ``predictions-shadow/{model}/{name}/``.
        champion: Version whose answers are paired.
        after_us: Only rows with a later event time, microseconds since 1970 UTC.
        max_rows: Rows scored at most; bounds the memory.
    """

    def __init__(self, files: Files, model: str, name: str, champion: str, after_us: int, max_rows: int) -> None:
        self._files = files
        self._listing = LogListing(files, model)
        self._kept = f"predictions-shadow/{model}/{name}"
        self.champion = champion
        self.after_us = after_us
        self._max_rows = max_rows
        self._read: set[str] = set()
        self._gone: set[str] = set()
        self._parts = 0
        self._lock = threading.Lock()
        """Of what follows: rows are taken up in one thread and shown from another."""
        self._answers: list[tuple[FloatArray, FloatArray]] = []
        self._most: list[Ranked] = []
        self._report: tuple[int, DisagreementReport] | None = None
        """The newest report, without inputs, and of how many rows it is."""
        self._places: dict[str, str] = {}
        """Files in which rows that are shown were found."""
        self.predictions: dict[str, FloatArray] = {}
        """The version's prediction [] or [k] by prediction id."""
        self._restore()

    @property
    def is_full(self) -> bool:
        return len(self.predictions) >= self._max_rows

    def unread(self) -> list[str]:
        """Log files that have not been scored yet, oldest day first.

        One that others were compacted to is new only if one of those is: a row is scored once, wherever it lies.
        """
        self._gone.clear()
        return [name for name in self._live() if name not in self._read and not self._has_read(name)]

    @property
    def has_missed(self) -> bool:
        """Whether a file was gone when it was to be read, since ``unread`` was asked."""
        return bool(self._gone)

    def read(self, names: Sequence[str]) -> tuple[list[str], LoggedRows]:
        """Read the rows that may be paired from log files, until they are enough for one call; at least one file.

        The rows of one call have the same types: a column that was a number for one version and text for another
        makes two calls of it, since no version takes both.

        A file that cannot be read any more (it was deleted with its day, or compacted) has none.

        Returns:
            The names of the files that were read, and their rows.
        """
        taken: list[str] = []
        whole = _NO_ROWS
        for name in names:
            table = self._table(name)
            if table is not None and table.num_rows:
                try:
                    whole = pa.concat_tables([whole, table], promote_options="default") if len(whole) else table
                except pa.ArrowTypeError:
                    break
            taken.append(name)
            if len(whole) >= BATCH_ROWS:
                break
        return taken, LoggedRows.of(whole.slice(0, max(self._max_rows - len(self.predictions), 0)))

    def keep(self, names: Sequence[str], rows: LoggedRows, values: FloatArray, champion: FloatArray) -> None:
        """Store predictions [n] or [n, k] for the rows of log files, beside the champion's."""
        names = [name for name in names if name not in self._gone]  # whose rows may lie in another file by now
        if len(rows):
            columns = {str(i): column for i, column in enumerate(values.reshape(len(values), -1).T)}
            theirs = {f"{_CHAMPION}{i}": column for i, column in enumerate(champion.reshape(len(champion), -1).T)}
            table = pa.table({"prediction_id": rows.ids, **columns, **theirs})
            table = table.replace_schema_metadata({_SOURCES: json.dumps(list(names)), _VERSION: SCHEMA_VERSION})
            self._files.write_table(f"{self._kept}/{self._parts:08d}.parquet", table)
            self._parts += 1
            self._remember(table)
        self._read.update(names)

    def disagreement(self, facts: tuple[BundleFacts, BundleFacts]) -> DisagreementReport:
        """Say how the answers differ so far; blocks while the rows that are shown are read.

        Args:
            facts: Of the champion, and of the version in the shadow.
        """
        with self._lock:
            rows, pairs, most, report = len(self.predictions), list(self._answers), list(self._most), self._report
        if report is None or report[0] != rows:
            champion, other = (np.concatenate([pair[i] for pair in pairs] or [np.empty(0)]) for i in (0, 1))
            report = rows, compare_answers(champion, other, facts, [row for row, _ in most])
            with self._lock:
                self._report = report
        inputs = self._inputs(most)
        shown = tuple(replace(row, inputs=inputs.get(row.prediction_id)) for row in report[1].most)
        return replace(report[1], most=shown)

    def _live(self) -> list[str]:
        first_day = datetime.fromtimestamp(self.after_us / 1e6, UTC).strftime("%Y-%m-%d")
        return self._listing.live((first_day, "9999-12-31"))

    def _has_read(self, name: str) -> bool:
        flushes = [source for source in self._listing.sources(name) if not is_compacted(source)]
        return bool(flushes) and self._read.issuperset(flushes)

    def _table(self, name: str) -> pa.Table | None:
        """Read the rows of a log file that may be paired and have not been; None when it is gone."""
        try:
            table = self._files.read_table(name)
        except StoreError as error:
            self._gone.add(name)
            logger.warning("skipped log file name=%s error=%s", name, error)
            return None
        chosen = table.filter(pa.array(answered_by_champion(table, self.champion, self.after_us)))
        if is_compacted(name):
            fresh = [each not in self.predictions for each in chosen["prediction_id"].to_pylist()]
            chosen = chosen.filter(pa.array(fresh, pa.bool_()))
        return chosen

    def _restore(self) -> None:
        for name in self._files.names(self._kept):
            table = self._files.read_table(name)
            version = (table.schema.metadata or {}).get(_VERSION, b"1")
            if int(version) > int(SCHEMA_VERSION):
                problem = f"schema_version {version.decode()}, this release reads up to {SCHEMA_VERSION.decode()}"
                raise StoreError(problem, name, "run the release that wrote it, or a newer one")
            self._remember(table)
            self._read.update(json.loads(table.schema.metadata[_SOURCES]))
            self._parts = int(name.rsplit("/", 1)[1].removesuffix(".parquet")) + 1

    def _remember(self, table: pa.Table) -> None:
        """Take up scored rows, of which an id counts once."""
        names = table.column_names[1:]
        other = _matrix(table, [name for name in names if not name.startswith(_CHAMPION)])
        champion = _matrix(table, [name for name in names if name.startswith(_CHAMPION)])
        sources = json.loads(table.schema.metadata[_SOURCES])
        ids = table["prediction_id"].to_pylist()
        with self._lock:
            fresh = []
            for index, prediction_id in enumerate(ids):
                if prediction_id not in self.predictions:
                    self.predictions[prediction_id] = other[index]
                    fresh.append(index)
            if champion.size and fresh:
                self._answers.append((champion[fresh], other[fresh]))
                ranked = _rank(ids, champion, other, sources, fresh)
                self._most = sorted([*self._most, *ranked], key=lambda entry: -entry[0].difference)[:MOST]

    def _inputs(self, most: Sequence[Ranked]) -> dict[str, Mapping[str, Any]]:
        """The raw inputs of rows by id, read now and never kept: what was deleted from the log is not shown."""
        missing, found = {row.prediction_id for row, _ in most}, dict[str, Mapping[str, Any]]()
        known_places = {self._places[name] for name in missing if name in self._places}
        for path in chain(sorted(known_places), self._files_of(most)):
            if not missing:
                break
            rows = self._read_inputs(path, missing)
            found |= rows
            self._places |= dict.fromkeys(rows, path)
            missing -= rows.keys()
        return found

    def _files_of(self, most: Sequence[Ranked]) -> Iterator[str]:
        """The files that rows were scored from, or that those were compacted to."""
        known = {source for _, sources in most for source in sources}
        for name in self._live():
            if name in known or not known.isdisjoint(self._listing.sources(name)):
                yield name

    def _read_inputs(self, name: str, ids: set[str]) -> dict[str, Mapping[str, Any]]:
        try:
            table = self._files.read_table(name)
        except StoreError:
            if self._files.exists(name):
                raise
            return {}  # compacted meanwhile, or deleted with its day
        chosen = LoggedRows.of(table.filter(pc.is_in(table["prediction_id"], pa.array(sorted(ids), pa.string()))))
        return dict(zip(chosen.ids.to_pylist(), chosen.inputs.to_pylist(), strict=True))


async def score_log(log: ShadowLog, arms: ArmControl, model: str, version: str, facts: BundleFacts) -> None:
    """Let a version score what was logged since the last time.

    Args:
        log: Knows what has been scored.
        arms: Where the version runs.
        model: The model's name.
        version: The version in the shadow.
        facts: Of the champion, whose order of classes counts.

    Raises:
        RayMLOpsError: The rows cannot be scored.
    """
    names: list[str] = [] if log.is_full else await asyncio.to_thread(log.unread)
    while names and not log.is_full:
        batch, rows = await asyncio.to_thread(log.read, names)
        values, champion = np.empty(0), np.empty(0)
        if len(rows):
            values, classes = await arms.score(model, version, rows.inputs)
            values = aligned(values, classes, facts.classes or classes)
            champion = logged_predictions(rows.answers, facts)
        await asyncio.to_thread(log.keep, batch, rows, values, champion)
        names = names[len(batch) :]
        if not names and log.has_missed:  # a file was compacted before it was read: its rows lie elsewhere
            names = await asyncio.to_thread(log.unread)


def _matrix(table: pa.Table, names: Sequence[str]) -> FloatArray:
    columns = [table[name].to_numpy() for name in names]
    if not columns:
        return np.empty(0)
    return np.asarray(columns[0] if len(columns) == 1 else np.column_stack(columns), dtype=np.float64)


def _rank(
    ids: Sequence[str], champion: FloatArray, other: FloatArray, sources: Sequence[str], fresh: Sequence[int]
) -> list[Ranked]:
    """Return those of the fresh rows that differ most."""
    apart = np.nan_to_num(differences(champion, other), nan=-1.0)
    worst = sorted(fresh, key=lambda index: -apart[index])[:MOST]
    rows = (DisagreeingRow(ids[i], champion[i].tolist(), other[i].tolist(), float(apart[i])) for i in worst)
    return [(row, sources) for row in rows]
