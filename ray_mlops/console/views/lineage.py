"""The lineage page: everything that stands behind one prediction."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from ray_mlops.console.address import Visit
from ray_mlops.console.render import Screen, write_event_time
from ray_mlops.console.sources import ConsoleData
from ray_mlops.errors import NotFoundError
from ray_mlops.serving.http.parse import ID_PATTERN

_MAX_SHOWN = 128


async def show_lineage(data: ConsoleData, visit: Visit) -> Screen:
    """Show the search box, and what is behind the prediction that is asked for."""
    wanted = (visit.argument or visit.query.get("id", "")).strip()
    title = f"Lineage of {visit.model}"
    if not wanted:
        return Screen("lineage", title, partial(build_lineage, "", "", None), is_live=False)
    problem, found = "", None
    if ID_PATTERN.fullmatch(wanted) is None:
        problem = "this is no prediction id"
    else:
        try:
            found = await data.explain(visit.model, wanted)
        except NotFoundError as error:
            problem = f"{error.problem}; {error.remedy}"
    build = partial(build_lineage, wanted[:_MAX_SHOWN], problem, found)
    return Screen("lineage", title, build, is_live=False, status=404 if found is None else 200)


def build_lineage(wanted: str, problem: str, found: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what the page shows.

    Args:
        wanted: The prediction's id, as it was asked for.
        problem: Why there is nothing to show.
        found: What the explainer says (see ``serving.protocol.Explainer``).
    """
    if found is None:
        return {"wanted": wanted, "problem": problem, "found": None}
    prediction = found.get("prediction") or {}
    keys = ("event_time", "arrival_time", "arm", "version", "route_version", "outcome", "weight")
    label = found.get("label")
    shown = {
        "prediction": {key.replace("_", " "): prediction.get(key) for key in keys},
        "outputs": _outputs(prediction.get("outputs") or {}),
        "inputs": dict(prediction.get("inputs") or {}),
        "label": _label(label) if isinstance(label, Mapping) else None,
        "version": dict(found.get("version") or {}),
        "data": _data(found.get("data") or {}),
        "parameters": dict(found.get("parameters") or {}),
        "gate": found.get("gate"),
        "retraining": found.get("retraining"),
        "route": found.get("route"),
        "moves": list(found.get("rollout") or ()),
    }
    return {"wanted": wanted, "problem": "", "found": shown}


def _label(label: Mapping[str, Any]) -> dict[str, Any]:
    times = {"event time": label.get("time"), "arrived": label.get("arrival")}
    return {"label": label.get("label"), **{name: write_event_time(time) for name, time in times.items()}}


def _data(data: Mapping[str, Any]) -> dict[str, Any]:
    shown = dict(data)
    if isinstance(shown.get("event_range"), list | tuple):
        shown["event_range"] = " to ".join(_moment(end) for end in shown["event_range"])
    return shown


def _moment(end: Any) -> str:
    return write_event_time(end) if isinstance(end, int) else str(end)


def _outputs(outputs: Mapping[str, Any]) -> dict[str, Any]:
    """Name the outputs by their class, where there are classes."""
    return {name.removeprefix("prediction.") if "." in name else "prediction": v for name, v in outputs.items()}
