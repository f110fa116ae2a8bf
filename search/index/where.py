"""The filter of a query: its conditions, which each engine translates, and the words that are compared with each hit.

The engines find words that are separated by spaces, and ignore accents. Their tokenizer ignores numbers, and it splits
text differently in a query than in a caption if the script puts no spaces between words, or appends particles to them.
So numbers and text in these scripts are compared with the captions of each hit (`Words`).
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

from search.errors import QueryError, TextError
from search.index.payload import WORDS
from search.index.points import check_id
from search.records import HUBNESS, Caption, Image, Kind
from search.text import check_text

NO_OTHER_FIELDS = {"extra": "forbid"}  # for the relay, whose two sides may be different versions
_UNSPACED = re.compile(  # Thai and Lao, Burmese, Khmer, Japanese kana, Chinese characters, Korean
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]+"
)
_NUMBER = re.compile(r"(?<![^\W_])\d+(?![^\W_])")


@dataclass(frozen=True, slots=True)
class Where:
    """A filter; the conditions that are given must all hold.

    `splits`: the point is in one of these; `ids` / `not_ids`: its id is / is not one of these; `image_ids`: it is one
    of these images, or a caption of one; `contains`: all of these words occur in the caption (or in the image's
    captions), as the engine's tokenizer divides them: it ignores the words that `divided` leaves out, and does not
    separate a word from a symbol such as `=` or `<` beside it; `max_position`: the highest position of a caption in
    its image, 0-based, inclusive; `max_hubness`: the highest number `hubness` of an image, inclusive.
    """

    splits: tuple[str, ...] | None = None
    ids: tuple[int, ...] | None = None
    not_ids: tuple[int, ...] | None = None
    image_ids: tuple[int, ...] | None = None
    contains: str | None = None
    max_position: int | None = None
    max_hubness: float | None = None
    __pydantic_config__ = NO_OTHER_FIELDS

    def conditions(self, kind: Kind) -> tuple[list[Condition], list[Condition]]:
        """Return the conditions that must hold for points of this kind, and those that must not."""
        must: list[Condition] = []
        if self.splits is not None:
            must.append(OneOf("split", list(self.splits)))
        if self.ids is not None:
            must.append(HasId(self.ids))
        if self.image_ids is not None:
            must.append(OneOf("image_id", list(self.image_ids)))
        if self.contains is not None:
            must.append(HasWords(WORDS[kind], self.contains))
        if self.max_position is not None:
            must.append(AtMost("position", self.max_position))
        if self.max_hubness is not None:
            must.append(AtMost(HUBNESS, self.max_hubness))
        return must, [HasId(self.not_ids)] if self.not_ids else []

    def divided(self) -> tuple[Where, Words]:
        """Divide the filter into what the engine looks up and the words that it does not, which are compared.

        A point has to pass both. "None of these words" could be divided too, word by word; "not all of them" could not.

        Raises:
            QueryError: the words cannot be parsed.
        """
        if self.contains is None:
            return self, Words("", frozenset(), frozenset())
        words = Words.parse(self.contains)
        return replace(self, contains=words.indexed or None), words

    def check(self) -> None:
        """Refuse a filter that is not valid.

        Raises:
            QueryError: `contains` holds no letter and no digit, or is not valid Unicode, an image id is out of range,
                or `splits` is a string.
        """
        if isinstance(self.splits, str):
            raise QueryError(f"`splits` is a string: give a tuple, ({self.splits!r},)")
        self.divided()
        for image_id in self.image_ids or ():
            check_id(image_id, "image")

    def __str__(self) -> str:
        """Return the conditions that users can set, in words: `split test, with the words red car`."""
        words = [
            f"split {' or '.join(self.splits)}" if self.splits else "",
            f"of {len(self.image_ids):,} image{'s' * (len(self.image_ids) != 1)}" if self.image_ids else "",
            f"with the words {self.contains}" if self.contains else "",
        ]
        return ", ".join(filter(None, words))


# Named tuples: a dataclass takes several times as long to define, at every start of a command.
class OneOf(NamedTuple):
    """The field is one of the values."""

    field: str
    values: list[str] | list[int]


class AtMost(NamedTuple):
    """The field is at most the limit."""

    field: str
    limit: float


class HasWords(NamedTuple):
    """All words of the text occur in the field."""

    field: str
    text: str


class HasId(NamedTuple):
    """The id of the point is one of these."""

    ids: tuple[int, ...]


Condition = OneOf | AtMost | HasWords | HasId
"""What each engine translates to its own types (`filter_of`)."""


@dataclass(frozen=True, slots=True)
class Words:
    """A parsed filter: text for the engine to look up (may be empty), whole numbers, and pieces of unspaced text."""

    indexed: str
    numbers: frozenset[str]
    pieces: frozenset[str]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse the text of a filter.

        Raises:
            QueryError: it contains neither a letter nor a digit, or is not valid Unicode.
        """
        try:
            normal = unicodedata.normalize("NFKC", check_text(text))
        except TextError as error:
            raise QueryError(f"the words to filter by: {error}") from None
        pieces = frozenset(piece for run in _UNSPACED.findall(normal) for piece in _parts(run))
        rest = _UNSPACED.sub(" ", normal)
        numbers = frozenset(_NUMBER.findall(rest))
        rest = _NUMBER.sub(" ", rest).strip()
        indexed = rest if any(char.isalpha() for char in rest) else ""
        if not (indexed or numbers or pieces):
            raise QueryError(f"{text!r} contains no word to filter by: use letters or digits")
        return cls(indexed, numbers, pieces)

    @property
    def are_compared(self) -> bool:
        """Whether some of the words must be compared with each record, because the engine does not find them."""
        return bool(self.numbers or self.pieces)

    def match(self, record: Image | Caption | None) -> bool:
        """Return whether the numbers and pieces occur in the text of a caption, or in the captions of an image."""
        if not self.are_compared:
            return True
        match record:
            case Image(captions=captions):
                text = "\n".join(captions)
            case Caption(text=text):
                pass
            case None:
                return False
        normal = unicodedata.normalize("NFKC", text)
        numbers = _NUMBER.findall(_UNSPACED.sub(" ", normal))
        return self.numbers.issubset(numbers) and all(piece in normal for piece in self.pieces)


def _parts(run: str) -> list[str]:
    """Split a run of unspaced text at its punctuation."""
    spaced = "".join(" " if unicodedata.category(char)[0] in "PSZ" else char for char in run)
    return [part for part in spaced.split() if any(unicodedata.category(char)[0] in "LN" for char in part)]
