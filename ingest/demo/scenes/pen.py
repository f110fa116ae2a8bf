"""Draw in a thing's own coordinates: x from -w/2 to w/2, y from 0 at the foot up to 1 at the top."""

from __future__ import annotations

import math
from collections.abc import Iterable

from PIL import Image, ImageDraw

RGB = tuple[int, int, int]
Point = tuple[float, float]

PAINT: dict[str, RGB] = {
    "red": (214, 40, 40),
    "orange": (245, 135, 20),
    "yellow": (252, 212, 40),
    "green": (46, 150, 62),
    "blue": (38, 92, 214),
    "purple": (128, 52, 172),
    "pink": (248, 130, 182),
    "white": (248, 248, 246),
    "black": (38, 38, 42),
}
WHITE: RGB = (250, 250, 248)
BROWN: RGB = (122, 82, 52)
CREAM: RGB = (246, 234, 208)
GREY: RGB = (130, 134, 142)
INK: RGB = (44, 44, 50)
GLASS: RGB = (190, 224, 244)
LEAF: RGB = (60, 140, 66)


def mix(first: RGB, second: RGB, share: float) -> RGB:
    """Return the mix of `share` (0 to 1) of the second colour and the rest of the first."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


def dark(colour: RGB) -> RGB:
    """Return the colour in the shade."""
    return mix(colour, (20, 16, 30), 0.28)


def light(colour: RGB) -> RGB:
    """Return the colour in the light; white turns light grey, so that it remains visible."""
    return mix(colour, (176, 182, 196), 0.6) if min(colour) > 200 else mix(colour, (255, 255, 255), 0.45)


class Pen:
    """A pen that draws one thing on a canvas: its foot at pixel (x, y), `unit` pixels high, mirrored if `flipped`."""

    def __init__(self, canvas: Image.Image, x: float, y: float, unit: float, flipped: bool = False) -> None:
        self._draw = ImageDraw.Draw(canvas)
        self._x, self._y, self._unit = x, y, unit
        self._side = -1.0 if flipped else 1.0

    def _at(self, point: Point) -> Point:
        return self._x + self._side * point[0] * self._unit, self._y - point[1] * self._unit

    def _frame(self, left: float, low: float, right: float, high: float) -> tuple[float, float, float, float]:
        (x0, y0), (x1, y1) = self._at((left, high)), self._at((right, low))
        return min(x0, x1), y0, max(x0, x1), y1

    def polygon(self, points: Iterable[Point], fill: RGB) -> None:
        """Draw a filled polygon."""
        self._draw.polygon([self._at(point) for point in points], fill=fill)

    def box(self, left: float, low: float, right: float, high: float, fill: RGB, round_by: float = 0.0) -> None:
        """Draw a filled rectangle; `round_by` is the radius of its corners."""
        frame = self._frame(left, low, right, high)
        if round_by:
            self._draw.rounded_rectangle(frame, round_by * self._unit, fill=fill)
        else:
            self._draw.rectangle(frame, fill=fill)

    def oval(self, left: float, low: float, right: float, high: float, fill: RGB) -> None:
        """Draw a filled ellipse inside a rectangle."""
        self._draw.ellipse(self._frame(left, low, right, high), fill=fill)

    def disc(self, x: float, y: float, radius: float, fill: RGB) -> None:
        """Draw a filled circle."""
        self.oval(x - radius, y - radius, x + radius, y + radius, fill)

    def dome(self, left: float, low: float, right: float, high: float, fill: RGB) -> None:
        """Draw the upper half of an ellipse: flat at `low`, round at `high`."""
        self._draw.pieslice(self._frame(left, 2 * low - high, right, high), 180, 360, fill=fill)

    def bowl(self, left: float, low: float, right: float, high: float, fill: RGB) -> None:
        """Draw the lower half of an ellipse: flat at `high`, round at `low`."""
        self._draw.pieslice(self._frame(left, low, right, 2 * high - low), 0, 180, fill=fill)

    def line(self, points: Iterable[Point], fill: RGB, width: float = 0.03) -> None:
        """Draw a line through the points, `width` in units of the thing's height."""
        self._draw.line([self._at(point) for point in points], fill=fill, width=self._pixels(width), joint="curve")

    def ring(self, left: float, low: float, right: float, high: float, fill: RGB, width: float = 0.03) -> None:
        """Draw the outline of an ellipse."""
        self._draw.ellipse(self._frame(left, low, right, high), outline=fill, width=self._pixels(width))

    def star(self, x: float, y: float, radius: float, fill: RGB, inner: float = 0.42) -> None:
        """Draw a five-pointed star, one point up; `inner` is the share of the radius where its arms meet."""
        turn = math.pi / 5
        points = []
        for corner in range(10):
            length = radius if corner % 2 == 0 else radius * inner
            points.append((x + length * math.sin(corner * turn), y + length * math.cos(corner * turn)))
        self.polygon(points, fill)

    def _pixels(self, width: float) -> int:
        return max(1, round(width * self._unit))
