"""What was measured outside the holdout: parity and load on a real replica, replay of logged traffic.

``orchestration`` collects the numbers; everything here only judges them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ray_mlops.config.data import Task
from ray_mlops.evaluation.rows import Floats, decide_rows, find_invalid

PARITY_BATCH_SIZES = (1, 2, 7, 64)
"""Batch sizes at which a replica answers the parity rows."""


@dataclass(frozen=True, slots=True)
class ServedAnswers:
    """What a replica gave for the parity rows, asked for in batches of one size.

    Args:
        values: Predictions in the layout of the task, [n] or [n, k].
        numeric: Transformed numeric features, [n, d]; None when they were not returned.
        categorical: Transformed categorical ids, [n, c]; None when they were not returned.
    """

    batch_size: int
    values: np.ndarray
    numeric: np.ndarray | None = None
    categorical: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class BatchParity:
    """The verdict on one batch size."""

    batch_size: int
    features_equal: bool
    """Every transformed feature equal to the bit."""
    predictions_equal: bool
    """Every prediction equal to the bit."""
    must_be_equal: bool
    """Whether this is the batch size that the expected predictions were computed with."""
    max_abs_difference: float
    decisions_equal: bool
    """Every decision the same, where the expected prediction lies further than `atol` from the border."""
    problem: str = ""
    """The first difference, naming the column or the row; empty when there is none that counts."""


@dataclass(frozen=True, slots=True)
class ParityReport:
    """Does the served model give what the trained one gave?"""

    rows: int
    atol: float
    batches: tuple[BatchParity, ...]
    passed: bool
    problem: str = ""

    @property
    def max_abs_difference(self) -> float:
        """The largest difference of a prediction at any batch size; NaN when nothing was compared."""
        return max((batch.max_abs_difference for batch in self.batches), default=np.nan, key=_nan_first)


@dataclass(frozen=True, slots=True)
class LoadReport:
    """How a real replica carried the load. Latencies are end to end, of single-row requests."""

    requests: int
    failures: int
    p50_ms: float
    p99_ms: float
    memory_mb: float
    """Resident memory of the replica's process, MiB."""
    start_s: float
    """Seconds from creation to the first answer."""


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """How the candidate answered logged traffic.

    Args:
        rows: Logged rows; 0 when there are none yet.
        invalid: Rows without a valid answer, failures included.
        changed_decisions: Rows whose decision differs from the one that was logged.
        mean_abs_difference: Between the candidate's prediction and the logged one.
    """

    rows: int
    invalid: int = 0
    changed_decisions: int = 0
    mean_abs_difference: float = 0.0
    max_abs_difference: float = 0.0


def judge_parity(
    task: Task,
    expected: ServedAnswers,
    got: Sequence[ServedAnswers],
    *,
    atol: float,
    threshold: float = 0.5,
    numeric_names: Sequence[str] = (),
    categorical_names: Sequence[str] = (),
) -> ParityReport:
    """Compare what a replica answered with what the trainer's own evaluation recorded.

    Features must be equal to the bit at every batch size. Predictions must be equal to the bit at the batch
    size of ``expected``, and within ``atol`` at others, because matrix products round differently by shape.
    Decisions must be equal wherever the expected prediction lies further than ``atol`` from the border.

    Args:
        expected: The recorded answers; ``batch_size`` is the one they were computed with (0: not known).
        got: The replica's answers, one for each batch size.
        threshold: Probability from which a binary prediction decides for the positive class.
        numeric_names: Names of the numeric features, to name the one that differs.
    """
    batches = []
    for answers in got:
        differs = _compare_features("numeric", expected.numeric, answers.numeric, numeric_names)
        differs = differs or _compare_features(
            "categorical", expected.categorical, answers.categorical, categorical_names
        )
        batches.append(_judge_batch(task, expected, answers, differs, atol=atol, threshold=threshold))
    problem = next((f"batch size {batch.batch_size}: {batch.problem}" for batch in batches if batch.problem), "")
    if not got or len(expected.values) == 0:
        problem = "no rows were compared"
    return ParityReport(len(expected.values), atol, tuple(batches), passed=not problem, problem=problem)


