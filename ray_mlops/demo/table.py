"""The demo's table for the terminal, and its report page."""

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from ray_mlops.config import ReplayConfig
from ray_mlops.demo.clock import BUDGET_S, TOTAL_BUDGET_S
from ray_mlops.demo.outcome import Outcome


def print_outcome(console: Console, outcome: Outcome, replay: ReplayConfig) -> None:
    """Print what happened; the same on every run."""
    sample = f"{replay.rows_per_day} rows a day at most, seed {replay.seed}, {replay.rows_per_request} rows a request"
    months = Table(title=f"The loop against never retraining ({sample})")
    for name in ("month", "rows", "versions", "AUC loop", "AUC never", "log-loss loop", "log-loss never"):
        months.add_column(name, justify="left" if name in ("month", "versions") else "right")
    for month in outcome.months:
        figures = [_figure(arm, name) for name in ("auc", "log_loss") for arm in (month.loop, month.never)]
        months.add_row(month.month, str(month.rows), month.versions, *figures)
    console.print(months)
    versions = Table(title="Versions")
    for name in ("version", "gate", "parent", "AUC", "log-loss", "bundle"):
        versions.add_column(name)
    for entry in outcome.versions:
        figures = [_figure(entry, name) for name in ("auc", "log_loss")]
        versions.add_row(entry["version"], entry["gate"], entry["parent"] or "", *figures, entry["bundle"][:12])
    console.print(versions)
    decisions = Table(title="Decisions (event day)")
    for name in ("day", "what", "why"):
        decisions.add_column(name, overflow="fold")
    for decision in outcome.decisions:
        decisions.add_row(decision.day, decision.what, decision.why)
    console.print(decisions)
    for line in summary_lines(outcome):
        console.print(line, markup=False)


def summary_lines(outcome: Outcome) -> list[str]:
    """The demo's claims, one a line."""
    days = ", ".join(str(count) for count in outcome.alarm_to_promotion_days) or "-"
    promoted = ", ".join(outcome.promoted) or "none"
    return [
        f"promoted on evidence: version {promoted}; event days from alarm to promotion: {days}",
        f"sabotaged version {outcome.sabotaged or '-'}: {outcome.sabotage_stopped_by or 'not stopped'}; "
        f"it answered {outcome.exposed_requests} requests",
        f"contract alarms: {', '.join(outcome.contract_alarms) or 'none'}",
        f"requests: {outcome.requests} ({outcome.rows} rows), failed: {outcome.failed_requests}",
    ]


def print_times(console: Console, seconds: Mapping[str, float], peak_bytes: int) -> None:
    """Print where the time went, against the budget."""
    table = Table(title="Time")
    for name in ("phase", "seconds", "budget"):
        table.add_column(name, justify="left" if name == "phase" else "right")
    for phase, spent in seconds.items():
        table.add_row(phase, f"{spent:.1f}", f"{BUDGET_S[phase]:.0f}" if phase in BUDGET_S else "")
    table.add_row("all", f"{sum(seconds.values()):.1f}", f"{TOTAL_BUDGET_S:.0f}")
    console.print(table)
    console.print(f"peak memory: {peak_bytes / 1e9:.2f} GB (budget 6 GB)")


def _figure(content: Mapping[str, float | None], name: str) -> str:
    value = content.get(name)
    return "-" if value is None else f"{value:.4f}"
