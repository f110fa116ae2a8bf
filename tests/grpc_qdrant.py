"""A Qdrant server's gRPC side in front of the client's local mode.

It is no Qdrant: it lets the contract tests send all that the server's adapter sends through the real wire format, both
ways, where no server can be installed. Like a server, an update of metadata removes what is null, and a collection
reports the configuration that it was made with.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc as rpc
from qdrant_client import QdrantClient, grpc
from qdrant_client.conversions.conversion import GrpcToRest, RestToGrpc
from qdrant_client.grpc.collections_service_pb2_grpc import CollectionsServicer, add_CollectionsServicer_to_server
from qdrant_client.grpc.points_service_pb2_grpc import PointsServicer, add_PointsServicer_to_server


class LocalClient(QdrantClient):
    """The client's local mode, closer to a server: an update of metadata removes what is null."""

    def update_collection(self, collection_name: str, **changes: Any) -> bool:  # type: ignore[override]
        metadata = changes.pop("metadata", None)
        if metadata is not None:
            stored = self._client._get_collection(collection_name).config.metadata  # type: ignore[attr-defined]
            for key in [key for key, value in metadata.items() if value is None]:
                stored.pop(key, None)
            changes["metadata"] = {key: value for key, value in metadata.items() if value is not None}
        return super().update_collection(collection_name, **changes)


class Collections(CollectionsServicer):
    def __init__(self, local: LocalClient) -> None:
        self.local = local
        self.made: dict[str, Any] = {}

    def List(self, _request: Any, _context: Any) -> Any:
        names = [found.name for found in self.local.get_collections().collections]
        return grpc.ListCollectionsResponse(collections=[grpc.CollectionDescription(name=name) for name in names])

    def Get(self, request: Any, context: Any) -> Any:
        require(self.local, request.collection_name, context)
        info = self.local.get_collection(request.collection_name)
        converted = RestToGrpc.convert_collection_info(info)
        metadata = RestToGrpc.convert_payload(info.config.metadata or {})
        for key, value in metadata.items():
            converted.config.metadata[key].CopyFrom(value)
        made = self.made[request.collection_name]
        converted.config.hnsw_config.MergeFrom(made.hnsw_config)
        converted.config.optimizer_config.MergeFrom(made.optimizers_config)
        if made.HasField("quantization_config"):
            converted.config.quantization_config.CopyFrom(made.quantization_config)
        converted.config.params.shard_number = made.shard_number or 1
        converted.config.params.replication_factor = made.replication_factor or 1
        return grpc.GetCollectionInfoResponse(result=converted)

    def CollectionExists(self, request: Any, _context: Any) -> Any:
        exists = self.local.collection_exists(request.collection_name)
        return grpc.CollectionExistsResponse(result=grpc.CollectionExists(exists=exists))

    def Create(self, request: Any, _context: Any) -> Any:
        self.local.create_collection(
            request.collection_name,
            vectors_config=GrpcToRest.convert_vectors_config(request.vectors_config),
            metadata=GrpcToRest.convert_payload(request.metadata),
        )
        self.made[request.collection_name] = request
        return grpc.CollectionOperationResponse(result=True)

    def Update(self, request: Any, _context: Any) -> Any:
        self.local.update_collection(request.collection_name, metadata=GrpcToRest.convert_payload(request.metadata))
        return grpc.CollectionOperationResponse(result=True)

    def Delete(self, request: Any, _context: Any) -> Any:
        self.local.delete_collection(request.collection_name)
        return grpc.CollectionOperationResponse(result=True)


class Points(PointsServicer):
    def __init__(self, local: LocalClient) -> None:
        self.local = local

    def CreateFieldIndex(self, _request: Any, _context: Any) -> Any:
        return done()  # has no meaning in local mode

    def Upsert(self, request: Any, context: Any) -> Any:
        require(self.local, request.collection_name, context)
        self.local.upsert(request.collection_name, [GrpcToRest.convert_point_struct(point) for point in request.points])
        return done()

    def QueryBatch(self, request: Any, context: Any) -> Any:
        require(self.local, request.collection_name, context)
        answers = []
        for asked in request.query_points:
            found = self.local.query_points(
                request.collection_name,
                query=GrpcToRest.convert_query(asked.query),
                query_filter=GrpcToRest.convert_filter(asked.filter) if asked.HasField("filter") else None,
                limit=asked.limit,
                offset=asked.offset,
                with_payload=GrpcToRest.convert_with_payload_selector(asked.with_payload),
            )
            answers.append(grpc.BatchResult(result=[RestToGrpc.convert_scored_point(hit) for hit in found.points]))
        return grpc.QueryBatchResponse(result=answers)

    def Scroll(self, request: Any, context: Any) -> Any:
        require(self.local, request.collection_name, context)
        records, following = self.local.scroll(
            request.collection_name,
            scroll_filter=GrpcToRest.convert_filter(request.filter) if request.HasField("filter") else None,
            limit=request.limit,
            offset=GrpcToRest.convert_point_id(request.offset) if request.HasField("offset") else None,
            with_vectors=request.with_vectors.enable,
        )
        return grpc.ScrollResponse(
            result=[RestToGrpc.convert_record(record) for record in records],
            next_page_offset=None if following is None else RestToGrpc.convert_extended_point_id(following),
        )

    def Get(self, request: Any, context: Any) -> Any:
        require(self.local, request.collection_name, context)
        ids = [GrpcToRest.convert_point_id(point_id) for point_id in request.ids]
        records = self.local.retrieve(request.collection_name, ids, with_vectors=request.with_vectors.enable)
        return grpc.GetResponse(result=[RestToGrpc.convert_record(record) for record in records])

    def Count(self, request: Any, context: Any) -> Any:
        require(self.local, request.collection_name, context)
        where = GrpcToRest.convert_filter(request.filter) if request.HasField("filter") else None
        count = self.local.count(request.collection_name, count_filter=where, exact=request.exact)
        return grpc.CountResponse(result=RestToGrpc.convert_count_result(count))


def require(local: LocalClient, collection: str, context: Any) -> None:
    if not local.collection_exists(collection):
        context.abort(rpc.StatusCode.NOT_FOUND, f"Not found: Collection `{collection}` doesn't exist!")


def done() -> Any:
    return grpc.PointsOperationResponse(result=grpc.UpdateResult(operation_id=0, status=grpc.UpdateStatus.Completed))


@contextmanager
def grpc_qdrant() -> Iterator[tuple[int, int]]:
    """Serves an empty local Qdrant; gives the REST port, which knows little but the version, and the gRPC port."""
    with grpc_side(Collections(LocalClient(":memory:"))) as port, rest_server() as rest_port:
        yield rest_port, port


@contextmanager
def grpc_side(collections: Collections) -> Iterator[int]:
    """Serves the calls about collections and points; gives the port."""
    server = rpc.server(ThreadPoolExecutor(1))  # local mode is not safe for several threads
    add_CollectionsServicer_to_server(collections, server)  # type: ignore[no-untyped-call]
    add_PointsServicer_to_server(Points(collections.local), server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield port
    server.stop(None)


ANSWERS = {
    "/": {"title": "qdrant - vector search engine", "version": "1.19.0"},
    "/collections": {"result": {"collections": []}, "status": "ok", "time": 0.0},
}


@contextmanager
def rest_server(status: int = 200) -> Iterator[int]:
    """Speaks the two REST calls of a connection; `status` other than 200 refuses everything but the version."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            refused = status != 200 and self.path != "/"
            body = json.dumps({"status": {"error": "refused"}} if refused else ANSWERS[self.path]).encode()
            self.send_response(status if refused else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()
