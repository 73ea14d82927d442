"""Join or start Ray for one command. Orchestration is imported only afterwards, inside the commands:
Ray reads its environment when it is imported."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from ray_mlops.config import ProjectConfig
from ray_mlops.runtime.cluster import Connection, connect


@contextmanager
def session(
    config: ProjectConfig, start: Literal["if_needed", "never"] = "if_needed", *, keep: bool = False
) -> Iterator[Connection]:
    """Connect; on the way out, stop a cluster that this very command has started.

    Args:
        config: Says which cluster.
        start: Whether a cluster may be started when none is there.
        keep: Leave a cluster that was started running.
    """
    quiet_libraries()
    with connect(config, start=start, keep=keep) as connection:
        yield connection


def quiet_libraries() -> None:
    """Leave the terminal to our own progress, unless the user has said otherwise in the environment."""
    wanted = {
        "RAY_DATA_LOG_LEVEL": "WARNING",
        "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
        "RAY_AIR_NEW_OUTPUT": "0",
        "RAY_SERVE_LOG_TO_STDERR": "0",
    }
    for name, value in wanted.items():
        os.environ.setdefault(name, value)
    for name in ("httpx", "alembic", "optuna.study.study", "optuna.storages._in_memory"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)
    for name in ("ray.data._internal.execution.streaming_executor_state", "ray.data.exceptions"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # they announce errors that are raised anyway
    logging.getLogger("ray.serve").addFilter(_is_warning)  # Serve sets its level and handlers anew when it is imported


def _is_warning(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING
