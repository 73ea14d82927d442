"""Labels from files, sent through the same door as all others, a few requests at once.

Counts and what is refused are taken in the order of the rows, however the requests overtake each other. Requests
that share an id never run at once: the file's order is the order of its corrections.
"""

import csv
import logging
import re
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path, PurePath
from typing import Any

from ray_mlops.errors import PayloadTooLargeError, RayMLOpsError, RequestError, SourceError
from ray_mlops.orchestration.label_batches import Label, LabelBatch, LabelRows, Place, Reject, reject_of
from ray_mlops.orchestration.label_files import LabelFiles
from ray_mlops.orchestration.phases import OnPhase, silent
from ray_mlops.serving.client import Client

logger = logging.getLogger(__name__)

_PATIENCE_S = 120.0
_LABEL = re.compile(r"labels\[(\d+)\](?:\.(\w+))?$")
_REJECT_COLUMNS = ("row", "place", "id", "reason")


def import_labels(
    client: Client,
    path: str | PurePath | Sequence[str | PurePath],
    *,
    id_column: str = "id",
    label_column: str = "label",
    time_column: str | None = None,
    correction_column: str | None = None,
    correction: bool = False,
    from_row: int = 1,
    rejects: str | PurePath | None = None,
    in_flight: int = 4,
    on_phase: OnPhase = silent,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, int]:
    """Send the labels of Parquet, CSV or JSON-lines files to a running service.

    A repeat is harmless: labels that are known already count as duplicates. Rows without a label are passed
    over. Ids in CSV are text, whatever they look like: ``007`` is not ``7``.

    Args:
        client: Of the service.
        path: A file, a directory, a glob or a URI, or several. Rows are counted over all of them.
        id_column: Column of prediction ids.
        label_column: Column of labels.
        time_column: Column of the labels' event times; timestamps or ISO 8601.
        correction_column: Column that says, true or false, which labels are corrections.
        correction: All are corrections: they replace the values that are in force.
        from_row: Pass over the rows before this one; an error says which it should be.
        rejects: Write rows that cannot be taken to this CSV file, with the reason, and go on. With ``from_row`` it is
            appended to. None: the first such row is an error.
        in_flight: Requests at once.
        on_phase: Is told how far it has come.
        clock: Seconds, rising.

    Returns:
        Counts of `accepted`, `duplicate`, `conflicting` and `corrected` labels, of rows without a label as
        `missing`, and of rows that could not be taken as `rejected`.

    Raises:
        SourceError: A file is missing, empty or damaged or lacks a column, or a row with a label has no id.
        RequestError: A label is of the wrong type; names the row, and the one to go on from.
        OverloadError: The service does not answer, or is full and stays so.

    Example:
        ``import_labels(Client("http://127.0.0.1:8000"), "labels/*.parquet", rejects="rejects.csv")``
    """
    if from_row < 1 or in_flight < 1:
        raise RequestError("must be at least 1", "from_row" if from_row < 1 else "in_flight")
    columns = [id_column, label_column, *(name for name in (time_column, correction_column) if name is not None)]
    on_phase("labels", "")
    files = LabelFiles(path, columns)
    reading = LabelRows(files.place, time_column is not None, correction_column is not None, correction)
    with ExitStack() as stack:
        sending = _Sending(client, files.place, rejects is not None)
        progress = _Progress(from_row, on_phase, clock)
        if rejects is not None:
            progress.rejects = stack.enter_context(_Rejects(Path(rejects), appends=from_row > 1))
        batches = reading.batches(files.rows(from_row), sending.goes_on)
        _send_all(batches, sending, progress, in_flight)
    return dict(progress.counts)


def _send_all(batches: Iterator[LabelBatch], sending: "_Sending", progress: "_Progress", in_flight: int) -> None:
    """Keep a few batches under way; whatever goes wrong names the row to go on from."""
    window = _Window(progress)
    try:
        with ThreadPoolExecutor(in_flight, "labels") as pool:
            try:
                for batch in batches:
                    ids = batch.ids()
                    window.make_room(ids, in_flight)
                    window.held.append((ids, pool.submit(sending.send, batch)))
            finally:  # what is under way has its result before an error of the rows behind it is told
                window.make_room(set(), 1)
    except RayMLOpsError as error:
        if progress.next_row == 1:
            raise
        resume = f"the rows before {progress.next_row} are done: go on with --from-row {progress.next_row}"
        remedy = f"{error.remedy}; {resume}" if error.remedy else resume
        raise type(error)(error.problem, error.where, remedy) from error


class _Window:
    """Batches that are under way, with their ids; the oldest first."""

    def __init__(self, progress: "_Progress") -> None:
        self.held: deque[tuple[set[str], Future[LabelBatch]]] = deque()
        self._progress = progress

    def make_room(self, ids: set[str], most: int) -> None:
        """Wait until fewer than ``most`` are under way, and none with one of the ids."""
        while self.held and (len(self.held) >= most or not all(ids.isdisjoint(held) for held, _ in self.held)):
            try:
                self._progress.take(self.held.popleft()[1].result())
            except RayMLOpsError:
                self.held.clear()  # they are not counted: they lie behind the row to go on from
                raise


