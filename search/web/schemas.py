"""Define the requests and responses of the JSON API."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from typing_extensions import TypedDict  # pydantic requires this one before Python 3.12; pydantic brings it

from search.records import Kind
from search.request import Id, IdString, PartRequest, QueryRequest

MAX_PARTS = 16
MAX_K = 200
MAX_OFFSET = 10_000
MAX_FOLDED = 2000  # results: each is compared with all results above it
MAX_IMAGE_IDS = 1000
MAX_TEXT = 2000  # characters
MAX_SPLITS = 20

SplitName = Annotated[str, Field(max_length=100)]


class WebPart(PartRequest):
    """One part of a query: exactly one of `text`, `image_id`, `caption_id` and `picture`."""

    text: str | None = Field(default=None, min_length=1, max_length=MAX_TEXT)
    picture: str | None = Field(default=None, pattern="^[0-9a-f]{32}$", description="A token from POST /api/pictures")
    weight: float = Field(default=1.0, ge=-10, le=10, allow_inf_nan=False, description="A negative weight subtracts")


class WebQuery(QueryRequest[WebPart]):
    """The weighted sum of the parts, and the options of the answer."""

    parts: list[WebPart] = Field(min_length=1, max_length=MAX_PARTS)
    to: Kind = "images"
    k: int = Field(default=30, ge=1, le=MAX_K, description="How many results")
    offset: int = Field(default=0, ge=0, le=MAX_OFFSET, description="How many results to skip before them")
    splits: list[SplitName] | None = Field(default=None, max_length=MAX_SPLITS)
    image_ids: list[Id] | None = Field(
        default=None, max_length=MAX_IMAGE_IDS, description="Only these images, or their captions"
    )
    total: bool = Field(default=False, description="Whether to count what passes the filters, for `total`")

    @property
    def last_offset(self) -> int:
        """The largest offset of a query with these options."""
        return MAX_OFFSET if self.fold is None else MAX_FOLDED - 1

    @property
    def end(self) -> int:
        """The rank of the last result that can be requested."""
        return MAX_OFFSET + MAX_K if self.fold is None else MAX_FOLDED

    @model_validator(mode="after")
    def _check_fold_depth(self) -> Self:
        if self.offset > self.last_offset:
            raise ValueError(f"with fold, offset is at most {self.last_offset:,}")
        return self


class Result(TypedDict):
    """One result. `id` is that of the image or caption; `captions` are all captions of the image."""

    rank: int
    score: Annotated[
        float,
        Field(
            description="Cosine similarity, less the correction for hubness; with evidence, the weighted mean of the "
            "photo's and its best caption's, each in standard deviations above the mean"
        ),
    ]
    cosine: Annotated[float, Field(description="Cosine similarity")]
    caption_cosine: Annotated[
        float | None, Field(description="Cosine similarity of `text`, if it was evidence for the image")
    ]
    kind: Literal["image", "caption"]
    id: IdString
    image_id: IdString
    split: str
    text: Annotated[str, Field(description="The caption, or the caption of the image that is nearest to the query")]
    captions: Sequence[str]
    file: Annotated[str | None, Field(description="Path of the photo below the photo folder")]
    url: Annotated[str | None, Field(description="Where the photo was published, if known")]
    picture: Annotated[
        str, Field(description="Path of the photo, below the page's address; append &size=360, 720 or 1600")
    ]
    also: Annotated[
        list[IdString],
        Field(description="Ids of the lower-ranked results that this one stands for (with group or fold)"),
    ]
    also_images: Annotated[list[IdString], Field(description="Ids of the images of `also`, in the same order")]


class Truncated(TypedDict):
    """A text of which the model reads only the first tokens. Both counts include the prompt, start and end."""

    part: Annotated[int, Field(description="Which of the parts, from 0")]
    read: Annotated[int, Field(description="How many tokens the model reads")]
    given: Annotated[int, Field(description="How many tokens the text has")]


class SearchResults(TypedDict):
    results: list[Result]
    truncated: Annotated[
        list[Truncated], Field(description="The texts that are longer than the model reads: the rest has no influence")
    ]
    more: Annotated[bool, Field(description="Whether there are further results, at an offset that can be requested")]
    total: Annotated[
        int | None,
        Field(
            description="How many images or captions pass the filters; null unless the query asks for it, or if the "
            "words that they must contain include numbers or text in a script without spaces, such as Chinese"
        ),
    ]


class ImageRecord(BaseModel):
    """One stored image."""

    id: IdString
    split: str
    file: str
    url: str | None
    captions: list[str]
    picture: str


class Sample(BaseModel):
    """Stored images in a random order."""

    images: list[ImageRecord]
    more: bool = Field(description="Whether there are further images, at an offset that can be requested")
    total: int | None = Field(description="How many images pass the filters; null for the same words as in a query")


class PictureToken(BaseModel):
    picture: str = Field(description="Names the picture in queries; valid until many others have been uploaded")


class Collection(BaseModel):
    """One collection, with everything that is stored about how it was made."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())  # before pydantic 2.10: `model_` is reserved

    collection: str
    model_name: str = Field(description="The last two parts of `model`, for display")
    points: int
    indexed_vectors: int
    splits: dict[str, Any]


class Collections(BaseModel):
    dataset: str
    place: str = Field(description="The folder or the URL of the index")
    collections: list[Collection]


class Examples(BaseModel):
    captions: list[str] = Field(description="A few captions of the index to search for")


class Ready(BaseModel):
    """What can be answered at once; the rest waits until the model is loaded."""

    texts: bool
    pictures: bool


class Health(BaseModel):
    status: Literal["ok"]
    dataset: str
    images: int
    ready: Ready


class Failure(BaseModel):
    error: str = Field(description="One line: what is wrong, and what to do")
