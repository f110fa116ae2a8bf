"""The filter of a query, and the conditions that it consists of. Each engine translates the conditions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from search.index.payload import WORDS
from search.records import HUBNESS, Kind

NO_OTHER_FIELDS = {"extra": "forbid"}  # for the relay, whose two sides may be different versions


@dataclass(frozen=True, slots=True)
class Where:
    """A filter; the conditions that are given must all hold.

    `splits`: the point is in one of these; `ids` / `not_ids`: its id is / is not one of these; `image_ids`: it is one
    of these images, or a caption of one; `contains`: all of these words occur in the caption (or in the image's
    captions), as the index's tokenizer divides them: it ignores numbers and scripts without spaces, which a Searcher
    compares itself, and does not separate a word from a symbol such as `=` or `<` beside it; `max_position`: the
    highest position of a caption in its image, 0-based, inclusive; `max_hubness`: the highest number `hubness` of an
    image, inclusive.
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
