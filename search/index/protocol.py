"""The contract of an index, and what its methods take and return."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import ConfigDict

from search.index.points import Batch, Points
from search.index.spec import CollectionSpec
from search.index.tuning import Tuning
from search.records import Caption, Hit, Image, Vectors

OVERSAMPLING = 3.0  # brings int8 back to float32's recall at little cost (25,000 points of 512 dimensions)
NO_OTHER_FIELDS = ConfigDict(extra="forbid")  # for the relay, whose two sides may be different versions
WORTH_PUTTING_OFF = 10_000
"""Building the HNSW index is postponed to the end if more points than this are about to be written."""


@dataclass(frozen=True, slots=True)
class Where:
    """A filter; the conditions that are given must all hold.

    `splits`: the point is in one of these; `ids` / `not_ids`: its id is / is not one of these; `image_ids`: it is one
    of these images, or a caption of one; `contains`: all of these words occur in the caption (or in the image's
    captions), as the index's tokenizer divides them, which ignores numbers (a Searcher compares these itself) and does
    not separate a word from a symbol such as `=` or `<` beside it; `max_position`: the highest position of a caption
    in its image, 0-based, inclusive.
    """

    splits: tuple[str, ...] | None = None
    ids: tuple[int, ...] | None = None
    not_ids: tuple[int, ...] | None = None
    image_ids: tuple[int, ...] | None = None
    contains: str | None = None
    max_position: int | None = None
    __pydantic_config__ = NO_OTHER_FIELDS


@dataclass(frozen=True, slots=True)
class SearchParams:
    """How a query is answered.

    `exact` scans instead of using HNSW; `ef` is the number of candidates that HNSW keeps while it searches, at least
    the limit (None: as many as when it was built). For quantised collections, whose own scores are rough: `rescore`
    finds `oversampling` times as many points as the limit and scores them again with the float32 vectors;
    `quantized=False` searches with those from the start. `payload`: whether hits have records. `offset`: how many of
    the best hits to skip. `where`: which points may be hits (None: all).
    """

    exact: bool = False
    ef: int | None = None
    rescore: bool = True
    oversampling: float = OVERSAMPLING
    quantized: bool = True
    payload: bool = True
    offset: int = 0
    where: Where | None = None
    __pydantic_config__ = NO_OTHER_FIELDS


DEFAULT_PARAMS = SearchParams()


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


class ReadIndex(Protocol):
    """Reading an index.

    All methods raise IndexFailure or one of its kinds; reading from a collection that does not exist raises
    CollectionMissing.
    """

    @property
    def place(self) -> str:
        """The index's address as a person would name it."""
        ...

    @property
    def engine(self) -> str:
        """The engine and its version, for reports."""
        ...

    def collections(self) -> list[str]:
        """Return the names of the collections, sorted."""
        ...

    def query(
        self, collection: str, vectors: Vectors, limit: int, params: SearchParams = DEFAULT_PARAMS
    ) -> list[list[Hit]]:
        """Return the `limit` best hits for each row of `vectors` (n, dim), best first."""
        ...

    def retrieve(self, collection: str, ids: Sequence[int], *, vectors: bool = False) -> Batch:
        """Return the points that exist among `ids`, in the order of `ids`."""
        ...

    def scan(self, collection: str, *, where: Where | None = None, vectors: bool = False) -> Iterator[Batch]:
        """Yield all points, in batches, in ascending order of ids."""
        ...

    def count(self, collection: str, *, where: Where | None = None) -> int:
        """Return the exact number of points."""
        ...

    def spec(self, collection: str) -> CollectionSpec:
        """Return how the collection was made; does not open an embedded shard.

        Raises:
            SpecMismatch: the collection was not made by this project.
        """
        ...

    def info(self, collection: str) -> CollectionInfo:
        """Return the collection's present state."""
        ...

    def pending(self, collection: str, *, exact: bool = False) -> str | None:
        """Return what keeps the collection from answering as it should (its index is being built, a node of the cluster
        is away), in one line, or None. With `exact` it answers without its index."""
        ...

    def silent_nodes(self) -> list[str]:
        """Return the URLs, of those that name the index, whose nodes do not answer; none for an embedded index."""
        ...

    def disk_bytes(self, collection: str) -> int | None:
        """Return the size of the collection on disk, None if the engine does not report it."""
        ...

    def close(self) -> None:
        """Flush and release; the index cannot be used afterwards."""
        ...


class Index(ReadIndex, Protocol):
    """Reading and writing an index."""

    @property
    def streams(self) -> int:
        """How many upserts at the same time make writing faster."""
        ...

    def create(self, spec: CollectionSpec, tuning: Tuning | None = None, *, replace: bool = False) -> list[str]:
        """Create the collection, or accept the one that exists; return warnings. Idempotent.

        `tuning` says how to build it; if the collection exists and was built otherwise, it stays as it is and the
        warnings say so. None: the engine's defaults, or whatever exists. `replace` stores `spec` as it is, without
        comparing it with that of the collection, once all points have been made anew.

        Raises:
            SpecMismatch: what exists was made with another model or prompt.
            IndexFailure: `tuning` gives the embedded index shards or replicas.
        """
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

    def set_spec(self, spec: CollectionSpec) -> None:
        """Replace what is remembered of how an existing collection was made."""
        ...

    def put_off(self, collection: str) -> None:
        """Leave building the HNSW index to `optimize`, because much is about to be written."""
        ...

    def optimize(self, collection: str) -> None:
        """Build the HNSW index now, also if it was put off; return when there is nothing left to build."""
        ...

    def drop(self, collection: str) -> None:
        """Delete the collection and its points; do nothing if it does not exist."""
        ...


def put_off_if_many(index: Index, collection: str, count: int) -> None:
    """Leave building the HNSW index to `optimize` if so many points are about to be written that it is worth it.

    A run that is killed leaves it so, until the next `optimize`.
    """
    if count > WORTH_PUTTING_OFF:
        index.put_off(collection)
