"""The directory of a batch prediction: which units are there already, what may be deleted, what is written.

An output file is put there whole, after the file with its refused rows, and says in its own metadata what it was
made of: a unit is done if, and only if, its file is there. Nothing else is kept about progress.
"""

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ray_mlops.errors import StoreError
from ray_mlops.orchestration.batch_plan import PLAN, REMEDY, BatchPlan, BatchUnit, check_same
from ray_mlops.orchestration.batch_rows import UnitResult
from ray_mlops.runtime.files import Files

SUMMARY = "_summary.json"
"""Is there when every unit is."""
_METADATA = b"ray_mlops.batch"
_PART = re.compile(r"(_errors/)?part-\d{6,}-[0-9a-f]{12}\.parquet")


class BatchOutput:
    """One output directory.

    Args:
        address: A directory or URI.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._files = Files(address)

    def prepare(self, plan: BatchPlan, *, fresh: bool) -> dict[int, int]:
        """Make the output ready for a plan: begin it, go on with it, or refuse.

        Args:
            plan: What is to be done.
            fresh: Delete the predictions that are there; they may be of another plan.

        Returns:
            Number of refused rows of each unit that is done already, by its index.

        Raises:
            StoreError: It holds something else, is no directory, or cannot be written.
        """
        files = self._files
        if files.is_local and Path(files.root).exists() and not Path(files.root).is_dir():
            raise StoreError("is a file, and predictions are written into a directory", self.address, "give another")
        present = list(files.names(""))
        foreign = [name for name in present if not _is_ours(name)]
        if foreign:
            problem = f"holds {len(foreign)} files that are no predictions, {foreign[0]!r} among them"
            raise StoreError(problem, self.address, "give a directory of its own")
        if fresh:
            for name in sorted(present, key=lambda name: name == PLAN):  # the plan last: a half-emptied one is known
                files.delete(name)
        elif PLAN in present:
            check_same(plan, self._read_plan(), self.address)
            return self._done(plan, set(present))
        elif present:
            raise StoreError(f"holds predictions without their {PLAN}", self.address, REMEDY)
        files.write(PLAN, json.dumps(plan.to_json(), indent=1).encode())
        return {}

    def write_unit(self, plan: BatchPlan, unit: BatchUnit, result: UnitResult) -> None:
        """Write what a unit came to; the file that says it is done comes last.

        Raises:
            StoreError: It cannot be written.
        """
        if len(result.refused):
            self._files.write_table(plan.errors_part(unit), result.refused)
        content = {**plan.unit_json(unit), "predicted": len(result.predicted), "refused": len(result.refused)}
        metadata = {_METADATA: json.dumps(content).encode()}
        self._files.write_table(plan.part(unit), result.predicted.replace_schema_metadata(metadata))

    def finish(self, summary: dict[str, Any]) -> None:
        """Say that every unit is there."""
        self._files.write(SUMMARY, json.dumps(summary, indent=1).encode())

    def _done(self, plan: BatchPlan, present: set[str]) -> dict[int, int]:
        done = {}
        for unit in plan.units:
            if plan.part(unit) in present:
                refused = self._refused_rows(plan, unit)
                if refused is not None:
                    done[unit.index] = refused
        return done

    def _refused_rows(self, plan: BatchPlan, unit: BatchUnit) -> int | None:
        """Rows that a unit's file says were refused; None: the file is not what this unit writes."""
        filesystem, base = self._files.arrow()
        try:
            found = pq.read_metadata(f"{base}/{plan.part(unit)}", filesystem=filesystem)
            content = json.loads((found.metadata or {})[_METADATA])
        except (pa.ArrowException, OSError, KeyError, ValueError):
            return None
        is_this = {**content, **plan.unit_json(unit)} == content and found.num_rows == content.get("predicted")
        return int(content["refused"]) if is_this else None

    def _read_plan(self) -> dict[str, Any]:
        try:
            return dict(json.loads(self._files.read(PLAN)))
        except (ValueError, TypeError) as error:
            raise StoreError(f"{PLAN} is damaged: {error}", self.address, REMEDY) from error


def _is_ours(name: str) -> bool:
    return name in (PLAN, SUMMARY) or bool(_PART.fullmatch(name))
