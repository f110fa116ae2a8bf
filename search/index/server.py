"""The index on a Qdrant server, over gRPC: for the dashboard, several users, or a cluster.

The adapter takes a `QdrantClient`, so the contract tests run it on `QdrantClient(":memory:")` too.
"""

from __future__ import annotations

import contextlib
import re
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

from search.errors import IndexFailure, ServerError, SpecMismatch
from search.index import OVERSAMPLING, Batch, CollectionInfo, Points, Vectors, Where, batch_of, hits_of, id_of
from search.index.reach import failure, is_loopback, listens
from search.index.spec import CollectionSpec, read_spec
from search.index.tuning import LOWEST_INDEXING_THRESHOLD, QUANTILE, Tuning
from search.records import Hit
from search.settings import Settings

OLDEST = (1, 16)  # the first with collection metadata
QUERIES_PER_BATCH = 64
POINTS_PER_REQUEST = 256
POINTS_PER_SCAN = 1000
RETRY_SECONDS = 60.0  # how long a write tries again while the server is away or overloaded
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 5.0  # seconds between tries
STALLED_SECONDS = 1200.0  # building one large segment shows no progress for minutes
LOWEST_FULL_SCAN_THRESHOLD = 10  # KB; a server refuses less
QUIET_CHECKS = 3  # how often in a row a collection must be green before its index counts as built

_TEXT = models.TextIndexParams(type=models.TextIndexType.TEXT, tokenizer=models.TokenizerType.WORD, lowercase=True)
_PAYLOAD_INDEXES: dict[str, models.PayloadSchemaType | models.TextIndexParams] = {
    "split": models.PayloadSchemaType.KEYWORD,
    "image_id": models.PayloadSchemaType.INTEGER,
    "position": models.PayloadSchemaType.INTEGER,
    "text": _TEXT,
    "captions": _TEXT,
}

_QUANTIZATION: dict[str, models.QuantizationConfig | None] = {
    "none": None,
    "int8": models.ScalarQuantization(
        scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8, quantile=QUANTILE, always_ram=True)
    ),
    "binary": models.BinaryQuantization(binary=models.BinaryQuantizationConfig(always_ram=True)),
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
    if key and address.scheme == "http" and not is_loopback(host):
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
    if not listens(host, grpc_port):
        return ServerIndex(rest, url, f"qdrant {version}, REST (nothing listens on the gRPC port {grpc_port})")
    rest.close()
    fast = client(prefer_grpc=True)
    with _server(url):
        fast.get_collections()
    return ServerIndex(fast, url, f"qdrant {version}, gRPC")


def _minor(version: str) -> tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else OLDEST  # a development build


@contextlib.contextmanager
def _server(url: str, collection: str | None = None) -> Iterator[None]:
    """Turns what the client raises into ServerError or CollectionMissing."""
    try:
        yield
    except grpc.RpcError as error:
        code = error.code().name if isinstance(error, grpc.Call) else "UNKNOWN"
        detail = (error.details() if isinstance(error, grpc.Call) else None) or str(error)
        raise failure(url, collection, code, detail) from error
    except UnexpectedResponse as error:
        codes = {401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND"}
        detail = error.content.decode(errors="replace")[:300]
        raise failure(url, collection, codes.get(error.status_code or 0, str(error.status_code)), detail) from error
    except ResponseHandlingException as error:
        late = "timed out" in str(error).lower() or "timeout" in type(error.source).__name__.lower()
        raise failure(url, collection, "DEADLINE_EXCEEDED" if late else "UNAVAILABLE", str(error)) from error
    except ResourceExhaustedResponse as error:
        raise failure(url, collection, "RESOURCE_EXHAUSTED", str(error)) from error


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

    def create(self, spec: CollectionSpec, tuning: Tuning | None = None) -> list[str]:
        name, warnings = spec.collection, list[str]()
        with _server(self._url, name):
            there = self._client.collection_exists(name)
        if not there:
            try:
                with _server(self._url, name):
                    self._client.create_collection(
                        name,
                        metadata=spec.model_dump(),
                        **_configuration(spec.dim, tuning or Tuning()),
                    )
            except IndexFailure:
                with _server(self._url, name):
                    if not self._client.collection_exists(name):
                        raise
                there = True  # another machine was quicker
        with _server(self._url, name):
            if there:
                spec, warnings = self.spec(name).merged(spec)
                if tuning:
                    warnings += tuning.differences(name, _settings(self._client.get_collection(name)))
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
        ef: int | None = None,
        rescore: bool = True,
        oversampling: float = OVERSAMPLING,
        quantized: bool = True,
    ) -> list[list[Hit]]:
        conditions = _filter(where)
        params = models.SearchParams(
            exact=exact,
            hnsw_ef=ef,
            quantization=models.QuantizationSearchParams(
                ignore=not quantized, rescore=rescore, oversampling=oversampling
            ),
        )
        requests = [
            models.QueryRequest(
                query=vector,
                limit=limit,
                offset=offset,
                filter=conditions,
                params=params,
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
            found = self._client.get_collection(collection)
        spec = read_spec(collection, found.config.metadata)
        indexed = found.indexed_vectors_count or 0
        indexing = found.status != models.CollectionStatus.GREEN
        return CollectionInfo(collection, self.count(collection), indexed, spec, _settings(found), indexing)

    def disk_bytes(self, collection: str) -> int | None:  # noqa: ARG002
        return None  # a server does not say

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
            raise failure(self._url, collection, "NOT_FOUND", str(error)) from error


def _configuration(dim: int, tuning: Tuning) -> dict[str, Any]:
    """The part of a `create_collection` call that `tuning` decides."""
    hnsw = optimizers = None
    if tuning.index_everything:
        hnsw = models.HnswConfigDiff(full_scan_threshold=LOWEST_FULL_SCAN_THRESHOLD)
        optimizers = models.OptimizersConfigDiff(indexing_threshold=LOWEST_INDEXING_THRESHOLD)
    return {
        "vectors_config": models.VectorParams(
            size=dim, distance=models.Distance.COSINE, on_disk=tuning.on_disk or None
        ),
        "hnsw_config": hnsw,
        "optimizers_config": optimizers,
        "quantization_config": _QUANTIZATION[tuning.quantization],
        "shard_number": tuning.shards,
        "replication_factor": tuning.replicas,
    }


def _settings(found: models.CollectionInfo) -> dict[str, Any]:
    """The settings of CollectionInfo."""
    config, params = found.config, found.config.params
    kinds = {type(None): "none", models.ScalarQuantization: "int8", models.BinaryQuantization: "binary"}
    quantization = type(config.quantization_config)
    return {
        "m": config.hnsw_config.m,
        "ef_construct": config.hnsw_config.ef_construct,
        "full_scan_threshold": config.hnsw_config.full_scan_threshold,
        "indexing_threshold": config.optimizer_config.indexing_threshold,
        "quantization": kinds.get(quantization, quantization.__name__),
        "on_disk": params.vectors.on_disk if isinstance(params.vectors, models.VectorParams) else None,
        "shards": params.shard_number,
        "replicas": params.replication_factor,
        "segments": found.segments_count,
    }


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
