"""An arm's replies on their way between processes: as plain values, the cheapest thing to pickle."""

from collections.abc import Sequence

import numpy as np

from ray_mlops.config.data import Scalar, Task
from ray_mlops.errors import RayMLOpsError
from ray_mlops.serving.predictor import Answer
from ray_mlops.training.prediction import Prediction

Head = tuple[Task, tuple[Scalar, ...], float]
"""What all predictions of a version have in common: task, classes, threshold."""
Packed = tuple[Head | None, list[tuple[bytes, tuple[int, ...], float] | RayMLOpsError]]
"""The common part (None without any prediction), and for each request doubles, their shape and seconds, or an error."""


def packed(replies: Sequence[Answer | BaseException]) -> Packed:
    """Pack what a predictor gave for each request; what is no error of ours is told by its name and text.

    Raises:
        BaseException: What is no ``Exception``: the process is ending.
    """
    head: Head | None = None
    parts: list[tuple[bytes, tuple[int, ...], float] | RayMLOpsError] = []
    for reply in replies:
        if isinstance(reply, Answer):
            prediction = reply.prediction
            head = prediction.task, prediction.classes, prediction.threshold
            values = np.ascontiguousarray(prediction.values, dtype=np.float64)
            parts.append((values.tobytes(), values.shape, reply.seconds))
        elif isinstance(reply, RayMLOpsError):
            parts.append(reply)
        elif isinstance(reply, Exception):
            parts.append(RayMLOpsError(f"{type(reply).__name__}: {reply}"))
        else:
            raise reply
    return head, parts


def unpacked(content: Packed) -> list[Answer | Exception]:
    """Undo ``packed``.

    Example:
        >>> answer = Answer(Prediction("regression", np.array([1.5, 2.5])), 0.25)
        >>> first, second = unpacked(packed([answer, ZeroDivisionError("no")]))
        >>> first.prediction.values, first.seconds, str(second)
        (array([1.5, 2.5]), 0.25, 'ZeroDivisionError: no')
    """
    head, parts = content
    replies: list[Answer | Exception] = []
    for part in parts:
        if isinstance(part, RayMLOpsError):
            replies.append(part)
            continue
        assert head is not None  # a request with values has a task
        values, shape, seconds = part
        task, classes, threshold = head
        array = np.frombuffer(values, dtype=np.float64).reshape(shape)
        replies.append(Answer(Prediction(task, array, classes, threshold), seconds))
    return replies
