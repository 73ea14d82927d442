"""Interval charts (forest plots) as SVG text: values with their intervals, one under the other."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ray_mlops.evaluation.marks import draw_head, value_range
from ray_mlops.evaluation.svg import (
    ORANGE,
    Plot,
    escape,
    format_interval,
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
)


@dataclass(frozen=True, slots=True)
class IntervalRow:
    """One row of an interval chart."""

    label: str
    value: float
    low: float
    high: float
    colour: int = 0
    note: str = ""
    """Shown with the pointer over the row."""


def interval_chart(
    rows: Sequence[IntervalRow],
    *,
    title: str = "",
    x_label: str = "",
    reference: float | None = 0.0,
    limit: float | None = None,
    width: float = 760,
) -> str:
    """Draw values with their intervals, one under the other.

    Args:
        reference: A grey vertical line, such as "no difference".
        limit: An orange dashed line, such as the gate's margin.
    """
    bounds = [value for row in rows for value in (row.value, row.low, row.high)]
    bounds += [value for value in (reference, limit) if value is not None]
    ticks = nice_ticks(*value_range(bounds), count=6)
    written = [_write_interval(row) for row in rows]
    left = 24 + min(max((text_width(row.label, 12) for row in rows), default=0.0), width * 0.32)
    right = width - 24 - max((text_width(label, 12) for label in written), default=0.0)
    entries = [("limit", ORANGE, True)] if limit is not None else []
    head, top = draw_head(title, "", entries, width)
    height = top + 24 * max(len(rows), 1) + (52 if x_label else 32)
    plot = Plot(left, top, right, top + 24 * max(len(rows), 1) + 6, ticks[0], ticks[-1], 0, 1)
    body = [head, x_axis(plot, ticks, format_ticks(ticks), grid=True)]
    body.append(text((plot.left + plot.right) / 2, height - 8, x_label, anchor="middle", tone="muted"))
    if reference is not None:
        body.append(group("muted", line(plot.x(reference), plot.top, plot.x(reference), plot.bottom, width=1.5)))
    if limit is not None:
        body.append(group(ORANGE, line(plot.x(limit), plot.top, plot.x(limit), plot.bottom, width=2, dash="4 3")))
    for index, (row, label) in enumerate(zip(rows, written, strict=True)):
        y = plot.top + 24 * index + 15
        body.append(f"<g><title>{escape(row.note or f'{row.label}: {label}')}</title>")
        body.append(text(left - 12, y + 4, shorten(row.label, 12, left - 20), anchor="end"))
        drawn = ""
        if math.isfinite(row.low + row.high):
            drawn += line(plot.x(row.low), y, plot.x(row.high), y, width=2)
            drawn += "".join(line(plot.x(end), y - 4, plot.x(end), y + 4, width=2) for end in (row.low, row.high))
        if math.isfinite(row.value):
            drawn += f'<circle cx="{plot.x(row.value):.1f}" cy="{y:.1f}" r="4.5" fill="currentColor"/>'
        body.append(group(row.colour, drawn) + text(width - 8, y + 4, label, anchor="end", tone="muted") + "</g>")
    body.append("" if rows else no_data(plot))
    return wrap("".join(body), width, height, title or x_label)


def _write_interval(row: IntervalRow) -> str:
    if not math.isfinite(row.low + row.high):
        return format_number(row.value, 3)
    value, low, high = format_interval(row.value, row.low, row.high)
    return f"{value}  [{low}, {high}]"