def _judge_batch(
    task: Task, expected: ServedAnswers, got: ServedAnswers, differs: str, *, atol: float, threshold: float
) -> BatchParity:
    wanted, values = (np.asarray(answers.values, dtype=np.float64) for answers in (expected, got))
    same_shape = got.batch_size == expected.batch_size
    if wanted.shape != values.shape:
        problem = f"{values.shape} predictions for {wanted.shape}"
        return BatchParity(got.batch_size, not differs, False, same_shape, np.nan, False, differs or problem)
    distance = np.abs(wanted - values)
    largest = float(distance.max(initial=0.0))
    exact = bool(_same_bits(wanted, values).all())
    flipped = _flipped_decisions(task, wanted, values, atol=atol, threshold=threshold)
    problem = differs
    if not problem and not largest <= atol:
        row = int(np.argmax(distance.reshape(len(distance), -1).max(axis=1)))
        problem = f"predictions differ by up to {largest:.3g} (row {row}), more than {atol:g}"
    if not problem and same_shape and not exact:
        problem = f"predictions differ by up to {largest:.3g} at the batch size they were recorded with"
    if not problem and len(flipped):
        problem = f"{len(flipped)} decisions differ, first in row {flipped[0]}"
    return BatchParity(got.batch_size, not differs, exact, same_shape, largest, not len(flipped), problem)


def summarise_load(latencies_ms: Sequence[float], *, failures: int, memory_mb: float, start_s: float) -> LoadReport:
    """Sum up the latencies of the requests that were answered; NaN quantiles when none was."""
    answered = np.asarray(latencies_ms, dtype=np.float64)
    p50, p99 = np.quantile(answered, [0.5, 0.99], method="higher") if len(answered) else (np.nan, np.nan)
    return LoadReport(len(answered) + failures, failures, float(p50), float(p99), memory_mb, start_s)


def judge_replay(
    task: Task, values: Floats, logged: Floats, *, threshold: float = 0.5, logged_threshold: float | None = None
) -> ReplayReport:
    """Compare the candidate's answers to logged rows with what was answered then.

    Args:
        values: The candidate's predictions, [n] or [n, k]; NaN for a row that it failed on.
        logged: The predictions in the log, in the same layout.
        logged_threshold: The decision border of the version that answered; None means the candidate's.
    """
    broken = find_invalid(task, values)
    kept = ~broken
    if not kept.any():
        return ReplayReport(len(values), int(broken.sum()), 0, np.nan, np.nan)
    distance = np.abs(values[kept] - logged[kept])
    border = threshold if logged_threshold is None else logged_threshold
    changed = decide_rows(task, values[kept], threshold) != decide_rows(task, logged[kept], border)
    changes = 0 if task == "regression" else int(changed.sum())
    return ReplayReport(len(values), int(broken.sum()), changes, float(distance.mean()), float(distance.max()))


def _compare_features(kind: str, expected: np.ndarray | None, got: np.ndarray | None, names: Sequence[str]) -> str:
    if expected is None or got is None:
        return f"{kind} features were not measured"
    if expected.shape != got.shape:
        return f"{kind} features {got.shape}, expected {expected.shape}"
    rows, columns = np.nonzero(~_same_bits(expected, got))
    if not len(rows):
        return ""
    row, column = int(rows[0]), int(columns[0])
    name = names[column] if column < len(names) else f"{kind} {column}"
    count = int((columns == column).sum())
    values = f"{float(got[row, column]):.9g} instead of {float(expected[row, column]):.9g}"
    return f"feature {name!r} differs in {count} rows, first in row {row}: {values}"


def _same_bits(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Equal as 64-bit floats, to the bit; NaN equals NaN. Nothing is rounded to 32 bits before."""
    left, right = (np.ascontiguousarray(values, dtype=np.float64) for values in (first, second))
    same: np.ndarray = (left.view(np.int64) == right.view(np.int64)) | (np.isnan(left) & np.isnan(right))
    return same


def _flipped_decisions(task: Task, expected: Floats, got: Floats, *, atol: float, threshold: float) -> np.ndarray:
    """Return the rows whose decision differs although they do not lie on the border."""
    if task == "regression":
        return np.zeros(0, dtype=np.int64)
    if task == "binary":
        clear = np.abs(expected - threshold) > atol
    else:
        ranked = np.sort(expected, axis=1)
        clear = ranked[:, -1] - ranked[:, -2] > 2 * atol if expected.shape[1] > 1 else np.zeros(len(expected), bool)
    return np.flatnonzero((decide_rows(task, expected, threshold) != decide_rows(task, got, threshold)) & clear)


def _nan_first(value: float) -> float:
    return np.inf if np.isnan(value) else value
