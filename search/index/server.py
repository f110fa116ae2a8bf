"""The index on a Qdrant server, over gRPC: for the dashboard, several users, or a cluster.

The adapter takes a `QdrantClient`, so the contract tests run it on `QdrantClient(":memory:")` too.
"""

from __future__ import annotations

import contextlib
import time
import warnings as python_warnings
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

import grpc
import numpy as np
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from search.errors import CollectionMissing, IndexFailure, ServerError
from search.index import Batch, CollectionInfo, Points, Vectors, Where
from search.index.spec import CollectionSpec, read_spec
from search.records import Hit, record_of
from search.settings import Settings

QUERIES_PER_BATCH = 64
POINTS_PER_REQUEST = 256
POINTS_PER_SCAN = 1000
QUIET_CHECKS = 3  # how often in a row a collection must be green before its index counts as built

_TEXT = models.TextIndexParams(type=models.TextIndexType.TEXT, tokenizer=models.TokenizerType.WORD, lowercase=True)
_PAYLOAD_INDEXES: dict[str, models.PayloadSchemaType | models.TextIndexParams] = {
    "split": models.PayloadSchemaType.KEYWORD,
    "image_id": models.PayloadSchemaType.INTEGER,
    "position": models.PayloadSchemaType.INTEGER,
    "text": _TEXT,
    "captions": _TEXT,
}


def connect(settings: Settings) -> ServerIndex:
    """The index on the server that `settings.qdrant_url` names, by gRPC, or by REST where gRPC is not reachable.

    Raises:
        ServerError: nothing answers there, or the API key is refused.
    """
    url = settings.qdrant_url or ""
    http_port = urlsplit(url).port or (443 if url.startswith("https") else 6333)
    grpc_port = settings.qdrant_grpc_port or (http_port + 1 if http_port != 443 else 6334)
    key = settings.qdrant_api_key.get_secret_value() if settings.qdrant_api_key else None

    def open_client(prefer_grpc: bool) -> QdrantClient:
        with python_warnings.catch_warnings():
            # A key over plain http is the user's own choice on a loopback address; versions are checked below.
            python_warnings.simplefilter("ignore", UserWarning)
            return QdrantClient(
                url=url,
                port=http_port,
                grpc_port=grpc_port,
                prefer_grpc=prefer_grpc,
                api_key=key,
                timeout=settings.qdrant_timeout,
                check_compatibility=False,
            )

    rest = open_client(prefer_grpc=False)
    with _server(url):
        version = rest.info().version
        rest.get_collections()  # a wrong API key shows here
    client = open_client(prefer_grpc=True)
    try:
        client.get_collections()
    except grpc.RpcError:
        client.close()
        return ServerIndex(rest, url, f"qdrant {version}, REST (gRPC port {grpc_port} does not answer)")
    rest.close()
    return ServerIndex(client, url, f"qdrant {version}, gRPC")


