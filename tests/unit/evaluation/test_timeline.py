"""Numbers over time: what is drawn where, and that every picture is well-formed."""

import math
import re
from xml.etree import ElementTree

import pytest

from ray_mlops.evaluation.svg import GREEN, RED
from ray_mlops.evaluation.timeline import Band, Moment, panels, time_ticks, timeline_chart

DAY = 86400.0
TIMES = [DAY * day for day in range(10)]


def draw(values: list[float], **options: object) -> str:
    chart = timeline_chart(TIMES[: len(values)], values, threshold=4.0, **options)  # type: ignore[arg-type]
    ElementTree.fromstring(chart)
    return chart


def circles(chart: str, radius: str = "3.5") -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(rf'cx="([\d.]+)" cy="([\d.]+)" r="{radius}"', chart)]


def test_first_value_at_the_threshold_is_ringed() -> None:
    chart = draw([0.0, 2.0, 4.0, 5.0, 1.0])
    assert circles(chart, "7") == [circles(chart)[2]]
    assert "reaches 4" in chart
    assert circles(draw([0.0, 3.9]), "7") == []
    assert circles(draw([0.0, 0.5], is_share=True), "7") == []


def test_values_beyond_the_range_are_drawn_at_its_edge_and_gaps_are_gaps() -> None:
    high = circles(draw([0.0, 1e6, 2e6]))
    assert high[1][1] == high[2][1] < high[0][1]
    low = circles(draw([0.0, -1e6, -4.0]))
    assert low[1][1] >= low[2][1] > low[0][1]
    assert len(circles(draw([0.0, math.nan, 1.0]))) == 2
    assert "no data" in draw([math.nan])
    assert "no data" in draw([])


def test_bands_lie_where_they_were_and_empty_ones_nowhere() -> None:
    bands = [Band(0.0, 5 * DAY, "shadow", 3), Band(5 * DAY, 5 * DAY, "nothing", 1), Band(5 * DAY, 9 * DAY, "25%", 1)]
    chart = draw([0.0] * 10, bands=bands)
    boxes = [(float(x), float(w)) for x, w in re.findall(r'<rect x="([\d.]+)" y="[\d.]+" width="([\d.]+)"', chart)]
    assert len(boxes) == 2
    assert boxes[0][0] + boxes[0][1] == pytest.approx(boxes[1][0], abs=0.2)
    assert ">shadow</text>" in chart
    assert "nothing" not in chart


def test_label_of_a_decision_displaces_that_of_a_band() -> None:
    bands = [Band(0.0, 8.4 * DAY, "shadow", 3), Band(8.4 * DAY, 9 * DAY, "5%", 1)]
    assert ">5%</text>" in draw([0.0] * 10, bands=bands)
    chart = draw([0.0] * 10, bands=bands, moments=[Moment(9 * DAY, "rolled back", RED)])
    assert ">rolled back</text>" in chart
    assert ">5%</text>" not in chart
    assert ">shadow</text>" in chart


@pytest.mark.parametrize(
    ("span_s", "labels"),
    [
        (0.0, ["00:00:00"]),
        (4.0, ["00:00:00", "00:00:01", "00:00:02", "00:00:03", "00:00:04"]),
        (10 * 60.0, ["00:00", "00:05", "00:10"]),
        (2 * DAY, ["00:00", "12:00", "00:00", "12:00", "00:00"]),
        (365 * DAY, ["1 Jan", "2 Apr", "2 Jul", "1 Oct", "31 Dec"]),
    ],
)
def test_ticks_are_round_and_few(span_s: float, labels: list[str]) -> None:
    assert [label for _, label in time_ticks(0.0, span_s)] == labels


def test_panels_are_one_picture_and_hostile_names_are_escaped() -> None:
    charts = [draw([0.0, 1.0], title='<b onload="x">', subtitle="&"), draw([0.0, 5.0])]
    picture = panels(charts, title="<i>", notes=["a & b"], legend=[Band(0, 0, "<shadow>", GREEN)])
    root = ElementTree.fromstring(picture)
    assert len([one for one in root.iter() if one.tag.endswith("}svg")]) == 4
    assert "<b " not in picture
    assert "&lt;shadow&gt;" in picture
