"""Draw the things on water, under water, indoors and in space, as `outdoors` does."""

from __future__ import annotations

from collections.abc import Callable

from ingest.demo.scenes.pen import BROWN, CREAM, GLASS, GREY, INK, LEAF, RGB, WHITE, Pen, dark, light, mix


def _crab(pen: Pen, colour: RGB) -> None:
    for side in (-1, 1):
        for x, y in ((0.5, 0.0), (0.7, 0.06), (0.86, 0.18)):
            pen.line([(side * 0.3, 0.34), (side * x, 0.36), (side * x, y)], dark(colour), 0.08)
        pen.line([(side * 0.45, 0.5), (side * 0.78, 0.66)], colour, 0.1)
        pen.disc(side * 0.8, 0.8, 0.18, colour)
        pen.polygon([(side * 0.8, 0.82), (side * 0.7, 1.02), (side * 0.92, 1.02)], dark(colour))
        pen.line([(side * 0.16, 0.6), (side * 0.16, 0.84)], colour, 0.06)
        pen.disc(side * 0.16, 0.86, 0.09, WHITE)
        pen.disc(side * 0.16, 0.86, 0.045, INK)
    pen.oval(-0.6, 0.1, 0.6, 0.72, colour)
    pen.oval(-0.42, 0.36, 0.42, 0.64, light(colour))


def _boat(pen: Pen, colour: RGB) -> None:
    pen.line([(0.0, 0.2), (0.0, 1.0)], BROWN, 0.03)
    pen.polygon([(0.03, 0.97), (0.03, 0.3), (0.45, 0.3)], colour)
    pen.polygon([(-0.03, 0.9), (-0.03, 0.3), (-0.36, 0.3)], light(colour))
    pen.polygon([(-0.5, 0.24), (0.52, 0.24), (0.36, 0.0), (-0.36, 0.0)], BROWN)
    pen.polygon([(-0.5, 0.24), (0.52, 0.24), (0.48, 0.18), (-0.46, 0.18)], CREAM)


def _duck(pen: Pen, colour: RGB) -> None:
    pen.polygon([(-0.4, 0.3), (-0.72, 0.56), (-0.3, 0.5)], colour)
    pen.oval(-0.56, 0.0, 0.5, 0.56, colour)
    pen.disc(0.34, 0.72, 0.27, colour)
    bill = (240, 110, 30) if colour[1] > 160 else (250, 210, 60)
    pen.polygon([(0.54, 0.76), (0.84, 0.66), (0.54, 0.58)], bill)
    pen.disc(0.42, 0.8, 0.045, INK)
    pen.oval(-0.38, 0.16, 0.16, 0.44, mix(colour, INK, 0.14))


def _whale(pen: Pen, colour: RGB) -> None:
    for x in (-0.16, 0.0, 0.16):
        pen.line([(0.4, 0.72), (0.4 + x, 0.98)], (206, 236, 250), 0.04)
    pen.polygon([(-0.6, 0.3), (-0.98, 0.86), (-0.72, 0.74), (-0.56, 0.92), (-0.44, 0.3)], colour)
    pen.bowl(-0.78, 0.0, 0.8, 0.38, colour)
    pen.dome(-0.3, 0.36, 0.8, 0.74, colour)
    pen.polygon([(-0.78, 0.38), (0.3, 0.38), (0.2, 0.6), (-0.2, 0.48)], colour)
    pen.bowl(0.0, 0.02, 0.72, 0.2, light(colour))
    pen.disc(0.5, 0.42, 0.05, WHITE if max(colour) < 120 or colour[2] > 150 else INK)
    pen.disc(0.5, 0.42, 0.028, INK)


