"""Plots as inline SVG: few marks, direct labels, colours from the page's CSS variables, numbers also as text.

Every mark has its numbers as `<title>` (a tooltip), and every plot has all of them in its `<desc>`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element, SubElement, fromstring, tostring

from markupsafe import Markup

WIDTH, HEIGHT = 440, 280
LEFT, RIGHT, TOP, BOTTOM = 40, 424, 24, 236  # of the plotting area
LABEL_HEIGHT, LETTER = 14, 7.6  # pixels; a letter of average width, in the larger type of narrow screens
BAR_STEP, GAP = 21, 8


@dataclass(frozen=True, slots=True)
class Line:
    """One curve: (x, y) points, of which those at `marked` x get a dot and their value.

    `kind` is the CSS class that tells lines apart by colour and dashes; `below` writes the values under the line.
    """

    name: str
    kind: str
    points: Sequence[tuple[float, float]]
    marked: Sequence[float]
    below: bool = False


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar: the label to its left, its length, the text to its right, and the tooltip."""

    label: str
    value: float
    text: str
    detail: str


@dataclass(frozen=True, slots=True)
class Range:
    """One value with its interval: the label to its left, the text to its right, and the tooltip."""

    label: str
    value: float
    low: float
    high: float
    text: str
    detail: str


@dataclass(frozen=True, slots=True)
class Dot:
    """One labelled point of a scatter plot."""

    name: str
    x: float
    y: float


