"""The index: two collections of vectors behind one small protocol.

`open_index(settings)` gives the embedded engine (Qdrant Edge, a folder) or a Qdrant server; both keep one contract.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from search.errors import IndexFailure, InvalidPoints
from search.index.spec import TRIAL, CollectionSpec, SplitSize, collection_name
from search.index.tuning import Quantization, Tuning
from search.records import Caption, Hit, Image, record_of
from search.settings import Settings

__all__ = [
    "MAX_ID",
    "OVERSAMPLING",
    "TRIAL",
    "WORTH_PUTTING_OFF",
    "Batch",
    "CollectionInfo",
    "CollectionSpec",
    "Index",
    "Points",
    "Quantization",
    "SplitSize",
    "Tuning",
    "Vectors",
    "Where",
    "collection_name",
    "open_index",
    "put_off_if_many",
    "usable",
]

Vectors = npt.NDArray[np.float32]
OVERSAMPLING = 3.0  # brings int8 back to float32's recall at little cost (25,000 points of 512 dimensions)
WORTH_PUTTING_OFF = 10_000
"""From so many points to write on, building the HNSW index is left to the end."""
MAX_ID = 2**63  # ids are in payloads too, where integers have a sign


@dataclass(frozen=True, slots=True)
class Points:
    """Records and their vectors, float32 (n, dim), ready to be stored under `record.id`.

    Raises:
        InvalidPoints: shapes differ, an id is not between 0 and 2^63, or a vector is NaN, infinite or zero (the
            embedded engine would store those and rank them at random).
    """

    records: Sequence[Image | Caption]
    vectors: Vectors

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or len(self.vectors) != len(self.records):
            raise InvalidPoints(f"{len(self.records)} records with vectors of shape {self.vectors.shape}")
        for record, good in zip(self.records, usable(self.vectors), strict=True):
            if not 0 <= record.id < MAX_ID:
                raise InvalidPoints(f"id {record.id} is not between 0 and 2^63")
            if not good:
                raise InvalidPoints(f"the vector of {record.id} is NaN, infinite or zero: it has no direction")

    def __len__(self) -> int:
        return len(self.records)

    def only(self, rows: Sequence[int]) -> Points:
        """Return some of the points."""
        return Points([self.records[row] for row in rows], self.vectors[list(rows)])


def usable(vectors: Vectors) -> npt.NDArray[np.bool_]:
    """Return bool (n,): which rows of float32 (n, dim) have a direction, being neither NaN, infinite nor zero."""
    lengths = np.linalg.norm(vectors, axis=1)
    good: npt.NDArray[np.bool_] = np.isfinite(lengths) & (lengths > 0)
    return good


@dataclass(frozen=True, slots=True)
class Batch:
    """Some stored points: records, and vectors float32 (n, dim) where they were asked for."""

    records: list[Image | Caption]
    vectors: Vectors | None = None


class StoredPoint(Protocol):
    """What both engines' clients give back."""

    @property
    def id(self) -> Any: ...
    @property
    def payload(self) -> Any: ...
    @property
    def vector(self) -> Any: ...


class ScoredPoint(StoredPoint, Protocol):
    """What both engines' clients answer to a query."""

    @property
    def score(self) -> float: ...


def batch_of(points: Sequence[StoredPoint], vectors: bool) -> Batch:
    """Stored points as records and, where asked for, vectors."""
    records = [record_of(point.payload or {}) for point in points]
    return Batch(records, np.array([point.vector for point in points], dtype=np.float32) if vectors else None)


def hits_of(points: Sequence[ScoredPoint]) -> list[Hit]:
    """Scored points as hits, with records where payloads came along."""
    return [Hit(id_of(point), point.score, record_of(point.payload) if point.payload else None) for point in points]


def id_of(point: StoredPoint) -> int:
    """Raises IndexFailure where the id is not one of ours, a number."""
    if not isinstance(point.id, int):
        raise IndexFailure(f"point {point.id} has no integer id: something else wrote into this collection")
    return point.id


@dataclass(frozen=True, slots=True)
class Where:
    """A filter; the conditions that are given must all hold.

    `splits`: in one of these; `ids` / `not_ids`: the point's id is / is not one of these; `image_ids`: one of these
    images, or a caption of one; `words`: all of them occur in the caption (or in the image's captions), as the index's
    tokenizer divides them, which ignores numbers (a Searcher looks for these too) and does not part a word from a
    symbol such as `=` or `<` beside it; `max_position`: a caption's place
    in its image, 0-based, inclusive.
    """

    splits: tuple[str, ...] | None = None
    ids: tuple[int, ...] | None = None
    not_ids: tuple[int, ...] | None = None
    image_ids: tuple[int, ...] | None = None
    words: str | None = None
    max_position: int | None = None


@dataclass(frozen=True, slots=True)
class CollectionInfo:
    """A collection as it is now: exact number of points, vectors in the HNSW index, how it was made.

    `settings` is what the engine says of itself, None where it does not: `m`, `ef_construct`, `full_scan_threshold` and
    `indexing_threshold` (KB), `quantization`, `on_disk`, `shards`, `replicas`, `segments`. `pending` says what keeps
    the collection from answering as it should, None where nothing does. `shards_short_of_copies`: how many shards have
    fewer copies in use than the replication factor, None if the engine does not say.
    """

    name: str
    points: int
    indexed_vectors: int
    spec: CollectionSpec
    settings: dict[str, Any]
    pending: str | None = None
    shards_short_of_copies: int | None = None

    def as_json(self) -> dict[str, Any]:
        return {
            "collection": self.name,
            "points": self.points,
            "indexed_vectors": self.indexed_vectors,
            "pending": self.pending,
            "shards_short_of_copies": self.shards_short_of_copies,
            "settings": self.settings,
            **self.spec.model_dump(),
        }


