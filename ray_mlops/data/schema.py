"""The contract applied: bad rows set aside with their reasons, broken contracts refused, on tables and datasets."""

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray
import ray.data

from ray_mlops.config import DataConfig
from ray_mlops.data.columns import missing_values, one_chunk
from ray_mlops.data.contract import Contract, ContractReport, dataset_breaches
from ray_mlops.data.contract import infer_contract as infer_from_counts
from ray_mlops.data.distributed import STEP_TIMEOUT_S, collect_table, map_tables, materialise, within_deadline
from ray_mlops.data.hashing import hash_column, hash_rows
from ray_mlops.data.inspection import (
    TableCheck,
    check_table,
    count_list_lengths,
    count_nulls,
    inspect_table,
    join_reasons,
    type_breaches,
)
from ray_mlops.data.statistics_pass import event_times
from ray_mlops.data.values import MISSING_US
from ray_mlops.runtime.files import Files

__all__ = ["Contract", "ContractReport", "check_contract", "check_table", "infer_contract"]

logger = logging.getLogger(__name__)

Rows = TypeVar("Rows", pa.Table, ray.data.Dataset)
QUARANTINE_REASON = "quarantine_reason"
_KEY_TYPE = np.dtype(
    [("value", np.uint64), ("time", np.int64), ("row", np.uint64), ("block", np.int64), ("at", np.int64)]
)


@dataclass(frozen=True, slots=True)
class _BlockReport:
    """What the driver needs to know of one block."""

    rows: int
    null_counts: Mapping[str, int]
    unreadable: Mapping[str, tuple[int, int, str]]
    breaches: tuple[str, ...]
    keys: Mapping[str, npt.NDArray[Any]]
    """Value, event time and row hashes of each unique column's rows that are good so far."""


@dataclass(frozen=True, slots=True)
class _BlockResult:
    """One block, parted."""

    good: int
    newest_us: int | None
    reasons: Mapping[str, int]
    bad: pa.Table | None


def infer_contract(rows: pa.Table | ray.data.Dataset, data: DataConfig) -> Contract:
    """The contract of a first snapshot; see ``contract.infer_contract``."""
    if isinstance(rows, pa.Table):
        return infer_from_counts(rows.schema, count_nulls(rows), len(rows), data, count_list_lengths(rows))
    schema = rows.schema().base_schema
    counts = collect_table(map_tables(rows, _null_row), "counting nulls")
    totals = {name: int(np.sum(counts[name].to_numpy())) for name in schema.names}
    lengths: dict[str, Counter[int]] = {}
    for text in counts["__lengths"].to_pylist():
        for name, tally in json.loads(text).items():
            lengths.setdefault(name, Counter()).update({int(length): count for length, count in tally.items()})
    return infer_from_counts(schema, totals, int(np.sum(counts["__rows"].to_numpy())), data, lengths)


def check_contract(
    rows: Rows,
    contract: Contract,
    data: DataConfig,
    now: float,
    *,
    files: Files | None = None,
    snapshot_id: str = "unnamed",
    timeout_s: float = STEP_TIMEOUT_S,
) -> tuple[Rows, ContractReport]:
    """Part good rows from bad ones, and see whether the contract holds.

    Of rows that share a unique value, the first in event time stays (ties: the smaller row hash), however the
    rows are cut into blocks. Rows of a dataset are judged in Ray tasks; it comes back materialised.

    Args:
        rows: A table or a dataset.
        contract: From ``infer_contract``.
        data: For the event time.
        now: Unix seconds: the clock, or the as-of time of a retraining.
        files: Where to put bad rows, under ``quarantine/{snapshot_id}/``; None drops them.
        snapshot_id: The snapshot that the rows are of.
        timeout_s: Deadline of each step on Ray.

    Returns:
        The good rows, in the same form, and the report; ask it to ``raise_if_broken``.
    """
    if isinstance(rows, pa.Table):
        reports = [_inspect_block(rows, contract, data.event_time)]
        repeats = _find_repeats(reports)
        parted = [_part_block(rows, contract, data.event_time, repeats.get(0, {}))]
        good: Any = parted[0][0]
        results = [result for _, result in parted]
    else:
        blocks = within_deadline(
            lambda: list(materialise(rows, "reading rows", timeout_s).to_arrow_refs()), "rows", timeout_s
        )
        good, reports, results = _check_blocks(blocks, contract, data.event_time, timeout_s)
    place = _write_quarantine(results, files, snapshot_id)
    return good, _report(reports, results, contract, now, place)


def _check_blocks(
    blocks: Sequence[Any], contract: Contract, event_time: str | None, timeout_s: float
) -> tuple[ray.data.Dataset, list[_BlockReport], list[_BlockResult]]:
    """The two steps over blocks in Ray's store: look, then part by what all blocks together say."""
    inspect: Any = ray.remote(num_cpus=1)(_inspect_block)
    part: Any = ray.remote(num_cpus=1, num_returns=2)(_part_block)
    looks = [inspect.remote(block, contract, event_time) for block in blocks]
    reports: list[_BlockReport] = within_deadline(lambda: ray.get(looks), "checking the contract", timeout_s)
    repeats = _find_repeats(reports)
    pairs = [part.remote(block, contract, event_time, repeats.get(index, {})) for index, block in enumerate(blocks)]
    found = [result for _, result in pairs]
    results: list[_BlockResult] = within_deadline(lambda: ray.get(found), "setting bad rows aside", timeout_s)
    return ray.data.from_arrow_refs([good for good, _ in pairs]), reports, results


