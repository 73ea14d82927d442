"""Deleting: what retention lets go, and what a person asks to be forgotten."""

import time
from collections.abc import Callable, Collection
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import date, timedelta

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from ray_mlops.config import RetentionConfig
from ray_mlops.errors import StoreError
from ray_mlops.ledger import Ledger, registered_versions
from ray_mlops.runtime.files import Files, open_alone


@dataclass(frozen=True, slots=True)
class CollectReport:
    """What ``gc`` deleted, or would delete."""

    prediction_files: int = 0
    label_files: int = 0
    checkpoints: int = 0
    bundles: int = 0


@dataclass(frozen=True, slots=True)
class ForgetReport:
    """What ``forget`` deleted."""

    predictions: int
    labels: int
    files: int
    missing: tuple[str, ...]
    """Ids that were found nowhere."""


def collect(
    model: str, retention: RetentionConfig, files: Files, ledger: Ledger, *, now: float | None = None, dry: bool = False
) -> CollectReport:
    """Delete what the retention rules let go; bundles of registered versions are never deleted.

    Args:
        model: The model's name.
        retention: The rules; a rule that is None keeps everything.
        files: The store.
        ledger: Says which bundles are in use; the collection is recorded.
        now: Unix seconds; the newest logged day stands in for it where the log is older (event time).
        dry: Only count.
    """
    moment = time.time() if now is None else now
    report = CollectReport(
        prediction_files=_old_days(files, f"predictions/{model}", retention.predictions, dry),
        label_files=_old_days(files, f"labels/{model}", retention.predictions, dry),
        checkpoints=_old_runs(files, retention.checkpoints, moment, dry),
        bundles=_unused_bundles(files, ledger, retention.unused_bundles, moment, dry),
    )
    if not dry:
        payload = {name: getattr(report, name) for name in CollectReport.__slots__}
        ledger.append(f"{model}/data", "data.collected", f"{model}/data/collected/{moment}", payload)
    return report


def forget(model: str, ids: Collection[str], files: Files, ledger: Ledger, *, by: str) -> ForgetReport:
    """Delete the logged rows and labels of prediction ids, file by file, each replaced atomically.

    Snapshots that were copied from the log keep what they hold: retrain, or delete them with ``gc``.
    """
    wanted = set(ids)
    found: set[str] = set()
    predictions, touched = _rewrite(files, f"predictions/{model}", ".parquet", wanted, found, _without_rows)
    labels, label_files = _rewrite(files, f"labels/{model}", ".jsonl", wanted, found, _without_lines)
    report = ForgetReport(predictions, labels, touched + label_files, tuple(sorted(wanted - found)))
    payload = {"ids": len(wanted), "predictions": predictions, "labels": labels, "by": by}
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
    for path in list(files.names(prefix)):
        if path.endswith(ending):
            ids, count = without(files, path, wanted)
            found |= ids
            removed += count
            touched += count > 0
    return removed, touched


def _without_rows(files: Files, path: str, wanted: set[str]) -> tuple[set[str], int]:
    try:
        table = files.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise StoreError(f"cannot be read: {error}", files.uri(path), "restore the file, or delete it") from error
    mask = pc.is_in(table["prediction_id"], pa.array(sorted(wanted)))
    hit = set(table.filter(mask)["prediction_id"].to_pylist())
    if not hit:
        return hit, 0
    rest = table.filter(pc.invert(mask))
    if rest.num_rows:
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


def _label_id(line: bytes, place: str) -> str:
    try:
        return str(orjson.loads(line)["id"])
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise StoreError(f"holds a line that is no label: {error}", place, "restore the file, or delete it") from error


def _old_days(files: Files, prefix: str, keep: timedelta | None, dry: bool) -> int:
    if keep is None:
        return 0
    days = {path: _day(path) for path in files.names(prefix)}
    newest = max((day for day in days.values() if day is not None), default=None)
    if newest is None:
        return 0
    old = [path for path, day in days.items() if day is not None and newest - day > keep]
    for path in old if not dry else ():
        files.delete(path)
    return len(old)


def _day(path: str) -> date | None:
    part = next((part for part in path.split("/") if part.startswith("day=")), None)
    try:
        return None if part is None else date.fromisoformat(part.removeprefix("day="))
    except ValueError:  # somebody else's directory: not ours to delete
        return None


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
