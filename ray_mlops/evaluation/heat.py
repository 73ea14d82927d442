"""Heat maps as SVG text: features by days, or true classes by predicted ones."""

import math
from collections.abc import Callable, Mapping, Sequence

from ray_mlops.evaluation.marks import Marker, Shade, draw_markers, draw_shades, markers_height
from ray_mlops.evaluation.svg import (
    BLUE,
    RED,
    Plot,
    escape,
    format_number,
    group,
    no_data,
    shorten,
    text,
    text_width,
    wrap,
    x_axis,
)

_STRONG = 0.55
_MAX_LABEL = 220.0
_NARROW = 6.0
"""Width of a cell up to which there are no gaps between cells, and an empty one has no border."""


def heat_map(
    rows: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Sequence[float]],
    *,
    title: str = "",
    x_label: str = "",
    y_label: str = "",
    high: float | None = None,
    has_numbers: bool = False,
    signs: bool = False,
    is_share: bool = False,
    markers: Sequence[Marker] = (),
    shades: Sequence[Shade] = (),
    ticks: Mapping[int, str] | None = None,
    left: float | None = None,
    width: float = 760,
    row_height: float = 22,
) -> str:
    """Draw a table of colours.

    Args:
        values: One row of numbers for each name in ``rows``; NaN is an empty cell, with a border where cells are wide.
        high: The magnitude at full colour; None takes the largest.
        has_numbers: Write each number into its cell where it fits.
        signs: Show negative numbers in blue and positive in red; otherwise everything is blue.
        is_share: Whether values are shares, to be written as per cent.
        markers: Drawn as dashed vertical lines, with their labels above the cells.
        shades: Filled behind the cells; they are seen where cells are empty.
        ticks: What is written below, by index of the column; None writes as many names as have room.
        left: Where the cells begin, for charts below each other; None takes what the names of rows need.
    """
    finite = [abs(value) for row in values for value in row if math.isfinite(value)]
    write = _write_share if is_share else _write_number
    full = high or max(finite, default=1.0) or 1.0
    widest = max((text_width(name, 12) for name in rows), default=0.0)
    left = 12 + min(widest, _MAX_LABEL) if left is None else left
    right = width - 16
    head = 12 + (24 if title else 0) + (18 if y_label else 0)
    top = head + markers_height(markers, len(columns), left, right)
    bottom = top + row_height * max(len(rows), 1)
    plot = Plot(left, top, right, bottom, -0.5, max(len(columns), 1) - 0.5, 0, 1)
    cell = (plot.right - plot.left) / max(len(columns), 1)
    body = [text(0, 16, shorten(title, 14, width), size=14, bold=True)] if title else []
    body += [text(0, head - 8, y_label, tone="muted")] if y_label else []
    written = dict(enumerate(columns)) if ticks is None else ticks
    body.append(x_axis(plot, list(written), [shorten(name, 12, max(cell - 4, 100)) for name in written.values()]))
    body.append(draw_shades(plot, shades))
    for index, (name, row) in enumerate(zip(rows, values, strict=True)):
        y = top + row_height * index
        body.append(text(left - 8, y + row_height / 2 + 4, shorten(name, 12, left - 12), anchor="end"))
        cells: dict[int | str, str] = {BLUE: "", RED: "", "grid": ""}
        for column, value in enumerate(row):
            x = plot.left + cell * column
            tip = f"{name}, {columns[column]}: {write(value)}"
            colour, drawn = _cell(x, y, cell, row_height, value, full, tip, signs)
            cells[colour] += drawn
        body += [group(colour, drawn) for colour, drawn in cells.items() if drawn]
        body += _numbers(plot, row, y + row_height / 2 + 4, cell, full, write) if has_numbers else []
    body.append(draw_markers(plot, markers, len(columns)))
    body.append("" if rows and columns else no_data(plot))
    body.append(_scale(plot, bottom + 30, full, signs, write, x_label))
    return wrap("".join(body), width, bottom + 52, title or y_label)


def _cell(
    x: float, y: float, width: float, height: float, value: float, full: float, tip: str, signs: bool
) -> tuple[int | str, str]:
    """Draw one cell; returns its colour, and itself."""
    gap = 1.0 if width > _NARROW else 0.0
    box = f'<rect x="{x:.1f}" y="{y:.1f}" width="{width - gap:.1f}" height="{height - 1:.1f}"'
    if not math.isfinite(value):
        border = 'stroke="currentColor"' if width > _NARROW else 'pointer-events="all"'
        return "grid", f'{box} fill="none" {border}><title>{escape(tip)}</title></rect>'
    strength = min(abs(value) / full, 1.0)
    colour = RED if signs and value > 0 else BLUE
    fill = f'fill="currentColor" fill-opacity="{0.04 + 0.92 * strength:.3f}"'
    return colour, f"{box} {fill}><title>{escape(tip)}</title></rect>"


def _numbers(
    plot: Plot, row: Sequence[float], y: float, cell: float, full: float, write: Callable[[float], str]
) -> list[str]:
    """Write the numbers of a row into its cells, where they fit."""
    drawn = []
    for column, value in enumerate(row):
        label = write(value)
        if math.isfinite(value) and text_width(label, 11) < cell - 4:
            tone = "on" if abs(value) / full > _STRONG else "ink"
            x = plot.left + cell * (column + 0.5)
            drawn.append(text(x, y, label, size=11, anchor="middle", tone=tone))
    return drawn


def _scale(plot: Plot, y: float, full: float, signs: bool, write: Callable[[float], str], x_label: str) -> str:
    """Draw the key to the colours at the lower right, and the x axis's name at the lower left."""
    steps = [step / 8 for step in range(-8 if signs else 0, 9)]
    low, high = write(-full if signs else 0.0), write(full)
    start = plot.right - text_width(high, 11) - 6 - 12 * len(steps)
    cells = "".join(
        group(*_cell(start + 12 * index, y, 12, 11, step * full, full, write(step * full), signs))
        for index, step in enumerate(steps)
    )
    ends = text(start - 6, y + 10, low, size=11, anchor="end", tone="muted")
    ends += text(plot.right, y + 10, high, size=11, anchor="end", tone="muted")
    return cells + ends + text(plot.left, y + 10, x_label, tone="muted")


def _write_number(value: float) -> str:
    return format_number(value, 3)


def _write_share(value: float) -> str:
    return f"{value:.0%}" if math.isfinite(value) else format_number(value)
