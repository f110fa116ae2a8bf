"""Define the JSON form of a query, shared by `search batch` and the web API.

The names are those of the command line and of the library: the fields of `Part`, `Options` and `Where`.
"""

from __future__ import annotations

import re
from typing import Annotated, Generic, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

from search.errors import QueryError
from search.index import MAX_ID
from search.query import Options, Part, evidence_weight
from search.records import MAX_HUBNESS, Wanted

MAX_FILTER_LENGTH = 1000  # characters
CONTAINS = "Only captions that contain all of these words, or images whose captions together do"
DIGITS = "^[0-9]{1,19}$"


def _from_digits(value: object) -> object:
    """Return the number that a string of digits stands for; leave other values to the checks that follow."""
    if not isinstance(value, str):
        return value
    if not re.fullmatch(DIGITS, value):
        raise ValueError("an id has digits only, at most 19 of them")
    return int(value)


def _weight_of(value: object) -> object:
    """Return the weight that a string such as `captions=0.4` gives; leave other values to the checks that follow."""
    if not isinstance(value, str):
        return value
    try:
        return evidence_weight(value)
    except QueryError as error:
        raise ValueError(str(error)) from None


Weight = Annotated[
    float,
    BeforeValidator(_weight_of, json_schema_input_type=float | str),
    Field(gt=0, le=1, allow_inf_nan=False),
]
"""The weight of a photo's best caption in a request: a number, "captions", or "captions=0.5"."""

IdString = Annotated[str, StringConstraints(pattern=DIGITS)]
"""An id in an answer. JavaScript rounds integers above 2^53, so ids travel as strings."""

Id = Annotated[
    int,
    BeforeValidator(_from_digits, json_schema_input_type=int | IdString),
    Field(strict=True, ge=0, le=MAX_ID - 1),
]
"""An id in a request: a string of digits, or an integer."""

FilterWords = Annotated[str, Field(max_length=MAX_FILTER_LENGTH)]
"""The words of a filter."""


class StrictModel(BaseModel):
    """A model that converts no types and refuses unknown fields, so that a misspelt option is not ignored."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class PartRequest(StrictModel):
    """One ingredient of a query: exactly one of the fields besides `weight`."""

    text: str | None = None
    image_id: Id | None = Field(default=None, description="The id of a stored image (in COCO: its COCO id)")
    caption_id: Id | None = Field(default=None, description="The id of a stored caption (in COCO: its annotation id)")
    weight: float = Field(default=1.0, allow_inf_nan=False, description="A negative weight subtracts")

    @model_validator(mode="after")
    def _is_one_thing(self) -> Self:
        names = [name for name in type(self).model_fields if name != "weight"]
        if sum(getattr(self, name) is not None for name in names) != 1:
            raise ValueError(f"give exactly one of {', '.join(names)}")
        return self

    def part(self) -> Part:
        """Return the part as the library defines it. Raises QueryError."""
        return Part(text=self.text, image_id=self.image_id, caption_id=self.caption_id, weight=self.weight)


PartT = TypeVar("PartT", bound=PartRequest)


class QueryRequest(StrictModel, Generic[PartT]):
    """A query: the weighted sum of the parts, and the options of the answer. None stands for an option's default."""

    parts: list[PartT]
    to: Wanted | None = None
    k: int | None = Field(default=None, ge=1, description="How many results")
    offset: int | None = Field(default=None, ge=0, description="How many results to skip before them")
    splits: list[str] | None = None
    image_ids: list[Id] | None = Field(default=None, description="Only these images, or their captions")
    contains: FilterWords | None = Field(default=None, description=CONTAINS)
    min_score: float | None = Field(default=None, ge=-1, le=1, allow_inf_nan=False)
    cutoff: float | None = Field(
        default=None,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="Drop results below this fraction of the way from the typical to the best score",
    )
    group: bool | None = Field(default=None, description="One result for all captions of one image")
    fold: float | None = Field(
        default=None, ge=0, le=1, allow_inf_nan=False, description="Merge photos whose cosine is at least this"
    )
    hubness: float | None = Field(
        default=None,
        ge=0,
        le=MAX_HUBNESS,
        allow_inf_nan=False,
        description="Subtract this many times the hubness of an image from its score; 0: not at all",
    )
    evidence: Weight | None = Field(
        default=None,
        description="Rank photos for a text by their captions too: the weight of a photo's best caption, "
        'or "captions" for the default one',
    )
    exact: bool | None = Field(default=None, description="Compare with every vector, without the HNSW index")

    def options(self, default: Options) -> Options:
        """Return the options that are given, None included, and the others from `default`. Raises QueryError."""
        values = self.model_dump(include=set(QueryRequest.model_fields) - {"parts"})
        given = {name: value for name, value in values.items() if value is not None or name in self.model_fields_set}
        return default.updated(given)
