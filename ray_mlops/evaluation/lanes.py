"""What was in force when: named lanes with stretches, as SVG text."""

from collections.abc import Mapping, Sequence

from ray_mlops.evaluation.marks import Shade
from ray_mlops.evaluation.svg import Plot, escape, group, no_data, shorten, text, text_width, wrap, x_axis


def lane_chart(
    lanes: Mapping[str, Sequence[Shade]],
    num_places: int,
    *,
    ticks: Mapping[int, str],
    title: str = "",
    left: float | None = None,
    width: float = 760,
    row_height: float = 20,
) -> str:
    """Draw one lane below the other, each with its stretches as bars.

    Args:
        lanes: By name: stretches, in positions of the x axis.
        num_places: Places of the x axis; it is the same as that of a heat map with so many columns.
        ticks: What is written below, by place.
        left: Where the bars begin, for charts below each other; None takes what the names need.
    """
    left = 20 + max((text_width(name, 12) for name in lanes), default=0.0) if left is None else left
    top = 12 + (24 if title else 0)
    bottom = top + row_height * max(len(lanes), 1)
    plot = Plot(left, top, width - 16, bottom, -0.5, max(num_places, 1) - 0.5, 0, 1)
    body = [text(0, 16, shorten(title, 14, width), size=14, bold=True)] if title else []
    for index, (name, stretches) in enumerate(lanes.items()):
        y = top + row_height * index
        body.append(text(left - 8, y + row_height / 2 + 4, shorten(name, 12, left - 12), anchor="end"))
        body += [_bar(plot, stretch, y + 2, row_height - 4) for stretch in stretches]
    body.append(x_axis(plot, list(ticks), list(ticks.values())))
    body.append("" if lanes else no_data(plot))
    return wrap("".join(body), width, bottom + 28, title)


def _bar(plot: Plot, stretch: Shade, y: float, height: float) -> str:
    """A stretch, cut where it leaves the chart; its label stands inside where it has room."""
    start, end = (min(max(plot.x(x), plot.left), plot.right) for x in (stretch.start, stretch.end))
    if end <= start:
        return ""
    box = (
        f'<rect x="{start:.1f}" y="{y:.1f}" width="{end - start:.1f}" height="{height:.1f}" fill="currentColor" '
        f'fill-opacity="{stretch.opacity:g}"><title>{escape(stretch.label)}</title></rect>'
    )
    drawn = group(stretch.colour, box)
    if text_width(stretch.label, 11) < end - start - 8:
        drawn += text(start + 5, y + height / 2 + 4, stretch.label, size=11)
    return drawn
