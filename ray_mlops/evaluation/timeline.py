"""A number over time against its threshold, with what was the case in the background; and panels of such charts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from ray_mlops.evaluation.marks import draw_dots, draw_head, draw_path, left_gutter
from ray_mlops.evaluation.svg import (
    RED,
    Plot,
    escape,
    format_number,
    format_ticks,
    group,
    line,
    nice_ticks,
    no_data,
    shorten,
    text,
    text_width,
    wrap,
    x_axis,
    y_axis,
)

_STEPS_S = (1, 5, 15, 30, 60, 300, 900, 1800, 3600, 7200, 14400, 28800, 43200)
_STEPS_DAYS = (1, 2, 3, 7, 14, 28, 56, 91, 182, 364)


@dataclass(frozen=True, slots=True)
class Band:
    """A stretch of time in which something was the case."""

    start: float
    """Unix seconds."""
    end: float
    label: str
    colour: int | str
    """Of the palette, or `muted`."""
    opacity: float = 0.10


@dataclass(frozen=True, slots=True)
class Moment:
    """Something that happened: a vertical line."""

    time: float
    """Unix seconds."""
    label: str
    colour: int


def timeline_chart(
    times: Sequence[float],
    values: Sequence[float],
    *,
    threshold: float,
    bands: Sequence[Band] = (),
    moments: Sequence[Moment] = (),
    time_range: tuple[float, float] | None = None,
    title: str = "",
    subtitle: str = "",
    name: str = "",
    is_share: bool = False,
    colour: int | str = 0,
    ring: int = RED,
    width: float = 500,
    height: float = 190,
) -> str:
    """Draw a number over time against its threshold.

    The y axis reaches from one threshold below zero to at most three above; what lies beyond is drawn at its end,
    because how far beyond says nothing more. A share starts at zero.

    Args:
        times: Unix seconds, rising.
        values: One for each time; NaN is a gap.
        threshold: Drawn as a dashed red line.
        bands: Drawn behind, in order.
        moments: Drawn as vertical lines.
        time_range: What the x axis shows; None takes what there is.
        title: First line above the plot.
        subtitle: Second line.
        name: What is measured, for the tips of the dots.
        is_share: Whether values are shares, to be written as per cent.
        colour: Of the line: of the palette, or `muted`.
        ring: Colour of the ring around the first value that reaches the threshold.
    """
    finite = [value for value in values if math.isfinite(value)]
    low = 0.0 if is_share else max(min([0.0, *finite]), -threshold)
    high = min(max([threshold * 1.15, *finite]), threshold * 3.0)
    ticks = nice_ticks(low, high, 4)
    labels = format_ticks(ticks, is_share)
    head, top = draw_head(title, "", [], width)
    head += text(0, top + 1, shorten(subtitle, 11, width), size=11, tone="muted") if subtitle else ""
    top += (14 if subtitle else 0) + 10
    start, end = time_range or (min(times, default=0.0), max(times, default=1.0))
    plot = Plot(left_gutter(labels), top, width - 16, height - 24, start, max(end, start + 1e-6), ticks[0], ticks[-1])
    marks = time_ticks(plot.x_low, plot.x_high)
    shown = [(plot.x(time), min(max(value, ticks[0]), ticks[-1])) for time, value in zip(times, values, strict=True)]
    taken = [_extent(plot, moment) for moment in moments]
    body = [head, *(_draw_band(plot, band, taken) for band in bands)]
    body += [y_axis(plot, ticks, labels), x_axis(plot, [time for time, _ in marks], [label for _, label in marks])]
    limit = plot.y(threshold)
    body.append(group(RED, line(plot.left, limit, plot.right, limit, width=1.5, dash="5 4")))
    body += [_draw_moment(plot, moment) for moment in moments]
    tips = [f"{name} {format_time(time)}: " for time in times]
    body.append(group(colour, draw_path(plot, shown, False) + draw_dots(plot, shown, tips)))
    body.append("" if is_share else _draw_crossing(plot, shown, threshold, ring))
    body.append("" if finite else no_data(plot))
    return wrap("".join(body), width, height, title or name)


def time_ticks(start: float, end: float, count: int = 5) -> list[tuple[float, str]]:
    """Return about ``count`` round moments of a range, with their labels: dates, or times of the day (UTC).

    Example:
        >>> [label for _, label in time_ticks(0.0, 10 * 86400.0)]
        ['1 Jan', '4 Jan', '7 Jan', '10 Jan']
        >>> [label for _, label in time_ticks(0.0, 3600.0)]
        ['00:00', '00:15', '00:30', '00:45', '01:00']
    """
    wanted = (end - start) / max(count - 1, 1)
    if wanted > _STEPS_S[-1]:
        days = next((step for step in _STEPS_DAYS if step * 86400 >= wanted * 0.99), _STEPS_DAYS[-1])
        first = datetime.fromtimestamp(math.ceil(start / 86400) * 86400, UTC)
        moments = [first + timedelta(days=days * index) for index in range(count * 4)]
        return [(one.timestamp(), f"{one.day} {one:%b}") for one in moments if one.timestamp() <= end]
    step = next(step for step in _STEPS_S if step >= wanted * 0.99)
    first_s = math.ceil(start / step) * step
    found = [first_s + step * index for index in range(count * 4) if first_s + step * index <= end]
    style = "%H:%M" if step >= 60 else "%H:%M:%S"
    return [(one, datetime.fromtimestamp(one, UTC).strftime(style)) for one in found]


def format_time(seconds: float) -> str:
    """Write unix seconds for a tip."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def panels(
    charts: Sequence[str],
    *,
    columns: int = 2,
    title: str = "",
    notes: Sequence[str] = (),
    legend: Sequence[Band] = (),
    width: float = 500,
    height: float = 190,
    gap: float = 28,
) -> str:
    """Put charts of one size into one picture, under a title, lines of text and a key to the bands."""
    total = columns * width + (columns - 1) * gap
    body, top = [], 6.0
    if title:
        body.append(text(0, top + 16, shorten(title, 18, total), size=18, bold=True))
        top += 32
    for note in notes:
        body.append(text(0, top + 10, shorten(note, 12, total), tone="muted"))
        top += 18
    if legend:
        body.append(_draw_key(legend, top + 4))
        top += 26
    top += 10
    for index, chart in enumerate(charts):  # markup as well as plain text
        x, y = (index % columns) * (width + gap), top + (index // columns) * (height + gap)
        body.append(str(chart).replace("<svg ", f'<svg x="{x:g}" y="{y:g}" ', 1))
    rows = math.ceil(len(charts) / columns)
    margin = 20.0
    picture = wrap("".join(body), total, top + rows * (height + gap), title)
    high = top + rows * (height + gap) + 2 * margin - gap
    inner = picture.replace("<svg ", f'<svg x="{margin:g}" y="{margin:g}" ', 1)
    return wrap(f'<rect width="100%" height="100%" fill="#ffffff"/>{inner}', total + 2 * margin, high, title)


def _draw_band(plot: Plot, band: Band, taken: Sequence[tuple[float, float]]) -> str:
    """Fill a stretch; its label stands above it, where there is room and no moment's label."""
    left, right = (min(max(plot.x(time), plot.left), plot.right) for time in (band.start, band.end))
    if right - left < 0.5:
        return ""
    box = (
        f'<rect x="{left:.1f}" y="{plot.top:.1f}" width="{right - left:.1f}" height="{plot.bottom - plot.top:.1f}" '
        f'fill="currentColor" fill-opacity="{band.opacity:g}"><title>{escape(band.label)}</title></rect>'
    )
    drawn = group(band.colour, box)
    wide = text_width(band.label, 10)
    if wide < right - left - 6 and not any(start < left + 4 + wide and left < end for start, end in taken):
        drawn += text(left + 4, plot.top - 4, band.label, size=10, tone="muted")
    return drawn


def _extent(plot: Plot, moment: Moment) -> tuple[float, float]:
    """From where to where a moment's label reaches: to the left of its line where it would leave the plot."""
    x, wide = plot.x(moment.time), text_width(moment.label, 10) * 1.1 + 8
    return (x - wide, x) if x + wide > plot.right + 16 else (x, x + wide)


def _draw_moment(plot: Plot, moment: Moment) -> str:
    x = plot.x(moment.time)
    if not plot.left - 1 <= x <= plot.right + 1:
        return ""
    drawn = line(x, plot.top - 12, x, plot.bottom, width=1.5)
    anchor, at = ("end", x - 4) if _extent(plot, moment)[0] < x else ("start", x + 4)
    return group(moment.colour, drawn + text(at, plot.top - 4, moment.label, size=10, anchor=anchor, bold=True))


def _draw_crossing(plot: Plot, shown: Sequence[tuple[float, float]], threshold: float, colour: int) -> str:
    """Ring the first point at which evidence reached its threshold."""
    first = next((point for point in shown if math.isfinite(point[1]) and point[1] >= threshold), None)
    if first is None:
        return ""
    ring = f'<circle cx="{first[0]:.1f}" cy="{plot.y(first[1]):.1f}" r="7" fill="none" stroke="currentColor" '
    return group(colour, f'{ring}stroke-width="2"><title>reaches {format_number(threshold)}</title></circle>')


def _draw_key(bands: Sequence[Band], top: float) -> str:
    drawn, x = "", 0.0
    for band in bands:
        box = f'<rect x="{x:.1f}" y="{top:.1f}" width="16" height="12" fill="currentColor" '
        opacity = min(3 * band.opacity, 0.9)
        drawn += group(band.colour, f'{box}fill-opacity="{opacity:g}"/>') + text(x + 22, top + 10, band.label)
        x += 22 + text_width(band.label, 12) + 18
    return drawn
