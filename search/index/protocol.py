"""The protocol of an index, and the types that its methods take and return."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from search.index.points import Batch, Points
from search.index.spec import CollectionSpec
from search.index.tuning import Tuning
from search.index.where import NO_OTHER_FIELDS, Where
from search.records import Caption, Hit, Image, Vectors

if TYPE_CHECKING:
    from search.encoder import Encoder

T = TypeVar("T")
OVERSAMPLING = 3.0  # restores the recall of float32 to int8 at little cost (25,000 points of 512 dimensions)
DEFER_INDEXING_FROM = 10_000
"""If more points than this are about to be written, the HNSW index is built once, after the last of them."""


@dataclass(frozen=True, slots=True)
class SearchParams:
    """How to answer a query.

    `exact` scans instead of using HNSW; `ef` is the number of candidates that HNSW keeps while it searches, at least
    the limit (None: as many as when the index was built). The scores of quantised vectors are approximate: `rescore`
    finds `oversampling` times as many points as the limit and scores them again with the float32 vectors, and
    `quantized=False` searches the float32 vectors from the start. `payload`: whether hits have records. `offset`: how
    many of the best hits to skip. `where`: the points to search (None: all); `each_where` instead of it: those to
    search for each vector. `per_image`: of the hits, only the best of each image, which needs payloads; building the
    others would take most of the time. `hubness`: how many times the number `hubness` of each image is
    subtracted from its cosine. The hits are still those of the `limit` highest cosines, in the order of these corrected
    scores, equal ones by id, and without records; an image without a number raises IndexFailure. `keep`: return only
    this many of the corrected hits and, after them, the one of lowest cosine; building the others would take most of
    the time.
    """

    exact: bool = False
    ef: int | None = None
    rescore: bool = True
    oversampling: float = OVERSAMPLING
    quantized: bool = True
    payload: bool = True
    offset: int = 0
    where: Where | None = None
    each_where: tuple[Where, ...] | None = None
    per_image: bool = False
    hubness: float = 0.0
    keep: int | None = None
    __pydantic_config__ = NO_OTHER_FIELDS

    def filters(self, count: int, convert: Callable[[Where | None], T]) -> Sequence[T]:
        """Return the filter of each of `count` vectors, converted to the form of an engine."""
        return [convert(self.where)] * count if self.each_where is None else list(map(convert, self.each_where))


DEFAULT_PARAMS = SearchParams()


@dataclass(frozen=True, slots=True)
class CollectionInfo:
    """The present state of a collection: exact number of points, vectors in the HNSW index, specification.

    `settings` are those of the engine, each None if the engine does not report it: `m`, `ef_construct`,
    `full_scan_threshold` and `indexing_threshold` (KB), `quantization`, `on_disk`, `shards`, `replicas`, `segments`.
    `pending` is as in `ReadIndex.pending`. `shards_short_of_copies` is the number of shards with fewer copies in use
    than the replication factor, None if the engine does not report it.
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
            **self.spec.as_json(),
            "hubness": self.spec.hubness and self.spec.hubness.without_sentences(),
        }


