"""Deleting: what retention lets go, and what a person asks to be forgotten; and compacting what stays."""

import time
from collections.abc import Callable, Collection, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from ray_mlops.config import RetentionConfig
from ray_mlops.errors import StoreError
from ray_mlops.ledger import Ledger, registered_versions
from ray_mlops.runtime.files import Files, open_alone
from ray_mlops.serving.failed_requests import read_failures
from ray_mlops.serving.prediction_log.compaction import compact
from ray_mlops.serving.prediction_log.listing import is_compacted


@dataclass(frozen=True, slots=True)
class CollectReport:
    """What ``gc`` deleted, or would delete."""

    prediction_files: int = 0
    label_files: int = 0
    checkpoints: int = 0
    bundles: int = 0
    failed_request_files: int = 0
    compacted: int = 0
    """Small files of the prediction log that became few large ones."""


@dataclass(frozen=True, slots=True)
class ForgetReport:
    """What ``forget`` deleted."""

    predictions: int
    labels: int
    failed_requests: int
    files: int
    missing: tuple[str, ...]
    """Ids that were found nowhere."""


def collect(
    model: str,
    retention: RetentionConfig,
    files: Files,
    ledger: Ledger,
    *,
    failed_requests: timedelta | None = None,
    late: timedelta = timedelta(0),
    now: float | None = None,
    dry: bool = False,
) -> CollectReport:
    """Delete what the retention rules let go, and compact the days of the prediction log that are over.

    Bundles of registered versions are never deleted.

    Args:
        model: The model's name.
        retention: The rules; a rule that is None keeps everything.
        files: The store.
        ledger: Says which bundles are in use; the collection is recorded.
        failed_requests: How long these are kept, in arrival time; None keeps them.
        late: How long rows may come after the newest one, before a day is over.
        now: Unix seconds; the newest logged day stands in for it where the log is older (event time).
        dry: Only count.
    """
    moment = time.time() if now is None else now
    report = CollectReport(
        prediction_files=_old_days(files, f"predictions/{model}", retention.predictions, moment, dry),
        label_files=_old_days(files, f"labels/{model}", retention.predictions, moment, dry),
        checkpoints=_old_runs(files, retention.checkpoints, moment, dry),
        bundles=_unused_bundles(files, ledger, retention.unused_bundles, moment, dry),
        failed_request_files=_old_failures(files, model, failed_requests, moment, dry),
        compacted=_compact(files, model, late, moment, dry),
    )
    if not dry:
        payload = {name: getattr(report, name) for name in CollectReport.__slots__}
        ledger.append(f"{model}/data", "data.collected", f"{model}/data/collected/{moment}", payload)
    return report


def forget(model: str, ids: Collection[str], files: Files, ledger: Ledger, *, by: str) -> ForgetReport:
    """Delete what is logged of prediction ids: rows, labels and failed requests, each file replaced atomically.

    Snapshots that were copied from the log keep what they hold: retrain, or delete them with ``gc``.
    """
    wanted = set(ids)
    found: set[str] = set()
    predictions, touched = _rewrite(files, f"predictions/{model}", ".parquet", wanted, found, _without_rows)
    labels, label_files = _rewrite(files, f"labels/{model}", ".jsonl", wanted, found, _without_lines)
    requests, request_files = _rewrite(files, f"failed/{model}", ".jsonl", wanted, found, _without_requests)
    total = touched + label_files + request_files
    report = ForgetReport(predictions, labels, requests, total, tuple(sorted(wanted - found)))
    counts = {"predictions": predictions, "labels": labels, "failed_requests": requests}
    payload = {"ids": len(wanted), **counts, "by": by}
    ledger.append(f"{model}/data", "data.forgotten", f"{model}/data/forgotten/{time.time_ns()}", payload)
    return report


def _rewrite(
    files: Files,
    prefix: str,
    ending: str,
    wanted: set[str],
    found: set[str],
    without: Callable[[Files, str, set[str]], tuple[set[str], int]],
) -> tuple[int, int]:
    removed = touched = 0
    done: set[str] = set()
    while paths := [path for path in files.names(prefix) if path.endswith(ending) and path not in done]:
        for path in paths:  # again and again, since a compaction may put them into a new file meanwhile
            ids, count = without(files, path, wanted)
            found |= ids
            removed += count
            touched += count > 0
        done.update(paths)
    return removed, touched


def _without_rows(files: Files, path: str, wanted: set[str]) -> tuple[set[str], int]:
    try:
        table = files.read_table(path)
    except StoreError:
        if files.exists(path):
            raise
        return set(), 0  # compacted meanwhile, into a file that is looked at next
    except (pa.ArrowInvalid, OSError) as error:
        raise StoreError(f"cannot be read: {error}", files.uri(path), "restore the file, or delete it") from error
    mask = pc.is_in(table["prediction_id"], pa.array(sorted(wanted)))
    hit = set(table.filter(mask)["prediction_id"].to_pylist())
    if not hit:
        return hit, 0
    rest = table.filter(pc.invert(mask))
    if rest.num_rows or is_compacted(path):  # which stays even empty, so that what it replaced cannot count again
        files.write_table(path, rest)
    else:
        files.delete(path)
    return hit, table.num_rows - rest.num_rows