def _fish(pen: Pen, colour: RGB) -> None:
    pen.polygon([(-0.4, 0.5), (-0.86, 0.96), (-0.74, 0.5), (-0.86, 0.04)], dark(colour))
    pen.polygon([(-0.2, 0.82), (0.1, 1.0), (0.3, 0.78)], dark(colour))
    pen.oval(-0.56, 0.12, 0.78, 0.88, colour)
    for x in (-0.12, 0.16):
        pen.oval(x - 0.06, 0.18, x + 0.06, 0.82, light(colour))
    pen.polygon([(0.06, 0.44), (-0.2, 0.24), (-0.16, 0.56)], dark(colour))
    pen.disc(0.5, 0.6, 0.1, WHITE)
    pen.disc(0.53, 0.6, 0.05, INK)


def _turtle(pen: Pen, colour: RGB) -> None:
    skin = (150, 180, 96)
    pen.polygon([(0.28, 0.3), (0.5, 0.0), (0.14, 0.1)], skin)
    pen.polygon([(-0.3, 0.3), (-0.6, 0.02), (-0.16, 0.1)], skin)
    pen.polygon([(-0.6, 0.34), (-0.86, 0.22), (-0.6, 0.22)], skin)
    pen.oval(0.5, 0.3, 0.92, 0.66, skin)
    pen.disc(0.78, 0.52, 0.045, INK)
    pen.dome(-0.64, 0.26, 0.62, 1.0, colour)
    pen.box(-0.66, 0.2, 0.64, 0.3, dark(colour), 0.05)
    for x, y in ((-0.3, 0.5), (0.0, 0.72), (0.28, 0.5), (0.0, 0.42)):
        pen.disc(x, y, 0.1, light(colour))


def _jellyfish(pen: Pen, colour: RGB) -> None:
    for x in (-0.26, -0.13, 0.0, 0.13, 0.26):
        wave = [(x, 0.56), (x + 0.05, 0.42), (x - 0.05, 0.28), (x + 0.05, 0.14), (x, 0.0)]
        pen.line(wave, light(colour), 0.04)
    pen.dome(-0.37, 0.5, 0.37, 1.0, colour)
    for x in (-0.25, 0.0, 0.25):
        pen.disc(x, 0.5, 0.12, colour)
    pen.oval(-0.22, 0.68, -0.02, 0.9, light(colour))


def _submarine(pen: Pen, colour: RGB) -> None:
    pen.line([(0.1, 0.7), (0.1, 1.0), (0.26, 1.0)], GREY, 0.05)
    pen.box(-0.2, 0.6, 0.28, 0.84, dark(colour), 0.06)
    pen.polygon([(-0.6, 0.4), (-0.88, 0.72), (-0.88, 0.02)], dark(colour))
    pen.oval(-0.76, 0.06, 0.8, 0.7, colour)
    for x in (-0.26, 0.06, 0.38):
        pen.disc(x, 0.4, 0.12, WHITE if min(colour) < 200 else GREY)
        pen.disc(x, 0.4, 0.085, GLASS)


def _starfish(pen: Pen, colour: RGB) -> None:
    pen.star(0.0, 0.48, 0.52, dark(colour), 0.5)
    pen.star(0.0, 0.5, 0.46, colour, 0.48)
    for x, y in ((0.0, 0.5), (0.0, 0.74), (-0.2, 0.56), (0.2, 0.56), (-0.13, 0.3), (0.13, 0.3)):
        pen.disc(x, y, 0.035, light(colour))


def _cup(pen: Pen, colour: RGB) -> None:
    pen.ring(0.24, 0.2, 0.62, 0.72, dark(colour), 0.09)
    pen.polygon([(-0.4, 0.9), (0.4, 0.9), (0.32, 0.0), (-0.32, 0.0)], colour)
    pen.polygon([(0.16, 0.9), (0.4, 0.9), (0.32, 0.0), (0.12, 0.0)], dark(colour))
    pen.oval(-0.4, 0.82, 0.4, 1.0, light(colour))
    pen.oval(-0.33, 0.84, 0.33, 0.97, (90, 56, 36))


def _lamp(pen: Pen, colour: RGB) -> None:
    pen.oval(-0.22, 0.0, 0.22, 0.1, INK)
    pen.line([(0.0, 0.05), (0.0, 0.6)], INK, 0.045)
    pen.oval(-0.09, 0.46, 0.09, 0.6, (255, 240, 170))
    pen.polygon([(-0.34, 0.54), (0.34, 0.54), (0.18, 1.0), (-0.18, 1.0)], colour)
    pen.polygon([(-0.2, 0.54), (0.0, 0.54), (0.0, 1.0), (-0.1, 1.0)], light(colour))


