"""The serving benchmark: speed against others, what a request costs, and how well rollouts decide.

    python jobs/benchmarks/serving.py [--quick] [--json PATH] [--only KEY,...] [--environments DIRECTORY]

Prints a table and writes ``{"figures": {key: value}, "environment": {...}}``. Needs ``wrk`` (Debian:
``apt-get install wrk``); without it our own, slower client loads.
"""

from jobs.benchmarks.suite import run_suite

PARTS: dict[str, tuple[str, ...]] = {
    "jobs.benchmarks.operating_characteristics": (
        *("false_rollback", "false_promotion", "requests_to_rollback"),
        *("false_rollback_slices", "false_rollback_loss"),
        *("requests_to_rollback_slice", "requests_to_rollback_slice_without"),
    ),
    "jobs.benchmarks.hot_path": ("hot_path_us",),
    "jobs.benchmarks.throughput": (
        *("rps_vs_bare", "cpu_vs_bare", "cpu_vs_bare_canary10"),
        *("rps_vs_stock_serve", "rps_vs_fastapi", "rps_vs_litserve", "rps_vs_bentoml", "rps_vs_mlflow"),
    ),
    "jobs.benchmarks.tabular": (),
    "jobs.benchmarks.weight_changes": ("weight_change_ms",),
    "jobs.benchmarks.faults": ("failed_requests",),
    "jobs.benchmarks.lost_replicas": ("lost_replica_failures",),
}


if __name__ == "__main__":
    run_suite(__doc__, PARTS)
