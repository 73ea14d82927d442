"""A console over facts made up for the purpose: one model in the middle of a canary, with drift."""

import asyncio
import math
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import httpx
import pytest

from ray_mlops.console.app import ConsoleApp
from ray_mlops.console.sources import Away, Document, ModelFacts
from ray_mlops.errors import NotFoundError
from ray_mlops.ledger import LedgerEvent

DAY_US = 86_400_000_000
START = 15_700  # window (day) at which the champion's reference begins
CLOCK = 1_795_442_000.0


@dataclass
class FakeData:
    """Implements ``ConsoleData`` from memory."""

    known: dict[str, ModelFacts] = field(default_factory=dict)
    stored: list[LedgerEvent] = field(default_factory=list)
    rollouts: dict[str, Document] = field(default_factory=dict)
    monitors: dict[str, Document] = field(default_factory=dict)
    explanations: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    trails: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    async def models(self) -> tuple[str, ...]:
        return tuple(sorted(self.known))

    async def facts(self, model: str) -> ModelFacts:
        return self.known[model]

    async def events(
        self,
        *,
        stream: str | None = None,
        prefix: str | None = None,
        kind: str | None = None,
        after_seq: int = 0,
        limit: int | None = None,
        newest_first: bool = True,
    ) -> list[LedgerEvent]:
        found = [
            event
            for event in self.stored
            if event.seq > after_seq
            and (stream is None or event.stream == stream)
            and (prefix is None or event.stream.startswith(prefix))
            and (kind is None or event.kind == kind)
        ]
        return (found[::-1] if newest_first else found)[:limit]

    async def rollout(self, model: str) -> Document:
        return self.rollouts.get(model, Away("no answer in 1 s"))

    async def evidence(self, model: str, rollout_id: str) -> Mapping[str, Any] | None:
        return self.trails.get(rollout_id)

    async def monitoring(self, model: str) -> Document:
        return self.monitors.get(model, Away("no answer in 1 s"))

    async def explain(self, model: str, prediction_id: str) -> Mapping[str, Any]:
        if prediction_id not in self.explanations:
            raise NotFoundError(f"no prediction {prediction_id!r} is logged", model, "rows are logged within a second")
        return self.explanations[prediction_id]

    def record(self, stream: str, kind: str, payload: dict[str, Any], event_time: int | None = None) -> LedgerEvent:
        version = 1 + sum(event.stream == stream for event in self.stored)
        seq = len(self.stored) + 1
        time = CLOCK + 30.0 * seq
        event = LedgerEvent(seq, stream, version, time, event_time, kind, f"k{seq}", payload, "0" * 64, f"{seq:064x}")
        self.stored.append(event)
        return event


def guard(name: str, question: str, verdict: str, log_e: float | None, threshold: float, detail: str) -> dict[str, Any]:
    said = {"name": name, "question": question, "verdict": verdict, "log_e": log_e, "threshold": threshold}
    return {**said, "detail": detail, "dry_run": name == "score_shift"}


def guards(progress: float) -> list[dict[str, Any]]:
    n = int(400 * progress)
    shown = "pass" if progress >= 1 else "inconclusive"
    return [
        guard("errors", "regression", "pass", -0.4, 4.09, f"0 of {n} against the champion's 1 of {3 * n}"),
        guard("latency", "regression", "pass", 0.9 * progress, 4.09, f"9 of {n} against the champion's 24 of {3 * n}"),
        guard("loss", "regression", "pass", -1.2 * progress, 4.09, f"-0.0102 on {n // 2} pairs"),
        guard("score_shift", "regression", "fail", 5.5 * progress, 4.09, "total variation 0.081"),
        guard("errors", "limit", "pass", None, 0.2, "0 of the newest 100 requests"),
        guard("sample_ratio", "integrity", "pass", -2.1, 6.9, f"{n} of {4 * n} requests, {n + 1.6:.1f} expected"),
        guard("errors", "noninferiority", shown, 2.6 * progress, 3.0, f"0 errors in {n} requests, below 0.0131"),
        guard("latency_slo", "noninferiority", "pass", None, 0.05, f"2 of {n} requests above 250 ms, below 0.0312"),
        guard("loss", "noninferiority", shown, 3.4 * progress, 3.0, f"-0.0102 on {n // 2} pairs (margin 0.005)"),
    ]


def evidence(progress: float) -> dict[str, Any]:
    n = int(400 * progress)
    return {
        "candidate": {"requests": n, "errors": 0, "slow": 9, "slo_violations": 2},
        "champion": {"requests": 3 * n, "errors": 1, "slow": 24, "slo_violations": 5},
        "step_requests": n // 2,
        "baked_requests": 0,
        "pairs": n // 2,
        "split_labels": n,
        "loss_is_proven": progress >= 1,
    }


