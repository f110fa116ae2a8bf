"""The few words that people type first, "a car" or "a red car", and which scenes fit them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ingest.demo.scenes.captions import Nouns, Writer, article
from ingest.demo.scenes.world import FLYING, KINDS, SETTINGS, Dice, Scene, Thing


@dataclass(frozen=True)
class Phrase:
    """A kind of thing, of one colour or of any."""

    kind: str
    colour: str | None = None

    def __str__(self) -> str:
        return article(f"{self.colour} {self.kind}" if self.colour else self.kind)


OBJECTS = tuple(Phrase(kind) for kind in KINDS)
PAIRS = tuple(Phrase(name, colour) for name, kind in KINDS.items() for colour in kind.colours)
PHRASES = OBJECTS + PAIRS
ABOVE = dict.fromkeys(FLYING, "in the sky") | dict.fromkeys(SETTINGS["room"].above, "on the wall")
ROWS = {phrase: row for row, phrase in enumerate(PHRASES)}


@dataclass(frozen=True)
class Shown:
    """What n scenes show: `fits` is bool (phrases, n) in the order of PHRASES; `settings`, `moods` are names (n,)."""

    fits: NDArray[np.bool_]
    settings: NDArray[np.str_]
    moods: NDArray[np.str_]

    def of(self, scenes: NDArray[np.intp]) -> Shown:
        """Return what the scenes with these indices show."""
        return Shown(self.fits[:, scenes], self.settings[scenes], self.moods[scenes])


def shown(scenes: Sequence[Scene]) -> Shown:
    """Return what the scenes show."""
    fits = np.zeros((len(PHRASES), len(scenes)), dtype=np.bool_)
    for column, scene in enumerate(scenes):
        for thing in scene.things:
            fits[[ROWS[Phrase(thing.kind)], ROWS[Phrase(thing.kind, thing.colour)]], column] = True
    return Shown(fits, np.asarray([scene.setting for scene in scenes]), np.asarray([scene.mood for scene in scenes]))


def wordings(batch: Shown, scenes: Sequence[Scene], dice: Dice) -> tuple[list[str], NDArray[np.bool_]]:
    """Return one wording of every phrase, and which scenes of the batch fit it, bool (phrases, n).

    Some name the place or the weather of a scene in the batch as well: "a red car in the snow".
    """
    texts, fits = [], batch.fits.copy()
    for row, phrase in enumerate(PHRASES):
        text = _wording(phrase, dice)
        fitting = np.flatnonzero(fits[row])
        if phrase.kind in ABOVE and dice.chance(0.2):
            text += f" {ABOVE[phrase.kind]}"
        elif len(fitting) and dice.chance(1 / 3):
            scene = scenes[dice.pick(fitting.tolist())]
            write = Writer(scene, dice)
            if dice.chance(0.5):
                fits[row] &= batch.settings == scene.setting
                text += f" {write.place()}"
            elif scene.mood.endswith("moon") and dice.chance(0.6):
                fits[row] &= np.char.endswith(batch.moods, "moon")
                text += " at night"
            else:
                fits[row] &= batch.moods == scene.mood
                text += f" {write.mood()}"
        texts.append(text)
    return texts, fits


def _wording(phrase: Phrase, dice: Dice) -> str:
    start = dice.pick(("", "", "", "a photo of ", "a picture of "))
    thing = Thing(phrase.kind, phrase.colour or "", "", 0.5, 0.5, flipped=False)
    nouns = Nouns(dice)
    if phrase.colour is None:
        return start + (nouns.kind(thing, plural=True) if dice.chance(0.4) else article(nouns.kind(thing)))
    if dice.chance(0.3):
        return f"{start}{phrase}"
    return start + nouns.one(thing)


def precision(
    images: NDArray[np.float32], texts: NDArray[np.float32], fits: NDArray[np.bool_], cutoff: int = 10
) -> dict[str, float]:
    """Return how well phrases find the scenes that fit them, in percent.

    `images` is (n, d), `texts` (phrases, d) and `fits` (phrases, n), in the order of PHRASES. A phrase counts if at
    least `cutoff` scenes fit it. The scores are the mean over phrases of the precision at `cutoff`, and the share of
    phrases whose first hit fits.
    """
    order = np.argsort(-(texts @ images.T), axis=1, kind="stable")[:, :cutoff]
    hits = np.take_along_axis(fits, order, axis=1)
    counts = fits.sum(axis=1) >= cutoff
    found: dict[str, float] = {}
    for name, rows in (("object", slice(0, len(OBJECTS))), ("colour and object", slice(len(OBJECTS), None))):
        chosen = hits[rows][counts[rows]]
        if len(chosen):
            found[f"{name} precision@{cutoff}"] = round(float(chosen.mean()) * 100, 2)
            found[f"{name} first hit"] = round(float(chosen[:, 0].mean()) * 100, 2)
    return found
