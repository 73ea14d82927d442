"""Epochs on their way from Ray Train's controller to the process that waits for the run.

A module of its own, so that the actor's process imports nothing else: torch alone is 150 MB.
"""

from typing import Any

import ray


class _EpochLog:
    def __init__(self) -> None:
        self._records: list[dict[str, Any]] = []

    def add(self, record: dict[str, Any]) -> None:
        self._records.append(record)

    def since(self, position: int) -> list[dict[str, Any]]:
        return self._records[position:]


EpochLog = ray.remote(num_cpus=0)(_EpochLog)
