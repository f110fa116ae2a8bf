"""Compose scenes of settings, things, colours and places.

A scene is a plain description; `drawing` paints it, and `captions` describes it in words. All randomness comes from
`Dice`, which only uses `random.Random.random()`: Python guarantees its sequence for a given seed, so a scene is the
same on every machine and in every version of Python.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

Split = Literal["train", "restval", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "restval", "val", "test")
T = TypeVar("T")

ALL_COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white", "black")
BRIGHT = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")
SIZES = {"small": 0.8, "": 1.08, "big": 1.35}  # a thing's height as a multiple of its kind's
LANDSCAPE = ((640, 480), (640, 427), (500, 375), (640, 426), (500, 333))
PORTRAIT = ((480, 640), (427, 640), (375, 500))


@dataclass(frozen=True)
class Kind:
    """One kind of thing.

    `height` and `width` are in units of the picture's shorter side; `colours` are those that it can have.
    """

    height: float
    width: float
    colours: tuple[str, ...] = BRIGHT


@dataclass(frozen=True)
class Setting:
    """The setting of a scene.

    `layout`: "ground" stands things below the horizon, and hangs the `above` kinds over it; "floating" spreads them
    over the whole picture. `horizon` is a fraction of the height, from the top. `moods` are the kinds of weather or
    furnishing, `clashes` the colours that are hard to see on this backdrop.
    """

    layout: Literal["ground", "floating"]
    horizon: float
    kinds: tuple[str, ...]
    above: tuple[str, ...]
    moods: tuple[str, ...]
    clashes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Thing:
    """One thing in a scene: `x` is its middle and `y` its foot, as fractions of width and height from the top left.

    `front_of` is the index of the thing that it stands in front of; `above` is true if it hangs or flies.
    """

    kind: str
    colour: str
    size: Literal["small", "", "big"]
    x: float
    y: float
    flipped: bool
    above: bool = False
    front_of: int | None = None


@dataclass(frozen=True)
class Scene:
    """The description of one picture: `number` is its place in the stream of its seed, `width`, `height` are pixels."""

    seed: int
    number: int
    setting: str
    mood: str
    things: tuple[Thing, ...]
    width: int
    height: int

    @property
    def content(self) -> str:
        """What the picture shows, without positions and sizes: scenes of equal content count as the same scene."""
        things = sorted(f"{thing.colour} {thing.kind}" for thing in self.things)
        return "; ".join([self.setting, self.mood, *things])

    @property
    def split(self) -> Split:
        """The split, which depends on the content alone, so no scene is in two splits, not even with another seed."""
        bucket = hashlib.blake2b(self.content.encode(), digest_size=8).digest()[0]  # 0 to 255, uniform
        if bucket < 52:
            return "test"
        if bucket < 78:
            return "val"
        return "restval" if bucket < 104 else "train"


class Dice:
    """A seeded source of choices that is the same in every version of Python."""

    def __init__(self, *seed: object) -> None:
        self._random = random.Random("/".join(map(str, seed))).random

    def between(self, low: float, high: float) -> float:
        """Return a float from [low, high)."""
        return low + (high - low) * self._random()

    def chance(self, probability: float) -> bool:
        """Return True with the given probability."""
        return self._random() < probability

    def pick(self, items: Sequence[T]) -> T:
        """Return one of the items."""
        return items[int(self._random() * len(items))]

    def sample(self, items: Sequence[T], count: int) -> list[T]:
        """Return `count` different items in random order; raise ValueError if there are fewer."""
        if count > len(items):
            raise ValueError(f"cannot take {count} of {len(items)} items")
        rest = list(items)
        return [rest.pop(int(self._random() * len(rest))) for _ in range(count)]


KINDS: dict[str, Kind] = {
    "house": Kind(0.42, 0.46),
    "tree": Kind(0.46, 0.34, ("green", "orange", "pink", "red", "yellow")),
    "tent": Kind(0.30, 0.42),
    "windmill": Kind(0.50, 0.42),
    "lighthouse": Kind(0.54, 0.20, ("red", "blue", "green", "black", "orange")),
    "car": Kind(0.23, 0.44, ALL_COLOURS),
    "bus": Kind(0.27, 0.50),
    "cactus": Kind(0.36, 0.24, ("green",)),
    "snowman": Kind(0.38, 0.24, ("red", "orange", "green", "blue", "purple", "pink")),
    "ball": Kind(0.21, 0.21),
    "umbrella": Kind(0.36, 0.42),
    "mushroom": Kind(0.25, 0.26),
    "flower": Kind(0.30, 0.22, ("red", "orange", "yellow", "blue", "purple", "pink", "white")),
    "cat": Kind(0.24, 0.24, ("black", "white", "orange")),
    "crab": Kind(0.19, 0.38, ("red", "orange", "purple", "blue")),
    "boat": Kind(0.44, 0.44),
    "duck": Kind(0.22, 0.28, ("yellow", "white", "pink", "orange")),
    "whale": Kind(0.26, 0.46, ("blue", "black", "purple", "white")),
    "kite": Kind(0.32, 0.23),
    "bird": Kind(0.19, 0.31, ("red", "yellow", "purple", "white", "pink")),
    "balloon": Kind(0.32, 0.23),
    "plane": Kind(0.20, 0.44),
    "fish": Kind(0.20, 0.32, ("red", "orange", "yellow", "pink", "purple", "white")),
    "turtle": Kind(0.20, 0.34, ("green", "orange", "purple", "red")),
    "jellyfish": Kind(0.30, 0.22, ("pink", "purple", "orange", "white", "red")),
    "submarine": Kind(0.25, 0.40, ("yellow", "red", "orange", "green", "white")),
    "starfish": Kind(0.22, 0.22, ("red", "orange", "yellow", "pink", "purple")),
    "cup": Kind(0.21, 0.26, ALL_COLOURS),
    "lamp": Kind(0.40, 0.26),
    "vase": Kind(0.42, 0.22),
    "teapot": Kind(0.25, 0.42, ALL_COLOURS),
    "cake": Kind(0.25, 0.32, ("pink", "white", "blue", "yellow", "green", "purple")),
    "gift": Kind(0.25, 0.25),
    "clock": Kind(0.22, 0.22, ALL_COLOURS),
    "picture": Kind(0.24, 0.30, ALL_COLOURS),
    "rocket": Kind(0.40, 0.22),
    "planet": Kind(0.26, 0.42, ("red", "orange", "yellow", "green", "blue", "purple", "pink")),
    "saucer": Kind(0.20, 0.45, ("red", "green", "blue", "purple", "pink", "white")),
    "star": Kind(0.22, 0.22, ("yellow", "red", "orange", "white", "pink")),
}

WEATHER = ("sunny", "cloudy", "rainy", "rainbow", "sunset", "full moon", "crescent moon")
FLYING = ("kite", "bird", "balloon", "plane")

SETTINGS: dict[str, Setting] = {
    "meadow": Setting(
        "ground",
        0.60,
        ("house", "tree", "tent", "mushroom", "flower", "cat", "windmill", "ball", "umbrella", "car"),
        FLYING,
        WEATHER,
        ("green",),
    ),
    "beach": Setting(
        "ground",
        0.58,
        ("ball", "umbrella", "crab", "cat", "tent", "lighthouse", "starfish"),
        FLYING,
        WEATHER,
        ("yellow",),
    ),
    "desert": Setting(
        "ground",
        0.60,
        ("cactus", "tent", "car", "house", "bus", "rocket", "ball"),
        FLYING,
        WEATHER,
        ("yellow", "orange"),
    ),
    "snow": Setting(
        "ground", 0.58, ("house", "tree", "snowman", "tent", "car", "cat", "ball"), FLYING, WEATHER, ("white",)
    ),
    "city": Setting("ground", 0.66, ("car", "bus", "tree", "umbrella", "cat", "ball"), FLYING, WEATHER, ("black",)),
    "mountains": Setting(
        "ground", 0.62, ("house", "tent", "tree", "bus", "car", "windmill", "flower"), FLYING, WEATHER, ("green",)
    ),
    "sea": Setting("ground", 0.52, ("boat", "duck", "whale", "lighthouse", "submarine"), FLYING, WEATHER, ("blue",)),
    "underwater": Setting(
        "floating",
        0.85,
        ("fish", "turtle", "jellyfish", "submarine", "starfish", "crab"),
        (),
        ("coral", "seaweed", "treasure"),
        ("blue",),
    ),
    "room": Setting(
        "ground",
        0.66,
        ("cup", "lamp", "vase", "teapot", "cake", "gift", "cat"),
        ("clock", "picture"),
        ("pink wall", "blue wall", "green wall", "yellow wall", "striped wall", "brick wall"),
    ),
    "space": Setting(
        "floating", 1.0, ("rocket", "planet", "saucer", "star"), (), ("nebula", "earth", "stars"), ("black",)
    ),
}


def _colour(dice: Dice, kind: str, setting: Setting) -> str:
    choices = KINDS[kind].colours
    return dice.pick([colour for colour in choices if colour not in setting.clashes] or choices)


def _size(dice: Dice) -> Literal["small", "", "big"]:
    return dice.pick(("small", "", "", "", "big"))


def _stations(dice: Dice, count: int) -> list[float]:
    """Return the middles of `count` columns, left to right, each shifted a little at random."""
    return [(place + 0.5) / count + dice.between(-0.04, 0.04) for place in range(count)]


def _distinct(dice: Dice, kinds: Sequence[str], setting: Setting, count: int) -> list[tuple[str, str]]:
    """Return kinds and colours without a repeated pair; sometimes two of a kind in different colours."""
    chosen = [(kind, _colour(dice, kind, setting)) for kind in dice.sample(kinds, count)]
    if count > 1 and dice.chance(0.15):
        kind, colour = chosen[0]
        other = _colour(dice, kind, setting)
        if other != colour:
            chosen[1] = (kind, other)
    return chosen


def _on_the_ground(dice: Dice, setting: Setting, portrait: bool) -> list[Thing]:
    count = dice.pick((1, 2, 2)) if portrait else dice.pick((1, 2, 2, 3))
    things = []
    for x, (kind, colour) in zip(_stations(dice, count), _distinct(dice, setting.kinds, setting, count), strict=True):
        foot = dice.between(setting.horizon + 0.12, 0.93)
        things.append(Thing(kind, colour, _size(dice), x, foot, dice.chance(0.5)))
    large = [place for place, thing in enumerate(things) if KINDS[thing.kind].height > 0.28]
    little = [kind for kind in setting.kinds if KINDS[kind].height <= 0.26]
    if large and little and count < 3 and dice.chance(0.35):
        place = dice.pick(large)
        kind = dice.pick(little)
        x = min(0.88, max(0.12, things[place].x + dice.pick((-0.09, 0.09))))
        foot = min(0.96, things[place].y + 0.09)
        size: Literal["small", ""] = dice.pick(("small", ""))
        things.append(Thing(kind, _colour(dice, kind, setting), size, x, foot, dice.chance(0.5), front_of=place))
    hanging = dice.pick((0, 1, 1, 2)) if len(things) < 3 else dice.pick((0, 1))
    hanging = max(hanging, 2 - len(things))
    for x, (kind, colour) in zip(
        _stations(dice, hanging), _distinct(dice, setting.above, setting, hanging), strict=True
    ):
        x = x if hanging > 1 else dice.between(0.3, 0.75)
        foot = dice.between(0.34, 0.40)
        things.append(Thing(kind, colour, dice.pick(("", "", "", "small")), x, foot, dice.chance(0.5), above=True))
    return things


def _floating(dice: Dice, setting: Setting) -> list[Thing]:
    cells = dice.sample([(0.25, 0.42), (0.75, 0.42), (0.25, 0.88), (0.75, 0.88)], dice.pick((2, 3, 3, 4)))
    count = len(cells)
    kinds = _distinct(dice, setting.kinds, setting, count)
    return [
        Thing(kind, colour, _size(dice), x + dice.between(-0.06, 0.06), y + dice.between(-0.06, 0.05), dice.chance(0.5))
        for (x, y), (kind, colour) in zip(cells, kinds, strict=True)
    ]


def _moved_inside(thing: Thing, width: int, height: int) -> Thing:
    """Return the thing, moved so that it lies inside the picture of this size in pixels."""
    unit = min(width, height) * SIZES[thing.size]
    half, tall = KINDS[thing.kind].width * unit / width / 2, KINDS[thing.kind].height * unit / height
    x = min(max(thing.x, half + 0.01), 0.99 - half)
    return replace(thing, x=x, y=max(thing.y, tall + 0.02))


def _box(thing: Thing, width: int, height: int) -> tuple[float, float, float, float]:
    """Return left, top, right and bottom of a thing in a picture of this size, in pixels."""
    unit, kind = min(width, height) * SIZES[thing.size], KINDS[thing.kind]
    half, foot = kind.width * unit / 2, thing.y * height
    return thing.x * width - half, foot - kind.height * unit, thing.x * width + half, foot


def _repeated(things: Sequence[Thing]) -> bool:
    """Return whether two things are of one kind and colour, so that no caption can tell them apart."""
    return len({(thing.kind, thing.colour) for thing in things}) < len(things)


def _crowded(things: Sequence[Thing], width: int, height: int) -> bool:
    """Return whether one thing hides too much of another."""
    boxes = [_box(thing, width, height) for thing in things]
    for place, (left, top, right, bottom) in enumerate(boxes):
        for other in boxes[place + 1 :]:
            wide, tall = min(right, other[2]) - max(left, other[0]), min(bottom, other[3]) - max(top, other[1])
            smaller = min((right - left) * (bottom - top), (other[2] - other[0]) * (other[3] - other[1]))
            if wide > 0 and tall > 0 and wide * tall > 0.4 * smaller:
                return True
    return False


def _arrange(dice: Dice, name: str, size: tuple[int, int]) -> tuple[Thing, ...]:
    """Place things for one setting and picture size; retry until each is visible."""
    setting, (width, height) = SETTINGS[name], size
    while True:
        floating = setting.layout == "floating"
        things = _floating(dice, setting) if floating else _on_the_ground(dice, setting, portrait=width < height)
        inside = tuple(_moved_inside(thing, width, height) for thing in things)
        if _repeated(things) or _crowded([thing for thing in inside if thing.front_of is None], width, height):
            continue
        return inside


def compose(seed: int, number: int) -> Scene:
    """Return the scene at one place of the endless stream of a seed."""
    dice = Dice("scene", seed, number)
    name = dice.pick(tuple(SETTINGS))
    mood = dice.pick(SETTINGS[name].moods)
    width, height = dice.pick(PORTRAIT if dice.chance(0.3) else LANDSCAPE)
    return Scene(seed, number, name, mood, _arrange(dice, name, (width, height)), width, height)


def stream(seed: int, counts: dict[Split, int]) -> Iterator[Scene]:
    """Yield scenes in the order of their numbers until every split has its count; no two have equal content.

    Raises:
        ValueError: a count is negative.
    """
    if any(count < 0 for count in counts.values()):
        raise ValueError("a split cannot have fewer than 0 scenes")
    left = {split: counts.get(split, 0) for split in SPLITS}
    seen: set[str] = set()
    number = 0
    while any(left.values()):
        number += 1  # numbers are also image ids, and those of COCO start above 0
        scene = compose(seed, number)
        if left[scene.split] == 0 or scene.content in seen:
            continue
        seen.add(scene.content)
        left[scene.split] -= 1
        yield scene
