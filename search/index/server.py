"""The index on a Qdrant server, over gRPC: for the dashboard, several users, or a cluster.

The adapter takes a `QdrantClient`, so the contract tests run it on `QdrantClient(":memory:")` too.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
import sys
import time
import warnings as python_warnings
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

import grpc
from qdrant_client import QdrantClient, models
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from search.errors import CollectionMissing, IndexFailure, ServerError, SpecMismatch
from search.index import Batch, CollectionInfo, Points, Vectors, Where, batch_of, hits_of, id_of
from search.index.spec import CollectionSpec, read_spec
from search.records import Hit
from search.settings import Settings

OLDEST = (1, 16)  # the first with collection metadata
CONNECT_SECONDS = 3.0
QUERIES_PER_BATCH = 64
POINTS_PER_REQUEST = 256
POINTS_PER_SCAN = 1000
RETRY_SECONDS = 60.0  # how long a write tries again while the server is away or overloaded
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 5.0  # seconds between tries
TRANSIENT = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED", "429", "502", "503", "504")
STALLED_SECONDS = 1200.0  # building one large segment shows no progress for minutes
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
        ServerError: nothing answers there, it is no Qdrant or too old a one, or it refuses the API key.
    """
    url = settings.qdrant_url or ""
    address = urlsplit(url)
    host = address.hostname or ""
    http_port = address.port or (443 if address.scheme == "https" else 6333)
    grpc_port = settings.qdrant_grpc_port or (6334 if http_port == 443 else http_port + 1)
    key = settings.qdrant_api_key.get_secret_value() if settings.qdrant_api_key else None
    if key and address.scheme == "http" and not _is_loopback(host):
        print(f"warning: the API key travels unencrypted to {host}: use https", file=sys.stderr)

    def client(prefer_grpc: bool) -> QdrantClient:
        with python_warnings.catch_warnings():
            python_warnings.simplefilter("ignore", UserWarning)  # of the key, which we have warned of
            return QdrantClient(
                url=url,
                port=http_port,
                grpc_port=grpc_port,
                prefer_grpc=prefer_grpc,
                api_key=key,
                timeout=settings.qdrant_timeout,
                check_compatibility=False,  # done below, as an error
            )

    rest = client(prefer_grpc=False)
    try:
        with _server(url):
            version = rest.info().version
            rest.get_collections()  # a wrong API key shows here
    except ValueError as error:  # an answer that is not Qdrant's
        raise ServerError(
            f"something answers at {url}, but it is no Qdrant: give scheme, host and port alone, "
            "such as http://localhost:6333"
        ) from error
    if _minor(version) < OLDEST:
        raise ServerError(f"the server at {url} is Qdrant {version}: {'.'.join(map(str, OLDEST))} or newer is needed")
    if not _listens(host, grpc_port):
        return ServerIndex(rest, url, f"qdrant {version}, REST (nothing listens on the gRPC port {grpc_port})")
    rest.close()
    fast = client(prefer_grpc=True)
    with _server(url):
        fast.get_collections()
    return ServerIndex(fast, url, f"qdrant {version}, gRPC")


def _minor(version: str) -> tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else OLDEST  # a development build


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _listens(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=CONNECT_SECONDS):
            return True
    except OSError:
        return False


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
        late = "timed out" in str(error).lower() or "timeout" in type(error.source).__name__.lower()
        raise _failure(url, collection, "DEADLINE_EXCEEDED" if late else "UNAVAILABLE", str(error)) from error
    except ResourceExhaustedResponse as error:
        raise _failure(url, collection, "RESOURCE_EXHAUSTED", str(error)) from error


