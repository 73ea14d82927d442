"""One loaded version: predicts, says how long that took, and keeps long work off the event loop."""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import isfinite
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import torch

from ray_mlops.config.data import Scalar, Task
from ray_mlops.data.features import FeatureMatrix
from ray_mlops.errors import BundleError
from ray_mlops.serving.batching import MicroBatcher, ThreadBatcher
from ray_mlops.training.bundle import CHUNK_ROWS, ModelBundle, Prediction
from ray_mlops.training.objective import to_values

Result = TypeVar("Result")
INLINE_LIMIT_S = 0.001
"""A prediction that is expected to take longer runs in a thread of its own, so that health checks go on."""
BATCH_LIMIT_S = 0.01
"""What the rows of others may add to a prediction in the thread, or as much as a call costs anyway."""
WARM_UP_ROWS = (1, 64)
WARM_UP_ROUNDS = 3
CHECK_ROWS = 64


@dataclass(slots=True)
class Answer:
    """A prediction, and the time inside the predictor call: no queue, no hop, no wait for a thread.

    Not frozen, as nothing that is made for each request: that would cost half a microsecond.
    """

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
        self._task, self._classes = bundle.task, bundle.classes
        self._is_direct = all(tensor.device.type == "cpu" for tensor in bundle.model.parameters())
        # Never shut down: a request that began under an older table may still need it. The thread ends with us.
        self._thread = ThreadPoolExecutor(1, "predictor")
        self._base_s, self._row_s = INLINE_LIMIT_S, 0.0
        self._batcher = MicroBatcher(self.predict_rows, self.is_quick)
        self._apart = ThreadBatcher(self.predict_rows, self.run_apart, self._is_patient)

    def predict_rows(self, rows: Sequence[dict[str, Any]]) -> Prediction:
        """Predict JSON-like rows; keys that are no inputs are ignored.

        Raises:
            FeatureError: A value has the wrong type, or a column is missing.
        """
        features = self.bundle.features.transform_rows(rows)
        if len(rows) > CHUNK_ROWS or not self._is_direct:
            return self.bundle.predict_matrix(features)
        return self._predict_directly(features)

    def predict_table(self, table: pa.Table) -> Prediction:
        """Predict an Arrow table.

        Raises:
            FeatureError: A value has the wrong type, or a column is missing.
        """
        return self.bundle.predict(table)

    async def answer(self, rows: Sequence[dict[str, Any]]) -> Answer:
        """Predict rows from the event loop: at once (or with others) if that is quick, else in its own thread.

        Raises:
            FeatureError: A value has the wrong type, or a column is missing.
        """
        batcher = self._batcher if self.is_quick(len(rows)) else self._apart
        prediction, seconds = await batcher.predict(rows)
        return Answer(prediction, seconds)

    async def run_apart(self, work: Callable[..., Result], *arguments: Any) -> Result:
        """Run something in this version's own thread; its predictions never run two at once."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)

    def is_quick(self, num_rows: int) -> bool:
        """Whether so many rows are expected to take less than ``INLINE_LIMIT_S``, by the warm-up's timing."""
        return self._base_s + num_rows * self._row_s < INLINE_LIMIT_S

    def _is_patient(self, num_rows: int) -> bool:
        """Whether so many rows may be predicted together in the thread."""
        return num_rows * self._row_s < max(self._base_s, BATCH_LIMIT_S)

    def warm_up(self) -> None:
        """Run the bundle's parity rows a few times, and measure how long a call and a row take.

        Torch predicts on one thread: replicas share a machine, small matrices lose more by waiting for threads
        than they win, and a product that is split over threads rounds differently.
        """
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
        return find_fault(prediction, num_rows, self._task, self._classes)

    def _predict_directly(self, features: FeatureMatrix) -> Prediction:
        """What ``ModelBundle.predict_matrix`` computes, to the bit, without what one batch on the CPU does not need.

        For one row that was half of the time: looking up the device, chunks, contiguous copies, the threads.
        """
        manifest = self.bundle.manifest
        if torch.get_num_threads() != 1:
            torch.set_num_threads(1)  # holds for the thread that says it: changing it for each call takes 15 us
        with torch.inference_mode():
            outputs = self.bundle.model(torch.from_numpy(features.numeric), torch.from_numpy(features.categorical))
        numbers = outputs.numpy().astype(np.float64)
        values = to_values(
            self._task,
            numbers,
            manifest.temperature,
            manifest.target_mean,
            manifest.target_scale,
            manifest.shift,
        )
        return Prediction(self._task, values, self._classes, manifest.threshold)

    def _timed(self, rows: Sequence[dict[str, Any]]) -> Answer:
        start = time.perf_counter()
        prediction = self.predict_rows(rows)
        return Answer(prediction, time.perf_counter() - start)

    def _best_s(self, rows: Sequence[dict[str, Any]]) -> float:
        self._timed(rows)
        return self._timed(rows).seconds


def find_fault(prediction: Prediction, num_rows: int, task: Task, classes: tuple[Scalar, ...]) -> str:
    """Say what is wrong with a prediction for so many rows of a task; empty when nothing is."""
    values = prediction.values
    if prediction.task != task or prediction.classes != classes:
        return f"is of task {prediction.task} with classes {prediction.classes}"
    if num_rows == 1 and task != "multiclass" and values.shape == (1,):  # numpy takes longer than a number has
        number = float(values.item())
        is_finite, is_probability = isfinite(number), task == "regression" or 0.0 <= number <= 1.0
    else:
        shape = (num_rows, len(classes)) if task == "multiclass" else (num_rows,)
        if values.shape != shape:
            return f"has shape {values.shape}, not {shape}"
        is_finite = bool(np.isfinite(values).all())
        is_probability = task == "regression" or bool(((values >= 0.0) & (values <= 1.0)).all())
    if not is_finite:
        return "is not finite"
    return "" if is_probability else "is no probability"
