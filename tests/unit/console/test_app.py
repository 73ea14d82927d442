"""The console over ASGI: every page, what is missing or away, and hostile names."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any
from urllib.parse import quote, urlencode

import httpx
import pytest

from ray_mlops.console.sources import ModelFacts
from ray_mlops.errors import LedgerError

VOID = {"meta", "br", "img", "link", "input", "hr"}
HOSTILE = "<img src=x onerror='alert(1)'>\"&"
PAGES = [
    *("", "/models/flights", "/models/flights/rollout", "/models/flights/drift", "/models/flights/performance"),
    *("/models/flights/lineage", "/models/flights/lineage/p-1", "/models/flights/lineage?id=p-1"),
    *("/ledger", "/ledger?stream=flights/&kind=rollout.moved", "/ledger/14", "/models/trees/rollout"),
]
Ask = Callable[..., httpx.Response]


class Page(HTMLParser):
    """Checks nesting, and keeps tags, attributes and text."""

    def __init__(self, response: httpx.Response) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []
        self.feed(response.text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())

    @property
    def links(self) -> set[str]:
        return {value or "" for name, value in self.attributes if name == "href"}


# -- every page -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PAGES)
def test_page_is_well_formed_and_needs_nothing_beside_it(path: str, data: Any, ask: Ask) -> None:
    response = ask(data, path)
    page = Page(response)
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert "script-src" not in response.headers["content-security-policy"]
    assert "default-src 'none'" in response.headers["content-security-policy"]
    for svg in re.findall(r"<svg.*?</svg>", response.text, re.DOTALL):
        ET.fromstring(svg)
    assert not {"script", "img", "link", "iframe"} & set(page.tags)
    assert all(not name.startswith("on") for name, _ in page.attributes)
    assert all(link.startswith("/console") for link in page.links)


@pytest.mark.parametrize("path", PAGES)
def test_every_link_leads_to_a_page(path: str, data: Any, ask: Ask) -> None:
    for link in Page(ask(data, path)).links:
        assert ask(data, link.removeprefix("/console")).status_code == 200, link


def test_overview_shows_versions_split_alarms_and_decisions(data: Any, ask: Ask) -> None:
    response = ask(data)
    words = Page(response).words
    for expected in (
        "champion version 2: 75%",
        "candidate version 3: 25%",
        "version 3: canary[1]",
        "Drift and decay inputs",
        "broken visibility:nulls",
        "in flight retrain-3",
        "trees not served",
        "refused",
        "canary[0] → canary[1]: 400 requests without regression",
    ):
        assert expected in words
    assert 'style="width:25.0%"' in response.text
    assert "alias.set" not in words


def test_overview_without_any_model_says_what_to_do(data: Any, ask: Ask) -> None:
    data.known, data.stored = {}, []
    assert "There is no model yet" in Page(ask(data)).words
    assert "No event has been recorded" in Page(ask(data, "/ledger")).words


def test_rollout_shows_stages_guards_counts_and_history(data: Any, ask: Ask) -> None:
    response = ask(data, "/models/flights/rollout")
    words = Page(response).words
    for expected in (
        "Version 3: canary[1]",
        "shadow canary 5% canary 25% canary 50% promoting",
        "score shift dry run worse",
        "errors kept",
        "loss not yet known 3.06 3",
        "Errors: is it worse?",
        "Labelled pairs 180",
        "Counts are complete through 2026-11-23 14:01:40",
        "2 2026-11-23 13:55:20 promoted answered 500 requests as champion",
    ):
        assert expected in words
    assert '<li class="now" aria-current="step">canary 25%</li>' in response.text
    assert '<li class="done">shadow</li>' in response.text
    assert "No answer" not in words


def point(number: int, state: str, log_e: float | None) -> dict[str, Any]:
    said = {"regression:errors": ["pass", log_e], "limit:errors": ["pass", 0.01]}
    place = {"number": number, "pinned": False, "time": 1_795_442_000.0 + 60 * number, "event_us": None}
    return {**place, "state": state, "weight": 0.25, "counts": [10 * number, 30 * number, 0, 0], "guards": said}


def trail(*points: dict[str, Any]) -> dict[str, Any]:
    errors = {"name": "errors", "threshold": 4.0, "dry_run": False}
    guards = {
        "regression:errors": {**errors, "question": "regression", "is_share": False},
        "limit:errors": {**errors, "question": "limit", "threshold": 0.5, "is_share": True},
    }
    return {"schema_version": 1, "rollout_id": "flights-v3", "by_window": False, "guards": guards, "points": points}


def test_rollout_draws_the_recorded_evidence_one_panel_for_each_guard(data: Any, ask: Ask) -> None:
    data.trails["flights-v3"] = trail(*(point(number, "canary[0]", number / 10) for number in range(60)))
    response = ask(data, "/models/flights/rollout")
    Page(response)
    for expected in ("Errors: is it worse?", "Errors: within the hard limit?", "log e 5.9, speaks at 4"):
        assert expected in response.text
    assert response.text.count("<figure>") == 2
    assert "590 requests of the candidate, 1,770 of the champion" in response.text
    assert 'aria-label="Errors: is it worse?"' in response.text


def test_rollout_with_one_look_draws_nothing(data: Any, ask: Ask) -> None:
    data.trails["flights-v3"] = trail(point(0, "shadow", None))
    assert "<figure>" not in ask(data, "/models/flights/rollout").text


DIFFER = {
    "rows": 1300,
    "decisions_differ": 0.042,
    "mean_difference": None,
    "mean_by_class": {"late": 0.01},
    "quantiles": {"0.5": 0.01, "1": 0.4},
    "most": [
        {"prediction_id": "<b>", "champion": [0.2, 0.8], "other": [0.6, 0.4], "difference": 0.4, "inputs": {"x": "&"}},
        {"prediction_id": "p3", "champion": 0.2, "other": 0.5, "difference": 0.3, "inputs": None},
    ],
}
LOSS = {"pairs": 200, "mean": 0.01, "low": -0.01, "high": 0.03, "level": 0.95, "margin": 0.01, "problem": ""}
NO_LOSS = {**LOSS, "pairs": 0, "mean": None, "low": None, "high": None, "problem": "no labels yet"}


def test_rollout_shows_how_shadows_and_candidate_differ_row_by_row(data: Any, ask: Ask) -> None:
    entry = {"shadow_id": "s", "by": "ann", "since": 1_795_442_000.0, "ended_at": None, "detail": "", "champion": "2"}
    shadows = [
        {**entry, "version": "4", "state": "running", "disagreement": DIFFER, "loss": LOSS},
        {**entry, "version": "5", "state": "failed", "ended_at": 1_795_442_100.0, "detail": "failed: exit code 9"},
    ]
    shadows[1].pop("champion")  # as of one that has ended
    shadows += [
        {"shadow_id": "t", "by": "", "since": 1_795_442_000.0, "ended_at": None, "version": "6", "state": "starting"}
        | {"detail": ""}
    ]
    compared = {"champion": "2", "disagreement": DIFFER, "loss": NO_LOSS}
    data.rollouts["flights"] = {**data.rollouts["flights"], "shadows": shadows, "compared": compared}
    response = ask(data, "/models/flights/rollout")
    words = Page(response).words
    for expected in (
        "Candidate against champion, row by row",
        "Loss: no labels yet",
        "Version 4 running",
        "Decisions differ on 4.2%",
        "95% at all times -0.01 to 0.03",
        "Version 5 failed",
        "failed: exit code 9",
        "not in the log any more",
    ):
        assert expected in words
    assert "<code><b>" not in response.text


def test_aborted_rollout_is_told_apart_from_a_bad_one(data: Any, ask: Ask) -> None:
    move = {"rollout_id": "flights-v3", "from": "canary[1]", "to": "aborted", "weight": 0.0, "route_version": 4}
    data.record("flights/rollout", "rollout.moved", {**move, "reason": "ann: wrong version"})
    del data.rollouts["flights"]
    response = ask(data, "/models/flights/rollout")
    assert "Version 3: aborted" in Page(response).words
    assert 'class="card verdict bad"' not in response.text


def test_rollout_that_was_undone_shows_how_far_it_came(data: Any, ask: Ask) -> None:
    move = {"rollout_id": "flights-v3", "from": "canary[1]", "to": "rolling_back", "weight": 0.0, "route_version": 4}
    data.record("flights/rollout", "rollout.moved", {**move, "reason": "evidence of regression in loss"})
    del data.rollouts["flights"]
    response = ask(data, "/models/flights/rollout")
    words = Page(response).words
    assert "Version 3: rolling back evidence of regression in loss" in words
    assert '<li class="bad">rolling back</li>' in response.text
    assert "promoted</li>" not in response.text
    assert 'class="card verdict bad"' in response.text


def test_paused_rollout_shows_the_step_that_it_waits_in(data: Any, ask: Ask) -> None:
    move = {"rollout_id": "flights-v3", "from": "canary[1]", "to": "paused", "weight": 0.25, "route_version": 4}
    data.record("flights/rollout", "rollout.moved", {**move, "reason": "waits for a person"})
    data.rollouts["flights"] = {**data.rollouts["flights"], "state": "paused", "paused_from": "canary[1]"}
    assert ">canary 25% (paused)</li>" in ask(data, "/models/flights/rollout").text


def test_rollout_of_model_without_one_says_how_to_start(data: Any, ask: Ask) -> None:
    data.rollouts["trees"] = {"model": "trees", "rollout_id": None, "state": "none", "guards": [], "evidence": {}}
    words = Page(ask(data, "/models/trees/rollout")).words
    assert "There has been no rollout" in words
    assert "No answer" not in words


def test_drift_with_window_history_shows_heat_maps_and_evidence(data: Any, ask: Ask) -> None:
    response = ask(data, "/models/flights/drift")
    words = Page(response).words
    for expected in (
        "Alarm: inputs",
        "Columns that explain it: dep_hour, score",
        "window 15718 (2013-01-19 00:00)",
        "22% nulls, 5% are allowed",
        "Distance from the reference, by window",
        "Log evidence of drift, by window",
        "alarm: inputs",
        "Reference and newest window",
    ):
        assert expected in words
    assert response.text.count("<svg") == 4
    assert "dep_hour, 2013-01-26: 3.51" in words  # a cell of the heat map
    assert "month, 2013" not in words  # calendar columns move by themselves


def test_drift_without_window_history_shows_the_newest_window(data: Any, ask: Ask) -> None:
    view = dict(data.monitors["flights"])
    del view["windows"]
    view["drift"]["features"]["dep_hour"].pop("histogram")
    data.monitors["flights"] = view
    response = ask(data, "/models/flights/drift")
    words = Page(response).words
    assert "Distance from the reference in the newest window" in words
    assert "by window" not in words
    assert response.text.count("<svg") == 1


def test_drift_says_what_is_not_watched_and_why(data: Any, ask: Ask) -> None:
    view = dict(data.monitors["flights"])
    drift = {**view["drift"], "not_watched": {"dep_hour": "not watched for drift yet: too few rows"}}
    caveat = "constant in the reference (3)"
    drift["features"] = {name: {**column, "caveat": caveat} for name, column in drift["features"].items()}
    data.monitors["flights"] = {**view, "drift": drift, "quarantined_rows": 7, "labels": {"invalid": 4}}
    words = Page(ask(data, "/models/flights/drift")).words
    for expected in (
        "dep_hour is not watched for drift yet: too few rows",
        "7 rows were set aside",
        "4 labels were of the wrong type",
        caveat,
    ):
        assert expected in words


def test_performance_shows_realised_estimated_and_coverage(data: Any, ask: Ask) -> None:
    response = ask(data, "/models/flights/performance")
    words = Page(response).words
    for expected in (
        "No evidence of decay",
        "No decay up to 0.157",
        "Coverage 79.6%",
        "realised, from labels",
        "estimated without labels",
        "Label coverage",
        "version 2",
        "retraining decided",
        "accepted 20,119",
        "All 23 windows as a table",
    ):
        assert expected in words
    assert response.text.count("<svg") == 5
    for expected in ("Accuracy", "Off by", "The band holds the realised value with a probability of 95%"):
        assert expected in words
    assert "not shown" not in words


def test_performance_shows_how_labels_come_and_whose_rows_do_how_well(data: Any, ask: Ask) -> None:
    response = ask(data, "/models/flights/performance")
    words = Page(response).words
    for expected in (
        "By monitoring.labels.delay (1 day) only 62% of the labels have come.",
        "90% by",
        "1 1,119 3.0 days 6.0 days",
        "Labels by age of the row",
        "newest 3 windows",
        "arm champion 900 50% 0.1421 0.812",
        "slice carrier=<UA>",
        "Not broken down by weather: it is not an input.",
    ):
        assert expected in words
    del data.monitors["flights"]["realised"], data.monitors["flights"]["label_delays"]  # of an older monitor
    assert "By arm" not in Page(ask(data, "/models/flights/performance")).words


def test_performance_says_why_there_is_no_estimate_and_what_a_loss_alarm_is_about(data: Any, ask: Ask) -> None:
    view = data.monitors["flights"]
    view["alarms"] = ["loss"]
    view["drift"]["loss_parts"] = {"kind": "concept", "kind_reason": "concept drift: labels no longer follow"}
    hidden = {"rows": 9, "bounded_loss": None, "log_loss": None, "metrics": {}, "assumes": "calm"}
    hidden |= {"is_shown": False, "reason": "9 rows, 50 are needed", "coverage": 0.95}
    newest = view["performance"][-1]["window"] + 1
    view["unlabelled"] = [{"window": newest, "start": "2013-01-31T00:00:00Z", "estimated": hidden}]
    view["estimates"] = {"words": "off by 0.1 on average in 5 matured windows"}
    words = Page(ask(data, "/models/flights/performance")).words
    assert "Estimates were off by 0.1 on average in 5 matured windows." in words
    assert "concept drift: labels no longer follow." in words
    assert "The newest estimate is not shown: 9 rows, 50 are needed." in words
    assert "All 24 windows as a table" in words


def test_performance_without_reference_claims_nothing(data: Any, ask: Ask) -> None:
    data.monitors["flights"]["drift"]["loss"] = None
    words = Page(ask(data, "/models/flights/performance")).words
    assert "The loss is shown, but not tested" in words
    assert "No evidence of decay" not in words


def test_performance_without_labels_says_how_to_send_them(data: Any, ask: Ask) -> None:
    data.monitors["flights"]["performance"] = []
    assert "No window has labels yet" in Page(ask(data, "/models/flights/performance")).words


def test_lineage_shows_everything_behind_a_prediction(data: Any, ask: Ask) -> None:
    by_path, by_form = ask(data, "/models/flights/lineage/p-1"), ask(data, "/models/flights/lineage?id=p-1")
    words = Page(by_path).words
    for expected in (
        "prediction 0.2317",
        "carrier UA",
        "visibility \u2013",
        "Version 3",
        "all 14 checks passed",
        "drift in dep_hour",
        "shadow → canary[0]",
        "Champion version 2",
        '{"learning_rate": 0.002}',
    ):
        assert expected in words
    assert re.sub("Drawn.*?UTC", "", Page(by_form).words) == re.sub("Drawn.*?UTC", "", words)


@pytest.mark.parametrize(
    ("wanted", "problem"), [("p-2", "no prediction 'p-2' is logged"), ("..%2F%3Cb", "no prediction id")]
)
def test_lineage_of_unknown_prediction_keeps_the_search_box(wanted: str, problem: str, data: Any, ask: Ask) -> None:
    response = ask(data, f"/models/flights/lineage?id={wanted}")
    assert response.status_code == 404
    assert problem in Page(response).words
    assert "form" in Page(response).tags


# -- the ledger -----------------------------------------------------------------------------------------


def rows(response: httpx.Response) -> list[int]:
    return [int(seq) for seq in re.findall(r'<td class="n"><a href="/console/ledger/(\d+)', response.text)]


def test_ledger_shows_newest_events_first(data: Any, ask: Ask) -> None:
    assert rows(ask(data, "/ledger")) == list(range(17, 0, -1))


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("stream=flights/rollout", [15, 14, 13, 12, 11, 10, 5, 4]),
        ("stream=flights/r", []),
        ("stream=flights", [*range(16, 0, -1)]),
        ("stream=trees/", [17]),
        ("kind=monitor.alarm", [7]),
        ("stream=flights/&kind=monitor.alarm", [7]),
        ("stream=%00&kind=monitor.alarm", [7]),
    ],
)
def test_ledger_filters_by_stream_and_kind(query: str, expected: list[int], data: Any, ask: Ask) -> None:
    assert rows(ask(data, f"/ledger?{query}")) == expected


def test_ledger_turns_pages_without_gap_or_repeat(data: Any, ask: Ask) -> None:
    data.stored = []
    for number in range(120):
        data.record("flights/monitor", "monitor.alarm", {"alarm": str(number)})
    pages = [ask(data, f"/ledger?page={page}&kind=monitor.alarm") for page in (1, 2, 3)]
    assert [seq for page in pages for seq in rows(page)] == list(range(120, 0, -1))
    assert ["Older" in page.text for page in pages] == [True, True, False]
    assert ["Newer" in page.text for page in pages] == [False, True, True]
    assert "/console/ledger?kind=monitor.alarm&page=3" in Page(pages[1]).links


def test_event_shows_its_whole_content(data: Any, ask: Ask) -> None:
    response = ask(data, "/ledger/7")
    assert '"reason": "drift in dep_hour, score"' in Page(response).words
    assert {"/console/ledger/6", "/console/ledger/8"} <= Page(response).links
    assert "/console/ledger/18" not in Page(ask(data, "/ledger/17")).links


# -- what is missing, away or hostile -------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/models/flights/drift", "/models/flights/performance", "/models/flights", ""])
def test_page_says_so_when_the_monitor_is_away(path: str, data: Any, ask: Ask) -> None:
    del data.monitors["flights"]
    response = ask(data, path)
    words = Page(response).words
    assert response.status_code == 200
    assert "no answer in 1 s" in words
    assert "monitor away" in words or "No answer from the monitor" in words


def test_drift_without_monitor_still_shows_recorded_alarms(data: Any, ask: Ask) -> None:
    del data.monitors["flights"]
    assert "drift:inputs in window 15723" in Page(ask(data, "/models/flights/drift")).words


def test_rollout_is_read_from_the_ledger_when_its_actor_is_away(data: Any, ask: Ask) -> None:
    del data.rollouts["flights"]
    words = Page(ask(data, "/models/flights/rollout")).words
    assert "No answer from the rollout controller" in words
    assert "Version 3: canary[1] 400 requests without regression" in words
    assert "As they were at the last move" in words
    assert "0 of 320 against the champion's 1 of 960" in words


@pytest.mark.parametrize(
    "path",
    [
        "/models/nope",
        "/models/nope/drift",
        "/models/flights/nope",
        "/nope",
        "/drift",
        "/ledger/99",
        "/ledger/x",
        "/ledger/0",
    ],
)
def test_unknown_model_or_page_names_what_exists(path: str, data: Any, ask: Ask) -> None:
    response = ask(data, path)
    page = Page(response)
    assert response.status_code == 404
    assert {"/console/models/flights/rollout", "/console/models/trees/drift", "/console/ledger"} <= page.links


def test_page_of_the_only_model_needs_no_name(data: Any, ask: Ask) -> None:
    del data.known["trees"]
    assert "Alarm: inputs" in Page(ask(data, "/drift")).words
    assert "prediction 0.2317" in Page(ask(data, "/lineage/p-1")).words


def test_ledger_that_cannot_be_read_is_a_503(data: Any, ask: Ask) -> None:
    async def broken() -> tuple[str, ...]:
        raise LedgerError("the database is locked", "ledger", "try again")

    data.models = broken
    response = ask(data)
    assert response.status_code == 503
    assert "the database is locked" in Page(response).words
    assert 'http-equiv="refresh"' in response.text


def test_hostile_names_are_escaped_everywhere(data: Any, ask: Ask) -> None:
    name = HOSTILE
    facts = data.known.pop("flights")
    versions = {name: {**facts.versions["3"], "gate": {"passed": False, "reason": name}, "metrics": {name: 0.5}}}
    routes = {**facts.routes, "champion": {**facts.routes["champion"], "version": name}}
    data.known[name] = replace(facts, model=name, versions=versions, routes=routes, aliases={name: name})
    events = [(e, "/".join((name, e.stream.split("/")[1]))) for e in data.stored]
    data.stored = [replace(e, stream=stream, payload={**e.payload, "reason": name}) for e, stream in events]
    view = data.monitors.pop("flights")
    view["drift"]["features"][name] = view["drift"]["features"].pop("dep_hour")
    view["drift"] |= {
        "guilty": [name],
        "notices": [name],
        "breaches": [{**view["drift"]["breaches"][0], "feature": name}],
    }
    view["performance"][-1]["estimated"]["assumes"] = name
    for window in view["windows"]:
        window["features"] = {name: window["features"]["score"]} if window["features"] else {}
    data.monitors[name] = {**view, "alarms": [name], "version": name}
    rollout = data.rollouts.pop("flights")
    guards = [{**guard, "name": name, "detail": name} for guard in rollout["guards"]]
    data.rollouts[name] = {**rollout, "reason": name, "guards": guards}
    explained = data.explanations["p-1"]
    explained["prediction"]["inputs"] = {name: name}
    explained["gate"]["checks"][0]["name"] = explained["retraining"]["reason"] = name
    below = f"/models/{quote(name)}"
    paths = ["", "/ledger", "/ledger/7", f"/ledger?{urlencode({'stream': name, 'kind': name})}", f"/{quote(name)}"]
    paths += [below, *(f"{below}/{page}" for page in ("rollout", "drift", "performance", "lineage/p-1", quote(name)))]
    paths += [f"{below}/lineage?{urlencode({'id': name})}"]
    for path in paths:
        response = ask(data, path)
        page = Page(response)
        assert response.status_code in (200, 404)
        assert "img" not in page.tags, path
        assert "&lt;img" in response.text, path
        values = [value or "" for _, value in page.attributes]
        assert HOSTILE in "\n".join(page.text + values), path


def test_refreshing_can_be_turned_off_and_stays_off(data: Any, ask: Ask) -> None:
    live, still = ask(data, "/models/flights/drift"), ask(data, "/models/flights/drift?refresh=off")
    assert '<meta http-equiv="refresh" content="10"/>' in live.text
    assert "/console/models/flights/drift?refresh=off" in Page(live).links
    assert "http-equiv" not in still.text
    assert "/console/models/flights/drift" in Page(still).links
    assert "/console/models/flights/rollout?refresh=off" in Page(still).links


@pytest.mark.parametrize("path", ["/ledger", "/models/flights/lineage", "/ledger/3"])
def test_pages_with_a_form_or_without_news_do_not_refresh(path: str, data: Any, ask: Ask) -> None:
    assert "http-equiv" not in ask(data, path).text


def test_console_only_reads(data: Any, ask: Ask) -> None:
    response = ask(data, "", "POST")
    assert response.status_code == 405
    assert response.headers["allow"] == "GET, HEAD"
    assert ask(data, "", "HEAD").status_code == 200


def test_console_works_wherever_it_is_mounted(data: Any, ask: Ask) -> None:
    assert "/ops/console/models/flights/drift" in Page(ask(data, "", root="/ops/console")).links
    assert "/models/flights/drift" in Page(ask(data, "/", root="")).links


def test_too_many_query_fields_are_refused(data: Any, ask: Ask) -> None:
    assert ask(data, "/ledger?" + "&".join(f"a{i}=1" for i in range(50))).status_code == 400


def test_model_that_was_never_served_has_all_pages(data: Any, ask: Ask) -> None:
    data.known["bare"] = ModelFacts("bare")
    for page in ("", "/rollout", "/drift", "/performance", "/lineage"):
        assert Page(ask(data, f"/models/bare{page}")).words


def test_rollout_shows_the_slices_with_most_evidence(data: Any, ask: Ask) -> None:
    found = {"slice": "carrier=AA", "kind": "errors", "verdict": "fail", "log_e": 9.4, "threshold": 7.5}
    found["detail"] = "14 of 60 against the champion's 3 of 540"
    few = {**found, "slice": "carrier=<b>", "verdict": "inconclusive", "detail": "2 of 9"}
    guard = {"name": "slices", "question": "regression", "verdict": "fail", "log_e": 6.0, "threshold": 4.1}
    guard |= {"detail": "errors on carrier=AA", "dry_run": False, "slices": [found, few]}
    data.rollouts["flights"] = {**data.rollouts["flights"], "guards": [guard]}
    words = Page(ask(data, "/models/flights/rollout")).words
    assert "errors on carrier=AA worse 9.4 7.5 14 of 60 against the champion's 3 of 540" in words
    assert "errors on carrier=<b> too few" in words
