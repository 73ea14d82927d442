"""One loaded version: predicts, says how long that took, and keeps long work off the event loop."""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import torch

from ray_mlops.errors import BundleError
from ray_mlops.training.bundle import ModelBundle, Prediction

Result = TypeVar("Result")
INLINE_LIMIT_S = 0.001
"""A prediction that is expected to take longer runs in a thread of its own, so that health checks go on."""
WARM_UP_ROWS = (1, 64)
WARM_UP_ROUNDS = 3
CHECK_ROWS = 64


@dataclass(frozen=True, slots=True)
class Answer:
    """A prediction, and the time inside the predictor call: no queue, no hop, no wait for a thread."""

    prediction: Prediction
    seconds: float


class Predictor:
    """Predicts with one bundle, in this process.

    Args:
        bundle: The loaded version.

    Attributes:
        bundle: As given.
        schema: Raw inputs with their Arrow types.
        required: Inputs that a row must have.
    """

    def __init__(self, bundle: ModelBundle) -> None:
        self.bundle = bundle
        self.schema: pa.Schema = bundle.features.input_schema()
        self.required = frozenset(column.name for column in bundle.features.columns if column.required)
        # Never shut down: a request that began under an older table may still need it. The thread ends with us.
        self._thread = ThreadPoolExecutor(1, "predictor")
        self._base_s, self._row_s = INLINE_LIMIT_S, 0.0

    def predict_rows(self, rows: Sequence[dict[str, Any]]) -> Prediction:
        """Predict JSON-like rows; keys that are no inputs are ignored.

        Raises:
            FeatureError: A value has the wrong type, or a column is missing.
        """
        return self.bundle.predict(rows)

    def predict_table(self, table: pa.Table) -> Prediction:
        """Predict an Arrow table.

        Raises:
            FeatureError: A value has the wrong type, or a column is missing.
        """
        return self.bundle.predict(table)

    async def answer(self, rows: Sequence[dict[str, Any]]) -> Answer:
        """Predict rows from the event loop: at once if that is quick, else in this version's own thread.

        Raises:
            FeatureError: A value has the wrong type, or a column is missing.
        """
        if self.is_quick(len(rows)):
            return self._timed(rows)
        return await self.run_apart(self._timed, rows)

    async def run_apart(self, work: Callable[..., Result], *arguments: Any) -> Result:
        """Run something in this version's own thread; its predictions never run two at once."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)

    def is_quick(self, num_rows: int) -> bool:
        """Whether so many rows are expected to take less than ``INLINE_LIMIT_S``, by the warm-up's timing."""
        return self._base_s + num_rows * self._row_s < INLINE_LIMIT_S

    def warm_up(self) -> None:
        """Run the bundle's parity rows a few times, and measure how long a call and a row take.

        Sets torch to one thread, in the whole process: replicas share a machine, and small matrices lose
        more by waiting for threads than they win.
        """
        torch.set_num_threads(1)
        rows = self.bundle.parity.rows.slice(0, WARM_UP_ROWS[-1]).to_pylist()
        if not rows:
            return
        small, large = (min(self._best_s(rows[:count]) for _ in range(WARM_UP_ROUNDS)) for count in WARM_UP_ROWS)
        extra = len(rows) - 1
        self._row_s = max(0.0, (large - small) / extra) if extra else small
        self._base_s = max(0.0, small - self._row_s)

    def self_check(self, atol: float) -> None:
        """Predict some of the bundle's parity rows and compare with what it must give.

        Raises:
            BundleError: They differ by more than ``atol`` (and a relative 1e-5), or are not finite.
        """
        parity = self.bundle.parity
        rows = parity.rows.slice(0, CHECK_ROWS).to_pylist()
        if not rows:
            return
        got, wanted = self.predict_rows(rows).values, parity.values[: len(rows)]
        if not np.allclose(got, wanted, rtol=1e-5, atol=atol):
            worst = float(np.max(np.abs(got - wanted)))
            remedy = "was it made with another version of torch? train it anew"
            raise BundleError(f"parity predictions differ by up to {worst:.3g}", self.bundle.name, remedy)

    def fault(self, prediction: Prediction, num_rows: int) -> str:
        """Say what is wrong with a prediction; empty when nothing is."""
        values = prediction.values
        shape = (num_rows, len(self.bundle.classes)) if self.bundle.task == "multiclass" else (num_rows,)
        if (prediction.task, prediction.classes) != (self.bundle.task, self.bundle.classes):
            return f"is of task {prediction.task} with classes {prediction.classes}"
        if values.shape != shape:
            return f"has shape {values.shape}, not {shape}"
        if not np.isfinite(values).all():
            return "is not finite"
        if self.bundle.task != "regression" and not ((values >= 0.0) & (values <= 1.0)).all():
            return "is no probability"
        return ""

    def _timed(self, rows: Sequence[dict[str, Any]]) -> Answer:
        start = time.perf_counter()
        prediction = self.predict_rows(rows)
        return Answer(prediction, time.perf_counter() - start)

    def _best_s(self, rows: Sequence[dict[str, Any]]) -> float:
        self._timed(rows)
        return self._timed(rows).seconds