def _without_lines(files: Files, path: str, wanted: set[str]) -> tuple[set[str], int]:
    """Labels of one file; a last line that a replica's death has torn was never a label, and stays as it is."""
    with open_alone(files.local(path)) if files.is_local else nullcontext():  # a replica may be appending to it
        return _without_lines_alone(files, path, wanted)


def _without_lines_alone(files: Files, path: str, wanted: set[str]) -> tuple[set[str], int]:
    lines = files.read(path).splitlines(keepends=True)
    names = [_label_id(line, files.uri(path)) if line.endswith(b"\n") else None for line in lines]
    hit = {name for name in names if name in wanted}
    kept = [line for line, name in zip(lines, names, strict=True) if name not in wanted]
    if hit:
        files.write(path, b"".join(kept))
    return {str(name) for name in hit}, len(lines) - len(kept)


def _without_requests(files: Files, path: str, wanted: set[str]) -> tuple[set[str], int]:
    """Failed requests of one file, by the ids of their rows; one that could not be parsed goes if it names an id."""
    try:
        failures = read_failures(files, path)
    except StoreError:
        if files.exists(path):
            raise
        return set(), 0
    kept = [failure for failure in failures if not failure.names(wanted)]
    if len(kept) == len(failures):
        return set(), 0
    hit = {name for failure in failures for name in failure.ids if name in wanted}
    if kept:
        files.write(path, b"".join(failure.line() for failure in kept))
    else:
        files.delete(path)
    return hit, len(failures) - len(kept)


def _label_id(line: bytes, place: str) -> str:
    try:
        return str(orjson.loads(line)["id"])
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise StoreError(f"holds a line that is no label: {error}", place, "restore the file, or delete it") from error


def _old_days(files: Files, prefix: str, keep: timedelta | None, now: float, dry: bool) -> int:
    if keep is None:
        return 0
    days = {path: _day(path) for path in files.names(prefix)}
    newest = _newest_day(days.values(), now)
    if newest is None:
        return 0
    old = [path for path, day in days.items() if day is not None and newest - day > keep]
    for path in old if not dry else ():
        files.delete(path)
    return len(old)


def _newest_day(days: Iterable[date | None], now: float) -> date | None:
    """The newest day of event time, but never one that has not come: a row of the year 9999 ages no other."""
    newest = max((day for day in days if day is not None), default=None)
    return None if newest is None else min(newest, datetime.fromtimestamp(now, UTC).date())


def _day(path: str) -> date | None:
    part = next((part for part in path.split("/") if part.startswith("day=")), None)
    try:
        return None if part is None else date.fromisoformat(part.removeprefix("day="))
    except ValueError:  # somebody else's directory: not ours to delete
        return None


def _old_failures(files: Files, model: str, keep: timedelta | None, now: float, dry: bool) -> int:
    if keep is None:
        return 0
    first = datetime.fromtimestamp(now, UTC).date() - keep
    days = {path: _day(path) for path in files.names(f"failed/{model}")}
    old = [path for path, day in days.items() if day is not None and day < first]
    for path in old if not dry else ():
        files.delete(path)
    return len(old)


def _compact(files: Files, model: str, late: timedelta, now: float, dry: bool) -> int:
    """Compact what lies before the day that rows may still come for."""
    newest = _newest_day(map(_day, files.names(f"predictions/{model}")), now)
    if newest is None:
        return 0
    before = datetime.combine(newest, datetime.min.time()) - late
    return compact(files, model, before.date().isoformat(), dry=dry).sources


def _old_runs(files: Files, keep: timedelta | None, now: float, dry: bool) -> int:
    if keep is None:
        return 0
    newest: dict[str, float] = {}
    for path in files.names("checkpoints"):
        run = "/".join(path.split("/")[:2])
        newest[run] = max(newest.get(run, 0.0), files.modified(path))
    old = [run for run, changed in newest.items() if now - changed > keep.total_seconds() and "/monitor" not in run]
    for run in old if not dry else ():
        files.delete(run)
    return len(old)


def _unused_bundles(files: Files, ledger: Ledger, keep: timedelta | None, now: float, dry: bool) -> int:
    if keep is None:
        return 0
    models = {event.stream.removesuffix("/versions") for event in ledger.read(kind="version.registered")}
    used = {record["bundle_hash"] for model in models for record in registered_versions(ledger, model).values()}
    newest: dict[str, float] = {}
    for path in files.names("bundles"):
        bundle = path.split("/")[1]
        newest[bundle] = max(newest.get(bundle, 0.0), files.modified(path))
    old = [name for name, changed in newest.items() if name not in used and now - changed > keep.total_seconds()]
    for name in old if not dry else ():
        files.delete(f"bundles/{name}")
    return len(old)