def _vase(pen: Pen, colour: RGB) -> None:
    for x, y, petal in ((-0.16, 0.78, (240, 120, 150)), (0.0, 0.88, (250, 210, 70)), (0.17, 0.77, (240, 120, 150))):
        pen.line([(0.0, 0.45), (x, y)], LEAF, 0.025)
        pen.disc(x, y, 0.1, petal)
        pen.disc(x, y, 0.035, WHITE)
    pen.oval(-0.24, 0.0, 0.24, 0.44, colour)
    pen.box(-0.14, 0.36, 0.14, 0.55, colour)
    pen.box(-0.18, 0.52, 0.18, 0.57, dark(colour), 0.02)
    pen.oval(-0.16, 0.14, -0.06, 0.36, light(colour))
    pen.box(-0.15, 0.0, 0.15, 0.04, dark(colour))


def _teapot(pen: Pen, colour: RGB) -> None:
    pen.ring(-0.78, 0.24, -0.3, 0.74, dark(colour), 0.1)
    pen.polygon([(0.36, 0.3), (0.44, 0.5), (0.7, 0.82), (0.82, 0.8), (0.62, 0.38)], dark(colour))
    pen.oval(-0.52, 0.0, 0.52, 0.84, colour)
    pen.oval(-0.26, 0.72, 0.26, 0.88, dark(colour))
    pen.disc(0.0, 0.92, 0.08, dark(colour))
    pen.oval(-0.36, 0.42, -0.14, 0.7, light(colour))


def _cake(pen: Pen, colour: RGB) -> None:
    pen.oval(-0.64, 0.0, 0.64, 0.14, (214, 218, 226))
    pen.box(-0.5, 0.07, 0.5, 0.6, (236, 196, 140), 0.05)
    pen.box(-0.5, 0.26, 0.5, 0.36, (176, 98, 70))
    pen.box(-0.52, 0.48, 0.52, 0.68, colour, 0.08)
    for x in (-0.4, -0.16, 0.1, 0.36):
        pen.oval(x - 0.1, 0.36, x + 0.1, 0.6, colour)
    for x in (-0.26, 0.0, 0.26):
        pen.box(x - 0.03, 0.68, x + 0.03, 0.87, (230, 80, 90) if x else (80, 130, 220))
        pen.oval(x - 0.04, 0.86, x + 0.04, 1.0, (255, 190, 60))


def _gift(pen: Pen, colour: RGB) -> None:
    ribbon = (250, 210, 70) if colour[2] > 90 or colour[1] < 100 else (190, 40, 60)
    pen.box(-0.42, 0.0, 0.42, 0.62, colour)
    pen.box(0.2, 0.0, 0.42, 0.62, dark(colour))
    pen.box(-0.48, 0.58, 0.48, 0.78, light(colour))
    pen.box(-0.08, 0.0, 0.08, 0.78, ribbon)
    pen.ring(-0.3, 0.76, 0.02, 0.98, ribbon, 0.08)
    pen.ring(-0.02, 0.76, 0.3, 0.98, ribbon, 0.08)


def _clock(pen: Pen, colour: RGB) -> None:
    pen.disc(0.0, 0.5, 0.5, colour)
    pen.disc(0.0, 0.5, 0.37, WHITE if min(colour) < 200 else (222, 226, 232))
    for x, y in ((0.0, 0.8), (0.3, 0.5), (0.0, 0.2), (-0.3, 0.5)):
        pen.disc(x, y, 0.03, INK)
    pen.line([(0.0, 0.5), (0.0, 0.76)], INK, 0.05)
    pen.line([(0.0, 0.5), (0.19, 0.4)], INK, 0.05)