class Index(Protocol):
    """What both engines do. All methods raise IndexFailure or one of its kinds; reading from a collection that does not
    exist raises CollectionMissing."""

    @property
    def place(self) -> str:
        """The index's address as a person would name it."""
        ...

    @property
    def engine(self) -> str:
        """The engine and its version, for reports."""
        ...

    @property
    def streams(self) -> int:
        """How many upserts at the same time make writing faster."""
        ...

    def create(self, spec: CollectionSpec, tuning: Tuning | None = None, *, replace: bool = False) -> list[str]:
        """Make the collection, or accept the one that exists; returns warnings. Idempotent.

        `tuning` says how to build it; where the collection exists and was built otherwise, it stays as it is and the
        warnings say so. None: the engine's defaults, or whatever is there. `replace` stores `spec` as it is, without
        comparing it with that of the collection, once all points have been made anew.

        Raises:
            SpecMismatch: what exists was made with another model or prompt.
            IndexFailure: shards or replicas are asked of the embedded index.
        """
        ...

    def collections(self) -> list[str]:
        """Names of the collections, sorted."""
        ...

    def upsert(self, collection: str, points: Points) -> None:
        """Write points, replacing those with the same ids. Once it returns they survive a killed process."""
        ...

    def set_payload(self, collection: str, records: Sequence[Image | Caption]) -> None:
        """Write the payloads of points that exist, safe against kills as in `upsert`. Their vectors stay, and so do
        the fields that users added; each point changes at once.

        Raises:
            IndexFailure: one of the points does not exist; others may have been written.
        """
        ...

    def set_vectors(self, collection: str, points: Points) -> None:
        """Write the vectors of points that exist, safe against kills as in `upsert`. Their payloads stay.

        Raises:
            IndexFailure: one of the points does not exist; others may have been written.
        """
        ...

    def query(
        self,
        collection: str,
        vectors: Vectors,
        limit: int,
        *,
        where: Where | None = None,
        exact: bool = False,
        payload: bool = True,
        offset: int = 0,
        ef: int | None = None,
        rescore: bool = True,
        oversampling: float = OVERSAMPLING,
        quantized: bool = True,
    ) -> list[list[Hit]]:
        """The `limit` best hits for each row of `vectors` (n, dim), best first. `exact` scans instead of using HNSW.

        `ef`: how many candidates HNSW keeps while it searches, at least `limit` (None: as many as when it was built).
        For quantised collections, whose own scores are rough: `rescore` finds `oversampling` times `limit` points and
        scores them again with the float32 vectors; `quantized=False` searches with those from the start.
        """
        ...

    def retrieve(self, collection: str, ids: Sequence[int], *, vectors: bool = False) -> Batch:
        """The points that exist among `ids`, in the order of `ids`."""
        ...

    def scan(self, collection: str, *, where: Where | None = None, vectors: bool = False) -> Iterator[Batch]:
        """All points, in batches, in ascending order of ids."""
        ...

    def count(self, collection: str, *, where: Where | None = None) -> int:
        """The exact number of points."""
        ...

    def put_off(self, collection: str) -> None:
        """Leave building the HNSW index to `optimize`, because much is about to be written."""
        ...

    def optimize(self, collection: str) -> None:
        """Build the HNSW index now, also where it was put off; returns when there is nothing left to build."""
        ...

    def pending(self, collection: str) -> str | None:
        """What keeps the collection from answering as it should (its index is being built, a node of the cluster is
        away), in one line; None where nothing does."""
        ...

    def silent_nodes(self) -> list[str]:
        """Return the URLs, of those that name the index, whose nodes do not answer; none for an embedded index."""
        ...

    def spec(self, collection: str) -> CollectionSpec:
        """How the collection was made; does not open an embedded shard.

        Raises:
            SpecMismatch: the collection was not made by this project.
        """
        ...

    def set_spec(self, spec: CollectionSpec) -> None:
        """Replace what is remembered of how an existing collection was made."""
        ...

    def info(self, collection: str) -> CollectionInfo: ...

    def disk_bytes(self, collection: str) -> int | None:
        """What the collection takes on the disk, None where the engine does not say."""
        ...

    def drop(self, collection: str) -> None:
        """Delete the collection and its points; nothing happens where there is none."""
        ...

    def close(self) -> None:
        """Flush and release; the index cannot be used afterwards."""
        ...


def put_off_if_many(index: Index, collection: str, count: int) -> None:
    """Leave building the HNSW index to `optimize` if so many points are about to be written that it is worth it.

    A run that is killed leaves it so, until the next `optimize`.
    """
    if count > WORTH_PUTTING_OFF:
        index.put_off(collection)


def open_index(settings: Settings, *, writing: bool = False) -> Index:
    """The index that the settings name: a Qdrant server where there is a URL, else the embedded engine.

    An embedded index that a running `python -m search serve` has open is read through that process.

    Args:
        writing: whether points will be written or deleted.

    Raises:
        ServerError: the server does not answer or refuses the API key.
        IndexBusy: `writing`, and a running server has the embedded index open.
    """
    if settings.qdrant_url:
        from search.index.server.index import connect

        return connect(settings)
    from search.index.relay.announce import find_running

    if running := find_running(settings.index_path):
        from search.index.relay.client import RemoteIndex, busy

        if writing:
            raise busy(settings.index_path, running)
        return RemoteIndex(settings.index_path, running)
    from search.index.edge.index import EdgeIndex

    return EdgeIndex(settings.index_path)
