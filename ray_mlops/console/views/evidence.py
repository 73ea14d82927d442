"""What the guards of a rollout say: as a table, and over time."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from ray_mlops.console.render import CHART_WIDTH
from ray_mlops.evaluation.svg import BLUE, CYAN, GREEN, ORANGE, PALETTE, PURPLE, RED, format_number
from ray_mlops.evaluation.timeline import Band, Moment, timeline_chart
from ray_mlops.ledger import LedgerEvent
from ray_mlops.serving.rollout.state import parse_state

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
_TITLES = {
    "regression": "{}: is it worse?",
    "limit": "{}: within the hard limit?",
    "integrity": "{}: is traffic split as asked?",
    "noninferiority": "{}: good enough?",
}
_COLOURS: dict[str, int] = {"regression": BLUE, "limit": CYAN, "integrity": CYAN, "noninferiority": GREEN}
_BANDS: dict[str, tuple[int | str, float]] = {
    "shadow": (PURPLE, 0.10),
    "canary": (ORANGE, 0.10),
    "paused": ("muted", 0.18),
    "baking": (GREEN, 0.12),
}
_ENDS: dict[str, tuple[str, int]] = {
    "promoting": ("promoted", GREEN),
    "rolling_back": ("rolled back", RED),
    "invalid": ("invalid", RED),
    "aborted": ("aborted", ORANGE),
}
_GREY = "#64748b"
PANEL_WIDTH, PANEL_HEIGHT = CHART_WIDTH / 2 - 14, 190.0


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


def trail_of_moves(moves: Sequence[LedgerEvent]) -> dict[str, Any]:
    """Return the evidence at the moves as the recorded evidence over time has it: all that the ledger alone knows."""
    guards: dict[str, dict[str, Any]] = {}
    points = []
    for event in moves:
        evidence = event.payload.get("evidence") or {}
        said = {f"{one['question']}:{one['name']}": one for one in evidence.get("guards") or ()}
        for key, one in said.items():
            is_share = one["question"] == "limit" or one["name"] == "latency_slo"
            guards[key] = {**one, "is_share": is_share}
        if said:
            split = [(evidence.get(arm) or {}).get("requests", 0) for arm in ("candidate", "champion")]
            counts = [*split, evidence.get("pairs", 0), evidence.get("split_labels", 0)]
            values = {key: [one["verdict"], one.get("log_e")] for key, one in said.items()}
            place = {"time": event.time, "event_us": event.event_time, "state": event.payload["from"]}
            points.append({**place, "counts": counts, "guards": values})
    return {"by_window": False, "guards": guards, "points": points}


def draw_trail(
    trail: Mapping[str, Any],
    moves: Sequence[LedgerEvent],
    *,
    width: float = PANEL_WIDTH,
    height: float = PANEL_HEIGHT,
) -> list[dict[str, Any]]:
    """Draw the evidence of each guard over time, one panel for each; nothing where there are fewer than two points.

    Args:
        trail: The recorded evidence (see ``serving.rollout.trail.Trail``).
        moves: Transitions of the rollout, in order: the bands behind, and the decision.
    """
    points, by_window = list(trail.get("points") or ()), bool(trail.get("by_window"))
    if len(points) < 2:
        return []
    by_window = by_window and all(one.get("event_us") is not None for one in points)
    last = _time_of(points[-1], by_window)
    bands, moments = trace_bands(moves, by_window, last), _decisions(moves, by_window)
    span = (
        min([_time_of(points[0], by_window), *(band.start for band in bands)]),
        max([last, *(moment.time for moment in moments), *(band.end for band in bands)]),
    )
    figures = []
    for key, guard in _in_order(trail.get("guards") or {}):
        said = [(_time_of(point, by_window), point["guards"].get(key), point["counts"]) for point in points]
        known = [(time, heard[1], counts) for time, heard, counts in said if heard is not None]
        if not any(value is not None for _, value, _ in known):
            continue
        chart = timeline_chart(
            [time for time, _, _ in known],
            [math.nan if value is None else float(value) for _, value, _ in known],
            threshold=float(guard["threshold"]),
            bands=bands,
            moments=moments,
            time_range=span,
            title=_title(guard),
            subtitle=_last_words(guard, known),
            name="share" if guard.get("is_share") else "log e",
            is_share=bool(guard.get("is_share")),
            colour="muted" if guard.get("dry_run") else _COLOURS.get(guard["question"], BLUE),
            ring=GREEN if guard["question"] == "noninferiority" else RED,
            width=width,
            height=height,
        )
        figures.append({"svg": Markup(chart), "caption": ""})
    return figures


def trace_bands(moves: Sequence[LedgerEvent], by_window: bool, end: float) -> list[Band]:
    """Return the stretches of time that a rollout spent in states that take time.

    Args:
        moves: Its transitions, in order.
        by_window: Whether event time is the axis.
        end: Where the last stretch ends if no move ends it, unix seconds.
    """
    times = [_time_of_event(event, by_window) for event in moves]
    bands = []
    for index, event in enumerate(moves):
        stage, step = parse_state(str(event.payload["to"]))
        if stage not in _BANDS:
            continue
        colour, opacity = _BANDS[stage]
        label = f"{float(event.payload.get('weight') or 0.0):.0%}" if stage == "canary" else stage
        until = times[index + 1] if index + 1 < len(times) else max(end, times[index])
        bands.append(Band(times[index], until, label, colour, opacity * (1.0 + 0.6 * step)))
    return bands


def band_key() -> list[Band]:
    """What the colours of the bands mean."""
    words = {"canary": "canary, with its share of traffic"}
    return [Band(0.0, 0.0, words.get(stage, stage), colour, opacity) for stage, (colour, opacity) in _BANDS.items()]


def page_key() -> list[dict[str, Any]]:
    """The same for a page: names with the colours of style sheets."""
    return [
        {"label": band.label, "colour": PALETTE[band.colour] if isinstance(band.colour, int) else _GREY}
        for band in band_key()
    ]


def _decisions(moves: Sequence[LedgerEvent], by_window: bool) -> list[Moment]:
    """Where the rollout was decided."""
    found = []
    for event in moves:
        end = _ENDS.get(parse_state(str(event.payload["to"]))[0])
        if end is not None:
            found.append(Moment(_time_of_event(event, by_window), *end))
    return found


def _in_order(guards: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
    """Guards by their question, in the order of the table; those that act before those that only show."""
    order = list(QUESTIONS)
    known = [(key, guard) for key, guard in guards.items() if guard.get("question") in order]
    return sorted(known, key=lambda item: (order.index(item[1]["question"]), bool(item[1].get("dry_run"))))


def _title(guard: Mapping[str, Any]) -> str:
    name = str(guard["name"]).replace("_", " ").capitalize()
    name = name.replace("slo", "goal")
    return _TITLES[guard["question"]].format(name) + (" (dry run)" if guard.get("dry_run") else "")


def _last_words(guard: Mapping[str, Any], known: Sequence[tuple[float, Any, Sequence[int]]]) -> str:
    """The newest value that there is against the threshold, and what it rests on."""
    value, counts = next(((v, counts) for _, v, counts in reversed(known) if v is not None), (math.nan, [0, 0, 0, 0]))
    write = _share if guard.get("is_share") else format_number
    kind = "limit" if guard.get("is_share") else "speaks at"
    words = f"{'' if guard.get('is_share') else 'log e '}{write(value)}, {kind} {write(guard['threshold'])}"
    candidate, champion, pairs, labels = counts
    if guard["name"] in ("loss", "score_shift"):
        return f"{words}; {pairs:,} pairs, {labels:,} labels of the split"
    return f"{words}; {candidate:,} requests of the candidate, {champion:,} of the champion"


def _share(value: float) -> str:
    return f"{format_number(100 * value, 3)}%"


def _time_of(point: Mapping[str, Any], by_window: bool) -> float:
    return float(point["event_us"]) / 1e6 if by_window else float(point["time"])


def _time_of_event(event: LedgerEvent, by_window: bool) -> float:
    return event.event_time / 1e6 if by_window and event.event_time is not None else event.time
