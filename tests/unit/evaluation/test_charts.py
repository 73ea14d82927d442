import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from itertools import pairwise

import pytest

from ray_mlops.evaluation.charts import (
    CHART_CSS,
    IntervalRow,
    Marker,
    PointSeries,
    Series,
    Shade,
    bar_chart,
    heat_map,
    histogram_pair,
    interval_chart,
    line_chart,
    xy_chart,
)
from ray_mlops.evaluation.lanes import lane_chart
from ray_mlops.evaluation.marks import place_markers
from ray_mlops.evaluation.svg import (
    DARK_PALETTE,
    PALETTE,
    escape,
    format_interval,
    format_number,
    format_ticks,
    nice_ticks,
    shorten,
    text_width,
)

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "\"><script>alert(1)</script><b a='x' & \x00\x1b\ud800"
NAN = math.nan


def parse(svg: str) -> ET.Element:
    root = ET.fromstring(svg.encode())
    assert root.tag == f"{SVG}svg"
    for element in root.iter():
        assert element.tag != f"{SVG}script"
        for name in ("x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "width", "height"):
            if name in element.attrib:
                assert math.isfinite(float(element.attrib[name]))
        for name in ("width", "height"):
            assert float(element.attrib.get(name, 0)) >= 0
        assert "nan" not in element.attrib.get("d", "") + element.attrib.get("points", "")
    return root


def words(root: ET.Element) -> list[str]:
    return [element.text or "" for element in root.iter(f"{SVG}text")]


CHARTS: dict[str, Callable[[str, list[float]], str]] = {
    "line": lambda name, values: line_chart(
        [Series(name, values, values, values)],
        [name] * len(values),
        markers=[Marker(0.5, name)],
        title=name,
        y_label=name,
    ),
    "xy": lambda name, values: xy_chart(
        [PointSeries(name, values, values, values, values, has_dots=True)] * 2,
        title=name,
        x_label=name,
        has_diagonal=True,
    ),
    "bar": lambda name, values: bar_chart([name] * len(values), [Series(name, values)] * 2, title=name, y_label=name),
    "heat": lambda name, values: heat_map(
        [name] * 2,
        [name] * len(values),
        [values] * 2,
        title=name,
        x_label=name,
        y_label=name,
        has_numbers=True,
        signs=True,
    ),
    "interval": lambda name, values: interval_chart(
        [IntervalRow(name, value, value, value, note=name) for value in values], title=name, x_label=name, limit=0.1
    ),
    "histogram": lambda name, values: histogram_pair(
        list(range(len(values) + 1)),
        {name: [abs(v) if math.isfinite(v) else 0.0 for v in values]},
        title=name,
        x_label=name,
    ),
}


@pytest.mark.parametrize("chart", CHARTS)
@pytest.mark.parametrize(
    "values",
    [[0.1, 0.5, 0.3], [NAN, 0.2, NAN], [NAN, NAN], [5.0], [0.0, 0.0], [-1e9, 1e9], [1e-9, 2e-9], [math.inf, 1.0]],
)
def test_every_chart_is_well_formed_for_any_numbers(chart: str, values: list[float]) -> None:
    parse(CHARTS[chart]("name", values))


@pytest.mark.parametrize("chart", CHARTS)
def test_hostile_names_are_escaped_everywhere(chart: str) -> None:
    svg = CHARTS[chart](HOSTILE, [0.1, 0.5, 0.3])
    root = parse(svg)
    assert "<script" not in svg
    assert "<script>" in (root.find(f"{SVG}title").text or "")


@pytest.mark.parametrize(
    "svg",
    [
        line_chart([], []),
        xy_chart([]),
        bar_chart([], []),
        heat_map([], [], []),
        interval_chart([]),
        line_chart([Series("x", [NAN, NAN])], ["a", "b"]),
    ],
)
def test_nothing_to_draw_says_so(svg: str) -> None:
    assert "no data" in words(parse(svg))


def test_undefined_values_are_gaps_not_zeros() -> None:
    root = parse(line_chart([Series("s", [1.0, 2.0, NAN, 3.0, 4.0])], list("abcde")))
    [path] = root.iter(f"{SVG}path")
    assert path.attrib["d"].count("M") == 2
    assert len(list(root.iter(f"{SVG}circle"))) == 4
    heat = parse(heat_map(["r"], ["a", "b"], [[NAN, 1.0]]))
    assert sum(rect.attrib["fill"] == "none" for rect in heat.iter(f"{SVG}rect")) == 1


def test_points_lie_where_their_values_are() -> None:
    root = parse(line_chart([Series("s", [0.0, 1.0])], ["a", "b"], y_range=(0.0, 1.0)))
    low, high = (float(circle.attrib["cy"]) for circle in root.iter(f"{SVG}circle"))
    ticks = {element.text: float(element.attrib["y"]) - 4 for element in root.iter(f"{SVG}text")}
    assert (low, high) == (ticks["0.0"], ticks["1.0"])
    assert low > high


def test_bars_hang_from_zero() -> None:
    root = parse(bar_chart(["a", "b"], [Series("s", [2.0, -1.0])]))
    up, down = list(root.iter(f"{SVG}rect"))
    zero = float(up.attrib["y"]) + float(up.attrib["height"])
    assert float(down.attrib["y"]) == pytest.approx(zero, abs=0.11)
    assert float(up.attrib["height"]) == pytest.approx(2 * float(down.attrib["height"]), abs=0.11)


def test_crowded_x_labels_are_thinned_and_markers_stacked() -> None:
    days = [f"2013-01-{day:02d}" for day in range(1, 32)]
    markers = [Marker(day, f"alarm {day}") for day in (10, 11, 12)]
    root = parse(line_chart([Series("s", [1.0] * 31)], days, markers=markers))
    shown = [word for word in words(root) if word.startswith("2013")]
    assert 2 < len(shown) < 16
    rows = {element.attrib["y"] for element in root.iter(f"{SVG}text") if (element.text or "").startswith("alarm")}
    assert len(rows) == 3


def test_two_series_have_a_legend_and_one_histogram_has_none() -> None:
    both = words(parse(histogram_pair([0.0, 1.0, 2.0], {"reference": [1, 2], "current": [2, 1]})))
    assert {"reference", "current"} <= set(both)
    assert "reference" not in words(parse(histogram_pair([0.0, 1.0, 2.0], {"reference": [1, 2]})))


def test_histogram_shares_are_of_each_series_own_total() -> None:
    svg = histogram_pair([0.0, 1.0, 2.0], {"a": [1, 3], "b": [100, 300]})
    tips = re.findall(r"([ab]), 1 to 2: ([\d.]+%)", svg)
    assert tips == [("a", "75.0%"), ("b", "75.0%")]


def test_interval_chart_writes_values_with_matching_decimals() -> None:
    labels = words(parse(interval_chart([IntervalRow("auc", 0.75396, 0.74711, 0.76093)])))
    assert "0.7540  [0.7471, 0.7609]" in labels


def test_heat_map_writes_shares_as_per_cent() -> None:
    labels = words(parse(heat_map(["r"], ["a", "b"], [[0.25, 1.0]], high=1.0, has_numbers=True, is_share=True)))
    assert {"25%", "100%"} <= set(labels)


@pytest.mark.parametrize(
    ("low", "high"),
    [(0, 1), (0.13, 0.69), (-5, 3), (1e-7, 3e-7), (99999, 100001), (0, 0), (7, 7), (NAN, NAN), (-3, -3)],
)
def test_nice_ticks_cover_the_range_in_few_round_steps(low: float, high: float) -> None:
    ticks = nice_ticks(low, high)
    assert 2 <= len(ticks) <= 9
    assert len(set(format_ticks(ticks))) == len(ticks)
    if math.isfinite(low):
        assert ticks[0] <= low <= high <= ticks[-1]
    steps = {round((b - a) / (ticks[1] - ticks[0]), 6) for a, b in pairwise(ticks)}
    assert steps == {1.0}


def test_numbers_are_written_for_people() -> None:
    assert [format_number(value) for value in (NAN, math.inf, 0.0, 7e-16, 250.0, 1234567.0, 1e15)] == [
        "\u2013",
        "\u221e",
        "0",
        "0",
        "250",
        "1,234,567",
        "1e+15",
    ]
    assert format_ticks([0.0, 0.025, 0.05], is_share=True) == ["0.0%", "2.5%", "5.0%"]
    assert format_interval(-0.0001, -0.02, 0.02) == ("0.000", "-0.020", "0.020")
    assert format_interval(NAN, NAN, NAN) == ("\u2013", "\u2013", "\u2013")


def test_long_names_are_cut_to_fit() -> None:
    cut = shorten("a" * 200, 12, 100)
    assert cut.endswith("…")
    assert text_width(cut, 12) <= 100
    assert shorten("short", 12, 100) == "short"


def test_escape_drops_what_xml_forbids() -> None:
    assert escape("a\x00\x1b\ud800b<&'\"") == "ab&lt;&amp;&#39;&quot;"


def test_page_style_covers_every_series_in_light_and_dark() -> None:
    for colour in (*PALETTE, *DARK_PALETTE):
        assert colour in CHART_CSS
    assert CHART_CSS.count("{") == CHART_CSS.count("}")
    assert "prefers-color-scheme: dark" in CHART_CSS


def test_heat_map_shows_markers_shades_and_the_ticks_that_are_asked_for() -> None:
    days = [f"2013-01-{day:02}" for day in range(1, 21)]
    drawn = heat_map(
        ["temp"],
        days,
        [[NAN] * 10 + [1.0] * 10],
        markers=[Marker(12, "A1", 4)],
        shades=[Shade(-0.5, 9.5, "reference")],
        ticks={0: "start", 10: "middle"},
        left=200,
        width=900,
    )
    heat = parse(drawn)
    shown = words(heat)
    assert {"A1", "reference", "start", "middle"} <= set(shown)
    assert "2013-01-03" not in shown
    left = [float(one.get("x", "nan")) for one in heat.iter(f"{SVG}rect")]
    assert min(left) == 200.0


def test_heat_map_and_lines_below_each_other_have_the_same_places() -> None:
    days, at = [str(day) for day in range(30)], Marker(17, "here")
    charts = [
        heat_map(["a"], days, [[1.0] * 30], markers=[at], left=150, width=800),
        line_chart([Series("b", [1.0] * 30)], days, markers=[at], left=150, width=800),
    ]
    lines = [
        [one.get("x1") for one in parse(chart).iter(f"{SVG}line") if one.get("stroke-dasharray")] for chart in charts
    ]
    assert lines[0] == lines[1][-1:] or lines[0] == lines[1]


def test_narrow_empty_cells_have_no_border() -> None:
    wide, narrow = (heat_map(["a"], [str(i) for i in range(n)], [[NAN] * n]) for n in (4, 400))
    assert 'stroke="currentColor"><title>' in wide
    assert 'stroke="currentColor"><title>' not in narrow


def test_no_line_of_a_marker_crosses_the_label_of_another() -> None:
    left, right, places = 0.0, 1000.0, 365
    markers = [Marker(p, name) for p, name in ((290, "R5"), (297, "A4"), (304, "R6"), (305, "A5"))]
    found = place_markers(markers, places, left, right)
    room = (right - left) / places
    for one, (row, _) in zip(markers, found, strict=True):
        start = (one.position + 0.5) * room
        end = start + text_width(one.label, 11) + 4
        for other, (above, _) in zip(markers, found, strict=True):
            x = (other.position + 0.5) * room
            assert other is one or above < row or not start < x < end


def test_lanes_name_their_stretches_and_cut_what_leaves_the_chart() -> None:
    lanes = {"version 1": [Shade(-20, 40, "watched"), Shade(300, 400, "beyond")], "<b>": []}
    shown = parse(lane_chart(lanes, 100, ticks={0: "Jan"}, title="Versions"))
    assert {"version 1", "watched", "Jan", "Versions", "<b>"} <= set(words(shown))
    assert len(list(shown.iter(f"{SVG}rect"))) == 1
