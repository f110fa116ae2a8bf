"""The index on a Qdrant server: for the dashboard, several users, or a cluster.

ServerIndex takes a connection around a `QdrantClient`, so the contract tests run it on `QdrantClient(":memory:")` too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from qdrant_client import QdrantClient, models

from search.errors import CollectionMissing, ServerError, SpecMismatch
from search.index.names import kind_of
from search.index.payload import INDEXED_FIELDS
from search.index.points import Batch, Points, batch_of, corrected_hits, hits_of, id_of, number_of, scored_of
from search.index.protocol import DEFAULT_PARAMS, CollectionInfo, SearchParams
from search.index.server import indexing
from search.index.server.cluster import short_of_copies
from search.index.server.connection import Connection, open_connection
from search.index.server.translate import SCHEMAS, Schema, configuration, filter_of, is_current, settings_of
from search.index.server.upload import STREAMS, Uploader
from search.index.spec import CollectionSpec, read_spec
from search.index.tuning import Tuning
from search.index.where import Where
from search.records import HUBNESS, Caption, Hit, Image, Vectors
from search.settings import Settings

QUERIES_PER_BATCH = 64
POINTS_PER_SCAN = 1000


def connect(settings: Settings) -> ServerIndex:
    """Open the index on the server that `settings.qdrant_url` names; a read-only API key is enough to search it.

    Raises:
        ServerError: nothing answers, it is not Qdrant or its version is too old, or it refuses the API key.
    """
    return ServerIndex(open_connection(settings, STREAMS))


class ServerIndex:
    """The Index protocol on a Qdrant server; `close()` closes the connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._call = connection.call
        self._uploader = Uploader(connection)

    @property
    def place(self) -> str:
        return self._connection.url

    @property
    def engine(self) -> str:
        return self._connection.engine

    @property
    def streams(self) -> int:
        return self._connection.streams

    def create(self, spec: CollectionSpec, tuning: Tuning | None = None, *, replace: bool = False) -> list[str]:
        name, warnings = spec.collection, list[str]()
        existed = self._exists(name) or not self._create(spec, tuning or Tuning())
        info = self._info(name)
        if existed:
            if not replace:
                spec, warnings = read_spec(name, info.config.metadata).merged(spec)
            if tuning:
                warnings += tuning.differences(name, settings_of(info))
            self.set_spec(spec)
        existing = info.payload_schema or {}
        for field, index in INDEXED_FIELDS[spec.kind].items():
            if not is_current(existing.get(field), SCHEMAS[index]):
                self._index_payload(name, field, SCHEMAS[index])
        return warnings

    def collections(self) -> list[str]:
        response = self._call(None, lambda client: client.get_collections())
        names = [collection.name for collection in response.collections]
        return sorted(name for name in names if name.endswith(("_images", "_captions")) and self._is_ours(name))

    def upsert(self, collection: str, points: Points) -> None:
        self._uploader.upload(collection, points)

    def set_payload(self, collection: str, records: Sequence[Image | Caption]) -> None:
        self.set_fields(collection, {record.id: record.changes() for record in records})

    def set_fields(self, collection: str, fields: Mapping[int, Mapping[str, Any]]) -> None:
        self._uploader.set_fields(collection, fields)

    def set_vectors(self, collection: str, points: Points) -> None:
        self._uploader.set_vectors(collection, points)

    def delete(self, collection: str, ids: Sequence[int]) -> None:
        self._uploader.delete(collection, ids)

    def query(
        self, collection: str, vectors: Vectors, limit: int, params: SearchParams = DEFAULT_PARAMS
    ) -> list[list[Hit]]:
        quantization = models.QuantizationSearchParams(
            ignore=not params.quantized, rescore=params.rescore, oversampling=params.oversampling
        )
        engine_params = models.SearchParams(exact=params.exact, hnsw_ef=params.ef, quantization=quantization)
        filters = params.filters(len(vectors), partial(filter_of, kind=kind_of(collection)))
        requests = [
            models.QueryRequest(
                query=vector,
                limit=limit,
                offset=params.offset,
                filter=conditions,
                params=engine_params,
                with_payload=[HUBNESS] if params.hubness else params.payload,
            )
            for vector, conditions in zip(vectors.tolist(), filters, strict=True)
        ]
        answers: list[list[Hit]] = []
        for start in range(0, len(requests), QUERIES_PER_BATCH):
            responses = self._query(collection, requests[start : start + QUERIES_PER_BATCH])
            for response in responses:
                if params.hubness:
                    scored = scored_of(response.points)
                    numbers = {id_of(point): number_of(point) for point in response.points}
                    answers.append(corrected_hits(scored, numbers, params.hubness, params.keep))
                else:
                    answers.append(hits_of(response.points, per_image=params.per_image))
        return answers

    def retrieve(self, collection: str, ids: Sequence[int], *, vectors: bool = False) -> Batch:
        points = self._call(
            collection, lambda client: client.retrieve(collection, list(ids), with_payload=True, with_vectors=vectors)
        )
        by_id = {id_of(point): point for point in points}
        return batch_of([by_id[point_id] for point_id in ids if point_id in by_id], vectors)

    def scan(self, collection: str, *, where: Where | None = None, vectors: bool = False) -> Iterator[Batch]:
        conditions = filter_of(where, kind_of(collection))
        offset: Any = None
        while True:
            points, offset = self._page(collection, conditions, offset, vectors)
            if points:
                yield batch_of(points, vectors)
            if offset is None:
                return

    def count(self, collection: str, *, where: Where | None = None) -> int:
        conditions = filter_of(where, kind_of(collection))
        result = self._call(collection, lambda client: client.count(collection, count_filter=conditions, exact=True))
        return result.count

    def defer_indexing(self, collection: str) -> None:
        indexing.defer_indexing(self._connection, collection)

    def optimize(self, collection: str, report: Callable[[int], None] | None = None) -> None:
        indexing.build(self._connection, collection, report)

    def pending(self, collection: str, *, exact: bool = False) -> str | None:
        return indexing.pending(self._connection, collection, exact=exact)

    def served_model(self) -> None:
        return None

    def silent_nodes(self) -> list[str]:
        return list(self._connection.health().silent_nodes)

    def spec(self, collection: str) -> CollectionSpec:
        return read_spec(collection, self._info(collection).config.metadata)

    def set_spec(self, spec: CollectionSpec) -> None:
        name, metadata = spec.collection, spec.as_json()
        self._call(name, lambda client: client.update_collection(name, metadata=metadata))
        self._index_numbers(spec)

    def info(self, collection: str) -> CollectionInfo:
        info = self._info(collection)
        spec = read_spec(collection, info.config.metadata)
        indexed = info.indexed_vectors_count or 0
        count, pending = self.count(collection), self.pending(collection)
        short = short_of_copies(self._connection, info, collection)
        return CollectionInfo(collection, count, indexed, spec, settings_of(info), pending, short)

    def disk_bytes(self, collection: str) -> int | None:  # noqa: ARG002
        return None  # a server does not report it

    def drop(self, collection: str) -> None:
        if self._exists(collection):
            self._call(collection, lambda client: client.delete_collection(collection))

    def close(self) -> None:
        self._uploader.close()
        self._connection.close()

    def _exists(self, collection: str) -> bool:
        return self._call(collection, lambda client: client.collection_exists(collection))

    def _info(self, collection: str) -> models.CollectionInfo:
        return self._call(collection, lambda client: client.get_collection(collection))

    def _create(self, spec: CollectionSpec, tuning: Tuning) -> bool:
        """Create the collection; return False if another machine was faster."""
        name, arguments = spec.collection, configuration(spec.dim, tuning)

        def attempt(client: QdrantClient) -> bool:
            if client.collection_exists(name):  # also if the answer to an earlier attempt was lost
                return False
            return client.create_collection(name, metadata=spec.as_json(), **arguments)

        try:
            return self._call(name, attempt)
        except ServerError as error:
            if error.transient or not self._exists(name):
                raise
            return False

    def _index_payload(self, collection: str, field: str, schema: Schema) -> None:
        # The server replaces an index with other parameters.
        self._call(collection, lambda client: client.create_payload_index(collection, field, schema, wait=True))

    def _index_numbers(self, spec: CollectionSpec) -> None:
        """Index the numbers `hubness` if they are complete, else delete the index, which makes writing them slow."""
        name, schema = spec.collection, models.PayloadSchemaType.FLOAT
        is_indexed = HUBNESS in (self._info(name).payload_schema or {})
        if spec.is_numbered and not is_indexed:
            self._call(name, lambda client: client.create_payload_index(name, HUBNESS, schema, wait=True))
        elif is_indexed and not spec.is_numbered:
            self._call(name, lambda client: client.delete_payload_index(name, HUBNESS, wait=True))

    def _query(self, collection: str, requests: list[models.QueryRequest]) -> list[models.QueryResponse]:
        return self._call(collection, lambda client: client.query_batch_points(collection, requests))

    def _page(
        self, collection: str, conditions: models.Filter | None, offset: Any, vectors: bool
    ) -> tuple[list[models.Record], Any]:
        return self._call(
            collection,
            lambda client: client.scroll(
                collection,
                scroll_filter=conditions,
                limit=POINTS_PER_SCAN,
                offset=offset,
                with_payload=True,
                with_vectors=vectors,
            ),
        )

    def _is_ours(self, collection: str) -> bool:
        try:
            self.spec(collection)
        except (SpecMismatch, CollectionMissing):  # missing: deleted a moment ago
            return False
        return True
