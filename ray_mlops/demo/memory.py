"""The demo's peak memory, sampled: proportional set size of the cluster's processes and our own."""

import os
import threading
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from ray_mlops.config import StoreConfig
from ray_mlops.runtime.cluster import cluster_status

_PERIOD_S = 2.0


def read_pss_bytes(pids: Iterable[int]) -> int:
    """Sum the proportional set sizes of processes; those that are gone count nothing (Linux)."""
    total_kb = 0
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
        except OSError:
            continue
        total_kb += next((int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")), 0)
    return total_kb * 1024


class PeakMemory:
    """Samples while it is open; ``bytes`` is the greatest sample."""

    def __init__(self, store: StoreConfig) -> None:
        self._store = store
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="peak-memory", daemon=True)
        self.bytes = 0

    def _sample(self) -> None:
        while not self._stop.wait(_PERIOD_S):
            pids = [process.pid for process in cluster_status(self._store).processes]
            self.bytes = max(self.bytes, read_pss_bytes([os.getpid(), *pids]))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(timeout=2 * _PERIOD_S)
