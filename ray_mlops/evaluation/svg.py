"""Pieces of charts as SVG text: numbers, ticks, axes, legends.

Colours are given twice: as attributes, so that a chart can stand alone, and as classes, so that a page with
``CHART_CSS`` can set them for light and dark. Shapes take ``currentColor`` from the group around them.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from xml.sax.saxutils import escape as _escape_xml

PALETTE = ("#2563eb", "#d97706", "#059669", "#7c3aed", "#dc2626", "#0891b2")
DARK_PALETTE = ("#60a5fa", "#fbbf24", "#34d399", "#a78bfa", "#f87171", "#22d3ee")
BLUE, ORANGE, GREEN, PURPLE, RED, CYAN = range(6)
_INK, _MUTED, _GRID = "#1f2937", "#64748b", "#e2e8f0"
_DARK = {"ink": "#e5e7eb", "muted": "#94a3b8", "grid": "#334155", "on": "#0f172a"}
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'Noto Sans', 'Liberation Sans', sans-serif"


def _rules(ink: str, muted: str, grid: str, on: str, palette: Sequence[str]) -> str:
    series = "".join(f".rc .rc-{index}{{color:{colour}}}" for index, colour in enumerate(palette))
    return (
        f".rc{{color:{ink}}}.rc .rc-muted{{color:{muted}}}.rc .rc-grid{{color:{grid}}}.rc .rc-on{{color:{on}}}{series}"
    )


CHART_CSS = (
    ".rc{max-width:100%;height:auto;display:block}"
    + _rules(_INK, _MUTED, _GRID, "#ffffff", PALETTE)
    + f"@media (prefers-color-scheme: dark){{{_rules(**_DARK, palette=DARK_PALETTE)}}}"
    + f"@media print{{{_rules(_INK, _MUTED, _GRID, '#ffffff', PALETTE)}}}"
)
"""Style sheet of a page that shows charts: it makes them fit narrow windows and dark screens."""


def escape(value: object) -> str:
    """Make any text safe inside elements and quoted attributes; characters that XML forbids are dropped.

    Example:
        >>> escape('<b onload="x">')
        '&lt;b onload=&quot;x&quot;&gt;'
    """
    return _escape_xml(_CONTROL.sub("", str(value)), {'"': "&quot;", "'": "&#39;"})


def format_number(value: float, digits: int = 4) -> str:
    """Write a number for people: significant digits, thousands separated, a dash for what is undefined.

    Below 1e-12 it is rounding error, and written as 0.

    Example:
        >>> [format_number(value) for value in (0.70431, 12345.6, 0.05, 3, 0.0000123)]
        ['0.7043', '12,346', '0.05', '3', '1.23e-05']
    """
    if not math.isfinite(value):
        return "\u2013" if math.isnan(value) else ("\u221e" if value > 0 else "-\u221e")
    if abs(value) < 1e-12:
        return "0"
    size = math.floor(math.log10(abs(value)))
    if size < -4 or size >= 12:
        return f"{value:.{digits - 1}g}"
    decimals = max(digits - 1 - size, 0)
    return _trim(f"{value:,.{decimals}f}")


def format_interval(value: float, low: float, high: float, *, is_signed: bool = False) -> tuple[str, str, str]:
    """Write a value and its interval with as many decimals as the interval's half width supports (two digits).

    Example:
        >>> format_interval(0.75396, 0.74711, 0.76093)
        ('0.7540', '0.7471', '0.7609')
        >>> format_interval(-0.0212, -0.0249, 0.0175, is_signed=True)
        ('-0.021', '-0.025', '+0.018')
    """
    half = (high - low) / 2
    if not math.isfinite(half) or not math.isfinite(value) or half <= 1e-12:
        written = [format_number(one) for one in (value, low, high)]
    else:
        decimals = min(max(1 - math.floor(math.log10(half)), 0), 8)
        written = [f"{round(one, decimals) + 0.0:,.{decimals}f}" for one in (value, low, high)]
    signs = [
        "+" if is_signed and one > 0 and text.strip("0.,") else ""
        for one, text in zip((value, low, high), written, strict=True)
    ]
    first, second, third = (sign + text for sign, text in zip(signs, written, strict=True))
    return first, second, third


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return about ``count`` round numbers that cover a range, ends included.

    Example:
        >>> nice_ticks(0.13, 0.69)
        [0.0, 0.2, 0.4, 0.6, 0.8]
    """
    if not (math.isfinite(low) and math.isfinite(high)):
        low, high = 0.0, 1.0
    if high <= low:
        reach = abs(low) * 0.1 or 0.5
        low, high = low - reach, low + reach
    raw = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) + 0.0 for index in range(first, last + 1)]


def format_ticks(ticks: Sequence[float], is_share: bool = False) -> list[str]:
    """Write ticks with as many decimals as their step needs; shares as per cent."""
    values = [tick * 100 if is_share else tick for tick in ticks]
    largest = max((abs(value) for value in values), default=0.0)
    if largest >= 1e7 or 0 < largest < 1e-4:
        return [f"{value:.3g}" for value in values]
    step = min((abs(b - a) for a, b in pairwise(values)), default=1.0)
    decimals = next((n for n in range(9) if abs(step * 10**n - round(step * 10**n)) < 1e-6), 8)
    return [f"{value:,.{decimals}f}{'%' if is_share else ''}" for value in values]


