"""Join or start Ray for one command. Orchestration is imported only afterwards, inside the commands:
Ray reads its environment when it is imported."""

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
    with connect(config, start=start, keep=keep) as connection:
        yield connection