def arm(version: str, weight: float) -> dict[str, Any]:
    hashed = f"{int(version):x}1dcbdbc1e4bebffd6cc49a33869c12"
    where = f"file:///store/bundles/{hashed}"
    return {"version": version, "bundle": where, "bundle_hash": hashed, "placement": "in_replica", "weight": weight}


def registered(version: str, auc: float, passed: bool = True, parent: str | None = None) -> dict[str, Any]:
    checks = [
        {"name": "minimum:auc", "passed": True, "value": auc, "limit": 0.6, "detail": f"auc {auc} is above 0.6"},
        {"name": "load:p99_ms", "passed": passed, "value": 31.0, "limit": 50.0, "detail": "99th percentile 31 ms"},
    ]
    reason = "all 14 checks passed" if passed else "1 of 14 checks failed: load:p99_ms"
    return {
        "version": version,
        "bundle_hash": arm(version, 1.0)["bundle_hash"],
        "bundle": arm(version, 1.0)["bundle"],
        "snapshot": "6a0974d2bbb7f124",
        "run_id": "c0ffee" * 5,
        "config_hash": "9a" * 8,
        "parent": parent,
        "decision_id": f"retrain-{version}" if parent else None,
        "gate": {"passed": passed, "checks": checks, "reason": reason, "needs_approval": False},
        "metrics": {"auc": auc, "log_loss": 0.4402, "brier": 0.1421, "ece": 0.011},
        "code": "a6e2133",
        "report": "reports/flights/report.html",
        "registered_at": f"2026-11-23T14:0{version}:11+00:00",
    }


def features(window: int, size: int) -> dict[str, dict[str, Any]]:
    """Columns of a window; ``dep_hour`` and the score drift from window 18 on."""
    names = ["dep_hour", "distance", "carrier", "origin", "dest", "wind_speed", "visibility", "score"]
    found = {}
    for index, name in enumerate(names[:size]):
        moved = 1.0 + (0.5 * max(window - 17, 0) if name in ("dep_hour", "score") else 0.0)
        ratio = moved * (1 + 0.3 * math.sin(window * 1.7 + index))
        log_e = 0.9 * max(window - 17, 0) - 0.5 if moved > 1 else -0.3 + 0.05 * index
        summary = {"total_variation": 0.021 * ratio, "expected": 0.021, "is_noise": ratio < 2}
        found[name] = {"log_e": log_e, "status": "testing", **summary}
    found["month"] = {"log_e": 0.0, "status": "calendar", "total_variation": 0.4, "expected": 0.02, "is_noise": False}
    return found


def monitor_view(last: int = 25, has_windows: bool = True) -> dict[str, Any]:
    columns = features(last, 8)
    for name, column in columns.items():
        magnitude = {"name": "total_variation", "value": column["total_variation"], "expected": 0.021}
        column |= {
            "weight": 0.0 if name == "month" else 0.125,
            "is_score": name == "score",
            "channels": {} if name == "month" else {"location": column["log_e"], "shape": 0.4},
            "reference_windows": 28,
            "null_ratio": 0.012 if name == "wind_speed" else 0.0,
            "magnitudes": {"total_variation": {**magnitude, "is_noise": column["is_noise"]}},
            "breaches": ["nulls"] if name == "visibility" else [],
        }
    counts = {"reference": [120, 400, 300, 80], "current": [12, 21, 55, 40]}
    columns["dep_hour"]["histogram"] = {"labels": ["< 6", "6-12", "12-18", "> 18"], **counts}
    breach = {"feature": "visibility", "kind": "nulls", "value": 0.22, "limit": 0.05, "name": "visibility:nulls"}
    view = {
        "model": "flights",
        "version": "2",
        "reference": "2-1",
        "window_s": 86_400.0,
        "watermark": "2013-01-27T05:59:00Z",
        "closed_window": START + last,
        "matured_window": START + last - 3,
        "rows": 23_911,
        "late_rows": 4,
        "alarms": ["inputs"],
        "breaches": ["visibility:nulls"],
        "drift": {
            "log_e": 7.1,
            "limit": 5.3,
            "alpha": 0.01,
            "guilty": ["dep_hour", "score"],
            "notices": ["dep_hour", "score"],
            "change_point": START + 18,
            "breaches": [{**breach, "reason": "22% nulls, 5% are allowed"}],
            "loss": {"log_e": 1.3, "mean": 0.151, "limit": 0.157},
            "features": columns,
        },
        "labels": {"accepted": 20_119, "duplicate": 4, "unlabelled": 12, "early_labels": 0, "predictions": 23_911},
        "performance": [_performance(window) for window in range(last - 2)],
        "label_delays": label_delays(),
        "realised": realised(),
        "retraining": {"in_flight": "retrain-3", "decisions": 2, "outcomes": {}, "policy": "one is in flight"},
    }
    if has_windows:
        view["windows"] = [_window(window) for window in range(last + 1)]
    return view


