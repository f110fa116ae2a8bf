"""Draw the things on land and in the air; each function fills a box of height 1 around x = 0."""

from __future__ import annotations

import math
from collections.abc import Callable

from ingest.demo.scenes.pen import BROWN, CREAM, GLASS, GREY, INK, LEAF, RGB, WHITE, Pen, dark, light, mix


def _house(pen: Pen, colour: RGB) -> None:
    roof = (126, 66, 56) if colour[0] < 200 or colour[1] > 90 else (84, 78, 92)
    pen.box(0.22, 0.6, 0.36, 0.96, dark(roof))
    pen.box(-0.44, 0.0, 0.44, 0.58, colour)
    pen.box(-0.44, 0.0, 0.44, 0.07, dark(colour))
    pen.polygon([(-0.56, 0.56), (0.0, 1.0), (0.56, 0.56)], roof)
    pen.box(-0.1, 0.0, 0.1, 0.34, BROWN)
    pen.disc(0.06, 0.17, 0.018, (240, 200, 90))
    for x in (-0.28, 0.28):
        pen.box(x - 0.1, 0.22, x + 0.1, 0.44, WHITE)
        pen.box(x - 0.08, 0.24, x + 0.08, 0.42, GLASS)
        pen.line([(x, 0.24), (x, 0.42)], WHITE, 0.02)
        pen.line([(x - 0.08, 0.33), (x + 0.08, 0.33)], WHITE, 0.02)


def _tree(pen: Pen, colour: RGB) -> None:
    pen.polygon([(-0.08, 0.0), (0.08, 0.0), (0.045, 0.55), (-0.045, 0.55)], BROWN)
    for x, y, radius in ((-0.18, 0.52, 0.2), (0.18, 0.52, 0.2), (0.0, 0.58, 0.24)):
        pen.disc(x, y, radius, dark(colour))
    for x, y, radius in ((-0.17, 0.58, 0.19), (0.17, 0.6, 0.19), (0.0, 0.76, 0.24)):
        pen.disc(x, y, radius, colour)
    for x, y in ((-0.1, 0.82), (0.06, 0.66), (-0.2, 0.6)):
        pen.disc(x, y, 0.05, light(colour))


def _tent(pen: Pen, colour: RGB) -> None:
    pen.line([(0.0, 0.9), (0.0, 1.0)], BROWN, 0.03)
    pen.polygon([(-0.7, 0.0), (0.0, 0.94), (0.7, 0.0)], colour)
    pen.polygon([(-0.7, 0.0), (0.0, 0.94), (-0.34, 0.0)], light(colour))
    pen.polygon([(-0.22, 0.0), (0.0, 0.62), (0.22, 0.0)], mix(colour, INK, 0.75))
    pen.polygon([(0.22, 0.0), (0.0, 0.62), (0.34, 0.0)], dark(colour))


def _windmill(pen: Pen, colour: RGB) -> None:
    pen.polygon([(-0.22, 0.0), (0.22, 0.0), (0.12, 0.62), (-0.12, 0.62)], CREAM)
    pen.polygon([(0.06, 0.0), (0.22, 0.0), (0.12, 0.62), (0.04, 0.62)], dark(CREAM))
    pen.dome(-0.15, 0.6, 0.15, 0.76, BROWN)
    pen.box(-0.06, 0.0, 0.06, 0.2, BROWN)
    pen.box(-0.04, 0.34, 0.05, 0.44, GLASS)
    for turn in (0.6, 2.17, 3.74, 5.31):
        along, across = (math.cos(turn), math.sin(turn)), (-math.sin(turn), math.cos(turn))
        blade = [(0.06, -0.01), (0.06, 0.1), (0.42, 0.1), (0.42, -0.01)]
        pen.polygon([(a * along[0] + b * across[0], 0.64 + a * along[1] + b * across[1]) for a, b in blade], colour)
        pen.line([(0.0, 0.64), (0.43 * along[0], 0.64 + 0.43 * along[1])], BROWN, 0.025)
    pen.disc(0.0, 0.64, 0.035, INK)