@dataclass(frozen=True, slots=True)
class Axis:
    """Maps values between `low` and `high`, both at least 1e-9 apart, onto pixels; `log` by logarithm."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, here = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (here - low) / (high - low) * (self.end - self.start)


def curves(name: str, title: str, lines: Sequence[Line], x_label: str) -> Markup:
    """Draw percentages (0 to 100) against a logarithmic x that counts from 1; `name` is unique on the page."""
    last = max(x for line in lines for x, _ in line.points)
    x_axis = Axis(0.7, max(last, 2), LEFT, RIGHT, log=True)  # room for a number above the first point
    y_axis = Axis(0, 100, BOTTOM, TOP)
    descriptions = [f"{line.name}: " + ", ".join(f"{y:.1f} % at {x:g}" for x, y in _marked(line)) for line in lines]
    svg = _svg(name, title, "; ".join(descriptions), HEIGHT)
    _frame(svg, x_axis, _one_two_five(1, x_axis.high), y_axis, [0, 25, 50, 75, 100], x_label, "%")
    for line in lines:
        path = " ".join(f"{x_axis(x):.2f},{y_axis(y):.2f}" for x, y in line.points)
        SubElement(svg, "polyline", {"class": f"line {line.kind}", "points": path})
        for x, y in _marked(line):
            at = {"cx": f"{x_axis(x):.2f}", "cy": f"{y_axis(y):.2f}"}
            dot = SubElement(svg, "circle", {"class": f"dot {line.kind}", "r": "4", **at})
            SubElement(dot, "title").text = f"{line.name}, {x_label} {x:g}: {y:.2f} %"
    for line in lines:
        for x, y in _marked(line):
            text = f"{line.name} {y:.1f}" if x == line.marked[-1] else f"{y:.1f}"
            if x == x_axis.high:
                left, anchor = x_axis(x), "end"
            elif line.below:
                left, anchor = x_axis(x) + 3, "start"
            else:
                left, anchor = x_axis(x) + (0 if x == 1 else 4), "middle" if x == 1 else "end"
            _text(svg, left, y_axis(y) + (18 if line.below else -9), text, anchor, f"value {line.kind}")
    return _markup(svg)


@dataclass(frozen=True, slots=True)
class Scale:
    """Where bars begin and may end, in pixels, and the value of a bar of the whole width."""

    left: int
    right: int
    longest: float

    @classmethod
    def of(cls, rows: Sequence[Bar | Range]) -> Scale:
        """Return the scale for some rows, perhaps of several plots, that cuts off no label and no text."""
        label, text = (math.ceil(LETTER * max(map(len, texts))) for texts in zip(*map(_texts, rows), strict=True))
        highest = max(row.high if isinstance(row, Range) else row.value for row in rows)
        return cls(label + 2 * GAP, WIDTH - text - 2 * GAP, highest or 1)

    def __call__(self, value: float) -> float:
        return self.left + value / self.longest * (self.right - self.left)


def _texts(row: Bar | Range) -> tuple[str, str]:
    return row.label, row.text


def bars(name: str, title: str, rows: Sequence[Bar], scale: Scale) -> Markup:
    """Draw horizontal bars; two plots with the same scale can be compared."""
    svg = _svg(name, title, "; ".join(row.detail for row in rows), BAR_STEP * len(rows) + 6)
    for number, row in enumerate(rows):
        top, middle = BAR_STEP * number + 4, BAR_STEP * number + 16
        _text(svg, scale.left - GAP, middle, row.label, "end", "tick")
        width = scale(row.value) - scale.left
        size = {"x": str(scale.left), "y": str(top), "width": f"{width:.2f}", "height": str(BAR_STEP - 5)}
        bar = SubElement(svg, "rect", {"class": "bar first" if number == 0 else "bar", **size})
        SubElement(bar, "title").text = row.detail
        _text(svg, scale(row.value) + GAP, middle, row.text, "start", "value")
    SubElement(svg, "path", {"class": "axis", "d": f"M{scale.left} 2V{BAR_STEP * len(rows) + 3}"})
    return _markup(svg)


def ranges(name: str, title: str, rows: Sequence[Range]) -> Markup:
    """Draw values from 0 as dots on the lines of their intervals, one below the other."""
    svg = _svg(name, title, "; ".join(row.detail for row in rows), BAR_STEP * len(rows) + 6)
    scale = Scale.of(rows)
    for number, row in enumerate(rows):
        height, middle = BAR_STEP * number + 12, BAR_STEP * number + 16
        _text(svg, scale.left - GAP, middle, row.label, "end", "tick")
        line = f"M{scale(row.low):.2f} {height}H{scale(row.high):.2f}"
        SubElement(svg, "path", {"class": "line exact", "d": line})
        at = {"cx": f"{scale(row.value):.2f}", "cy": str(height)}
        dot = SubElement(svg, "circle", {"class": "dot exact", "r": "4", **at})
        SubElement(dot, "title").text = row.detail
        _text(svg, scale(row.high) + GAP, middle, row.text, "start", "value")
    SubElement(svg, "path", {"class": "axis", "d": f"M{scale.left} 2V{BAR_STEP * len(rows) + 3}"})
    return _markup(svg)


def scatter(name: str, title: str, dots: Sequence[Dot], x_label: str, y_label: str) -> Markup:
    """Draw points, with their names in a column at the right: x logarithmic and above 0, y in percent.

    Both axes end at round numbers around the data; y spans at least half a point.
    """
    x_low, x_high = min(dot.x for dot in dots) / 1.05, max(dot.x for dot in dots) * 1.05
    round_numbers = _one_two_five(x_low / 10, x_high * 10)
    left, right = max(x for x in round_numbers if x <= x_low), min(x for x in round_numbers if x >= x_high)
    names = WIDTH - math.ceil(LETTER * max(len(dot.name) for dot in dots))  # where they begin
    x_axis = Axis(left, right, LEFT, names - 24, log=True)
    lowest, highest = min(dot.y for dot in dots), max(dot.y for dot in dots)
    step = next(step for step in _one_two_five(0.5, 100) if step >= (highest - lowest) / 4)
    low = max(math.floor(lowest / step - 0.25) * step, 0)
    high = max(min(math.ceil(highest / step + 0.25) * step, 100), low + step)
    y_axis = Axis(low, high, BOTTOM, TOP)
    description = "; ".join(f"{dot.name}: {_short(dot.x)} {x_label}, {y_label} {dot.y:.1f}" for dot in dots)
    svg = _svg(name, title, description, HEIGHT)
    y_ticks = [low + step * number for number in range(round((high - low) / step) + 1)]
    _frame(svg, x_axis, _one_two_five(left, right), y_axis, y_ticks, x_label, y_label)
    in_order = sorted(dots, key=lambda dot: (-dot.y, -dot.x))  # so that no line to a name crosses another
    heights = _spread([y_axis(dot.y) for dot in in_order], BOTTOM)
    for dot, height in zip(in_order, heights, strict=True):
        line = f"M{x_axis(dot.x):.2f} {y_axis(dot.y):.2f}L{names - 14} {height:.2f}H{names - 4}"
        SubElement(svg, "path", {"class": "leader", "d": line})
        _text(svg, names, height + 4, dot.name, "start", "value")
    for dot in dots:
        at = {"cx": f"{x_axis(dot.x):.2f}", "cy": f"{y_axis(dot.y):.2f}"}
        mark = SubElement(svg, "circle", {"class": "dot exact", "r": "4.5", **at})
        SubElement(mark, "title").text = f"{dot.name}: {_short(dot.x)} {x_label}, {y_label} {dot.y:.2f}"
    return _markup(svg)


def standalone(plot: Markup, style: str) -> str:
    """Return a plot of a page as an SVG file, which brings its own style: CSS without variables, for every viewer."""
    svg = fromstring(plot)
    svg.set("xmlns", "http://www.w3.org/2000/svg")
    _, _, width, height = svg.get("viewBox", "").split()
    svg.set("width", width)
    svg.set("height", height)
    svg.set("font-family", "system-ui, sans-serif")
    css, paper = Element("style"), Element("rect", {"width": width, "height": height, "fill": "#fff"})
    css.text = style
    svg[2:2] = [css, paper]  # after the title and the description
    return tostring(svg, encoding="unicode")


def name_of(plot: Markup) -> str:
    """Return the name with which a plot was drawn."""
    return fromstring(plot).get("aria-labelledby", "").split("-title")[0]


def _marked(line: Line) -> list[tuple[float, float]]:
    return [(x, y) for x, y in line.points if x in line.marked]


def _one_two_five(low: float, high: float) -> list[float]:
    """Return the numbers 1, 2, 5, 10, 20, ... (and below 1 likewise) between two bounds."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    numbers = (float(f"{digit}e{power}") for power in powers for digit in (1, 2, 5))
    return [number for number in numbers if low <= number <= high]


