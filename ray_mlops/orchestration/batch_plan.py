"""What a batch prediction is: which rows of which files make which file of predictions. Pure.

The plan is settled before anything is predicted and kept in the output's ``_batch.json``, so that a run that was
killed goes on with the units that are missing. The same input, version and columns give the same plan, to the byte.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from ray_mlops.data.source_files import SourceDescription, read_units
from ray_mlops.errors import SourceError, StoreError

SCHEMA_VERSION = 1
PLAN = "_batch.json"
"""Readers of a Parquet directory pass over names that begin with an underscore."""
SOURCE_ROW = "source_row"
OnError = Literal["fail", "skip"]
REMEDY = "give --fresh to replace it, or another output"


@dataclass(frozen=True, slots=True)
class BatchUnit:
    """What is predicted, written and done anew as a whole."""

    index: int
    path: str
    """Address of the file."""
    name: str
    """The file, relative to the source."""
    sha256: str
    """Of the file's content."""
    bytes: int
    row_groups: tuple[int, ...] | None
    """None: the whole file."""
    first_row: int
    """Of the file, from 0."""
    source_row: int
    """The same row, counted over all files in their order."""
    rows: int


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """Everything that decides what the output holds."""

    model: str
    version: str
    """As it was asked for: a version, or a bundle's address."""
    bundle: str
    """The bundle's hash."""
    format: str
    files: tuple[tuple[str, int, str], ...]
    """Name, rows and hash of each input file, in order."""
    columns: tuple[str, ...]
    """Columns that the output carries beside the predictions."""
    id: str | None
    """The column that tells which row is which; None: ``source_row`` does."""
    on_error: OnError
    units: tuple[BatchUnit, ...]
    digest: str = ""
    """Names all that decides the output's content: 12 hexadecimal digits."""

    def part(self, unit: BatchUnit) -> str:
        """The output file of a unit. Sorted by name, the files are in the order of the input."""
        return f"part-{unit.index:06d}-{self.digest}.parquet"

    def errors_part(self, unit: BatchUnit) -> str:
        """Where the rows of a unit go that cannot be predicted."""
        return f"_errors/{self.part(unit)}"

    def to_json(self) -> dict[str, Any]:
        """The manifest in the output."""
        parts = [{"file": self.part(unit), **_place(unit)} for unit in self.units]
        return {**self.identity(), "digest": self.digest, "version": self.version, "parts": parts}

    def unit_json(self, unit: BatchUnit) -> dict[str, Any]:
        """What each output file says of itself."""
        place = {**_place(unit), "sha256": unit.sha256}
        return {"schema_version": SCHEMA_VERSION, "plan": self.digest, "bundle": self.bundle, **place}

    def identity(self) -> dict[str, Any]:
        """Everything that decides the output's content; of the version the bundle alone, however it was named."""
        files = [{"name": name, "rows": rows, "sha256": digest} for name, rows, digest in self.files]
        return {
            "schema_version": SCHEMA_VERSION,
            "model": self.model,
            "bundle": self.bundle,
            "format": self.format,
            "files": files,
            "columns": list(self.columns),
            "id": self.id,
            "on_error": self.on_error,
            "cuts": [[unit.name, unit.first_row, unit.rows] for unit in self.units],
        }


def make_plan(
    found: SourceDescription,
    *,
    model: str,
    version: str,
    bundle: str,
    keep: Sequence[str] | None = None,
    id_column: str | None = None,
    on_error: OnError = "fail",
) -> BatchPlan:
    """Settle what will be done.

    Args:
        found: The input, with hashes.
        model: Name of the model.
        version: As it was asked for.
        bundle: Hash of its bundle.
        keep: Columns of the input that the output carries; None: all.
        id_column: The column that tells which row is which; it is carried too.
        on_error: What becomes of a row that cannot be predicted.

    Raises:
        SourceError: A column is not there.
    """
    names = found.schema.names
    for option, wanted in (("--keep", keep or ()), ("--id", [id_column] if id_column else ())):
        for name in wanted:
            if name not in names:
                raise SourceError(f"no column {name!r}", option, f"the rows have {', '.join(names)}")
    kept = [name for name in names if keep is None or name in keep or name == id_column]
    units: list[BatchUnit] = []
    before = 0
    for file in found.files:
        for read in read_units(file):
            row = before + read.first_row
            place = (file.path, file.name, file.sha256, file.bytes, read.row_groups, read.first_row, row, read.rows)
            units.append(BatchUnit(len(units), *place))
        before += file.rows
    files = tuple((file.name, file.rows, file.sha256) for file in found.files)
    plan = BatchPlan(model, version, bundle, found.format, files, tuple(kept), id_column, on_error, tuple(units))
    content = json.dumps(plan.identity(), sort_keys=True).encode()
    return replace(plan, digest=hashlib.sha256(content).hexdigest()[:12])


def check_same(plan: BatchPlan, before: Mapping[str, Any], output: str) -> None:
    """See that an output was begun by the same plan.

    Args:
        plan: What is to be done.
        before: The manifest in the output.
        output: Its address, for the error.

    Raises:
        StoreError: By another; says in what they differ.
    """
    if before.get("schema_version") != SCHEMA_VERSION:
        problem = f"{PLAN} has schema_version {before.get('schema_version')!r}, this release reads {SCHEMA_VERSION}"
        raise StoreError(problem, output, REMEDY)
    if before.get("digest") != plan.digest:
        raise StoreError(f"holds other predictions: {_difference(plan, before)}", output, REMEDY)


def _difference(plan: BatchPlan, before: Mapping[str, Any]) -> str:
    now = plan.to_json()
    if now["bundle"] != before.get("bundle"):
        return f"they are of version {before.get('version')} (bundle {before.get('bundle')}), not {plan.version}"
    if now["files"] != before.get("files"):
        return f"the input has changed: {_changed_file(now['files'], before.get('files') or [])}"
    changed = [name for name in ("model", "columns", "id", "on_error", "format") if now[name] != before.get(name)]
    if changed:
        return ", ".join(f"{name} was {before.get(name)!r}, and is {now[name]!r} now" for name in changed)
    return "the input was cut into other units"


def _changed_file(now: Sequence[Mapping[str, Any]], before: Sequence[Mapping[str, Any]]) -> str:
    new, old = ({file["name"]: file for file in files} for files in (now, before))
    if gone := old.keys() - new.keys():
        return f"{min(gone)} is gone"
    if added := new.keys() - old.keys():
        return f"{min(added)} was added"
    return next(f"{name} has other content" for name in sorted(new) if new[name] != old[name])


def _place(unit: BatchUnit) -> dict[str, Any]:
    groups = None if unit.row_groups is None else list(unit.row_groups)
    return {
        "input": unit.name,
        "row_groups": groups,
        "first_row": unit.first_row,
        "source_row": unit.source_row,
        "rows": unit.rows,
    }
