"""Charts as SVG text, for reports and pages: no script, no fonts to load, light and dark.

Every function returns one ``svg`` element. Undefined numbers are gaps, never zeros. All names are escaped.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ray_mlops.evaluation.forest import IntervalRow, interval_chart
from ray_mlops.evaluation.heat import heat_map
from ray_mlops.evaluation.marks import (
    Marker,
    Shade,
    draw_band,
    draw_bar,
    draw_dots,
    draw_head,
    draw_markers,
    draw_path,
    draw_shades,
    left_gutter,
    markers_height,
    value_range,
)
from ray_mlops.evaluation.svg import (
    CHART_CSS,
    Plot,
    format_number,
    format_ticks,
    group,
    line,
    nice_ticks,
    no_data,
    shorten,
    text,
    wrap,
    x_axis,
    y_axis,
)

__all__ = [
    "CHART_CSS",
    "IntervalRow",
    "Marker",
    "PointSeries",
    "Series",
    "Shade",
    "bar_chart",
    "heat_map",
    "histogram_pair",
    "interval_chart",
    "line_chart",
    "xy_chart",
]


@dataclass(frozen=True, slots=True)
class Series:
    """One line or one set of bars. ``low`` and ``high`` draw a band around a line."""

    name: str
    values: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    is_dashed: bool = False
    colour: int | None = None
    """Index into the palette; None takes the next one."""


@dataclass(frozen=True, slots=True)
class PointSeries:
    """A line through points of two numeric axes, with dots on demand and error bars where there are any."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    has_dots: bool = False
    is_dashed: bool = False


def line_chart(
    series: Sequence[Series],
    x_labels: Sequence[str],
    *,
    markers: Sequence[Marker] = (),
    shades: Sequence[Shade] = (),
    ticks: Mapping[int, str] | None = None,
    left: float | None = None,
    title: str = "",
    y_label: str = "",
    y_range: tuple[float, float] | None = None,
    is_share: bool = False,
    width: float = 760,
    height: float = 300,
) -> str:
    """Draw lines over named positions, such as months.

    Args:
        series: Values in the order of ``x_labels``; NaN is a gap.
        markers: Drawn as dashed vertical lines, with their labels above the plot.
        shades: Filled behind the lines.
        ticks: What is written below, by index of the label; None writes as many labels as have room.
        left: Where the plot begins, for charts below each other; None takes what the numbers need.
        y_range: What the y axis shows at least; values beyond it widen it.
        is_share: Whether values are shares, to be written as per cent.
    """
    bounds = [value for one in series for part in (one.values, one.low or (), one.high or ()) for value in part]
    heights = nice_ticks(*value_range([*bounds, *(y_range or ())]))
    coloured = [(one, index if one.colour is None else one.colour) for index, one in enumerate(series)]
    numbers = format_ticks(heights, is_share)
    left = left_gutter(numbers) if left is None else left
    head, top = draw_head(title, y_label, [(one.name, colour, one.is_dashed) for one, colour in coloured], width)
    top += markers_height(markers, len(x_labels), left, width - 16)
    plot = Plot(left, top, width - 16, height - 28, -0.5, max(len(x_labels), 1) - 0.5, heights[0], heights[-1])
    written = dict(enumerate(x_labels)) if ticks is None else ticks
    body = [head, draw_shades(plot, shades), y_axis(plot, heights, numbers)]
    body.append(x_axis(plot, list(written), list(written.values())))
    body.append(draw_markers(plot, markers, len(x_labels)))
    for one, colour in coloured:
        points = [(plot.x(index), value) for index, value in enumerate(one.values)]
        tips = [f"{one.name}, {label}: " for label in x_labels]
        band = draw_band(plot, one.low, one.high) if one.low is not None and one.high is not None else ""
        body.append(group(colour, band + draw_path(plot, points, one.is_dashed) + draw_dots(plot, points, tips)))
    body.append("" if any(map(math.isfinite, bounds)) else no_data(plot))
    return wrap("".join(body), width, height, title or y_label)


