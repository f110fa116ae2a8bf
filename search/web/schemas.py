"""The JSON API's requests and answers."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

from search.index import MAX_ID
from search.records import Kind

MOST_PARTS = 16
MOST_RESULTS = 200
MOST_OFFSET = 10_000
MOST_FOLDED = 2000  # results: each is compared with all above it
LONGEST_TEXT = 2000

DIGITS = "^[0-9]{1,19}$"


def _from_digits(value: object) -> object:
    """Return the number that a string of digits writes; leave other values to the checks that follow."""
    if not isinstance(value, str):
        return value
    if not re.fullmatch(DIGITS, value):
        raise ValueError("an id has digits only, at most 19 of them")
    return int(value)


IdString = Annotated[str, StringConstraints(pattern=DIGITS)]
"""An id in an answer. JavaScript rounds integers above 2^53, so ids travel as strings."""

Id = Annotated[
    int,
    BeforeValidator(_from_digits, json_schema_input_type=int | IdString),
    Field(strict=True, ge=0, le=MAX_ID - 1),
]
"""An id in a request: a string of digits, or an integer."""


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PartOfQuery(Strict):
    """One ingredient: exactly one of `text`, `image_id`, `caption_id` and `picture`."""

    text: str | None = Field(default=None, min_length=1, max_length=LONGEST_TEXT)
    image_id: Id | None = Field(default=None, description="The id of a stored image (in COCO: its COCO id)")
    caption_id: Id | None = Field(default=None, description="The id of a stored caption (in COCO: its annotation id)")
    picture: str | None = Field(default=None, pattern="^[0-9a-f]{32}$", description="What POST /api/pictures answered")
    weight: float = Field(default=1.0, ge=-10, le=10, allow_inf_nan=False, description="Negative takes away")

    @model_validator(mode="after")
    def _is_one_thing(self) -> Self:
        given = (self.text, self.image_id, self.caption_id, self.picture)
        if sum(value is not None for value in given) != 1:
            raise ValueError("give exactly one of text, image_id, caption_id and picture")
        return self


class Question(Strict):
    """The weighted sum of the parts, and what is wanted of the answer."""

    parts: list[PartOfQuery] = Field(min_length=1, max_length=MOST_PARTS)
    to: Kind = "images"
    k: int = Field(default=30, ge=1, le=MOST_RESULTS, description="How many results")
    offset: int = Field(default=0, ge=0, le=MOST_OFFSET, description="How many results to leave out before them")
    splits: list[Annotated[str, Field(max_length=100)]] | None = Field(default=None, max_length=20)
    words: str | None = Field(default=None, max_length=200, description="All of them occur in the image's captions")
    min_score: float | None = Field(default=None, ge=-1, le=1, allow_inf_nan=False)
    cutoff: float | None = Field(
        default=None, ge=0, le=1, allow_inf_nan=False, description="Drop the tail: this far from typical to best score"
    )
    group: bool = Field(default=False, description="One result for all captions of one image")
    fold: bool = Field(
        default=False, description=f"One result for near-duplicates; among the first {MOST_FOLDED:,} only"
    )

    @model_validator(mode="after")
    def _folding_has_an_end(self) -> Self:
        if self.fold and self.offset + self.k > MOST_FOLDED:
            raise ValueError(f"near-duplicates are folded among the first {MOST_FOLDED:,} results only")
        return self


class Found(BaseModel):
    """One result. `id` is that of the image or caption, `captions` all those of the image."""

    rank: int
    score: float = Field(description="Cosine similarity")
    kind: Literal["image", "caption"]
    id: IdString
    image_id: IdString
    split: str
    text: str = Field(description="The caption found, or the image's caption nearest to the question")
    captions: list[str]
    picture: str = Field(description="The picture's path below the page's address; append &size=360, 720 or 1600")
    also: list[IdString] = Field(
        description="Ids of results further down that this one stands for (with group or fold)"
    )


class Answer(BaseModel):
    results: list[Found]
    more: bool = Field(description="Whether there are results beyond these")


class ImageRecord(BaseModel):
    """One stored image."""

    id: IdString
    split: str
    file: str
    url: str | None
    captions: list[str]
    picture: str


class PictureToken(BaseModel):
    picture: str = Field(description="Names the picture in a question, until many others have come")


class Collection(BaseModel):
    """One collection, with all that is remembered of how it was made."""

    model_config = ConfigDict(extra="allow")

    collection: str
    points: int
    indexed_vectors: int
    splits: dict[str, Any]


class Collections(BaseModel):
    dataset: str
    collections: list[Collection]


class Examples(BaseModel):
    captions: list[str] = Field(description="A few captions of the index, to try")


class Health(BaseModel):
    status: Literal["ok"]
    dataset: str
    images: int


class Failure(BaseModel):
    error: str = Field(description="One line: what was wrong, and what to do")
