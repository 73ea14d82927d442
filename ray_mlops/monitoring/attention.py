"""What a person must know before taking the monitor's silence for good news: rows, labels and columns left out."""

from collections.abc import Mapping
from typing import Any

_LABELS = {
    "invalid": "labels were of the wrong type or of no known class and are not used",
    "conflicting": "labels came twice with different values; the first is used",
    "unknown": "labels named a prediction that never came",
}
_NEWEST = 10
"""Windows whose rows are looked at."""


def attention_words(found: Mapping[str, Any]) -> list[str]:
    """Say what is not watched, set aside or not tested, and why; empty where there is nothing of that.

    Args:
        found: The document of ``GET /monitoring``; of an older release fields may be absent.

    Example:
        >>> attention_words({"late_rows": 3, "labels": {"invalid": 1}})
        ['3 rows came after their window was closed and were not tested', '1 labels were of the wrong type or of no \
known class and are not used']
    """
    drift: Mapping[str, Any] = found.get("drift") or {}
    words = [f"{name} is {why}" for name, why in (drift.get("not_watched") or {}).items()]
    words += _unwatched_columns(found) + _rows(found) + _windows(found) + _noticed(found, drift)
    labels: Mapping[str, Any] = found.get("labels") or {}
    return words + [f"{labels[name]} {said}" for name, said in _LABELS.items() if labels.get(name)]


def _unwatched_columns(found: Mapping[str, Any]) -> list[str]:
    names = list(found.get("unwatched_columns") or ())
    told = (
        "logged and not watched: no input of the champion, constant or empty where it was trained, or not logged as "
        "it was (serving.log.redact)"
    )
    return [f"{', '.join(names)}: {told}"] if names else []


def _rows(found: Mapping[str, Any]) -> list[str]:
    said = {
        "quarantined_rows": "rows were set aside: their event time lies further ahead of their arrival than "
        "monitoring.max_ahead allows; is a clock wrong?",
        "late_rows": "rows came after their window was closed and were not tested",
        "forgotten_rows": "rows came so late that nothing holds their time any more",
    }
    return [f"{found[name]} {words}" for name, words in said.items() if found.get(name)]


def _windows(found: Mapping[str, Any]) -> list[str]:
    """Of the newest windows, those with too few rows to test."""
    windows = list(found.get("windows") or ())[-_NEWEST:]
    least = found.get("min_window_rows")
    if least is None or not windows:
        return []
    few = [window for window in windows if window["rows"] < least]
    if not few:
        return []
    newest = few[-1]
    told = f"{len(few)} of the newest {len(windows)} windows were not tested: fewer than {least} rows"
    return [f"{told} (that of {newest['start']} has {newest['rows']})"]


def _noticed(found: Mapping[str, Any], drift: Mapping[str, Any]) -> list[str]:
    """What is above the notification level."""
    latency: Mapping[str, Any] = found.get("latency") or {}
    words = []
    if drift.get("notices"):
        words.append(f"worth a look, no alarm yet: {', '.join(drift['notices'])}")
    if latency.get("log_r") is not None and latency["log_r"] >= latency["limit"]:
        words.append(f"answers take another time than they did: mean {latency['mean_us']:.0f} µs in the newest window")
    return words