def text_width(text: str, size: float) -> float:
    """Estimate how wide a text is drawn, in pixels."""
    narrow = sum(character in "iljtfr.,:;'|!()[] " for character in text)
    wide = sum(character in "mwMW%@" or ord(character) > 0x2E80 for character in text)
    return size * (0.61 * len(text) - 0.25 * narrow + 0.3 * wide)


def shorten(text: str, size: float, width: float) -> str:
    """Cut a text with an ellipsis so that it fits."""
    if text_width(text, size) <= width:
        return text
    while text and text_width(text + "…", size) > width:
        text = text[:-1]
    return text.rstrip() + "…"


@dataclass(frozen=True, slots=True)
class Plot:
    """The inner rectangle of a chart, and the ranges of its axes."""

    left: float
    top: float
    right: float
    bottom: float
    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def x(self, value: float) -> float:
        """Pixel of an x value."""
        return self.left + (value - self.x_low) / (self.x_high - self.x_low) * (self.right - self.left)

    def y(self, value: float) -> float:
        """Pixel of a y value."""
        return self.bottom - (value - self.y_low) / (self.y_high - self.y_low) * (self.bottom - self.top)


def text(
    x: float,
    y: float,
    content: object,
    *,
    size: float = 12,
    anchor: str = "start",
    tone: str = "ink",
    bold: bool = False,
) -> str:
    """Draw a line of text. Tones: `ink`, `muted`, `on` (upon a strong colour)."""
    attributes = {"ink": "", "muted": f' class="rc-muted" color="{_MUTED}"', "on": ' class="rc-on" color="#ffffff"'}[
        tone
    ]
    weight = ' font-weight="600"' if bold else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:g}" text-anchor="{anchor}" fill="currentColor"'
        f"{weight}{attributes}>{escape(content)}</text>"
    )


def line(x1: float, y1: float, x2: float, y2: float, *, width: float = 1, dash: str = "") -> str:
    """Draw a straight line in the current colour."""
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="currentColor" '
        f'stroke-width="{width:g}"{dashes}/>'
    )


def group(colour: int | str, body: str) -> str:
    """Draw in one of the series' colours, or `muted` or `grid`."""
    if isinstance(colour, str):
        return f'<g class="rc-{colour}" color="{_MUTED if colour == "muted" else _GRID}">{body}</g>'
    index = colour % len(PALETTE)
    return f'<g class="rc-{index}" color="{PALETTE[index]}">{body}</g>'


def no_data(plot: Plot) -> str:
    """Say in the middle of a plot that there is nothing to draw."""
    return text(
        (plot.left + plot.right) / 2, (plot.top + plot.bottom) / 2 + 4, "no data", anchor="middle", tone="muted"
    )


def y_axis(plot: Plot, ticks: Sequence[float], labels: Sequence[str]) -> str:
    """Draw horizontal grid lines with their numbers."""
    grid = "".join(line(plot.left, plot.y(tick), plot.right, plot.y(tick)) for tick in ticks)
    numbers = (
        text(plot.left - 8, plot.y(tick) + 4, label, anchor="end", tone="muted")
        for tick, label in zip(ticks, labels, strict=True)
    )
    return group("grid", grid) + "".join(numbers)


def x_axis(plot: Plot, ticks: Sequence[float], labels: Sequence[str], *, grid: bool = False) -> str:
    """Draw numbers or names under the plot, leaving out those that would touch; grid lines on demand."""
    lines = "".join(line(plot.x(tick), plot.top, plot.x(tick), plot.bottom) for tick in ticks) if grid else ""
    drawn = [group("grid", lines)] if lines else []
    drawn.append(group("muted", line(plot.left, plot.bottom, plot.right, plot.bottom)))
    stride = _stride(plot, ticks, labels)
    for index in range(0, len(ticks), stride):
        half = text_width(labels[index], 12) / 2
        x = min(max(plot.x(ticks[index]), half), plot.right + 12 - half)
        drawn.append(text(x, plot.bottom + 18, labels[index], anchor="middle", tone="muted"))
    return "".join(drawn)


def legend(entries: Sequence[tuple[str, int, bool]], left: float, top: float, width: float) -> tuple[str, float]:
    """Draw names with their colours (name, colour, dashed?), wrapping; return it and its height."""
    drawn, x, y = [], left, top
    for name, colour, is_dashed in entries:
        label = shorten(name, 12, 220)
        size = text_width(label, 12) + 40
        if x > left and x + size > left + width:
            x, y = left, y + 18
        drawn.append(group(colour, line(x, y + 5, x + 18, y + 5, width=3, dash="4 3" if is_dashed else "")))
        drawn.append(text(x + 24, y + 9, label))
        x += size
    return "".join(drawn), (y - top + 20 if entries else 0)


def wrap(body: str, width: float, height: float, title: str) -> str:
    """Close a chart: one ``svg`` element that scales down with the page and is read out as its title."""
    title = title or "chart"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="rc" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" role="img" aria-label="{escape(title)}" color="{_INK}" font-family="{FONT}">'
        f"<title>{escape(title)}</title>{body}</svg>"
    )


def _trim(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text


def _stride(plot: Plot, ticks: Sequence[float], labels: Sequence[str]) -> int:
    for stride in range(1, len(ticks)):
        spans = ((plot.x(ticks[index]), text_width(labels[index], 12) / 2) for index in range(0, len(ticks), stride))
        ends = [(middle - half, middle + half) for middle, half in spans]
        if all(after[0] - before[1] >= 8 for before, after in pairwise(ends)):
            return stride
    return max(len(ticks), 1)
