from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from xml.etree.ElementTree import Element, fromstring

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.report import plots


def scale(svg: Element, axis: str) -> list[tuple[float, float]]:
    """(pixels, value) of the numbers along an axis."""
    ticks = [text for text in svg.iter("text") if text.get("class") == f"tick {axis}"]
    shift = 0 if axis == "x" else -4  # a number's baseline is a little below its grid line
    return [(float(text.get(axis, "")) + shift, float((text.text or "").replace(",", ""))) for text in ticks]


def read(pixels: float, ticks: list[tuple[float, float]], *, log: bool) -> float:
    """The value at some pixels, as a person reads it off the axis: from its first and last number."""
    (start, low), (end, high) = ticks[0], ticks[-1]
    share = (pixels - start) / (end - start)
    return low * (high / low) ** share if log else low + (high - low) * share


def dots(svg: Element) -> list[tuple[float, float]]:
    x_ticks, y_ticks = scale(svg, "x"), scale(svg, "y")
    return [
        (read(float(dot.get("cx", "")), x_ticks, log=True), read(float(dot.get("cy", "")), y_ticks, log=False))
        for dot in svg.iter("circle")
    ]


def test_a_curve_goes_through_its_points() -> None:
    exact = plots.Line("exact", "exact", [(1, 25), (2, 50), (3, 50), (4, 75), (5, 75), (10, 100)], marked=(1, 5, 10))
    served = plots.Line("as served", "served", [(1, 25), (2, 25), (5, 50)], marked=(1, 5), below=True)
    svg = fromstring(plots.curves("c", "Recall", [exact, served], "k"))
    expected = [(1, 25), (5, 75), (10, 100), (1, 25), (5, 50)]
    for seen, wanted in zip(dots(svg), expected, strict=True):
        assert seen == pytest.approx(wanted, rel=0.01)
    drawn = [line.get("points", "").split() for line in svg.iter("polyline")]
    assert [len(points) for points in drawn] == [6, 3]
    for point, (x, y) in zip(drawn[0], exact.points, strict=True):
        left, top = map(float, point.split(","))
        assert read(left, scale(svg, "x"), log=True) == pytest.approx(x, rel=0.01)
        assert read(top, scale(svg, "y"), log=False) == pytest.approx(y, abs=0.2)
    labels = [text.text for text in svg.iter("text") if "value" in text.get("class", "")]
    assert labels == ["25.0", "75.0", "exact 100.0", "25.0", "as served 50.0"]
    assert svg.findtext("desc") == (
        "exact: 25.0 % at 1, 75.0 % at 5, 100.0 % at 10; as served: 25.0 % at 1, 50.0 % at 5"
    )


def test_bars_are_as_long_as_their_values() -> None:
    rows = [plots.Bar("1", 50, "50 %", "two"), plots.Bar("2", 25, "25 %", "one"), plots.Bar("3 to 5", 0, "0 %", "none")]
    scale = plots.Scale.of([*rows, plots.Bar("20,001 to 25,000", 100, "100 %", "all")])
    svg = fromstring(plots.bars("b", "Ranks", rows, scale))
    widths = [float(bar.get("width", "")) for bar in svg.iter("rect")]
    assert widths == pytest.approx([widths[0], widths[0] / 2, 0])
    whole = float(
        next(fromstring(plots.bars("b", "", [rows[0]], replace(scale, longest=50))).iter("rect")).get("width", "")
    )
    assert widths[0] == pytest.approx(whole / 2)
    assert [bar.findtext("title") for bar in svg.iter("rect")] == ["two", "one", "none"]


def test_scattered_points_are_where_the_axes_say() -> None:
    points = [plots.Dot("a", 0.5, 56.15), plots.Dot("b", 2, 59.5), plots.Dot("c", 4.75, 58.0)]
    svg = fromstring(plots.scatter("s", "Speed", points, "ms", "recall@10"))
    for seen, point in zip(sorted(dots(svg)), points, strict=True):
        assert seen == pytest.approx((point.x, point.y), rel=0.01)


@given(st.lists(st.tuples(st.floats(0.01, 1e5), st.floats(0, 100)), min_size=2, max_size=12))
def test_every_label_is_readable_and_inside(drawn: list[tuple[float, float]]) -> None:
    points = [plots.Dot(f"column {number}", x, y) for number, (x, y) in enumerate(drawn)]
    svg = fromstring(plots.scatter("s", "Speed", points, "ms", "recall@10"))
    heights = sorted(float(text.get("y", "")) for text in svg.iter("text") if text.get("class") == "value")
    assert len(heights) == len(points)
    assert all(lower - upper > 13.5 for upper, lower in pairwise(heights))
    assert heights[0] > 0
    assert heights[-1] <= plots.BOTTOM + 4.1
    for dot in svg.iter("circle"):
        assert plots.LEFT <= float(dot.get("cx", "")) <= plots.RIGHT
        assert plots.TOP <= float(dot.get("cy", "")) <= plots.BOTTOM
    assert all(math.isfinite(value) for pair in dots(svg) for value in pair)


def test_names_are_text() -> None:
    svg = plots.scatter("s", "<b>", [plots.Dot("<script>", 1, 1), plots.Dot("&amp;", 2, 2)], "ms", "recall")
    assert "<script>" not in svg
    assert {"<script>", "&amp;"} <= {text.text for text in fromstring(svg).iter("text")}