def _failure(url: str, collection: str | None, code: str, detail: str) -> IndexFailure:
    detail = " ".join(detail.split())
    if code in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
        return ServerError(
            f"the Qdrant server at {url} refuses the API key ({detail}): set QDRANT_API_KEY to the server's key"
        )
    if code == "NOT_FOUND" and collection is not None:
        return CollectionMissing(f"no collection {collection} at {url}: run `python -m ingest run --url {url}`")
    message = f"the Qdrant server at {url} failed with {code}: {detail}"
    if code == "UNAVAILABLE":
        message = (
            f"no Qdrant server answers at {url} ({detail}): start it with `docker compose up -d`, "
            "or leave out --url and QDRANT_URL for the embedded index"
        )
    if code == "DEADLINE_EXCEEDED":
        message = f"the Qdrant server at {url} took too long: raise QDRANT_TIMEOUT (seconds)"
    return ServerError(message, transient=code in TRANSIENT)


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
            there = self._client.collection_exists(name)
        if not there:
            try:
                with _server(self._url, name):
                    self._client.create_collection(
                        name,
                        vectors_config=models.VectorParams(size=spec.dim, distance=models.Distance.COSINE),
                        metadata=spec.model_dump(),
                    )
            except IndexFailure:
                with _server(self._url, name):
                    if not self._client.collection_exists(name):
                        raise
                there = True  # another machine was quicker
        with _server(self._url, name):
            if there:
                spec, warnings = self.spec(name).merged(spec)
                self._client.update_collection(name, metadata=spec.model_dump())
            missing = _PAYLOAD_INDEXES.keys() - (self._client.get_collection(name).payload_schema or {}).keys()
            for field in sorted(missing):
                self._client.create_payload_index(name, field, _PAYLOAD_INDEXES[field], wait=True)
        return warnings

    def collections(self) -> list[str]:
        with _server(self._url):
            there = [found.name for found in self._client.get_collections().collections]
        return sorted(name for name in there if name.endswith(("_images", "_captions")) and self._is_ours(name))

    def upsert(self, collection: str, points: Points) -> None:
        for start in range(0, len(points), POINTS_PER_REQUEST):
            records = points.records[start : start + POINTS_PER_REQUEST]
            batch = models.Batch(
                ids=[record.id for record in records],
                vectors=points.vectors[start : start + POINTS_PER_REQUEST].tolist(),
                payloads=[record.payload() for record in records],
            )
            self._write(collection, batch)

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
            answers += [hits_of(answer.points) for answer in found]
        return answers

    def retrieve(self, collection: str, ids: Sequence[int], *, vectors: bool = False) -> Batch:
        with self._asking(collection):
            points = self._client.retrieve(collection, list(ids), with_payload=True, with_vectors=vectors)
        found = {id_of(point): point for point in points}
        return batch_of([found[point_id] for point_id in ids if point_id in found], vectors)

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
                yield batch_of(points, vectors)
            if offset is None:
                return

    def count(self, collection: str, *, where: Where | None = None) -> int:
        with self._asking(collection):
            return self._client.count(collection, count_filter=_filter(where), exact=True).count

    def optimize(self, collection: str) -> None:
        # The server builds by itself once enough has been written; here we wait until it has nothing left to do. A
        # collection turns yellow a moment after a write, so one green answer is not enough.
        green, indexed, moved, nudged = 0, -1, time.monotonic(), False
        while green < QUIET_CHECKS:
            with self._asking(collection):
                info = self._client.get_collection(collection)
                if info.status == models.CollectionStatus.GREY and not nudged:
                    # Pending since a restart: any update sets it off.
                    nudged = self._client.update_collection(collection, optimizers_config=models.OptimizersConfigDiff())
            if info.status == models.CollectionStatus.RED:
                raise ServerError(f"the optimizer of {collection} at {self._url} failed: see the server's log")
            if info.indexed_vectors_count != indexed:
                indexed, moved = info.indexed_vectors_count or 0, time.monotonic()
            if time.monotonic() - moved > STALLED_SECONDS:
                raise ServerError(
                    f"{collection} at {self._url} has been building its index for {STALLED_SECONDS / 60:.0f} minutes "
                    f"without getting on ({indexed:,} vectors indexed): see the server's log"
                )
            green = green + 1 if info.status == models.CollectionStatus.GREEN else 0
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

    def _is_ours(self, collection: str) -> bool:
        try:
            self.spec(collection)
        except SpecMismatch:
            return False
        return True

    def _write(self, collection: str, batch: models.Batch) -> None:
        """One acknowledged upsert; a server that is away for a while is waited for."""
        deadline = time.monotonic() + RETRY_SECONDS
        pause = FIRST_PAUSE
        while True:
            try:
                with self._asking(collection):
                    self._client.upsert(collection, batch, wait=True)
                return
            except ServerError as error:
                if not error.transient or time.monotonic() + pause > deadline:
                    raise
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

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
    if where.image_ids is not None:
        must.append(models.FieldCondition(key="image_id", match=models.MatchAny(any=list(where.image_ids))))
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
