"""What clients see of faults and changes: each while a closed loop of clients asks on, for a minute each."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import orjson

from jobs.benchmarks.closed_loop import ClosedLoop, LoopResult
from jobs.benchmarks.figures import Figure, Report
from jobs.benchmarks.options import Options
from jobs.benchmarks.workbench import MODEL, ROW, Workbench, workbench

BODY = orjson.dumps({"instances": [ROW], "routing_key": "%KEY%"})
CONNECTIONS = 8
GUARDS = ("latency", "score_shift", "sample_ratio")
ROLLOUT = {
    **{"auto_start": False, "auto_promote": False, "steps": [0.1, 0.5], "min_requests": 1_000_000_000},
    **{"bake_requests": 1_000_000_000, "shadow": {"enabled": False}},
    "guards": {"dry_run": list(GUARDS)},
}


def measure(options: Options, report: Report) -> None:
    """Inflict one fault after the other."""
    switch = options.directory / "fault"
    training = {"params": {"switch": str(switch)}}
    seconds = 10.0 if options.quick else 60.0
    rows: list[Mapping[str, Any]] = []
    report.tables[f"faults under load, {seconds:.0f} s each"] = rows
    with workbench(
        options.directory / "faults",
        factory="jobs.benchmarks.breakable:breakable",
        versions=8,
        training=training,
        rollout=ROLLOUT,
        serving={"candidate_timeout_s": 2.0},
    ) as bench:
        faults = _Faults(bench, switch)
        for name, inflict in faults.all().items():
            rows.append(_row(name, _under_load(bench, inflict, seconds), faults.state()))
            faults.clear()
    failed = sum(row["failed"] for row in rows)
    detail = f"of {sum(row['requests'] for row in rows)} requests during {len(rows)} faults"
    report.figures.append(Figure("failed_requests", float(failed), at_most=0.0, detail=detail))


def _under_load(bench: Workbench, inflict: Callable[[], None], seconds: float) -> LoopResult:
    with ClosedLoop(bench.port, f"/models/{MODEL}/predict", BODY, CONNECTIONS) as loop:
        end = time.monotonic() + seconds
        time.sleep(min(2.0, seconds / 5.0))
        inflict()
        time.sleep(max(0.0, end - time.monotonic()))
    return loop.result


def _row(name: str, result: LoopResult, state: str) -> Mapping[str, Any]:
    return {
        "fault": name,
        "requests": result.requests,
        "failed": result.failed,
        "longest gap ms": round(result.longest_gap_s * 1e3, 1),
        "rollout then": state,
        "failures": "; ".join(result.examples)[:120],
    }


class _Faults:
    """Everything that is inflicted; each begins with a candidate that has 10 % of the traffic.

    Args:
        bench: The service.
        switch: The file that tells a candidate to misbehave.
    """

    def __init__(self, bench: Workbench, switch: Path) -> None:
        self._bench, self._switch = bench, switch
        self._next_version = 2

    def all(self) -> Mapping[str, Callable[[], None]]:
        """Faults by name, in the order in which they are inflicted."""
        return {
            "weight change": self._start,
            "rollback": self._roll_back,
            "promotion": self._promote,
            "rollback after promotion": self._roll_back_champion,
            "candidate crashes": lambda: self._break("crash"),
            "candidate hangs": lambda: self._break("hang"),
            "candidate fills the memory": lambda: self._break("oom"),
            "route actor killed": lambda: self._kill("routes"),
            "rollouts actor killed": lambda: self._kill("rollouts"),
            "monitor killed": lambda: self._kill("monitor"),
            "Serve controller killed": self._kill_controller,
        }

    def state(self) -> str:
        """Where the rollout stands."""
        return str(self._bench.wait_for()["state"])

    def clear(self) -> None:
        """Switch a fault off; a rollout that is under way is ended, but for the promotion, which the next undoes."""
        self._switch.unlink(missing_ok=True)
        if self.state() not in ("none", "rolled_back", "invalid", "promoted", "baking", "canary[0]"):
            self._bench.rollout("rollback", reason="the next fault")
            self._bench.wait_for("rolled_back", "invalid")

    def _start(self) -> None:
        if self.state() in ("canary[0]", "baking"):
            return
        self._bench.rollout("start", version=str(self._next_version), skip_shadow=True)
        self._next_version += 1
        self._bench.wait_for("canary[0]")

    def _roll_back(self) -> None:
        self._start()
        self._bench.rollout("rollback", reason="a fault of the benchmark")
        self._bench.wait_for("rolled_back")

    def _promote(self) -> None:
        self._start()
        self._bench.rollout("promote", reason="a fault of the benchmark")
        self._bench.wait_for("baking")

    def _roll_back_champion(self) -> None:
        self._bench.rollout("rollback", reason="a fault of the benchmark")
        self._bench.wait_for("rolled_back")

    def _break(self, fault: str) -> None:
        self._start()
        self._switch.write_text(fault, encoding="utf-8")
        self._bench.wait_for("rolled_back")

    def _kill(self, name: str) -> None:
        # Ray must not be imported before the cluster's environment is set.
        import ray

        from ray_mlops.serving.protocol import NAMESPACE

        ray.kill(ray.get_actor(name, NAMESPACE), no_restart=False)

    def _kill_controller(self) -> None:
        # Ray must not be imported before the cluster's environment is set.
        import ray

        ray.kill(ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve"), no_restart=False)