def _lighthouse(pen: Pen, colour: RGB) -> None:
    pen.oval(-0.26, -0.05, 0.26, 0.09, GREY)
    half = [0.15, 0.138, 0.126, 0.114, 0.102, 0.09]
    for band in range(5):
        low, high = 0.04 + band * 0.14, 0.04 + (band + 1) * 0.14
        corners = [(-half[band], low), (half[band], low), (half[band + 1], high), (-half[band + 1], high)]
        pen.polygon(corners, colour if band % 2 == 0 else WHITE)
    pen.box(-0.13, 0.74, 0.13, 0.77, INK)
    pen.box(-0.08, 0.77, 0.08, 0.88, (255, 232, 130))
    pen.line([(0.0, 0.77), (0.0, 0.88)], INK, 0.015)
    pen.dome(-0.11, 0.88, 0.11, 1.0, colour)


def _car(pen: Pen, colour: RGB) -> None:
    pen.polygon([(-0.56, 0.5), (-0.34, 0.98), (0.3, 0.98), (0.6, 0.5)], colour)
    glass = GLASS if max(colour) < 235 or min(colour) < 200 else (120, 160, 190)
    pen.polygon([(-0.42, 0.54), (-0.27, 0.88), (-0.04, 0.88), (-0.04, 0.54)], glass)
    pen.polygon([(0.04, 0.54), (0.04, 0.88), (0.25, 0.88), (0.45, 0.54)], glass)
    pen.box(-0.92, 0.16, 0.92, 0.58, colour, 0.14)
    pen.box(-0.92, 0.16, 0.92, 0.28, dark(colour), 0.06)
    pen.box(0.84, 0.4, 0.93, 0.5, (255, 236, 150))
    pen.box(-0.93, 0.4, -0.86, 0.5, (230, 70, 60))
    for x in (-0.5, 0.52):
        pen.disc(x, 0.2, 0.2, INK)
        pen.disc(x, 0.2, 0.1, (200, 204, 210))


def _bus(pen: Pen, colour: RGB) -> None:
    pen.box(-0.92, 0.14, 0.92, 1.0, colour, 0.1)
    pen.box(-0.92, 0.4, 0.92, 0.48, light(colour))
    for place in range(5):
        left = -0.84 + place * 0.34
        pen.box(left, 0.55, left + 0.27, 0.86, INK if place == 4 else GLASS, 0.03)
    pen.box(0.56, 0.2, 0.8, 0.86, GLASS, 0.03)
    pen.box(-0.92, 0.14, 0.92, 0.22, dark(colour))
    for x in (-0.52, 0.4):
        pen.disc(x, 0.15, 0.16, INK)
        pen.disc(x, 0.15, 0.07, (200, 204, 210))


def _cactus(pen: Pen, colour: RGB) -> None:
    shade = dark(colour)
    pen.box(-0.32, 0.42, -0.2, 0.74, colour, 0.06)
    pen.box(-0.3, 0.42, 0.0, 0.53, colour, 0.05)
    pen.box(0.2, 0.5, 0.32, 0.86, colour, 0.06)
    pen.box(0.0, 0.5, 0.3, 0.61, colour, 0.05)
    pen.box(-0.11, 0.0, 0.11, 1.0, colour, 0.11)
    for x in (-0.04, 0.04):
        pen.line([(x, 0.04), (x, 0.92)], shade, 0.015)


