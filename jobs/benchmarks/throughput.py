"""Requests a second and processor time of a request, ours against others, in one interleaved run."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jobs.benchmarks.figures import Figure, Report
from jobs.benchmarks.load import Load, Target, drive, interleave, measure_idle, ratio
from jobs.benchmarks.options import Options
from jobs.benchmarks.peers import PeerError, running_peer
from jobs.benchmarks.processor_time import ProcessorTime
from jobs.benchmarks.workbench import BODY, MODEL, Workbench, workbench

LIMITS = {"fastapi": 0.8, "stock_serve": 12.0, "litserve": 3.0, "bentoml": 6.0, "mlflow": 4.0}
BARE_KEYS = ("rps_vs_bare", "cpu_vs_bare", "cpu_vs_bare_canary10")
GUARDS = ("errors", "latency", "latency_slo", "score_shift", "sample_ratio")
ROLLOUT = {
    **{"auto_start": False, "steps": [0.1, 0.5], "min_requests": 1_000_000_000},
    "guards": {"dry_run": list(GUARDS)},
}
"""Stays where it is put: guards are computed, as always, and shown in the end, but none acts. (Loss has no labels.)"""


@dataclass(frozen=True, slots=True)
class Pace:
    """How long to measure."""

    rounds: int
    seconds: float

    @classmethod
    def of(cls, quick: bool) -> "Pace":
        return cls(2, 3.0) if quick else cls(5, 10.0)


def measure(options: Options, report: Report) -> None:
    """Measure the figures that are wanted."""
    pace = Pace.of(options.quick)
    with workbench(options.directory / "mlp", factory="jobs.benchmarks.mlp:perceptron", rollout=ROLLOUT) as bench:
        ours = our_target(bench)
        bench.rollout("start", version="2")
        bench.wait_for("shadow")
        if options.wants(BARE_KEYS):
            with _bare(bench) as bares:
                _against_bare(report, options.keys, [ours, *bares], pace, bench)
        for name, limit in LIMITS.items():
            if options.wants({f"rps_vs_{name}"}):
                _against_peer(report, name, limit, ours, options.environments, pace)


def our_target(bench: Workbench) -> Target:
    idle = measure_idle(bench.processes, 3.0)
    return Target("ours", bench.port, f"/models/{MODEL}/predict", BODY, bench.processes, idle)


@contextmanager
def _bare(bench: Workbench) -> Iterator[list[Target]]:
    """Two bare deployments on the same cluster, behind the same ingress."""
    # Ray must not be imported before the cluster's environment is set.
    from ray import serve

    from jobs.benchmarks.bare_serve import bare_application, bare_asgi_application
    from ray_mlops.serving.serve_apps import run_app

    cpus, places = bench.config.serving.cpus_per_replica, bench.config.serving.max_ongoing_requests
    run_app(bare_application(cpus, places), "bare", "/bare", 60.0)
    run_app(bare_asgi_application(cpus, places), "bare-asgi", "/bare-asgi", 60.0)
    idle = measure_idle(bench.processes, 3.0)
    try:
        yield [
            Target("bare", bench.port, "/bare", BODY, bench.processes, idle),
            Target("bare, raw ASGI", bench.port, "/bare-asgi", BODY, bench.processes, idle),
        ]
    finally:
        serve.delete("bare")
        serve.delete("bare-asgi")


def _against_bare(
    report: Report, keys: frozenset[str], targets: Sequence[Target], pace: Pace, bench: Workbench
) -> None:
    ours, bare, raw = targets
    ours = replace(ours, idle_cpu=bare.idle_cpu)
    loads = interleave([ours, bare, raw], pace.rounds, pace.seconds)
    rows = table(loads)
    if "rps_vs_bare" in keys:
        report.figures.append(_ratio("rps_vs_bare", _rps(loads["ours"]), _rps(loads["bare"]), at_least=0.95))
    if "cpu_vs_bare" in keys:
        report.figures.append(_ratio("cpu_vs_bare", _cpu(loads["ours"]), _cpu(loads["bare"]), at_most=1.15))
    if "cpu_vs_bare_canary10" in keys:
        bench.rollout("rollback", reason="the shadow was measured")
        bench.wait_for("rolled_back")
        bench.rollout("start", version="2", skip_shadow=True)
        bench.wait_for("canary[0]")
        split = replace(ours, name="ours, 10 % isolated")
        canary = interleave([split, bare], pace.rounds, pace.seconds)
        found = canary[split.name]
        rows.append(_row(split.name, found))
        report.tables["where it goes with 10 % isolated, us a request"] = _by_process([split, bare], pace.seconds)
        report.figures.append(_ratio("cpu_vs_bare_canary10", _cpu(found), _cpu(canary["bare"]), at_most=1.6))
        report.tables["what the guards said to 10 % of the same model"] = _verdicts(bench.view())
        bench.rollout("rollback", reason="the canary was measured")
        bench.wait_for("rolled_back")
        bench.rollout("start", version="2")
        bench.wait_for("shadow")
    report.tables["against bare Ray Serve with the same settings, in one cluster"] = rows
    report.tables["where the processor time goes, us a request"] = _by_process([ours, bare], pace.seconds)


def _against_peer(report: Report, name: str, limit: float, ours: Target, environments: Path, pace: Pace) -> None:
    key = f"rps_vs_{name}"
    try:
        with running_peer(name, environments) as peer:
            loads = interleave([ours, peer], pace.rounds, pace.seconds)
    except PeerError as error:
        report.figures.append(Figure(key, None, at_least=limit, detail=str(error)))
        return
    report.tables[f"against {name}"] = table(loads)
    report.figures.append(_ratio(key, _rps(loads["ours"]), _rps(loads[peer.name]), at_least=limit))


def _ratio(key: str, ours: Sequence[float], theirs: Sequence[float], **limit: float) -> Figure:
    middle, least, most = ratio(ours, theirs)
    detail = f"{statistics.median(ours):.0f} / {statistics.median(theirs):.0f}, range {least:.2f} to {most:.2f}"
    return Figure(key, middle, detail=detail, **limit)


def _rps(loads: Sequence[Load]) -> list[float]:
    return [load.rps for load in loads]


def _cpu(loads: Sequence[Load]) -> list[float]:
    return [load.cpu_us for load in loads]


def _verdicts(view: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    names = ("name", "question", "verdict", "log_e", "threshold", "detail")
    return [{name: verdict[name] for name in names} for verdict in view["guards"]]


def _by_process(targets: Sequence[Target], seconds: float) -> list[Mapping[str, Any]]:
    """Processor time of each process under the load of each target; idle time is in it."""
    found: dict[str, dict[str, float]] = {}
    for target in targets:
        used = ProcessorTime(target.processes)
        requests = drive(target, seconds).rps * seconds
        for name, spent_s in used.by_name().items():
            found.setdefault(name, {})[target.name] = spent_s / requests * 1e6
    ranked = sorted(found.items(), key=lambda item: -max(item[1].values()))[:12]
    return [
        {"process": name, **{target.name: f"{spent.get(target.name, 0.0):.0f}" for target in targets}}
        for name, spent in ranked
    ]


def table(loads: Mapping[str, Sequence[Load]]) -> list[Mapping[str, Any]]:
    return [_row(name, found) for name, found in loads.items()]


def _row(name: str, loads: Sequence[Load]) -> Mapping[str, Any]:
    rates = _rps(loads)
    return {
        "server": name,
        "requests/s": f"{statistics.median(rates):.0f}",
        "range": f"{min(rates):.0f}..{max(rates):.0f}",
        "cpu us": f"{statistics.median(_cpu(loads)):.0f}",
        "p50 ms": f"{statistics.median(load.p50_ms for load in loads):.2f}",
        "failed": sum(load.failed for load in loads),
    }
