"""The default model under the same load as the benchmark's own: a second row without limits."""

from dataclasses import replace

from jobs.benchmarks.figures import Report
from jobs.benchmarks.load import interleave
from jobs.benchmarks.options import Options
from jobs.benchmarks.throughput import ROLLOUT, Pace, our_target, table
from jobs.benchmarks.workbench import workbench


def measure(options: Options, report: Report) -> None:
    """Load a service whose champion is ``ray_mlops.training.models:tabular``."""
    pace = Pace.of(options.quick)
    factory = "ray_mlops.training.models:tabular"
    with workbench(options.directory / "tabular", factory=factory, rollout=ROLLOUT) as bench:
        loads = interleave([replace(our_target(bench), name="ours, tabular")], pace.rounds, pace.seconds)
    report.tables["the default tabular model, without limits"] = table(loads)
