"""What the data layer asks of Ray Data: reads cut small, waits with deadlines, and tables sent home.

Ray Data needs one whole free CPU; without it, it waits for ever and says nothing. So nothing here is left
lazy under a later stage: ``materialise`` runs a dataset, and its deadline ends in an error that says what was
free. Reads are plain tasks of one file or some row groups each: the stock Parquet reader of Ray 2.60 starts
32 actors for a small file, and puts ten files into a single task.
"""

import base64
import json
import logging
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import pyarrow as pa
import ray
import ray.data
from ray.exceptions import RayError

from ray_mlops import errors
from ray_mlops.errors import DeadlineError, RayMLOpsError

logger = logging.getLogger(__name__)

STEP_TIMEOUT_S = 900.0
"""Deadline of one wait, unless the caller has another (``cluster.step_timeout_s``)."""
MAX_BLOCKS = 512
Argument = TypeVar("Argument")
_CARRIED = re.compile(r"\[ray-mlops error ([A-Za-z0-9+/=]+)\]")


def read_dataset(reads: Sequence[Mapping[str, Any]], read: Callable[[Mapping[str, Any]], pa.Table]) -> ray.data.Dataset:
    """A dataset of what ``read`` makes of each description; one task reads one or a few.

    Args:
        reads: JSON-like descriptions.
        read: From a description to a table; all of the same schema.
    """
    items = [{"read": json.dumps(description)} for description in reads]
    carried = carry_errors(read)

    def read_block(block: pa.Table) -> Iterator[pa.Table]:
        for text in block["read"].to_pylist():
            yield carried(json.loads(text))

    blocks = ray.data.from_items(items, override_num_blocks=min(len(items), MAX_BLOCKS))
    return blocks.map_batches(read_block, batch_format="pyarrow", batch_size=None)


def map_tables(dataset: ray.data.Dataset, function: Callable[[pa.Table], pa.Table]) -> ray.data.Dataset:
    """Apply a function to whole blocks, as Arrow tables."""
    return dataset.map_batches(carry_errors(function), batch_format="pyarrow", batch_size=None)


def materialise(dataset: ray.data.Dataset, what: str, timeout_s: float = STEP_TIMEOUT_S) -> ray.data.Dataset:
    """Run a dataset to the end and keep its blocks.

    Args:
        dataset: What to run.
        what: The step, for the error.
        timeout_s: Deadline in seconds.

    Raises:
        DeadlineError: It did not end in time; says what was free.
    """
    done: ray.data.Dataset = within_deadline(dataset.materialize, what, timeout_s)
    return done


def collect_table(dataset: ray.data.Dataset, what: str, timeout_s: float = STEP_TIMEOUT_S) -> pa.Table:
    """Run a dataset and bring its rows here; blocks in any order.

    Raises:
        DeadlineError: It did not end in time.
    """

    def fetch() -> pa.Table:
        tables = [ray.get(ref) for ref in dataset.to_arrow_refs()]
        filled = [table for table in tables if len(table)] or tables[:1]
        return pa.concat_tables(filled, promote_options="permissive") if filled else pa.table({})

    table: pa.Table = within_deadline(fetch, what, timeout_s)
    return table


def within_deadline(action: Callable[[], Any], what: str, timeout_s: float) -> Any:
    """Run something that may wait on Ray for ever, and give up on it after a while.

    Raises:
        DeadlineError: It did not end in time; its thread is left behind.
        RayMLOpsError: What a task of ours raised, as itself.
    """
    outcome: dict[str, Any] = {}

    def run() -> None:
        try:
            outcome["value"] = action()
        except BaseException as error:  # carried to the caller's thread, and raised there
            outcome["error"] = error

    thread = threading.Thread(target=run, name=f"ray-mlops-{what}", daemon=True)
    thread.start()
    thread.join(timeout_s)
    if thread.is_alive():
        free: dict[str, float] = ray.available_resources() if ray.is_initialized() else {}  # type: ignore[no-untyped-call]
        problem = f"did not end within {timeout_s:g} s; free: {free.get('CPU', 0.0):g} CPUs"
        raise DeadlineError(problem, what, "Ray Data needs one whole free CPU: stop other work, or add CPUs")
    if "error" in outcome:
        error = outcome["error"]
        ours = recover_error(error)
        if ours is not None:
            raise ours from error
        raise error
    return outcome["value"]


def carry_errors(function: Callable[[Argument], pa.Table]) -> Callable[[Argument], pa.Table]:
    """Make a function's errors of ours survive Ray Data, which drops the cause of an exception on its way home."""

    def carried(argument: Argument) -> pa.Table:
        try:
            return function(argument)
        except RayMLOpsError as error:
            content = json.dumps([type(error).__name__, error.problem, error.where, error.remedy])
            packed = base64.b64encode(content.encode()).decode()
            raise RuntimeError(f"{error} [ray-mlops error {packed}]") from error

    return carried


def recover_error(error: BaseException) -> RayMLOpsError | None:
    """The error of ours that an error of Ray stands for; None where there is none."""
    if not isinstance(error, RayError):
        return None
    cause = getattr(error, "cause", None)
    if isinstance(cause, RayMLOpsError):
        return cause
    found = _CARRIED.search(str(error))
    if found is None:
        return None
    name, *arguments = json.loads(base64.b64decode(found[1]))
    kind: type[RayMLOpsError] = getattr(errors, name, RayMLOpsError)
    return kind(*arguments)