def _start(window: int) -> str:
    return f"2013-01-{1 + window:02d}T00:00:00Z"


def _window(window: int) -> dict[str, Any]:
    alarms = ["inputs"] if window >= 23 else []
    found = {} if window == 9 else features(window, 8)
    log_e = None if window == 9 else -0.4 + 0.95 * max(window - 17, 0)
    said = {"log_e": log_e, "limit": 5.3, "status": "testing", "breaches": [], "notices": []}
    place = {"window": START + window, "start": _start(window), "version": "2", "rows": 900}
    return {**place, **said, "alarms": alarms, "features": found}


def label_delays() -> dict[str, Any]:
    quick, slow = ({"labels": n, "0.5": days * 43_200.0, "0.9": days * 86_400.0} for n, days in ((9000, 1), (1119, 6)))
    curve = [
        {"age_s": 86_400.0 * day, "coverage": cover, "arrived": {"all": share, "0": share, "1": share / 2}}
        for day, cover, share in ((1, 0.5, 0.6), (3, 0.8, 0.9), (9, None, 1.0))
    ]
    advice = "by monitoring.labels.delay (1 day) only 62% of the labels have come"
    return {"delays_s": {"all": {**quick, "labels": 10_119}, "0": quick, "1": slow}, "curve": curve, "advice": advice}


def realised() -> dict[str, Any]:
    known = {"rows": 900, "labelled": 450, "coverage": 0.5, "loss": 0.1421, "log_loss": None, "accuracy": 0.812}
    cells = [("arm", "champion"), ("version", "2"), ("slice", "carrier=<UA>"), ("group", "carrier=AA")]
    total = [{"by": by, "value": value, **known} for by, value in cells]
    return {"windows": [1, 2, 3], "total": total, "by_window": [], "problems": {"weather": "it is not an input"}}


def _performance(window: int) -> dict[str, Any]:
    loss = None if window == 9 else 0.142 + 0.004 * math.sin(window) + 0.0012 * max(window - 15, 0)
    estimated = {"rows": 900, "log_loss": 0.442, "bounded_loss": 0.141 + 0.002 * math.sin(window), "assumes": "calm"}
    band = {"value": 0.141, "lower": 0.131, "upper": 0.151}
    estimated |= {"metrics": {"bounded_loss": band, "accuracy": {"value": 0.8, "lower": 0.78, "upper": 0.82}}}
    estimated |= {"is_shown": True, "reason": "not contradicted by 9 matured windows", "coverage": 0.95}
    return {
        "window": START + window,
        "start": _start(window),
        "rows": 900,
        "labelled": 0 if window == 9 else 870 - 7 * window,
        "loss": loss,
        "log_loss": None if loss is None else 3.1 * loss,
        "judged": loss is not None,
        "estimated": estimated,
        "realised": {"accuracy": 0.79},
        "estimate_error": {} if loss is None else {"bounded_loss": 0.141 - loss},
    }


def explanation() -> dict[str, Any]:
    return {
        "prediction": {
            "prediction_id": "p-1",
            "event_time": "2013-01-26 14:00:00+00:00",
            "arrival_time": "2026-11-23 14:00:00+00:00",
            "arm": "candidate",
            "version": "3",
            "route_version": 4,
            "outcome": "ok",
            "weight": 0.25,
            "inputs": {"distance": 762.0, "carrier": "UA", "visibility": None},
            "outputs": {"prediction": 0.2317},
        },
        "label": {"id": "p-1", "label": 1, "time": None, "arrival": 1},
        "version": {
            key: registered("3", 0.71, parent="2")[key] for key in ("version", "bundle_hash", "run_id", "code")
        },
        "data": {"snapshot": "6a0974d2bbb7f124", "rows": 41_202, "event_range": [1, 2], "origin": {"kind": "log"}},
        "parameters": {"config_hash": "9a" * 8, "overrides": {"learning_rate": 0.002}},
        "gate": registered("3", 0.71)["gate"],
        "retraining": {
            "decision_id": "retrain-3",
            "reason": "drift in dep_hour",
            "action": "train",
            "trigger": "alarm",
            "champion": "2",
            "alarms": [{"seq": 7, "time": "t", "kind": "monitor.alarm", "alarm": "drift:inputs", "window": 15_723}],
        },
        "route": {"seq": 12, "time": "2026-11-23T14:05:00+00:00", "version": 4, "champion": arm("2", 0.75)},
        "rollout": [
            {"seq": 9, "time": "t", "kind": "rollout.requested", "by": "auto_start", "version": "3"},
            {"seq": 10, "time": "t", "kind": "rollout.moved", "from": "shadow", "to": "canary[0]", "reason": "loss"},
        ],
    }