def _picture(pen: Pen, colour: RGB) -> None:
    pen.box(-0.64, 0.0, 0.64, 1.0, colour)
    pen.box(-0.46, 0.16, 0.46, 0.84, (196, 226, 242))
    pen.disc(0.22, 0.66, 0.09, (255, 214, 90))
    pen.polygon([(-0.46, 0.16), (-0.16, 0.6), (0.14, 0.16)], (110, 130, 110))
    pen.polygon([(-0.1, 0.16), (0.2, 0.44), (0.46, 0.16)], (140, 160, 130))
    pen.line([(-0.46, 0.16), (-0.46, 0.84), (0.46, 0.84)], dark(colour), 0.03)


def _rocket(pen: Pen, colour: RGB) -> None:
    pen.polygon([(-0.1, 0.18), (0.1, 0.18), (0.0, 0.0)], (255, 190, 60))
    pen.polygon([(-0.2, 0.14), (-0.1, 0.42), (-0.1, 0.2)], dark(colour))
    pen.polygon([(0.2, 0.14), (0.1, 0.42), (0.1, 0.2)], dark(colour))
    pen.polygon([(-0.27, 0.12), (-0.14, 0.46), (-0.12, 0.2)], dark(colour))
    pen.polygon([(0.27, 0.12), (0.14, 0.46), (0.12, 0.2)], dark(colour))
    pen.oval(-0.16, 0.16, 0.16, 1.0, colour)
    pen.box(-0.11, 0.16, 0.11, 0.26, GREY)
    pen.dome(-0.115, 0.8, 0.115, 1.0, mix(colour, WHITE if min(colour) < 200 else (220, 60, 60), 0.75))
    pen.disc(0.0, 0.62, 0.085, WHITE if min(colour) < 200 else INK)
    pen.disc(0.0, 0.62, 0.06, GLASS)


def _planet(pen: Pen, colour: RGB) -> None:
    ring = mix(colour, CREAM, 0.6)
    pen.ring(-0.8, 0.28, 0.8, 0.72, ring, 0.07)
    pen.disc(0.0, 0.5, 0.5, dark(colour))
    pen.disc(-0.03, 0.53, 0.45, colour)
    pen.disc(-0.2, 0.7, 0.1, light(colour))
    pen.disc(0.16, 0.8, 0.06, light(colour))
    pen.line([(-0.78, 0.44), (-0.5, 0.34), (0.0, 0.29), (0.5, 0.34), (0.78, 0.44)], ring, 0.08)


def _saucer(pen: Pen, colour: RGB) -> None:
    pen.dome(-0.5, 0.5, 0.5, 1.0, GLASS)
    pen.disc(0.0, 0.64, 0.14, (110, 200, 90))
    pen.oval(-1.1, 0.16, 1.1, 0.66, colour)
    pen.oval(-0.7, 0.1, 0.7, 0.38, dark(colour))
    for x in (-0.8, -0.4, 0.0, 0.4, 0.8):
        pen.disc(x, 0.44, 0.09, (255, 236, 140) if colour[2] > 60 else WHITE)


def _star(pen: Pen, colour: RGB) -> None:
    pen.star(0.0, 0.48, 0.53, dark(colour))
    pen.star(-0.01, 0.5, 0.47, colour)
    for x in (-0.09, 0.09):
        pen.disc(x, 0.54, 0.04, INK)
    pen.line([(-0.08, 0.4), (0.0, 0.37), (0.08, 0.4)], INK, 0.03)


THINGS: dict[str, Callable[[Pen, RGB], None]] = {
    "crab": _crab,
    "boat": _boat,
    "duck": _duck,
    "whale": _whale,
    "fish": _fish,
    "turtle": _turtle,
    "jellyfish": _jellyfish,
    "submarine": _submarine,
    "starfish": _starfish,
    "cup": _cup,
    "lamp": _lamp,
    "vase": _vase,
    "teapot": _teapot,
    "cake": _cake,
    "gift": _gift,
    "clock": _clock,
    "picture": _picture,
    "rocket": _rocket,
    "planet": _planet,
    "saucer": _saucer,
    "star": _star,
}
