"""Marks of charts as SVG text: heads, lines with gaps, dots, bands, bars."""

import math
from collections.abc import Sequence

from ray_mlops.evaluation.svg import Plot, escape, format_number, legend, shorten, text, text_width


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