def fill(data: FakeData) -> FakeData:
    """The story of one model: two versions served, a third on trial; and of another that was never served."""
    data.record("flights/config", "config.deployed", {"hash": "9a" * 8, "config": {}})
    for version, auc, parent in (("1", 0.672, None), ("2", 0.703, "1")):
        data.record("flights/versions", "version.registered", registered(version, auc, parent=parent))
    first = {
        "rollout_id": "flights-v2",
        "version": "2",
        "by": "auto_start",
        "override_reason": None,
        "route_version": 1,
    }
    data.record("flights/rollout", "rollout.requested", {**first, "skip_shadow": False})
    for came, to in (("baking", "promoted"),):
        move = {"rollout_id": "flights-v2", "from": came, "to": to, "reason": "answered 500 requests as champion"}
        data.record("flights/rollout", "rollout.moved", {**move, "step": 0, "weight": 0.0, "route_version": 2})
    epoch = {"version": "2", "reference": "2-1", "reference_windows": 28, "start_window": START + 4}
    data.record("flights/monitor", "monitor.epoch", epoch)
    alarm = {"alarm": "drift:inputs", "window": START + 23, "reason": "drift in dep_hour, score"}
    data.record("flights/monitor", "monitor.alarm", alarm, event_time=(START + 24) * DAY_US)
    decided = {"decision_id": "retrain-3", "action": "train", "as_of_us": (START + 20) * DAY_US, "reason": "drift"}
    data.record("flights/retrain", "retrain.decided", decided, event_time=(START + 20) * DAY_US)
    data.record("flights/versions", "version.registered", registered("3", 0.711, parent="2"))
    request = {"rollout_id": "flights-v3", "version": "3", "by": "auto_start", "override_reason": None}
    data.record("flights/rollout", "rollout.requested", {**request, "skip_shadow": False, "route_version": 2})
    way = ["pending", "validating", "preparing", "shadow", "canary[0]", "canary[1]"]
    for index, (came, to) in enumerate(pairwise(way)):
        said = {"guards": guards(0.2 * index) if index > 2 else [], **evidence(0.2 * index)}
        move = {"rollout_id": "flights-v3", "from": came, "to": to, "reason": f"{index}00 requests without regression"}
        move |= {"step": max(index - 3, 0), "weight": (0.0, 0.0, 0.0, 0.05, 0.25)[index], "evidence": said}
        data.record("flights/rollout", "rollout.moved", {**move, "route_version": 3}, event_time=(START + 24) * DAY_US)
    routes = {
        "model": "flights",
        "version": 4,
        "champion": arm("2", 0.75),
        "candidate": arm("3", 0.25),
        "previous": None,
    }
    data.record("flights/routes", "routes.committed", routes)
    config = {"rollout": {"steps": [0.05, 0.25, 0.5], "shadow": {"enabled": True}}}
    versions = {
        v: registered(v, auc, parent=p) for v, auc, p in (("1", 0.672, None), ("2", 0.703, "1"), ("3", 0.711, "2"))
    }
    aliases = {"champion": "2", "previous": "1", "candidate": "3"}
    data.known["flights"] = ModelFacts("flights", routes, versions, aliases, frozenset(), config)
    data.rollouts["flights"] = {
        "model": "flights",
        "rollout_id": "flights-v3",
        "version": "3",
        "state": "canary[1]",
        "step": 1,
        "weight": 0.25,
        "paused_from": None,
        "reason": "errors: 0 errors in 240 requests, below 0.0131 (limit 0.01)",
        "guards": guards(0.9),
        "evidence": evidence(0.9),
        "evaluated_through": None,
        "closed_window": START + 25,
        "closed_through": 1_795_442_500,
        "routes": routes,
        "aliases": aliases,
        "history": [],
    }
    data.monitors["flights"] = monitor_view()
    data.known["trees"] = ModelFacts("trees", versions={"1": registered("1", 0.51, passed=False)})
    data.record("trees/versions", "version.registered", registered("1", 0.51, passed=False))
    data.explanations["p-1"] = explanation()
    return data


@pytest.fixture
def data() -> FakeData:
    return fill(FakeData())


@pytest.fixture
def ask() -> Iterator[Callable[..., httpx.Response]]:
    """Ask a console, mounted as the gateway mounts it."""
    with ThreadPoolExecutor(1) as threads:

        def get(data: Any, path: str = "", method: str = "GET", root: str = "/console") -> httpx.Response:
            async def call() -> httpx.Response:
                transport = httpx.ASGITransport(ConsoleApp(data, threads), root_path=root)
                async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                    return await client.request(method, f"{root}{path}")

            return asyncio.run(call())

        yield get
