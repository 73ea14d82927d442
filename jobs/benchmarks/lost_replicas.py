"""What callers see when the gateway's replicas are killed, one after the other, while others answer.

Requests that a dead replica held fail at once. HAProxy gives none of them to another: one that kills its replica
would be given to all. ``ray_mlops.Client`` sends predictions once more under the same ids: they must all be answered.
"""

import os
import signal
import threading
import time
from collections.abc import Mapping
from typing import Any

from jobs.benchmarks.closed_loop import ClosedLoop
from jobs.benchmarks.faults import BODY
from jobs.benchmarks.figures import Figure, Report
from jobs.benchmarks.options import Options
from jobs.benchmarks.processor_time import title_of
from jobs.benchmarks.workbench import MODEL, ROW, Workbench, workbench
from ray_mlops.errors import RayMLOpsError
from ray_mlops.runtime.files import Files
from ray_mlops.serving.client import Client
from ray_mlops.serving.prediction_log.files import read_predictions

CALLERS, REPLICAS = 12, 2
SETTLE_S, RECOVER_S = 5.0, 12.0
"""Time before a kill, and after it: until the replica is replaced."""
REPLICA = "ServeReplica:gateway:Gateway"
_LOGGED_S = 5.0


def measure(options: Options, report: Report) -> None:
    """Kill replicas beside callers of both kinds."""
    kills = 1 if options.quick else 5
    serving = {"num_replicas": REPLICAS, "cpus_per_replica": 0.5}
    with workbench(
        options.directory / "lost", factory="jobs.benchmarks.mlp:perceptron", versions=1, serving=serving
    ) as bench:
        with Callers(bench) as callers:
            _kill(bench, kills)
        with ClosedLoop(bench.port, f"/models/{MODEL}/predict", BODY, CALLERS) as loop:
            _kill(bench, kills)
        time.sleep(_LOGGED_S)
        logged = read_predictions(Files(bench.config.store.root_uri), MODEL)["prediction_id"].to_pylist()
    ours: Mapping[str, Any] = {"answered": len(callers.answered), "failed": len(callers.failures)}
    report.tables[f"{kills} of {REPLICAS} replicas killed one by one, {CALLERS} requests under way"] = [
        {"caller": "ray_mlops.Client", **ours, "failures": "; ".join(callers.failures)[:120]},
        {
            "caller": "any other",
            "answered": loop.result.requests - loop.result.failed,
            "failed": loop.result.failed,
            "failures": "; ".join(loop.result.examples)[:120],
        },
    ]
    lost = len(callers.answered - set(logged))
    detail = (
        f"of {ours['answered']} calls beside {kills} kills; {lost} rows died with a replica before they were written"
    )
    report.figures.append(Figure("lost_replica_failures", float(ours["failed"]), at_most=0.0, detail=detail))


class Callers:
    """Clients in threads, from entering the block until it is left.

    Attributes:
        answered: Prediction ids.
        failures: What was raised.
    """

    def __init__(self, bench: Workbench) -> None:
        self.answered: set[str] = set()
        self.failures: list[str] = []
        self._bench, self._stop = bench, threading.Event()
        self._threads = [threading.Thread(target=self._call, name=f"caller-{i}") for i in range(CALLERS)]

    def __enter__(self) -> "Callers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _call(self) -> None:
        with Client(self._bench.url, MODEL) as client:
            while not self._stop.is_set():
                try:
                    self.answered.update(client.predict([ROW])["ids"])
                except RayMLOpsError as error:
                    self.failures.append(str(error))


def _kill(bench: Workbench, times: int) -> None:
    for _ in range(times):
        time.sleep(SETTLE_S)
        replicas = [record.pid for record in bench.processes() if title_of(record.pid) == REPLICA]
        if len(replicas) < REPLICAS:
            raise RuntimeError(f"{len(replicas)} replicas run, not {REPLICAS}: the last was not replaced")
        os.kill(min(replicas), signal.SIGKILL)
        time.sleep(RECOVER_S)
