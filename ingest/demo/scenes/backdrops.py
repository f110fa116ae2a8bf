"""Draw the backdrops: sky and weather, ground, sea, walls, space."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image, ImageDraw

from ingest.demo.scenes.pen import CREAM, GREY, LEAF, PAINT, RGB, WHITE, Pen, dark, light, mix
from ingest.demo.scenes.world import SETTINGS, Dice, Scene

SKIES: dict[str, tuple[RGB, RGB]] = {
    "sunny": ((88, 168, 240), (196, 230, 252)),
    "cloudy": ((150, 172, 196), (214, 222, 230)),
    "rainy": ((92, 102, 120), (160, 168, 180)),
    "rainbow": ((120, 186, 240), (224, 238, 248)),
    "sunset": ((126, 70, 140), (255, 176, 96)),
    "full moon": ((14, 18, 52), (52, 60, 116)),
    "crescent moon": ((14, 18, 52), (52, 60, 116)),
}
DUSK: dict[str, tuple[RGB, float]] = {
    "rainy": ((70, 78, 96), 0.28),
    "cloudy": ((120, 128, 140), 0.12),
    "sunset": ((190, 90, 90), 0.24),
    "full moon": ((20, 24, 70), 0.55),
    "crescent moon": ((20, 24, 70), 0.55),
}
BOW: tuple[RGB, ...] = ((230, 70, 70), (250, 160, 60), (252, 226, 90), (100, 190, 100), (80, 130, 230), (150, 90, 200))


@dataclass(frozen=True)
class View:
    """A canvas being painted, its size in pixels, and the dice for details that no caption mentions."""

    canvas: Image.Image
    scene: Scene
    dice: Dice

    @property
    def width(self) -> int:
        """The canvas width in pixels."""
        return self.canvas.width

    @property
    def height(self) -> int:
        """The canvas height in pixels."""
        return self.canvas.height

    @property
    def horizon(self) -> float:
        """The top of the ground, in pixels from the top of the picture."""
        return SETTINGS[self.scene.setting].horizon * self.height

    @property
    def night(self) -> bool:
        """Whether the moon is out."""
        return self.scene.mood.endswith("moon")

    def pen(self, x: float, y: float, unit: float, flipped: bool = False) -> Pen:
        """Return a pen at (x, y), as fractions of the canvas; `unit` is a fraction of its shorter side."""
        side = min(self.width, self.height)
        return Pen(self.canvas, x * self.width, y * self.height, unit * side, flipped)

    def lit(self, colour: RGB) -> RGB:
        """Return a colour of the ground in this weather."""
        shade, share = DUSK.get(self.scene.mood, (colour, 0.0))
        return mix(colour, shade, share)

    def gradient(self, top: RGB, bottom: RGB, start: float, end: float) -> None:
        """Fill the rows from `start` to `end` (fractions of the height) from one colour to the other."""
        first, last = round(start * self.height), round(end * self.height)
        strip = Image.new("RGB", (1, 2))
        strip.putdata([top, bottom])
        rows = strip.resize((1, last - first), Image.Resampling.BILINEAR, box=(0, 0.5, 1, 1.5))
        self.canvas.paste(rows.resize((self.width, last - first), Image.Resampling.NEAREST), (0, first))

    def hills(self, colour: RGB, top: float, swell: float, count: int, end: float = 1.0) -> None:
        """Draw overlapping round hills whose tops are near `top`, filled down to `end` (fractions of the height)."""
        draw = ImageDraw.Draw(self.canvas)
        for place in range(count + 1):
            middle = (place + self.dice.between(-0.2, 0.2)) / count * self.width
            reach = self.width / count * self.dice.between(0.75, 1.0)
            peak = (top + self.dice.between(0.0, swell * 0.5)) * self.height
            draw.ellipse((middle - reach, peak, middle + reach, peak + 4 * swell * self.height), fill=colour)
        draw.rectangle((0, (top + swell) * self.height, self.width, end * self.height), fill=colour)


def _cloud(view: View, x: float, y: float, unit: float, colour: RGB) -> None:
    pen = view.pen(x, y, unit)
    for left, low, right, high in ((-1.0, 0.0, -0.1, 0.62), (-0.6, 0.0, 0.4, 1.0), (0.0, 0.0, 1.0, 0.7)):
        pen.oval(left, low, right, high, colour)
    pen.box(-0.6, 0.0, 0.6, 0.3, colour)


def _stars(view: View, count: int, lowest: float) -> None:
    for _ in range(count):
        x, y = view.dice.between(0.0, 1.0), view.dice.between(0.0, lowest)
        view.pen(x, y, view.dice.between(0.004, 0.011)).disc(0.0, 0.0, 0.5, (255, 250, 220))


def _sun(view: View, x: float) -> None:
    pen = view.pen(x, 0.15, 0.2)
    pen.disc(0.0, 0.0, 0.62, mix(SKIES["sunny"][0], (255, 244, 190), 0.45))
    pen.disc(0.0, 0.0, 0.45, (255, 222, 70))


def _moon(view: View, x: float) -> None:
    pen = view.pen(x, 0.15, 0.2)
    if view.scene.mood == "full moon":
        pen.disc(0.0, 0.0, 0.6, (66, 72, 126))
        pen.disc(0.0, 0.0, 0.46, (250, 244, 214))
        for spot_x, spot_y, radius in ((-0.14, 0.12, 0.1), (0.16, -0.04, 0.08), (-0.04, -0.2, 0.06)):
            pen.disc(spot_x, spot_y, radius, (226, 218, 188))
    else:
        pen.disc(0.0, 0.0, 0.46, (250, 238, 170))
        pen.disc(0.22, 0.1, 0.4, mix(*SKIES["crescent moon"], 0.2))


def sky(view: View) -> None:
    """Draw the sky down to the horizon, with the sun, moon, clouds or rainbow of the weather."""
    mood, dice = view.scene.mood, view.dice
    top, bottom = SKIES[mood]
    view.gradient(top, bottom, 0.0, SETTINGS[view.scene.setting].horizon + 0.06)
    corner = dice.pick((0.13, 0.87))
    if mood == "sunny":
        _sun(view, corner)
        _cloud(view, 1.0 - corner, dice.between(0.14, 0.2), 0.08, WHITE)
    elif mood == "sunset":
        low = SETTINGS[view.scene.setting].horizon
        pen = view.pen(dice.between(0.35, 0.65), low, 0.34)
        pen.disc(0.0, 0.06, 0.62, (255, 196, 104))
        pen.disc(0.0, 0.06, 0.5, (255, 120, 60))
        for _ in range(3):
            _cloud(view, dice.between(0.0, 1.0), dice.between(0.08, 0.3), 0.05, (226, 128, 130))
    elif mood in ("cloudy", "rainy"):
        white = WHITE if mood == "cloudy" else (104, 110, 124)
        for place in range(5):
            x = (place + dice.between(0.2, 0.8)) / 5
            _cloud(view, x, dice.between(0.12, 0.26), dice.between(0.12, 0.17), mix(white, GREY, dice.between(0, 0.2)))
    elif mood == "rainbow":
        middle = dice.between(0.4, 0.6)
        pen = view.pen(middle, SETTINGS[view.scene.setting].horizon + 0.04, 1.0)
        spread = 0.46 * view.width / min(view.width, view.height)
        tall = (SETTINGS[view.scene.setting].horizon - 0.02) * view.height / min(view.width, view.height)
        for band, colour in enumerate((*BOW, mix(top, bottom, 0.7))):
            inset = band * 0.026
            pen.dome(-spread + inset, 0.0, spread - inset, tall - inset, light(colour) if band < 6 else colour)
    else:
        _stars(view, 70, 0.5)
        _moon(view, corner)


def rain(view: View) -> None:
    """Draw streaks of rain over the whole picture."""
    draw = ImageDraw.Draw(view.canvas)
    length, width = 0.05 * view.height, max(1, round(0.004 * min(view.width, view.height)))
    for _ in range(110):
        x, y = view.dice.between(0, 1.05) * view.width, view.dice.between(-0.05, 1) * view.height
        draw.line((x, y, x - length * 0.3, y + length), fill=(196, 208, 224), width=width)


def meadow(view: View) -> None:
    """Draw green hills and short grass with specks of flowers."""
    view.hills(view.lit((120, 186, 96)), 0.52, 0.08, 3)
    view.gradient(view.lit((110, 190, 82)), view.lit((72, 150, 62)), 0.62, 1.0)
    for _ in range(46):
        x, y = view.dice.between(0, 1), view.dice.between(0.65, 1.0)
        pen = view.pen(x, y, 0.025)
        pen.polygon([(-0.3, 0.0), (-0.1, 1.0), (0.0, 0.0), (0.2, 0.9), (0.3, 0.0)], view.lit((58, 132, 54)))
    for _ in range(14):
        colour = view.lit(view.dice.pick(((255, 240, 150), WHITE, (250, 190, 210))))
        view.pen(view.dice.between(0, 1), view.dice.between(0.66, 1.0), 0.014).disc(0.0, 0.0, 0.5, colour)


def beach(view: View) -> None:
    """Draw a strip of sea, foam, and sand."""
    view.gradient(view.lit((40, 130, 190)), view.lit((90, 196, 214)), 0.48, 0.66)
    view.hills(view.lit((244, 250, 250)), 0.632, 0.012, 5)
    view.hills(view.lit((246, 222, 166)), 0.645, 0.012, 5)
    view.gradient(view.lit((246, 222, 166)), view.lit((226, 190, 128)), 0.66, 1.0)
    for _ in range(26):
        x, y = view.dice.between(0, 1), view.dice.between(0.69, 1.0)
        view.pen(x, y, 0.014).oval(-0.5, 0.0, 0.5, 0.6, view.lit(view.dice.pick(((206, 166, 110), (255, 244, 224)))))


def desert(view: View) -> None:
    """Draw dunes, one behind the other."""
    view.hills(view.lit((226, 150, 84)), 0.5, 0.1, 2)
    view.hills(view.lit((236, 172, 96)), 0.58, 0.08, 3)
    view.gradient(view.lit((240, 186, 108)), view.lit((214, 146, 76)), 0.66, 1.0)
    for row in range(5):
        y = (0.72 + row * 0.06) * view.height
        x = view.dice.between(-0.2, 0.6) * view.width
        box = (x, y, x + 0.7 * view.width, y + 0.12 * view.height)
        ImageDraw.Draw(view.canvas).arc(box, 200, 330, view.lit((202, 130, 66)), max(1, view.height // 200))


def snow(view: View) -> None:
    """Draw white hills, distant fir trees and snowflakes."""
    view.hills(view.lit((206, 222, 240)), 0.5, 0.07, 3)
    for _ in range(9):
        pen = view.pen(view.dice.between(0, 1), view.dice.between(0.58, 0.62), view.dice.between(0.09, 0.14))
        fir = view.lit((60, 104, 96))
        for low in (0.1, 0.35, 0.6):
            pen.polygon([(-0.32 + low * 0.3, low), (0.32 - low * 0.3, low), (0.0, low + 0.42)], fir)
    view.hills(view.lit((236, 243, 251)), 0.6, 0.03, 4)
    view.gradient(view.lit((240, 246, 252)), view.lit((208, 222, 240)), 0.64, 1.0)
    for _ in range(50):
        x, y = view.dice.between(0, 1), view.dice.between(0, 1)
        view.pen(x, y, view.dice.between(0.008, 0.016)).disc(0.0, 0.0, 0.5, WHITE)


def city(view: View) -> None:
    """Draw a row of office blocks, a pavement and a street."""
    walls: tuple[RGB, ...] = ((142, 150, 168), (170, 160, 156), (120, 132, 150), (186, 172, 160), (150, 140, 150))
    left, draw = -0.02, ImageDraw.Draw(view.canvas)
    while left < 1.0:
        wide, top = view.dice.between(0.1, 0.17), view.dice.between(0.2, 0.42)
        box = (left * view.width, top * view.height, (left + wide) * view.width, 0.66 * view.height)
        draw.rectangle(box, fill=view.lit(view.dice.pick(walls)))
        step = min(view.width, view.height) * 0.042
        rows, columns = int((box[3] - box[1]) / step / 1.3), int((box[2] - box[0]) / step)
        for row in range(rows):
            for column in range(columns):
                x, y = box[0] + (column + 0.3) * step, box[1] + (row * 1.3 + 0.4) * step
                on = view.dice.chance(0.55)
                pane = ((255, 222, 120) if on else (50, 54, 90)) if view.night else view.lit((206, 226, 240))
                draw.rectangle((x, y, x + step * 0.5, y + step * 0.7), fill=pane)
        left += wide + 0.008
    view.gradient(view.lit((190, 188, 186)), view.lit((176, 174, 172)), 0.66, 0.72)
    view.gradient(view.lit((98, 102, 112)), view.lit((78, 82, 92)), 0.72, 1.0)
    for place in range(5):
        x = place * 0.25 * view.width
        draw.rectangle((x, 0.865 * view.height, x + 0.12 * view.width, 0.885 * view.height), fill=view.lit(CREAM))


def mountains(view: View) -> None:
    """Draw snowy peaks behind a green valley."""
    for place in range(5):
        x, tall = place * 0.25 + view.dice.between(-0.06, 0.06), view.dice.between(0.3, 0.44)
        pen = Pen(view.canvas, x * view.width, 0.64 * view.height, tall * view.height)
        wide = 0.3 * view.width / (tall * view.height)
        pen.polygon([(-wide, 0.0), (0.0, 1.0), (wide, 0.0)], view.lit((112, 122, 146)))
        pen.polygon([(0.0, 1.0), (wide, 0.0), (0.1 * wide, 0.0)], view.lit((92, 100, 126)))
        edge = [(-0.3 * wide, 0.7), (-0.12 * wide, 0.62), (0.02 * wide, 0.7), (0.16 * wide, 0.6), (0.3 * wide, 0.7)]
        pen.polygon([(0.0, 1.0), *edge], view.lit((244, 248, 252)))
    view.hills(view.lit((84, 140, 92)), 0.56, 0.06, 4)
    view.gradient(view.lit((126, 178, 92)), view.lit((96, 150, 76)), 0.65, 1.0)
    for _ in range(12):
        x, y = view.dice.between(0, 1), view.dice.between(0.68, 1.0)
        view.pen(x, y, view.dice.between(0.02, 0.04)).dome(-0.6, 0.0, 0.6, 0.7, view.lit((150, 152, 156)))


def sea(view: View) -> None:
    """Draw open water with rows of waves."""
    view.gradient(view.lit((70, 150, 206)), view.lit((24, 84, 150)), 0.5, 1.0)
    draw, line = ImageDraw.Draw(view.canvas), view.lit((168, 214, 236))
    for row in range(7):
        y = (0.56 + row * 0.065) * view.height
        size = (0.03 + row * 0.008) * view.width
        shift = view.dice.between(-1, 0) * size * 3
        for place in range(int(view.width / size / 3) + 2):
            x = shift + place * size * 3
            draw.arc((x, y, x + size * 1.6, y + size * 0.5), 200, 340, line, max(1, round(size * 0.08)))


def underwater(view: View) -> None:
    """Draw blue depths with bubbles, and a sandy floor with corals, seaweed or a treasure chest."""
    view.gradient((70, 176, 214), (14, 70, 132), 0.0, 0.9)
    view.hills((222, 200, 150), 0.86, 0.04, 3)
    for _ in range(24):
        x, y = view.dice.between(0, 1), view.dice.between(0.04, 0.85)
        view.pen(x, y, view.dice.between(0.012, 0.028)).ring(-0.5, -0.5, 0.5, 0.5, (176, 222, 240), 0.12)
    if view.scene.mood == "coral":
        for place in range(6):
            pen = view.pen((place + view.dice.between(0.2, 0.8)) / 6, 0.97, view.dice.between(0.16, 0.26))
            colour = view.dice.pick(((236, 96, 130), (250, 140, 110), (240, 110, 170)))
            pen.line([(0.0, 0.0), (0.0, 0.9)], colour, 0.14)
            pen.line([(0.0, 0.3), (0.3, 0.5), (0.3, 0.8)], colour, 0.12)
            pen.line([(0.0, 0.4), (-0.3, 0.6), (-0.3, 1.0)], colour, 0.12)
    elif view.scene.mood == "seaweed":
        for place in range(12):
            pen = view.pen((place + view.dice.between(0.2, 0.8)) / 12, 0.98, view.dice.between(0.22, 0.36))
            weave = [(0.05 * (-1) ** step, step / 7) for step in range(8)]
            pen.line(weave, view.dice.pick((LEAF, (36, 112, 70), (84, 160, 80))), 0.07)
    else:
        pen = view.pen(view.dice.pick((0.2, 0.5, 0.8)), 0.97, 0.2)
        pen.oval(-0.56, 0.3, 0.56, 0.85, (255, 214, 70))
        pen.box(-0.62, 0.0, 0.62, 0.5, (112, 66, 36))
        pen.dome(-0.62, 0.72, 0.62, 1.1, (134, 82, 46))
        pen.box(-0.1, 0.28, 0.1, 0.5, (240, 200, 80))
        for x in (-0.5, 0.5):
            pen.box(x - 0.05, 0.0, x + 0.05, 0.5, (220, 180, 70))


def _bricks(view: View, end: float) -> None:
    """Draw rows of bricks from the top down to `end`, a fraction of the height."""
    draw, side = ImageDraw.Draw(view.canvas), min(view.width, view.height)
    draw.rectangle((0, 0, view.width, end * view.height), fill=(206, 186, 174))
    wide, tall, gap = 0.14 * side, 0.055 * side, max(1, round(0.006 * side))
    for row in range(int(end * view.height / tall) + 1):
        for place in range(int(view.width / wide) + 2):
            x, y = (place - 0.5 * (row % 2)) * wide, row * tall
            colour = view.dice.pick(((176, 100, 80), (186, 110, 88), (168, 94, 76)))
            draw.rectangle((x + gap, y + gap, x + wide - gap, y + tall - gap), fill=colour)


def room(view: View) -> None:
    """Draw a wall and a table."""
    tint = {"pink wall": "pink", "blue wall": "blue", "green wall": "green", "yellow wall": "yellow"}
    name = tint.get(view.scene.mood)
    wall = mix(PAINT[name], (255, 255, 255), 0.45) if name else (232, 224, 212)
    view.gradient(wall, mix(wall, (120, 110, 110), 0.12), 0.0, 0.72)
    draw = ImageDraw.Draw(view.canvas)
    if view.scene.mood == "striped wall":
        for place in range(7):
            x = (place + 0.25) / 7 * view.width
            draw.rectangle((x, 0, x + view.width / 14, 0.72 * view.height), fill=(176, 190, 206))
    if view.scene.mood == "brick wall":
        _bricks(view, 0.72)
    wood = view.dice.pick(((176, 122, 78), (196, 146, 98), (150, 100, 66)))
    view.gradient(light(wood), wood, 0.72, 0.97)
    draw.rectangle((0, 0.965 * view.height, view.width, view.height), fill=dark(wood))
    for row in range(4):
        y = (0.765 + row * 0.05) * view.height
        draw.line((0, y, view.width, y), fill=mix(wood, dark(wood), 0.3), width=max(1, view.height // 240))


def space(view: View) -> None:
    """Draw a black sky full of stars, with a glowing cloud or the Earth's edge."""
    view.gradient((10, 8, 30), (28, 18, 58), 0.0, 1.0)
    if view.scene.mood == "nebula":
        for _ in range(26):
            pen = view.pen(view.dice.between(0, 1), view.dice.between(0.3, 0.7), view.dice.between(0.1, 0.3))
            pen.oval(
                -0.9, -0.5, 0.9, 0.5, view.dice.pick(((66, 30, 110), (92, 40, 130), (54, 34, 120), (110, 48, 128)))
            )
    _stars(view, 110, 1.0)
    if view.scene.mood == "earth":
        pen = view.pen(0.5, 1.62, 1.9)
        pen.disc(0.0, 0.0, 0.47, (120, 190, 246))
        pen.disc(0.0, 0.0, 0.455, (40, 110, 200))
        for x, y in ((-0.2, 0.36), (0.02, 0.42), (0.2, 0.35)):
            pen.oval(x - 0.1, y - 0.03, x + 0.09, y + 0.02, (80, 160, 84))


BACKDROPS: dict[str, Callable[[View], None]] = {
    "meadow": meadow,
    "beach": beach,
    "desert": desert,
    "snow": snow,
    "city": city,
    "mountains": mountains,
    "sea": sea,
    "underwater": underwater,
    "room": room,
    "space": space,
}