def xy_chart(
    series: Sequence[PointSeries],
    *,
    title: str = "",
    x_label: str = "",
    y_label: str = "",
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    has_diagonal: bool = False,
    width: float = 470,
    height: float = 350,
) -> str:
    """Draw lines through points, such as a ROC or a calibration curve.

    Args:
        x_range: What the x axis shows at least.
        y_range: The same for the y axis.
        has_diagonal: Draw y = x as a dashed grey line.
    """
    heights = [value for one in series for part in (one.y, one.low or (), one.high or ()) for value in part]
    x_ticks = nice_ticks(*value_range([*(value for one in series for value in one.x), *(x_range or ())]))
    y_ticks = nice_ticks(*value_range([*heights, *(y_range or ())]))
    labels = format_ticks(y_ticks)
    names = [(one.name, index, one.is_dashed) for index, one in enumerate(series)] if len(series) > 1 else []
    head, top = draw_head(title, y_label, names, width)
    plot = Plot(left_gutter(labels), top, width - 16, height - 44, x_ticks[0], x_ticks[-1], y_ticks[0], y_ticks[-1])
    body = [head, y_axis(plot, y_ticks, labels), x_axis(plot, x_ticks, format_ticks(x_ticks), grid=True)]
    body.append(text((plot.left + plot.right) / 2, height - 8, x_label, anchor="middle", tone="muted"))
    if has_diagonal:
        low, high = max(plot.x_low, plot.y_low), min(plot.x_high, plot.y_high)
        ends = (plot.x(low), plot.y(low), plot.x(high), plot.y(high))
        body.append(group("muted", line(*ends, width=1.5, dash="4 4")) if low < high else "")
    for index, one in enumerate(series):
        points = [(plot.x(x), y) for x, y in zip(one.x, one.y, strict=True)]
        drawn = draw_path(plot, points, one.is_dashed)
        for (x, _), low, high in zip(points, one.low or (), one.high or (), strict=False):
            drawn += line(x, plot.y(low), x, plot.y(high), width=1.5) if math.isfinite(low + high) else ""
        tips = [f"{one.name} at {format_number(x)}: " for x in one.x]
        body.append(group(index, drawn + (draw_dots(plot, points, tips) if one.has_dots else "")))
    body.append("" if any(map(math.isfinite, heights)) else no_data(plot))
    return wrap("".join(body), width, height, title or y_label)


def bar_chart(
    labels: Sequence[str],
    series: Sequence[Series],
    *,
    title: str = "",
    y_label: str = "",
    is_share: bool = False,
    width: float = 760,
    height: float = 280,
) -> str:
    """Draw groups of bars, one bar of each series above each label."""
    ticks = nice_ticks(*value_range([0.0, *(value for one in series for value in one.values)]))
    numbers = format_ticks(ticks, is_share)
    names = [(one.name, index, False) for index, one in enumerate(series)] if len(series) > 1 else []
    head, top = draw_head(title, y_label, names, width)
    plot = Plot(
        left_gutter(numbers), top, width - 16, height - 28, -0.5, max(len(labels), 1) - 0.5, ticks[0], ticks[-1]
    )
    room = (plot.right - plot.left) / max(len(labels), 1)
    short = [shorten(label, 12, max(room - 6, 40)) for label in labels]
    body = [head, y_axis(plot, ticks, numbers), x_axis(plot, range(len(labels)), short)]
    bar = min(room * 0.8 / max(len(series), 1), 48)
    for index, one in enumerate(series):
        drawn = ""
        for position, value in enumerate(one.values):
            if math.isfinite(value):
                x = plot.x(position) + bar * (index - len(series) / 2)
                tip = f"{one.name}, {labels[position]}: {f'{value:.1%}' if is_share else format_number(value)}"
                drawn += draw_bar(x, plot.y(max(value, 0.0)), bar - 1, plot.y(min(value, 0.0)), tip)
        body.append(group(index if one.colour is None else one.colour, drawn))
    body.append("" if labels and series else no_data(plot))
    return wrap("".join(body), width, height, title or y_label)


def histogram_pair(
    edges: Sequence[float],
    counts: Mapping[str, Sequence[float]],
    *,
    title: str = "",
    x_label: str = "",
    width: float = 470,
    height: float = 350,
) -> str:
    """Draw one or two histograms on the same edges, each as shares of its own total.

    Args:
        edges: Rising, one more than each series has counts.
        counts: Counts by series, drawn over each other half transparent.
    """
    totals = {name: sum(values) or 1.0 for name, values in counts.items()}
    shares = {name: [value / totals[name] for value in values] for name, values in counts.items()}
    ticks = nice_ticks(0.0, max((share for values in shares.values() for share in values), default=1.0))
    labels = format_ticks(ticks, is_share=True)
    names = [(name, index, False) for index, name in enumerate(counts)] if len(counts) > 1 else []
    head, top = draw_head(title, "share of rows", names, width)
    x_ticks = [tick for tick in nice_ticks(edges[0], edges[-1]) if edges[0] <= tick <= edges[-1]]
    plot = Plot(left_gutter(labels), top, width - 16, height - 44, edges[0], edges[-1], ticks[0], ticks[-1])
    body = [head, y_axis(plot, ticks, labels), x_axis(plot, x_ticks, format_ticks(x_ticks))]
    body.append(text((plot.left + plot.right) / 2, height - 8, x_label, anchor="middle", tone="muted"))
    for index, (name, values) in enumerate(shares.items()):
        drawn, outline = "", []
        for (low, high), share, count in zip(pairwise(edges), values, counts[name], strict=True):
            tip = f"{name}, {format_number(low)} to {format_number(high)}: {share:.1%} ({format_number(count)})"
            drawn += draw_bar(plot.x(low), plot.y(share), plot.x(high) - plot.x(low), plot.y(0.0), tip, opacity=0.25)
            outline += [(plot.x(low), share), (plot.x(high), share)]
        body.append(group(index, drawn + draw_path(plot, outline, False)))
    return wrap("".join(body), width, height, title or x_label)
