"""A rollout as lines for people: where it stands, what guards say, how answers differ, what one may do."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

MAX_MOVES = 30


def rollout_lines(found: Mapping[str, Any]) -> list[str]:
    """Write the document of ``GET /rollout``: state, guards, disagreement, shadows, history."""
    if found.get("rollout_id") is None:
        return headline(found) + shadow_lines(found.get("shadows") or ())
    lines = headline(found)
    for guard in found.get("guards", []):
        mark = " (dry run: shown, never acts)" if guard.get("dry_run") else ""
        lines.append(f"  {guard['verdict']:12} {guard['name']:14} {guard['question']:15} {guard['detail']}{mark}")
        lines += [slice_line(item) for item in guard.get("slices", ())]
    compared = found.get("compared")
    if compared and compared["disagreement"]["rows"]:
        lines += ["on the rows of the shadow:", *comparison_lines(compared)]
    lines += shadow_lines(found.get("shadows") or ())
    moves = found.get("history", [])
    left_out = len(moves) - MAX_MOVES
    lines += [f"  ({left_out} earlier moves)"] if left_out > 0 else []
    return (
        lines
        + [f"  {_moment(move['time'])} {move['from']} -> {move['to']}: {move['reason']}" for move in moves][-MAX_MOVES:]
    )


def slice_line(found: Mapping[str, Any]) -> str:
    """Write one slice that a guard shows."""
    evidence = f"log e {found['log_e']:.1f} of {found['threshold']:.1f}"
    return f"      {found['verdict']:12} {found['kind']} on {found['slice']}: {found['detail']} ({evidence})"


def headline(found: Mapping[str, Any]) -> list[str]:
    """Say where the rollout stands, and what a person may do now."""
    if found.get("rollout_id") is None:
        return ["no rollout yet; start one with 'ray-mlops rollout start VERSION'"]
    paused = f" (paused in {found['paused_from']})" if found.get("paused_from") else ""
    lines = [f"{found['rollout_id']}: {found['state']}{paused}, candidate weight {found.get('weight', 0):.0%}"]
    lines += [f"  {found['reason']}"] if found.get("reason") else []
    allowed = found.get("allowed") or []
    return lines + ([f"  you may: {', '.join(allowed)}"] if allowed else [])


def shadow_lines(shadows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Write the shadows that run, and those that have ended."""
    lines = ["shadows:"] if shadows else []
    for shadow in shadows:
        detail = f" ({shadow['detail']})" if shadow.get("detail") else ""
        lines.append(f"  version {shadow['version']} {shadow['state']}{detail}, by {shadow['by'] or '?'}")
        if shadow.get("disagreement"):
            against = f"    against champion {shadow['champion']}:" if shadow.get("champion") else ""
            lines += [against] if against else []
            lines += [f"  {line}" for line in comparison_lines(shadow)]
    return lines


def comparison_lines(compared: Mapping[str, Any]) -> list[str]:
    """Write how two versions differ on the same rows."""
    differ, loss = compared["disagreement"], compared["loss"]
    if not differ["rows"]:
        return ["  no rows scored yet"]
    parts = [f"{differ['rows']:,} rows"]
    if differ["decisions_differ"] is not None:
        parts.append(f"decisions differ on {differ['decisions_differ']:.2%}")
    if differ["mean_difference"] is not None:
        parts.append(f"mean difference {differ['mean_difference']:+.4f}")
    parts += [f"{name} {value:+.4f}" for name, value in differ["mean_by_class"].items()]
    parts.append("apart " + ", ".join(f"p{float(q) * 100:g} {value:.4f}" for q, value in differ["quantiles"].items()))
    lines = [f"  {'; '.join(parts)}"]
    if loss["pairs"]:
        interval = f"{loss['level']:.0%} [{loss['low']:+.4f}, {loss['high']:+.4f}]"
        lines.append(f"  loss {loss['mean']:+.4f} {interval} on {loss['pairs']:,} pairs (margin {loss['margin']:g})")
    else:
        lines.append(f"  loss: {loss['problem']}")
    for row in differ["most"]:
        inputs = ", ".join(f"{name}={value}" for name, value in list((row["inputs"] or {}).items())[:6])
        answers = f"champion {_answer(row['champion'])}, other {_answer(row['other'])}"
        lines.append(f"    {row['prediction_id']}: {answers}  {inputs or 'its inputs are not in the log any more'}")
    return lines


def _answer(value: Any) -> str:
    return "[" + " ".join(f"{one:.3f}" for one in value) + "]" if isinstance(value, list) else f"{value:.4f}"


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