def _inspect_block(table: pa.Table, contract: Contract, event_time: str | None) -> _BlockReport:
    found = inspect_table(table, contract)
    keys = {}
    unique = [name for name, rule in contract.columns.items() if rule.unique and name in table.column_names]
    if unique:
        times, hashes = event_times_or_zero(found, event_time), hash_rows(table)
    for name in unique:
        array = one_chunk(found.table[name])
        rows = np.flatnonzero(found.good & ~missing_values(array))
        key = np.zeros(len(rows), _KEY_TYPE)
        key["value"], key["time"], key["row"], key["at"] = hash_column(array)[rows], times[rows], hashes[rows], rows
        keys[name] = key
    return _BlockReport(len(table), found.null_counts, found.unreadable, found.breaches, keys)


def event_times_or_zero(found: TableCheck, event_time: str | None) -> npt.NDArray[np.int64]:
    """Event times [n], or zeros where the column is absent."""
    present = event_time if event_time in found.table.column_names else None
    return event_times(found.table, present)


def _find_repeats(reports: Sequence[_BlockReport]) -> dict[int, dict[str, npt.NDArray[np.int64]]]:
    """Rows to set aside as duplicates: by block, then column."""
    repeats: dict[int, dict[str, npt.NDArray[np.int64]]] = {}
    for name in {name for report in reports for name in report.keys}:
        keys = [report.keys[name] for report in reports if name in report.keys]
        numbers = [np.full(len(r.keys[name]), index) for index, r in enumerate(reports) if name in r.keys]
        table = np.concatenate(keys)
        table["block"] = np.concatenate(numbers)
        table = table[np.lexsort((table["at"], table["block"], table["row"], table["time"], table["value"]))]
        repeated = table[1:][table["value"][1:] == table["value"][:-1]]
        for block in np.unique(repeated["block"]).tolist():
            repeats.setdefault(block, {})[name] = repeated["at"][repeated["block"] == block]
    return repeats


def _part_block(
    table: pa.Table, contract: Contract, event_time: str | None, repeats: Mapping[str, npt.NDArray[np.int64]]
) -> tuple[pa.Table, _BlockResult]:
    found = inspect_table(table, contract)
    bad = dict(found.bad)
    for name, rows in repeats.items():
        bad[f"{name}: duplicate"] = np.isin(np.arange(len(table)), rows)
    found = TableCheck(found.table, bad, found.null_counts, found.unreadable, found.breaches)
    mask = found.good
    good = found.table.filter(pa.array(mask))
    reasons = {reason: int(rows.sum()) for reason, rows in bad.items()}
    times = event_times_or_zero(found, event_time)[mask]
    times = times[times != MISSING_US]
    newest = int(times.max()) if len(times) and event_time in table.column_names else None
    rejected = None
    if not mask.all():
        named = table.append_column(QUARANTINE_REASON, join_reasons(bad, len(table)))
        rejected = named.filter(pa.array(~mask))
    return good, _BlockResult(len(good), newest, reasons, rejected)


def _write_quarantine(results: Sequence[_BlockResult], files: Files | None, snapshot_id: str) -> str:
    rejected = [result.bad for result in results if result.bad is not None]
    if files is None or not rejected:
        return ""
    place = f"quarantine/{snapshot_id}"
    files.delete(place)
    for index, table in enumerate(rejected):
        files.write_table(f"{place}/part-{index:05d}.parquet", table)
    return place


def _report(
    reports: Sequence[_BlockReport], results: Sequence[_BlockResult], contract: Contract, now: float, place: str
) -> ContractReport:
    rows = sum(report.rows for report in reports)
    good = sum(result.good for result in results)
    null_counts = _added([report.null_counts for report in reports])
    newest = max((result.newest_us for result in results if result.newest_us is not None), default=None)
    reasons = _added([result.reasons for result in results])
    breaches = dict.fromkeys(breach for report in reports if report.rows or rows == 0 for breach in report.breaches)
    found = [
        *breaches,
        *type_breaches(_added_unreadable(reports)),
        *dataset_breaches(contract, rows, good, null_counts, newest, now),
    ]
    ratios = {name: count / rows for name, count in null_counts.items()} if rows else {}
    ordered = dict(sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0])))
    report = ContractReport(rows, good, rows - good, ordered, tuple(found), ratios, newest, place)
    level = logging.WARNING if rows > good and not found else logging.INFO  # breaches are raised by the caller
    logger.log(level, "checked contract rows=%d bad=%d reasons=%s breaches=%s", rows, rows - good, ordered, found)
    return report


def _added(parts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: sum(part.get(name, 0) for part in parts) for name in names}


def _added_unreadable(reports: Sequence[_BlockReport]) -> dict[str, tuple[int, int, str]]:
    total: dict[str, tuple[int, int, str]] = {}
    for report in reports:
        for name, (wrong, values, kind) in report.unreadable.items():
            known = total.get(name, (0, 0, kind))
            total[name] = (known[0] + wrong, known[1] + values, kind)
    return total


def _null_row(table: pa.Table) -> pa.Table:
    counts = {**count_nulls(table), "__rows": len(table), "__lengths": json.dumps(count_list_lengths(table))}
    return pa.table({name: [count] for name, count in counts.items()})
