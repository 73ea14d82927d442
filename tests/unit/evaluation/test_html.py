import math
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pytest

from ray_mlops.config import EvaluationConfig, FairnessConfig, GateConfig
from ray_mlops.evaluation import EvaluationReport, GateDecision, decide_gate, evaluate, render_report
from ray_mlops.evaluation.figures import draw_figures
from ray_mlops.evaluation.intervals import Interval
from ray_mlops.training.prediction import Prediction

VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """Checks nesting, and keeps tags and text."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []
        self.feed(page)
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
        self.text.append(data)

    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def svgs(page: str) -> list[str]:
    return re.findall(r"<svg.*?</svg>", page, re.DOTALL)


def test_page_of_each_task_is_well_formed_and_stands_alone(report: EvaluationReport) -> None:
    page = render_report(report, decide_gate(report, None, GateConfig()))
    parsed = Page(page)
    for svg in svgs(page):
        ET.fromstring(svg)
    assert len(svgs(page)) >= 5
    assert not {"script", "link", "img", "iframe", "object"} & set(parsed.tags)
    addresses = [value for name, value in parsed.attributes if name in ("src", "href", "action")]
    assert addresses == []
    assert "@import" not in page
    assert "url(" not in page
    assert "Gate passed" in parsed.words()


def test_page_shows_metrics_checks_slices_and_evidence(binary_report: EvaluationReport) -> None:
    decision = decide_gate(binary_report, None, GateConfig(minimum={"auc": 0.99}))
    words = Page(render_report(binary_report, decision)).words()
    auc = binary_report.metrics["auc"].value
    for expected in (
        "Evaluation of synthetic",
        "1,500 rows",
        "Gate refused",
        decision.reason,
        f"{auc:.3f}",
        "minimum:auc",
        "origin = JFK",
        "distance = (missing)",
        "true positive rate",
        "equal to the bit",
        "99th percentile 12 ms",
        "Replay of 500 logged rows",
        "0123456789abcdef",
        "champion000",
    ):
        assert expected in words


def test_page_without_champion_gate_and_evidence_leaves_their_parts_out(first_report: EvaluationReport) -> None:
    bare = replace(first_report, parity=None, load=None, replay=None, slices=(), fairness=(), lineage={})
    words = Page(render_report(bare)).words()
    for absent in ("Gate", "Champion", "Slices", "Fairness", "replica", "Lineage"):
        assert absent not in words


def test_hostile_names_never_become_markup() -> None:
    hostile = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>{{ 7*7 }}"
    generator = np.random.default_rng(0)
    values = generator.random(600)
    target = (generator.random(600) < values).astype(float)
    table = pa.table({hostile: generator.choice([hostile + "1", hostile + "2"], 600)})
    config = EvaluationConfig(
        bootstrap_samples=10, slices=[hostile], fairness=FairnessConfig(groups=[hostile], max_gap={hostile: 0.1})
    )
    prediction = Prediction("binary", values, (hostile, hostile + "!"))
    report = evaluate(
        prediction,
        table,
        target,
        config,
        model=hostile,
        bundle_hash=hostile,
        champion=prediction,
        champion_hash=hostile,
        lineage={hostile: hostile},
        notes=[hostile],
    )
    page = render_report(report, decide_gate(report, None, GateConfig(minimum={hostile: 1.0})))
    parsed = Page(page)
    assert not {"script", "img"} & set(parsed.tags)
    assert "onerror" not in {name for name, _ in parsed.attributes}
    assert "<script" not in page
    assert "{{ 7*7 }}" in parsed.words()
    for svg in svgs(page):
        ET.fromstring(svg)


def test_undefined_numbers_are_dashes(binary_report: EvaluationReport) -> None:
    nothing = Interval(math.nan, math.nan, math.nan)
    report = replace(binary_report, metrics=dict.fromkeys(binary_report.metrics, nothing))
    page = render_report(report, GateDecision(False, (), "Refused."))
    assert not re.search(r"\bnan\b", Page(page).words(), re.IGNORECASE)


def test_empty_holdout_still_has_a_page() -> None:
    report = evaluate(
        Prediction("regression", np.empty(0)),
        pa.table({"g": pa.array([], pa.string())}),
        np.empty(0),
        EvaluationConfig(bootstrap_samples=5, slices=["g"]),
    )
    assert "there are no rows" in Page(render_report(report, decide_gate(report, None, GateConfig()))).words()


@pytest.mark.parametrize("tone", ["good", "bad"])
def test_difference_is_coloured_by_direction(binary_report: EvaluationReport, tone: str) -> None:
    sign = -1 if tone == "good" else 1
    found = replace(
        binary_report.comparison.metrics["log_loss"],
        difference=Interval(sign * 0.2, sign * 0.2 - 0.1, sign * 0.2 + 0.1),
    )
    comparison = replace(binary_report.comparison, metrics={"log_loss": found})
    page = render_report(replace(binary_report, comparison=comparison))
    assert f'<span class="{tone}-text">{"-" if tone == "good" else "+"}0.20' in page


def test_figures_are_in_page_order(binary_report: EvaluationReport) -> None:
    sections = [figure.section for figure in draw_figures(binary_report)]
    assert sections == sorted(sections, key=["champion", "predictions", "slices", "fairness"].index)