class _Sending:
    """Sends batches; many threads may share it.

    Args:
        client: Of the service.
        place: Where a row is, for people.
        goes_on: A label that the service refuses is set aside, not an error.
    """

    def __init__(self, client: Client, place: Place, goes_on: bool) -> None:
        self._client, self._place, self.goes_on = client, place, goes_on
        self._refused: dict[tuple[type, Any], RequestError] = {}
        """Values that the service would not take: it is not asked about one twice."""

    def send(self, batch: LabelBatch) -> LabelBatch:
        """Send a batch, and note in it what became of it.

        Raises:
            RequestError: The service refuses a label; names the row. None of the batch was taken.
            OverloadError: There is no answer.
        """
        self._send(batch, batch.labels)
        batch.rejects.sort(key=lambda reject: reject.row)
        return batch

    def _send(self, batch: LabelBatch, labels: list[tuple[int, Label]]) -> None:
        while labels := self._without_refused(batch, labels):
            try:
                answer = self._client.feedback([label for _, label in labels], patience_s=_PATIENCE_S)
            except PayloadTooLargeError:
                if len(labels) == 1:
                    raise
                half = len(labels) // 2
                self._send(batch, labels[:half])
                self._send(batch, labels[half:])
                return
            except RequestError as error:
                labels = self._after_refusal(batch, labels, error)
                continue
            batch.counts.update({name: n for name, n in answer.items() if isinstance(n, int) and name != "received"})
            if answer.get("monitor") == "unavailable":
                logger.warning("count labels as accepted labels=%d because=%s", len(labels), "the monitor is away")
            return

    def _after_refusal(
        self, batch: LabelBatch, labels: list[tuple[int, Label]], error: RequestError
    ) -> list[tuple[int, Label]]:
        """What is still to be sent when the service has refused one label of those."""
        found = _LABEL.match(error.where)
        index = None if found is None or int(found[1]) >= len(labels) else int(found[1])
        if found is None or index is None:
            rows = f"rows {labels[0][0]} to {labels[-1][0]}"
            raise type(error)(error.problem, f"{self._place(labels[0][0])} ({rows}): {error.where}", error.remedy)
        number, label = labels[index]
        if not self.goes_on:
            where = f"{self._place(number)}: {found[2] or 'label'}"
            raise type(error)(error.problem, where, error.remedy) from error
        if found[2] == "label":
            self._refused[_kind(label["label"])] = error
        batch.rejects.append(reject_of(number, self._place(number), label["id"], error))
        return [*labels[:index], *labels[index + 1 :]]

    def _without_refused(self, batch: LabelBatch, labels: list[tuple[int, Label]]) -> list[tuple[int, Label]]:
        if not self._refused:
            return labels
        kept = []
        for number, label in labels:
            error = self._refused.get(_kind(label["label"]))
            if error is None:
                kept.append((number, label))
            else:
                batch.rejects.append(reject_of(number, self._place(number), label["id"], error))
        return kept


class _Progress:
    """How far the import has come; batches come in the order of their rows."""

    def __init__(self, from_row: int, on_phase: OnPhase, clock: Callable[[], float]) -> None:
        names = ("accepted", "duplicate", "conflicting", "corrected", "missing", "rejected")
        self.counts = Counter(dict.fromkeys(names, 0))
        self.next_row = from_row
        self.rejects: _Rejects | None = None
        self._on_phase, self._clock, self._began, self._labels = on_phase, clock, clock(), 0

    def take(self, batch: LabelBatch) -> None:
        """Count a batch that is done."""
        self.counts.update(batch.counts)
        self.counts.update({"missing": batch.missing, "rejected": len(batch.rejects)})
        if self.rejects is not None:
            self.rejects.write(batch.rejects)
        self.next_row = batch.last + 1
        self._labels += sum(batch.counts.values())
        seconds = self._clock() - self._began
        rate = f", {self._labels / seconds:,.0f} labels/s" if seconds > 0 else ""
        self._on_phase("labels", f"{batch.last:,} rows{rate}")


class _Rejects:
    """The file of rows that could not be taken."""

    def __init__(self, path: Path, appends: bool) -> None:
        self._path, self._appends = path, appends and path.exists()

    def __enter__(self) -> "_Rejects":
        try:
            self._stream = self._path.open("a" if self._appends else "w", newline="", encoding="utf-8")
        except OSError as error:
            raise SourceError(f"rejects cannot be written: {error}", str(self._path)) from error
        self._rows = csv.writer(self._stream)
        if not self._appends:
            self._rows.writerow(_REJECT_COLUMNS)
        return self

    def __exit__(self, *error: object) -> None:
        self._stream.close()

    def write(self, rejects: Sequence[Reject]) -> None:
        """Add rows; they are in the file when it returns."""
        self._rows.writerows((reject.row, reject.place, reject.id, reject.reason) for reject in rejects)
        self._stream.flush()


def _kind(value: Any) -> tuple[type, Any]:
    """Tells values apart that the service tells apart: 1 is not True."""
    return type(value), value
