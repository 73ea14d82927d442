"""How long a change of weight takes until every replica routes by it, seen from outside."""

import http.client
import statistics
import threading
import time

import numpy as np

from jobs.benchmarks.figures import Figure, Report
from jobs.benchmarks.options import Options
from jobs.benchmarks.workbench import BODY, MODEL, Workbench, workbench

REPLICAS = 4
LIMIT_MS = 100.0
TIMEOUT_S = 10.0
SERVING = {"num_replicas": REPLICAS, "cpus_per_replica": 0.1}


def measure(options: Options, report: Report) -> None:
    """Change a weight many times, and watch the route version in the answers of all replicas."""
    changes = 20 if options.quick else 200
    quiet = {"auto_start": False}
    with workbench(
        options.directory / "weights", factory="jobs.benchmarks.mlp:perceptron", serving=SERVING, rollout=quiet
    ) as bench:
        times_ms = _change(bench, changes)
    last = float(np.quantile(times_ms, 0.99))
    detail = (
        f"p99 of {changes} changes over {REPLICAS} replicas: median {statistics.median(times_ms):.1f}, "
        f"longest {max(times_ms):.1f}; from before the commit until the last old answer was asked for"
    )
    report.figures.append(Figure("weight_change_ms", last, at_most=LIMIT_MS, detail=detail))


def _change(bench: Workbench, changes: int) -> list[float]:
    # Ray must not be imported before the cluster's environment is set.
    import ray

    from ray_mlops.ledger import Ledger, current_routes
    from ray_mlops.serving.protocol import ModelRoutes
    from ray_mlops.serving.routes import commit_routes, start_routes

    ledger, publisher = Ledger.open(bench.config.store), start_routes(bench.config.store)
    times_ms = []
    with Watch(bench.port) as watch:
        for number in range(changes):
            routes = ModelRoutes.from_json(current_routes(ledger)["models"][MODEL])
            # The salt is what a weight is to a replica: a field of the routes. Without a candidate nothing else moves.
            wanted = ModelRoutes.from_json({**routes.to_json(), "salt": number + 1})
            start = time.perf_counter()
            committed = commit_routes(ledger, wanted, expect_version=routes.version)
            ray.get(publisher.publish.remote(), timeout=TIMEOUT_S)
            time.sleep(0.3)
            times_ms.append((watch.last_before(committed.version, start) - start) * 1e3)
    return times_ms


class Watch:
    """Asks all the time, on several connections so that every replica is asked, and notes the route versions."""

    def __init__(self, port: int, connections: int = 8) -> None:
        self._port, self._stop = port, threading.Event()
        self._seen: list[tuple[float, int]] = []
        self._failures: list[str] = []
        self._threads = [threading.Thread(target=self._ask) for _ in range(connections)]

    def __enter__(self) -> "Watch":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def last_before(self, version: int, since: float) -> float:
        """When the last request was sent that was still answered by older routes; ``since`` if there was none.

        Raises:
            RuntimeError: A request failed: whoever does not ask any more sees nothing old, either.
        """
        if self._failures:
            raise RuntimeError(f"{len(self._failures)} of the watchers failed, the first: {self._failures[0]}")
        return max((sent for sent, seen in list(self._seen) if seen < version and sent >= since), default=since)

    def _ask(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=TIMEOUT_S)
        headers = {"content-type": "application/json"}
        try:
            while not self._stop.is_set():
                sent = time.perf_counter()
                connection.request("POST", f"/models/{MODEL}/predict", BODY, headers)
                answer = connection.getresponse()
                text = answer.read()
                if answer.status != 200:
                    self._failures.append(f"{answer.status} {text[:200]!r}")
                    return
                self._seen.append((sent, int(answer.headers["x-route-version"])))
                time.sleep(0.001)
        except (OSError, http.client.HTTPException) as error:
            self._failures.append(repr(error))
        finally:
            connection.close()