def _snowman(pen: Pen, colour: RGB) -> None:
    snow, shade = (252, 252, 255), (206, 216, 232)
    pen.disc(0.0, 0.26, 0.27, shade)
    pen.disc(-0.015, 0.265, 0.25, snow)
    pen.disc(0.0, 0.62, 0.19, shade)
    pen.disc(-0.01, 0.625, 0.175, snow)
    pen.box(-0.17, 0.44, 0.17, 0.53, colour, 0.03)
    pen.box(0.04, 0.22, 0.14, 0.5, colour, 0.02)
    pen.box(-0.14, 0.76, 0.14, 1.0, INK)
    pen.box(-0.22, 0.75, 0.22, 0.79, INK)
    pen.box(-0.14, 0.8, 0.14, 0.86, colour)
    for x in (-0.07, 0.07):
        pen.disc(x, 0.67, 0.022, INK)
    pen.polygon([(0.0, 0.64), (0.0, 0.59), (0.17, 0.6)], (245, 130, 30))
    for y in (0.18, 0.3):
        pen.disc(-0.05, y, 0.02, INK)


def _ball(pen: Pen, colour: RGB) -> None:
    pen.disc(0.0, 0.5, 0.5, dark(colour))
    pen.disc(-0.02, 0.53, 0.46, colour)
    pen.oval(-0.16, 0.04, 0.16, 0.98, light(colour))
    pen.disc(0.0, 0.93, 0.07, WHITE)
    pen.disc(-0.24, 0.72, 0.06, mix(colour, WHITE, 0.7))


def _umbrella(pen: Pen, colour: RGB) -> None:
    pen.line([(0.0, 0.0), (0.0, 0.96)], BROWN, 0.04)
    pen.dome(-0.58, 0.6, 0.58, 0.97, colour)
    pen.dome(-0.35, 0.6, 0.35, 0.97, light(colour))
    pen.dome(-0.13, 0.6, 0.13, 0.97, colour)
    pen.disc(0.0, 0.97, 0.03, dark(colour))


def _mushroom(pen: Pen, colour: RGB) -> None:
    pen.box(-0.15, 0.0, 0.15, 0.55, CREAM, 0.08)
    pen.box(0.03, 0.02, 0.15, 0.5, dark(CREAM), 0.05)
    pen.dome(-0.5, 0.4, 0.5, 1.0, colour)
    pen.oval(-0.5, 0.34, 0.5, 0.48, dark(colour))
    spot = WHITE if min(colour) < 200 else (200, 110, 90)
    for x, y, radius in ((-0.26, 0.6, 0.07), (0.02, 0.78, 0.085), (0.27, 0.6, 0.065), (0.02, 0.55, 0.05)):
        pen.disc(x, y, radius, spot)


def _flower(pen: Pen, colour: RGB) -> None:
    pen.line([(0.0, 0.0), (0.0, 0.6)], LEAF, 0.05)
    pen.oval(-0.28, 0.14, 0.0, 0.28, LEAF)
    pen.oval(0.0, 0.22, 0.28, 0.36, LEAF)
    for petal in range(7):
        turn = petal * math.tau / 7
        pen.disc(0.22 * math.sin(turn), 0.68 + 0.22 * math.cos(turn), 0.13, colour if petal % 2 else light(colour))
    pen.disc(0.0, 0.68, 0.13, (250, 200, 50) if colour[2] > 60 or colour[1] < 120 else (120, 72, 40))


def _cat(pen: Pen, colour: RGB) -> None:
    pen.line([(0.3, 0.08), (0.46, 0.16), (0.46, 0.42), (0.36, 0.5)], colour, 0.08)
    pen.oval(-0.26, 0.0, 0.36, 0.62, colour)
    pen.polygon([(-0.34, 0.72), (-0.32, 1.0), (-0.12, 0.86)], colour)
    pen.polygon([(0.14, 0.72), (0.14, 1.0), (-0.08, 0.86)], colour)
    pen.disc(-0.1, 0.68, 0.25, colour)
    eye = (120, 220, 90) if max(colour) < 100 else INK
    for x in (-0.2, 0.0):
        pen.disc(x, 0.71, 0.04, eye)
    pen.polygon([(-0.14, 0.62), (-0.06, 0.62), (-0.1, 0.57)], (240, 140, 150))
    pen.line([(-0.34, 0.6), (-0.14, 0.6), (0.14, 0.6)], light(colour), 0.012)
    pen.oval(-0.24, 0.0, -0.08, 0.1, light(colour))
    pen.oval(-0.04, 0.0, 0.12, 0.1, light(colour))


