"""Marks of charts as SVG text: heads, lines with gaps, dots, bands, bars."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ray_mlops.evaluation.svg import (
    PURPLE,
    Plot,
    escape,
    format_number,
    group,
    legend,
    line,
    shorten,
    text,
    text_width,
)

_ROW = 16.0
"""Height of one row of markers' labels."""


@dataclass(frozen=True, slots=True)
class Marker:
    """Something that happened: a vertical line at a position on the x axis (fractions lie between labels)."""

    position: float
    label: str
    colour: int = PURPLE


@dataclass(frozen=True, slots=True)
class Shade:
    """A stretch of the x axis in which something was the case."""

    start: float
    """Position, as a marker's; -0.5 is where the first label's place begins."""
    end: float
    label: str
    """For the tip; written into the stretch where it has room."""
    colour: int | str = "muted"
    """Of the palette, or `muted`."""
    opacity: float = 0.12


def value_range(values: Sequence[float]) -> tuple[float, float]:
    """Return the least and the greatest finite value; 0 and 1 where there is none."""
    finite = [value for value in values if math.isfinite(value)]
    return (min(finite), max(finite)) if finite else (0.0, 1.0)


def left_gutter(labels: Sequence[str]) -> float:
    """Return the room that the y axis's numbers need, in pixels."""
    return 20 + max((text_width(label, 12) for label in labels), default=0.0)


def draw_head(title: str, y_label: str, entries: Sequence[tuple[str, int, bool]], width: float) -> tuple[str, float]:
    """Draw the title, the legend and the y axis's name above the plot; return them and where the plot begins."""
    drawn, top = "", 4.0
    if title:
        drawn += text(0, 16, shorten(title, 14, width), size=14, bold=True)
        top += 24
    if entries:
        names, used = legend(entries, 0, top, width)
        drawn, top = drawn + names, top + used
    if y_label:
        drawn += text(0, top + 11, shorten(y_label, 12, width), tone="muted")
        top += 18
    return drawn, top + 8


def draw_path(plot: Plot, points: Sequence[tuple[float, float]], is_dashed: bool) -> str:
    """Draw a line through (pixel x, value y) points, with gaps where a value is undefined."""
    commands, pen = [], "M"
    for x, value in points:
        if math.isfinite(value):
            commands.append(f"{pen}{x:.1f} {plot.y(value):.1f}")
            pen = "L"
        else:
            pen = "M"
    dash = ' stroke-dasharray="5 4"' if is_dashed else ""
    drawn = " ".join(commands)
    return f'<path d="{drawn}" fill="none" stroke="currentColor" stroke-width="2" stroke-linejoin="round"{dash}/>'


def draw_dots(plot: Plot, points: Sequence[tuple[float, float]], tips: Sequence[str]) -> str:
    """Draw a dot with a tip on each defined point."""
    radius = 3.5 if len(points) <= 60 else 1.5
    return "".join(
        f'<circle cx="{x:.1f}" cy="{plot.y(value):.1f}" r="{radius}" fill="currentColor">'
        f"<title>{escape(tip + format_number(value))}</title></circle>"
        for (x, value), tip in zip(points, tips, strict=True)
        if math.isfinite(value)
    )


def draw_band(plot: Plot, low: Sequence[float], high: Sequence[float]) -> str:
    """Fill between two lines, in pieces where either is undefined."""
    drawn, piece = "", []
    for index in range(len(low) + 1):
        if index < len(low) and math.isfinite(low[index] + high[index]):
            piece.append(index)
            continue
        if len(piece) > 1:
            corners = [(i, high[i]) for i in piece] + [(i, low[i]) for i in reversed(piece)]
            points = " ".join(f"{plot.x(i):.1f},{plot.y(value):.1f}" for i, value in corners)
            drawn += f'<polygon points="{points}" fill="currentColor" fill-opacity="0.15"/>'
        piece = []
    return drawn


def draw_bar(x: float, top: float, width: float, bottom: float, tip: str, opacity: float = 0.85) -> str:
    """Draw a bar with a tip."""
    return (
        f'<rect x="{x:.1f}" y="{top:.1f}" width="{max(width, 0.5):.1f}" height="{max(bottom - top, 0.0):.1f}" '
        f'fill="currentColor" fill-opacity="{opacity:g}"><title>{escape(tip)}</title></rect>'
    )


def markers_height(markers: Sequence[Marker], num_labels: int, left: float, right: float) -> float:
    """Return the room that the labels of markers need above the plot, in pixels."""
    return _ROW * (max((row for row, _ in place_markers(markers, num_labels, left, right)), default=-1) + 1)


def draw_markers(plot: Plot, markers: Sequence[Marker], num_labels: int) -> str:
    """Draw vertical lines over a plot whose x axis has ``num_labels`` places, their labels above it."""
    drawn = []
    places = place_markers(markers, num_labels, plot.left, plot.right)
    for marker, (row, anchor) in zip(markers, places, strict=True):
        x, y = plot.x(marker.position), plot.top - 6 - _ROW * row
        label = text(x + (4 if anchor == "start" else -4), y, marker.label, size=11, anchor=anchor)
        drawn.append(group(marker.colour, line(x, y - 8, x, plot.bottom, width=1.5, dash="3 3") + label))
    return "".join(drawn)


def draw_shades(plot: Plot, shades: Sequence[Shade]) -> str:
    """Fill stretches over the whole height of a plot; their labels stand at the top, where there is room."""
    drawn = ""
    for shade in shades:
        left, right = (min(max(plot.x(x), plot.left), plot.right) for x in (shade.start, shade.end))
        if right - left < 0.5:
            continue
        box = (
            f'<rect x="{left:.1f}" y="{plot.top:.1f}" width="{right - left:.1f}" '
            f'height="{plot.bottom - plot.top:.1f}" fill="currentColor" fill-opacity="{shade.opacity:g}">'
            f"<title>{escape(shade.label)}</title></rect>"
        )
        drawn += group(shade.colour, box)
        if text_width(shade.label, 11) < right - left - 8:
            drawn += text((left + right) / 2, plot.top + 14, shade.label, size=11, anchor="middle", tone="muted")
    return drawn


def place_markers(markers: Sequence[Marker], num_labels: int, left: float, right: float) -> list[tuple[int, str]]:
    """Place the labels of markers: the row of each, 0 next to the plot, and its anchor.

    Labels stand to the right of their line and rise to the left, so that no line crosses a label; only those
    that would leave the chart stand to the left of theirs.
    """
    room = (right - left) / max(num_labels, 1)
    starts: list[float] = []
    places = [(0, "start")] * len(markers)
    for index in sorted(range(len(markers)), key=lambda one: -markers[one].position):
        x, wide = left + (markers[index].position + 0.5) * room, text_width(markers[index].label, 11) + 8
        anchor = "end" if x + wide > right + 12 else "start"
        first, last = (x - wide, x) if anchor == "end" else (x, x + wide)
        row = next((row for row, start in enumerate(starts) if last <= start), len(starts))
        starts[row : row + 1] = [first]
        starts[:row] = [min(start, x) for start in starts[:row]]  # its line passes through the rows below
        places[index] = (row, anchor)
    return places