class ReadIndex(Protocol):
    """An index to read.

    All methods raise IndexFailure or a subclass; reading from a collection that does not exist raises
    CollectionMissing.
    """

    @property
    def place(self) -> str:
        """The path or URL of the index, for messages."""
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
        """Return the `limit` best hits for each row of `vectors`, float32 (n, dim), best first."""
        ...

    def retrieve(self, collection: str, ids: Sequence[int], *, vectors: bool = False) -> Batch:
        """Return the points among `ids` that exist, in the order of `ids`."""
        ...

    def scan(self, collection: str, *, where: Where | None = None, vectors: bool = False) -> Iterator[Batch]:
        """Yield all points, in batches, in ascending order of ids."""
        ...

    def count(self, collection: str, *, where: Where | None = None) -> int:
        """Return the exact number of points."""
        ...

    def spec(self, collection: str) -> CollectionSpec:
        """Return the specification of the collection, without opening an embedded shard.

        Raises:
            SpecMismatch: the collection was not made by this project.
        """
        ...

    def info(self, collection: str) -> CollectionInfo:
        """Return the present state of the collection."""
        ...

    def pending(self, collection: str, *, exact: bool = False) -> str | None:
        """Return, in one line, why answers may be slow or incomplete, or None if there is no reason.

        Either the HNSW index is not complete, which does not matter to `exact` queries, or shards lack copies.
        """
        ...

    def served_model(self) -> Encoder | None:
        """Return the model of the `search serve` that has the index open, or None if it has none ready to use."""
        ...

    def silent_nodes(self) -> list[str]:
        """Return those of the index's URLs whose nodes do not answer; none for an embedded index."""
        ...

    def disk_bytes(self, collection: str) -> int | None:
        """Return the size of the collection on disk, None if the engine does not report it."""
        ...

    def close(self) -> None:
        """Write everything to disk and release the index, which cannot be used afterwards."""
        ...


class Index(ReadIndex, Protocol):
    """An index to read and write."""

    @property
    def streams(self) -> int:
        """The number of concurrent upserts that is fastest."""
        ...

    def create(self, spec: CollectionSpec, tuning: Tuning | None = None, *, replace: bool = False) -> list[str]:
        """Create the collection, or accept the existing one; return warnings. Idempotent.

        `tuning` says how to build it (None: the engine's defaults). An existing collection keeps its tuning, and the
        warnings list the differences. `replace` stores `spec` without comparing it with that of the collection; use it
        once all points have been embedded anew.

        Raises:
            SpecMismatch: the collection exists and was made with another model or prompt.
            IndexFailure: `tuning` has shards or replicas, and the index is embedded.
        """
        ...

    def upsert(self, collection: str, points: Points) -> None:
        """Write points, replacing those with the same ids. Once this returns, they survive a killed process."""
        ...

    def set_payload(self, collection: str, records: Sequence[Image | Caption]) -> None:
        """Write the payloads of existing points, which survive kills as in `upsert`; each point changes atomically.

        Vectors stay, and so do payload fields that users added.

        Raises:
            IndexFailure: one of the points does not exist; others may have been written.
        """
        ...

    def set_fields(self, collection: str, fields: Mapping[int, Mapping[str, Any]]) -> None:
        """Write some fields of the payloads of existing points, by id, as `set_payload` does; None deletes a field.

        Raises:
            IndexFailure: one of the points does not exist; others may have been written.
        """
        ...

    def set_vectors(self, collection: str, points: Points) -> None:
        """Write the vectors of existing points, which survive kills as in `upsert`. Payloads stay.

        Raises:
            IndexFailure: one of the points does not exist; others may have been written.
        """
        ...

    def delete(self, collection: str, ids: Sequence[int]) -> None:
        """Delete points, which survives kills as in `upsert`; ids that do not exist are ignored."""
        ...

    def set_spec(self, spec: CollectionSpec) -> None:
        """Replace the stored specification of an existing collection."""
        ...

    def defer_indexing(self, collection: str) -> None:
        """Leave building the HNSW index to `optimize`, because many points are about to be written."""
        ...

    def optimize(self, collection: str, report: Callable[[int], None] | None = None) -> None:
        """Build the HNSW index, deferred or not; return when it is complete.

        `report` is called with the number of vectors that are indexed so far, if the engine reports it.
        """
        ...

    def drop(self, collection: str) -> None:
        """Delete the collection and its points; do nothing if it does not exist."""
        ...


def defer_indexing_if_many(index: Index, collection: str, count: int) -> None:
    """Leave building the HNSW index to `optimize` if `count`, the number of points to write, makes it worthwhile.

    After a killed run, indexing stays deferred until the next `optimize`.
    """
    if count > DEFER_INDEXING_FROM:
        index.defer_indexing(collection)