@contextlib.contextmanager
def _server(url: str, collection: str | None = None) -> Iterator[None]:
    """Turns what the client raises into ServerError or CollectionMissing."""
    try:
        yield
    except grpc.RpcError as error:
        code = error.code().name if isinstance(error, grpc.Call) else "UNKNOWN"
        detail = (error.details() if isinstance(error, grpc.Call) else None) or str(error)
        raise _failure(url, collection, code, detail) from error
    except UnexpectedResponse as error:
        codes = {401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND"}
        detail = error.content.decode(errors="replace")[:300]
        raise _failure(url, collection, codes.get(error.status_code or 0, str(error.status_code)), detail) from error
    except ResponseHandlingException as error:
        raise _failure(url, collection, "UNAVAILABLE", str(error)) from error


def _failure(url: str, collection: str | None, code: str, detail: str) -> IndexFailure:
    detail = " ".join(detail.split())
    if code in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
        return ServerError(f"the Qdrant server at {url} refuses the API key: set QDRANT_API_KEY to the server's key")
    if code == "NOT_FOUND" and collection is not None:
        return CollectionMissing(f"no collection {collection} at {url}: run `python -m ingest run --url {url}`")
    if code == "UNAVAILABLE":
        return ServerError(
            f"no Qdrant server answers at {url} ({detail}): start it with `docker compose up -d`, "
            "or leave out --url and QDRANT_URL for the embedded index"
        )
    if code == "DEADLINE_EXCEEDED":
        return ServerError(f"the Qdrant server at {url} took too long: raise QDRANT_TIMEOUT (seconds)")
    return ServerError(f"the Qdrant server at {url} failed with {code}: {detail}")


class ServerIndex:
    """The Index protocol over a `QdrantClient`; `close()` closes the client."""

    def __init__(self, client: QdrantClient, url: str, engine: str) -> None:
        self._client = client
        self._url = url
        self._engine = engine

    @property
    def place(self) -> str:
        return self._url

    @property
    def engine(self) -> str:
        return self._engine

    def create(self, spec: CollectionSpec) -> list[str]:
        name, warnings = spec.collection, list[str]()
        with _server(self._url, name):
            if self._client.collection_exists(name):
                spec, warnings = self.spec(name).merged(spec)
                self._client.update_collection(name, metadata=spec.model_dump())
            else:
                self._client.create_collection(
                    name,
                    vectors_config=models.VectorParams(size=spec.dim, distance=models.Distance.COSINE),
                    metadata=spec.model_dump(),
                )
            missing = _PAYLOAD_INDEXES.keys() - (self._client.get_collection(name).payload_schema or {}).keys()
            for field in sorted(missing):
                self._client.create_payload_index(name, field, _PAYLOAD_INDEXES[field], wait=True)
        return warnings

    def collections(self) -> list[str]:
        with _server(self._url):
            return sorted(
                found.name
                for found in self._client.get_collections().collections
                if self._client.get_collection(found.name).config.metadata  # others' collections are not ours to list
            )

    def upsert(self, collection: str, points: Points) -> None:
        for start in range(0, len(points), POINTS_PER_REQUEST):
            records = points.records[start : start + POINTS_PER_REQUEST]
            batch = models.Batch(
                ids=[record.id for record in records],
                vectors=points.vectors[start : start + POINTS_PER_REQUEST].tolist(),
                payloads=[record.payload() for record in records],
            )
            with self._asking(collection):
                self._client.upsert(collection, batch, wait=True)

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
    ) -> list[list[Hit]]:
        conditions = _filter(where)
        requests = [
            models.QueryRequest(
                query=vector,
                limit=limit,
                offset=offset,
                filter=conditions,
                params=models.SearchParams(exact=exact),
                with_payload=payload,
            )
            for vector in vectors.tolist()
        ]
        answers: list[list[Hit]] = []
        for start in range(0, len(requests), QUERIES_PER_BATCH):
            with self._asking(collection):
                found = self._client.query_batch_points(collection, requests[start : start + QUERIES_PER_BATCH])
            answers.extend(
                [
                    Hit(_int(point.id), point.score, record_of(point.payload) if point.payload else None)
                    for point in answer.points
                ]
                for answer in found
            )
        return answers

    def retrieve(self, collection: str, ids: Sequence[int], *, vectors: bool = False) -> Batch:
        with self._asking(collection):
            points = self._client.retrieve(collection, list(ids), with_payload=True, with_vectors=vectors)
        found = {_int(point.id): point for point in points}
        return _batch([found[point_id] for point_id in ids if point_id in found], vectors)

    def scan(self, collection: str, *, where: Where | None = None, vectors: bool = False) -> Iterator[Batch]:
        conditions = _filter(where)
        offset: Any = None
        while True:
            with self._asking(collection):
                points, offset = self._client.scroll(
                    collection,
                    scroll_filter=conditions,
                    limit=POINTS_PER_SCAN,
                    offset=offset,
                    with_payload=True,
                    with_vectors=vectors,
                )
            if points:
                yield _batch(points, vectors)
            if offset is None:
                return

    def count(self, collection: str, *, where: Where | None = None) -> int:
        with self._asking(collection):
            return self._client.count(collection, count_filter=_filter(where), exact=True).count

    def optimize(self, collection: str) -> None:
        # The server builds by itself once enough has been written; here we wait until it has nothing left to do. A
        # collection turns yellow a moment after a write, so one green answer is not enough.
        green = 0
        while green < QUIET_CHECKS:
            with self._asking(collection):
                status = self._client.get_collection(collection).status
            if status == models.CollectionStatus.RED:
                raise ServerError(f"the optimizer of {collection} at {self._url} failed: see the server's log")
            if status == models.CollectionStatus.GREY:  # pending since a restart; any update sets it off
                with self._asking(collection):
                    self._client.update_collection(collection, optimizers_config=models.OptimizersConfigDiff())
            green = green + 1 if status == models.CollectionStatus.GREEN else 0
            if green < QUIET_CHECKS:
                time.sleep(0.2)

    def spec(self, collection: str) -> CollectionSpec:
        with self._asking(collection):
            return read_spec(collection, self._client.get_collection(collection).config.metadata)

    def info(self, collection: str) -> CollectionInfo:
        with self._asking(collection):
            indexed = self._client.get_collection(collection).indexed_vectors_count or 0
        return CollectionInfo(collection, self.count(collection), indexed, self.spec(collection))

    def drop(self, collection: str) -> None:
        with _server(self._url, collection):
            if self._client.collection_exists(collection):
                self._client.delete_collection(collection)

    def close(self) -> None:
        self._client.close()

    @contextlib.contextmanager
    def _asking(self, collection: str) -> Iterator[None]:
        try:
            with _server(self._url, collection):
                yield
        except ValueError as error:  # what the client's local mode raises for a collection that is not there
            if "not found" not in str(error):
                raise
            raise _failure(self._url, collection, "NOT_FOUND", str(error)) from error


def _filter(where: Where | None) -> models.Filter | None:
    if where is None:
        return None
    must: list[models.Condition] = []
    if where.splits is not None:
        must.append(models.FieldCondition(key="split", match=models.MatchAny(any=list(where.splits))))
    if where.ids is not None:
        must.append(models.HasIdCondition(has_id=list(where.ids)))
    if where.max_position is not None:
        must.append(models.FieldCondition(key="position", range=models.Range(lte=where.max_position)))
    if where.words is not None:
        words = models.MatchText(text=where.words)
        must.append(
            models.Filter(
                should=[
                    models.FieldCondition(key="text", match=words),
                    models.FieldCondition(key="captions", match=words),
                ]
            )
        )
    must_not: list[models.Condition] = [models.HasIdCondition(has_id=list(where.not_ids))] if where.not_ids else []
    return models.Filter(must=must, must_not=must_not)


def _batch(points: Sequence[models.Record], vectors: bool) -> Batch:
    records = [record_of(point.payload or {}) for point in points]
    return Batch(records, np.array([point.vector for point in points], dtype=np.float32) if vectors else None)


def _int(point_id: models.ExtendedPointId) -> int:
    if not isinstance(point_id, int):
        raise IndexFailure(f"point {point_id} has no integer id: something else wrote into this collection")
    return point_id