def _kite(pen: Pen, colour: RGB) -> None:
    pen.line([(0.0, 0.32), (0.1, 0.22), (-0.05, 0.1), (0.06, 0.0)], INK, 0.02)
    for x, y in ((0.09, 0.2), (-0.02, 0.1)):
        pen.polygon([(x - 0.06, y + 0.04), (x - 0.06, y - 0.04), (x + 0.06, y + 0.04), (x + 0.06, y - 0.04)], colour)
    pen.polygon([(0.0, 1.0), (0.32, 0.7), (0.0, 0.3), (-0.32, 0.7)], colour)
    pen.polygon([(0.0, 1.0), (0.32, 0.7), (0.0, 0.7)], light(colour))
    pen.polygon([(0.0, 0.3), (-0.32, 0.7), (0.0, 0.7)], light(colour))
    pen.line([(0.0, 1.0), (0.0, 0.3)], dark(colour), 0.02)
    pen.line([(-0.32, 0.7), (0.32, 0.7)], dark(colour), 0.02)


def _bird(pen: Pen, colour: RGB) -> None:
    pen.polygon([(-0.4, 0.42), (-0.78, 0.6), (-0.74, 0.3)], dark(colour))
    pen.oval(-0.5, 0.18, 0.46, 0.66, colour)
    pen.disc(0.46, 0.62, 0.22, colour)
    pen.polygon([(0.62, 0.7), (0.86, 0.6), (0.62, 0.52)], (245, 150, 40))
    pen.disc(0.5, 0.68, 0.045, WHITE if max(colour) < 100 else INK)
    pen.polygon([(-0.26, 0.48), (0.18, 0.5), (0.12, 0.72), (-0.06, 0.9), (-0.36, 1.0), (-0.34, 0.72)], light(colour))


def _balloon(pen: Pen, colour: RGB) -> None:
    pen.line([(-0.2, 0.45), (-0.08, 0.18)], BROWN, 0.015)
    pen.line([(0.2, 0.45), (0.08, 0.18)], BROWN, 0.015)
    pen.polygon([(-0.29, 0.5), (0.29, 0.5), (0.09, 0.25), (-0.09, 0.25)], dark(colour))
    pen.oval(-0.36, 0.32, 0.36, 1.0, colour)
    pen.oval(-0.22, 0.32, 0.22, 1.0, light(colour))
    pen.oval(-0.09, 0.32, 0.09, 1.0, colour)
    pen.box(-0.1, 0.0, 0.1, 0.17, BROWN, 0.02)


def _plane(pen: Pen, colour: RGB) -> None:
    pen.polygon([(-0.92, 0.5), (-1.08, 1.0), (-0.84, 1.0), (-0.56, 0.56)], dark(colour))
    pen.oval(-1.0, 0.24, 1.06, 0.74, colour)
    pen.polygon([(0.6, 0.62), (0.82, 0.6), (0.7, 0.5), (0.56, 0.5)], GLASS if min(colour) < 200 else INK)
    for place in range(5):
        pen.disc(-0.5 + place * 0.22, 0.55, 0.06, GLASS if min(colour) < 200 else INK)
    pen.polygon([(-0.1, 0.42), (0.3, 0.42), (-0.3, 0.0), (-0.52, 0.0)], light(colour))


THINGS: dict[str, Callable[[Pen, RGB], None]] = {
    "house": _house,
    "tree": _tree,
    "tent": _tent,
    "windmill": _windmill,
    "lighthouse": _lighthouse,
    "car": _car,
    "bus": _bus,
    "cactus": _cactus,
    "snowman": _snowman,
    "ball": _ball,
    "umbrella": _umbrella,
    "mushroom": _mushroom,
    "flower": _flower,
    "cat": _cat,
    "kite": _kite,
    "bird": _bird,
    "balloon": _balloon,
    "plane": _plane,
}
