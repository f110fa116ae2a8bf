"""Describe scenes in words: five captions that stress different parts, as five people would write them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from ingest.demo.scenes.world import Dice, Scene, Thing

NOUNS: dict[str, tuple[str, ...]] = {
    "house": ("house", "house", "cottage"),
    "car": ("car", "car", "automobile"),
    "ball": ("ball", "beach ball"),
    "umbrella": ("umbrella", "umbrella", "parasol"),
    "cat": ("cat", "cat", "kitty"),
    "balloon": ("hot air balloon", "balloon"),
    "plane": ("plane", "airplane"),
    "cup": ("cup", "mug", "cup of coffee"),
    "lamp": ("lamp", "table lamp"),
    "vase": ("vase", "vase of flowers"),
    "cake": ("cake", "birthday cake"),
    "gift": ("gift", "present", "gift box"),
    "clock": ("clock", "wall clock"),
    "picture": ("picture frame", "picture", "framed picture"),
    "rocket": ("rocket", "spaceship"),
    "planet": ("planet", "ringed planet"),
    "saucer": ("flying saucer", "ufo"),
}
# Kinds of which only a part has the colour: {0} is the colour, {1} the colour with its article.
PARTS: dict[str, tuple[str, ...]] = {
    "snowman": ("snowman with {1} scarf", "snowman wearing {1} scarf"),
    "windmill": ("windmill with {0} sails",),
    "lighthouse": ("{0} and white lighthouse", "{0} lighthouse"),
    "boat": ("boat with {0} sails", "{0} boat", "{0} sailboat", "sailing boat with {0} sails"),
}
VERBS: dict[str, tuple[str, ...]] = {
    "car": ("parked", "driving"),
    "bus": ("parked", "driving"),
    "ball": ("lying", "left"),
    "cat": ("sitting", "sitting"),
    "crab": ("crawling", "sitting"),
    "starfish": ("lying", "resting"),
    "boat": ("gliding", "floating"),
    "duck": ("swimming", "floating"),
    "whale": ("swimming",),
    "submarine": ("floating", "cruising"),
    "fish": ("swimming",),
    "turtle": ("swimming",),
    "jellyfish": ("floating", "drifting"),
    "kite": ("flying", "floating"),
    "bird": ("flying",),
    "balloon": ("floating", "drifting", "flying"),
    "plane": ("flying",),
    "flower": ("growing", "blooming"),
    "mushroom": ("growing", "standing"),
    "tree": ("growing", "standing"),
    "cactus": ("growing", "standing"),
    "tent": ("pitched", "set up"),
    "clock": ("hanging",),
    "picture": ("hanging",),
    "rocket": ("taking off", "blasting off"),
    "planet": ("floating", "glowing"),
    "saucer": ("hovering", "gliding"),
    "star": ("shining", "glowing"),
}
ADJECTIVES: dict[str, tuple[str, ...]] = {"purple": ("purple", "purple", "violet")}
SIZE_WORDS: dict[str, tuple[str, ...]] = {"small": ("small", "little", "tiny"), "big": ("big", "large")}
PLURALS = {"bus": "buses", "starfish": "starfish", "fish": "fish", "jellyfish": "jellyfish", "cactus": "cactuses"}

PLACES: dict[str, tuple[str, ...]] = {
    "meadow": ("in a meadow", "on the grass", "in a green field", "on a grassy meadow"),
    "beach": ("on the beach", "on a sandy beach", "at the beach by the sea"),
    "desert": ("in the desert", "among sand dunes", "in a sandy desert"),
    "snow": ("in the snow", "in a snowy field", "on snow covered ground"),
    "city": ("in the city", "on a city street", "in front of tall buildings", "on a street downtown"),
    "mountains": ("in the mountains", "in a valley", "in front of snowy mountains"),
    "sea": ("on the sea", "on the ocean", "out at sea", "on the water"),
    "underwater": ("underwater", "under the sea", "at the bottom of the sea"),
    "room": ("in a room", "on a table", "on a wooden table"),
    "space": ("in outer space", "in space", "among the stars"),
}
VIEWS: dict[str, tuple[str, ...]] = {
    "meadow": ("a green meadow", "a grassy field"),
    "beach": ("a sandy beach", "a beach"),
    "desert": ("a desert", "a desert landscape"),
    "snow": ("a snowy field", "a winter landscape", "a snowy landscape"),
    "city": ("a city street", "a city with tall buildings"),
    "mountains": ("a mountain valley", "a mountain landscape"),
    "sea": ("the open sea", "a seascape", "the ocean"),
    "underwater": ("an underwater scene", "the bottom of the sea"),
    "room": ("a table", "a wooden table"),
    "space": ("outer space", "a view of space"),
}
MOODS: dict[str, tuple[str, ...]] = {
    "sunny": ("on a sunny day", "in bright sunshine", "under a blue sky with the sun shining"),
    "cloudy": ("on a cloudy day", "under a cloudy sky", "below grey clouds"),
    "rainy": ("in the rain", "on a rainy day", "while it is raining"),
    "rainbow": ("under a rainbow", "with a rainbow in the sky", "below a bright rainbow"),
    "sunset": ("at sunset", "as the sun goes down", "in the evening sun"),
    "full moon": ("under a full moon", "at night with a full moon", "on a night with a full moon"),
    "crescent moon": ("under a crescent moon", "at night with a crescent moon", "by the light of a crescent moon"),
    "coral": ("above pink corals", "near a coral reef", "with corals below"),
    "seaweed": ("among seaweed", "near green seaweed", "with seaweed growing below"),
    "treasure": ("near a treasure chest", "with a treasure chest below", "above a chest of gold"),
    "pink wall": ("in front of a pink wall", "in a room with a pink wall"),
    "blue wall": ("in front of a blue wall", "in a room with a blue wall"),
    "green wall": ("in front of a green wall", "in a room with a green wall"),
    "yellow wall": ("in front of a yellow wall", "in a room with a yellow wall"),
    "striped wall": ("in front of a striped wall", "in a room with striped wallpaper"),
    "brick wall": ("in front of a brick wall", "in a room with a brick wall"),
    "nebula": ("in front of a purple nebula", "with a purple nebula behind"),
    "earth": ("above the earth", "with the earth below", "high over planet earth"),
    "stars": ("with nothing but stars around", "in a dark starry sky"),
}


def article(phrase: str) -> str:
    """Return the phrase with "a" or "an" before it."""
    vowel = phrase[0] in "aeiou" and not phrase.startswith(("ufo", "uni", "one"))
    return f"{'an' if vowel else 'a'} {phrase}"


class Nouns:
    """Words for things; the dice choose among synonyms."""

    def __init__(self, dice: Dice) -> None:
        self._dice = dice

    def _noun(self, thing: Thing) -> str:
        colour = self._dice.pick(ADJECTIVES.get(thing.colour, (thing.colour,)))
        if thing.kind in PARTS:
            phrase = self._dice.pick(PARTS[thing.kind]).format(colour, article(colour))
        else:
            phrase = f"{colour} {self._dice.pick(NOUNS.get(thing.kind, (thing.kind,)))}"
        if thing.size and self._dice.chance(0.7):
            return f"{self._dice.pick(SIZE_WORDS[thing.size])} {phrase}"
        return phrase

    def one(self, thing: Thing) -> str:
        """Return the thing with its article: "a small red car"."""
        return article(self._noun(thing))

    def kind(self, thing: Thing, plural: bool = False) -> str:
        """Return only the kind of the thing: "car", "cars"."""
        if plural:
            return PLURALS.get(thing.kind, thing.kind + "s")
        return self._dice.pick(NOUNS.get(thing.kind, (thing.kind,)))

    def list(self, things: Sequence[Thing], articles: bool = True) -> str:
        """Return the things joined by commas and "and"; two of a kind become "a red and a blue car"."""
        if len(things) == 2 and things[0].kind == things[1].kind and things[0].kind not in PARTS:
            first, second = things[0].colour, things[1].colour
            if articles:
                return f"{article(first)} and {article(second)} {things[0].kind}"
            return f"{first} and {second} {PLURALS.get(things[0].kind, things[0].kind + 's')}"
        names = [self.one(thing) if articles else self._noun(thing) for thing in things]
        return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"

    def verb(self, thing: Thing) -> str:
        """Return a participle that fits the thing."""
        return self._dice.pick(VERBS.get(thing.kind, ("standing", "standing", "seen")))


class Writer(Nouns):
    """Words about one scene; the dice choose among synonyms."""

    def __init__(self, scene: Scene, dice: Dice) -> None:
        super().__init__(dice)
        self._scene = scene

    def place(self) -> str:
        """Return the place of the scene: "on the beach"."""
        return self._dice.pick(PLACES[self._scene.setting])

    def view(self) -> str:
        """Return the setting as a subject: "a sandy beach"."""
        return self._dice.pick(VIEWS[self._scene.setting])

    def mood(self) -> str:
        """Return the weather or the furnishing: "under a rainbow"."""
        return self._dice.pick(MOODS[self._scene.mood])

    def maybe(self, phrase: str, probability: float) -> str:
        """Return the phrase after a space, or an empty string."""
        return f" {phrase}" if self._dice.chance(probability) else ""

    def relation(self, first: int, second: int) -> str:
        """Return the position of one thing relative to another, by their indices in the scene."""
        a, b = self._scene.things[first], self._scene.things[second]
        if a.front_of == second:
            return "in front of"
        if b.front_of == first:
            return "behind"
        if a.above != b.above:
            return self._dice.pick(("above", "over", "high above") if a.above else ("below", "under"))
        if abs(a.x - b.x) < 0.2:
            return "above" if a.y < b.y else "below"
        side = "left" if a.x < b.x else "right"
        return self._dice.pick((f"to the {side} of", f"to the {side} of", f"on the {side} of", "next to", "beside"))


def _overview(write: Writer, scene: Scene, dice: Dice) -> str:
    things = dice.sample(scene.things, len(scene.things))
    ending = write.place() + write.maybe(write.mood(), 0.4)
    start = dice.pick(("", "", "There is ", "An image of ", "We see "))
    return f"{start}{write.list(things)} {ending}"


def _relation(write: Writer, scene: Scene, dice: Dice) -> str:
    first, second = dice.sample(range(len(scene.things)), 2)
    a, b = scene.things[first], scene.things[second]
    how = f"{write.one(a)} {write.verb(a)}" if dice.chance(0.4) else f"{write.one(a)}{dice.pick(('', ' is'))}"
    place = write.place()
    if a.above and b.above:  # neither is on the ground
        place = "on the wall" if scene.setting == "room" else f"over {write.view()}"
    ending = dice.pick((place, write.mood(), f"{place} {write.mood()}"))
    return f"{how} {write.relation(first, second)} {write.one(b)} {ending}"


def _focus(write: Writer, scene: Scene, dice: Dice) -> str:
    thing = dice.pick(scene.things)
    where = "" if thing.above else f" {write.place()}"
    if thing.above:
        where = f" over {write.view()}" if scene.setting != "room" else " on the wall"
    return f"{write.one(thing)} {write.verb(thing)}{where} {write.mood()}"


def _view(write: Writer, scene: Scene, dice: Dice) -> str:
    things = dice.sample(scene.things, dice.pick((1, 2)))
    if dice.chance(0.5):
        return f"{write.view()} {write.mood()}, with {write.list(things)}"
    return f"{write.view()} with {write.list(things)} {write.mood()}"


def _terse(write: Writer, scene: Scene, dice: Dice) -> str:
    things = dice.sample(scene.things, min(len(scene.things), dice.pick((1, 2, 2, 3))))
    both = f"{write.place()} {write.mood()}"  # one thing alone would fit too many scenes
    ending = both if len(things) == 1 else dice.pick((write.place(), write.mood()))
    return f"{write.list(things, articles=False)} {ending}"


def _mood_first(write: Writer, scene: Scene, dice: Dice) -> str:
    things = dice.sample(scene.things, min(len(scene.things), dice.pick((2, 2, 3))))
    return f"{write.mood()}, {write.list(things)}{write.maybe(write.place(), 0.6)}"


FORMS: tuple[Callable[[Writer, Scene, Dice], str], ...] = (_overview, _relation, _focus, _view, _terse, _mood_first)


def captions(scene: Scene, count: int = 5) -> list[str]:
    """Return `count` different captions of a scene, the same ones every time.

    Every form of sentence is used before any is repeated. Some end in a full stop and some do not, as in COCO.
    """
    dice = Dice("captions", scene.seed, scene.number)
    write = Writer(scene, dice)
    written: list[str] = []
    while len(written) < count:
        for form in dice.sample(FORMS, min(len(FORMS), count - len(written))):
            text = form(write, scene, dice).replace("in a room in a room", "in a room")  # from place and mood
            text = text[0].upper() + text[1:] + ("." if dice.chance(0.7) else "")
            if all(words(text) != words(other) for other in written):
                written.append(text)
    return written


def glimpse(scene: Scene) -> str:
    """Return a few words that fit a scene, and others too, as people type them: "a red car", "boats at night".

    Only the training uses these: the tiny CLIP must understand more than whole captions.
    """
    dice = Dice("glimpse", scene.seed, scene.number)
    write = Writer(scene, dice)
    mood = "at night" if scene.mood.endswith("moon") and dice.chance(0.6) else write.mood()
    if dice.chance(0.15):
        return dice.pick((write.view(), f"{write.view()} {mood}", mood))
    thing = dice.pick(scene.things)
    place = write.place()
    if thing.above:
        place = "on the wall" if scene.setting == "room" else "in the sky"
    ending = dice.pick(("", "", f" {place}", f" {mood}"))
    if dice.chance(0.12) and len(scene.things) > 1:
        first, second = dice.sample(scene.things, 2)
        return f"{article(write.kind(first))} and {article(write.kind(second))}{ending}"
    start = dice.pick(("", "", "", "a photo of ", "a picture of "))
    if dice.chance(0.3):
        return f"{start}{write.kind(thing, plural=True)}{ending}"
    return f"{start}{article(write.kind(thing)) if dice.chance(0.35) else write.one(thing)}{ending}"


def words(caption: str) -> list[str]:
    """Return the lower-case words of a caption without punctuation: Karpathy's `tokens`."""
    return re.findall(r"[a-z0-9]+", caption.lower())
