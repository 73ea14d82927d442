"""What the guards of a rollout say: as a table, and over time."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from ray_mlops.console.render import CHART_WIDTH, write_clock
from ray_mlops.evaluation.charts import Series, line_chart
from ray_mlops.evaluation.svg import RED
from ray_mlops.ledger import LedgerEvent

QUESTIONS = {
    "regression": ("Is the candidate worse?", "Any of these may stop the rollout."),
    "limit": ("Does it break a hard limit?", "Acts at once, whatever the evidence."),
    "integrity": ("Is traffic split as asked?", "A wrong split makes every comparison worthless."),
    "noninferiority": ("Is it shown to be good enough?", "All of these are needed to promote."),
}
"""What each family of guards asks."""
_WORDS = {
    ("regression", "pass"): ("no evidence", ""),
    ("regression", "fail"): ("worse", "bad"),
    ("limit", "pass"): ("kept", ""),
    ("limit", "fail"): ("broken", "bad"),
    ("integrity", "pass"): ("as asked", ""),
    ("integrity", "fail"): ("not as asked", "bad"),
    ("noninferiority", "pass"): ("shown", "good"),
}
MAX_POINTS = 40
_TOP = 3.0
"""Charts end at this many times the threshold: what is beyond is beyond doubt."""


def group_guards(guards: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the families that have guards, each with its verdicts in words."""
    groups = []
    for question, (title, note) in QUESTIONS.items():
        rows = [_row(guard) for guard in guards if guard.get("question") == question]
        if rows:
            groups.append({"title": title, "note": note, "rows": rows})
    return groups


def _row(guard: Mapping[str, Any]) -> dict[str, Any]:
    question = str(guard.get("question"))
    word, tone = _WORDS.get((question, str(guard.get("verdict"))), ("not yet known", "muted"))
    ratio = evidence_ratio(guard)
    return {
        "name": str(guard.get("name", "")).replace("_", " "),
        "word": word,
        "tone": tone,
        "log_e": guard.get("log_e"),
        "threshold": guard.get("threshold"),
        "fill": None if ratio is None else round(100 * min(max(ratio, 0.0), 1.0), 1),
        "fill_tone": "good" if question == "noninferiority" else "bad",
        "detail": guard.get("detail") or "",
        "dry_run": bool(guard.get("dry_run")),
        "slices": [_slice(found) for found in guard.get("slices") or ()],
    }


def _slice(found: Mapping[str, Any]) -> dict[str, Any]:
    """One slice of traffic, as a row below its guard."""
    word, tone = _WORDS.get(("regression", str(found.get("verdict"))), ("too few", "muted"))
    ratio = evidence_ratio(found)
    return {
        "name": f"{found.get('kind')} on {found.get('slice')}",
        "word": word,
        "tone": tone,
        "fill": None if ratio is None else round(100 * min(max(ratio, 0.0), 1.0), 1),
        "log_e": found.get("log_e"),
        "threshold": found.get("threshold"),
        "detail": found.get("detail") or "",
    }


def evidence_ratio(guard: Mapping[str, Any]) -> float | None:
    """Return log evidence as a share of the threshold; None where there is none to speak of.

    Example:
        >>> evidence_ratio({"log_e": 2.0, "threshold": 4.0}), evidence_ratio({"log_e": None, "threshold": 0.5})
        (0.5, None)
    """
    log_e, threshold = guard.get("log_e"), guard.get("threshold")
    if log_e is None or not threshold or not math.isfinite(log_e):
        return None
    return float(log_e) / float(threshold)


def draw_evidence(moves: Sequence[LedgerEvent], current: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Draw the guards' evidence at each recorded decision, and now; nothing where there is no more than one.

    Args:
        moves: Transitions of the rollout, in order.
        current: The guards at this moment; empty leaves that point out.
    """
    recorded = [(event, (event.payload.get("evidence") or {}).get("guards") or ()) for event in moves]
    points = [(f"{write_clock(e.time)[11:16]} {e.payload['to']}", guards) for e, guards in recorded if guards]
    points = [*points, *([("now", current)] if current else [])][-MAX_POINTS:]
    if len(points) < 2:
        return []
    families = (
        ("Evidence that the candidate is worse", ("regression", "integrity")),
        ("Evidence that the candidate is good enough", ("noninferiority",)),
    )
    figures = []
    for title, questions in families:
        series = _series(points, questions)
        if series:
            limit = Series("threshold", [1.0] * len(points), is_dashed=True, colour=RED)
            labels = [label for label, _ in points]
            chart = line_chart(
                [*series, limit], labels, title=title, y_range=(0.0, 1.2), is_share=True, width=CHART_WIDTH / 2 - 14
            )
            figures.append({"svg": Markup(chart), "caption": ""})
    return figures


def _series(points: Sequence[tuple[str, Sequence[Mapping[str, Any]]]], questions: Sequence[str]) -> list[Series]:
    lines: dict[str, list[float]] = {}
    for index, (_, guards) in enumerate(points):
        for guard in guards:
            ratio = evidence_ratio(guard) if guard.get("question") in questions else None
            if ratio is not None:
                name = str(guard.get("name", "")).replace("_", " ")
                values = lines.setdefault(name, [math.nan] * len(points))
                values[index] = min(max(ratio, 0.0), _TOP)
    colours = [colour for colour in range(6) if colour != RED]
    return [Series(name, values, colour=colours[i % 5]) for i, (name, values) in enumerate(lines.items())]