def _spread(wanted: Sequence[float], lowest: float) -> list[float]:
    """Return heights near those wanted (downwards, in order), at least a line of text apart and not below `lowest`."""
    heights: list[float] = []
    for height in wanted:
        heights.append(max(height, heights[-1] + LABEL_HEIGHT) if heights else height)
    for number in reversed(range(len(heights))):
        heights[number] = min(heights[number], lowest - LABEL_HEIGHT * (len(heights) - 1 - number))
    return heights


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _svg(name: str, title: str, description: str, height: int) -> Element:
    box = {"class": "plot", "viewBox": f"0 0 {WIDTH} {height}", "role": "img"}
    svg = Element("svg", {**box, "aria-labelledby": f"{name}-title {name}-desc"})
    SubElement(svg, "title", {"id": f"{name}-title"}).text = title
    SubElement(svg, "desc", {"id": f"{name}-desc"}).text = description
    return svg


def _frame(
    svg: Element,
    x_axis: Axis,
    x_ticks: Sequence[float],
    y_axis: Axis,
    y_ticks: Sequence[float],
    x_label: str,
    y_label: str,
) -> None:
    """Draw grid lines, numbers along both axes, and their titles."""
    digits = 0 if all(float(tick).is_integer() for tick in y_ticks) else 1
    for tick in y_ticks:
        SubElement(svg, "path", {"class": "grid", "d": f"M{LEFT} {y_axis(tick):.2f}H{x_axis.end}"})
        _text(svg, LEFT - 8, y_axis(tick) + 4, f"{tick:.{digits}f}", "end", "tick y")
    for tick in x_ticks:
        SubElement(svg, "path", {"class": "axis", "d": f"M{x_axis(tick):.2f} {BOTTOM}v4"})
        _text(svg, x_axis(tick), BOTTOM + 18, _short(tick), "middle", "tick x")
    SubElement(svg, "path", {"class": "axis", "d": f"M{LEFT} {BOTTOM}H{x_axis.end}"})
    _text(svg, (LEFT + x_axis.end) / 2, BOTTOM + 38, x_label, "middle", "name")
    _text(svg, 4, 12, y_label, "start", "name")


def _text(svg: Element, x: float, y: float, text: str, anchor: str, kind: str) -> None:
    where = {"x": f"{x:.1f}", "y": f"{y:.1f}", "text-anchor": anchor, "class": kind}
    SubElement(svg, "text", where).text = text


def _markup(svg: Element) -> Markup:
    return Markup(tostring(svg, encoding="unicode"))
