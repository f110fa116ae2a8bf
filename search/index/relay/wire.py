"""The calls and answers of the relay as JSON, with float32 vectors in base64.

A request is one object, `{"method": ..., "collection": ..., "arguments": {...}, "version": ...}`. The answer is JSON
lines, each `{"part": ...}` or, as the last one, `{"failure": class name, "message": ...}`; a whole collection takes
many parts.

The two sides may be different versions. Fields with their default value are not sent, so a field that the other side
does not know is an error only if it is used.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from search import errors
from search.encoder import Truncation
from search.index.points import Batch
from search.index.protocol import CollectionInfo, SearchParams
from search.index.spec import CollectionSpec
from search.index.where import Where
from search.records import Hit, Vectors, record_of
from search.validation import first_problem

if TYPE_CHECKING:
    from search.encoder.images import Pixels

Json = dict[str, Any]
T = TypeVar("T")
VERSION = version("coco-search")


class Incompatible(TypeError):
    """A call or an answer that this version does not understand; the message names the first unexpected field."""


class Arguments(BaseModel):
    """The arguments of a method."""

    model_config = ConfigDict(extra="forbid")


class PackedVectors(BaseModel):
    """An array of float32 of this shape, little-endian, in base64."""

    shape: tuple[int, ...]
    float32: str

    @classmethod
    def of(cls, vectors: Vectors) -> PackedVectors:
        packed = np.ascontiguousarray(vectors, dtype="<f4")
        return cls(shape=packed.shape, float32=base64.b64encode(packed.tobytes()).decode())

    def unpack(self) -> Vectors:
        flat = np.frombuffer(base64.b64decode(self.float32), dtype="<f4")
        return flat.reshape(self.shape).astype(np.float32)


class PackedPixels(BaseModel):
    """Prepared pictures, uint8 (n, height, width, 3), in base64."""

    shape: tuple[int, ...]
    uint8: str

    @classmethod
    def of(cls, pixels: Pixels) -> PackedPixels:
        return cls(shape=pixels.shape, uint8=base64.b64encode(pixels.tobytes()).decode())

    def unpack(self) -> Pixels:
        return np.frombuffer(base64.b64decode(self.uint8), dtype=np.uint8).reshape(self.shape)


class Query(Arguments):
    """The arguments of `query`: these, and the fields of SearchParams."""

    model_config = ConfigDict(extra="allow")

    vectors: PackedVectors
    limit: int

    @property
    def params(self) -> SearchParams:
        return unpack(PARAMS, self.model_extra)


class Retrieve(Arguments):
    ids: list[int]
    vectors: bool = False


class Count(Arguments):
    where: Where | None = None


class Scan(Count):
    vectors: bool = False


class Texts(Arguments):
    texts: list[str]


class Pictures(Arguments):
    pixels: PackedPixels


class PackedPreparation(BaseModel):
    """The fields of `search.encoder.images.Preparation`; `resample` is a number of Pillow's."""

    size: tuple[int, int] | int
    crop: tuple[int, int] | None
    resample: int


class Model(BaseModel):
    """The description of a model that is ready to encode."""

    name: str
    dim: int
    preparation: PackedPreparation | None


class PackedHit(BaseModel):
    id: int
    score: float
    payload: Json | None
    uncorrected: float | None = None

    @classmethod
    def of(cls, hit: Hit) -> PackedHit:
        payload = hit.record.payload() if hit.record else None
        return cls(id=hit.id, score=hit.score, payload=payload, uncorrected=hit.uncorrected)

    def unpack(self) -> Hit:
        record = record_of(self.payload) if self.payload else None
        return Hit(self.id, self.score, record, uncorrected=self.uncorrected)


class PackedBatch(BaseModel):
    payloads: list[Json]
    vectors: PackedVectors | None

    @classmethod
    def of(cls, batch: Batch) -> PackedBatch:
        vectors = None if batch.vectors is None else PackedVectors.of(batch.vectors)
        return cls(payloads=[record.payload() for record in batch.records], vectors=vectors)

    def unpack(self) -> Batch:
        return Batch(list(map(record_of, self.payloads)), self.vectors.unpack() if self.vectors else None)


QUERY: TypeAdapter[Query] = TypeAdapter(Query)
RETRIEVE: TypeAdapter[Retrieve] = TypeAdapter(Retrieve)
FILTER: TypeAdapter[Count] = TypeAdapter(Count)
SCAN: TypeAdapter[Scan] = TypeAdapter(Scan)
TEXTS: TypeAdapter[Texts] = TypeAdapter(Texts)
TRUNCATIONS: TypeAdapter[list[Truncation | None]] = TypeAdapter(list[Truncation | None])
PICTURES: TypeAdapter[Pictures] = TypeAdapter(Pictures)
MODEL: TypeAdapter[Model] = TypeAdapter(Model)
VECTORS: TypeAdapter[PackedVectors] = TypeAdapter(PackedVectors)
COUNT: TypeAdapter[int] = TypeAdapter(int)
SIZE: TypeAdapter[int | None] = TypeAdapter(int | None)
TEXT: TypeAdapter[str] = TypeAdapter(str)
NOTE: TypeAdapter[str | None] = TypeAdapter(str | None)
NAMES: TypeAdapter[list[str]] = TypeAdapter(list[str])
PARAMS: TypeAdapter[SearchParams] = TypeAdapter(SearchParams)
HITS: TypeAdapter[list[list[PackedHit]]] = TypeAdapter(list[list[PackedHit]])
BATCH: TypeAdapter[PackedBatch] = TypeAdapter(PackedBatch)
SPEC: TypeAdapter[CollectionSpec] = TypeAdapter(CollectionSpec)
INFO: TypeAdapter[CollectionInfo] = TypeAdapter(CollectionInfo)


def pack(kind: TypeAdapter[T], value: T) -> Any:
    """Convert `value` to JSON values, without the fields that have their default value."""
    return kind.dump_python(value, exclude_defaults=True)


def unpack(kind: TypeAdapter[T], packed: object) -> T:
    """Convert JSON values to a value.

    Raises:
        Incompatible: a field is missing, unknown or of another type.
    """
    try:
        return kind.validate_python(packed)
    except ValidationError as error:
        problem = first_problem(error)
        raise Incompatible(": ".join(filter(None, (problem.place, problem.message)))) from None


def pack_failure(failure: errors.CocoSearchError) -> Json:
    return {"failure": type(failure).__name__, "message": str(failure)}


def unpack_failure(packed: Mapping[str, Any]) -> errors.CocoSearchError:
    """Convert a failure to the error that was raised on the other side."""
    kind = getattr(errors, str(packed["failure"]), errors.IndexFailure)
    return kind(packed["message"]) if issubclass(kind, errors.CocoSearchError) else errors.IndexFailure(str(packed))
