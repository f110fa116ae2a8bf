"""A Qdrant server's gRPC side in front of the client's local mode.

It is no Qdrant: it lets the contract tests send all that the server's adapter sends through the real wire format, both
ways, where no server can be installed. Like a server, an update of metadata removes what is null, and a collection
reports the configuration that it was made with.
"""

from __future__ import annotations

import json
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc as rpc
from qdrant_client import QdrantClient, grpc, models
from qdrant_client.conversions.conversion import GrpcToRest, RestToGrpc
from qdrant_client.grpc.collections_service_pb2_grpc import CollectionsServicer, add_CollectionsServicer_to_server
from qdrant_client.grpc.points_service_pb2_grpc import PointsServicer, add_PointsServicer_to_server

WRITING = {"Create", "Update", "Delete", "Upsert", "UpdateBatch", "UpdateVectors", "CreateFieldIndex"}


class LocalClient(QdrantClient):
    """The client's local mode, closer to a server: an update of metadata or of a payload removes what is null."""

    def batch_update_points(  # type: ignore[override]
        self, collection_name: str, update_operations: Sequence[Any], **options: Any
    ) -> list[models.UpdateResult]:
        results = super().batch_update_points(collection_name, update_operations, **options)
        for operation in update_operations:
            if isinstance(operation, models.SetPayloadOperation):
                change = operation.set_payload
                null = [key for key, value in change.payload.items() if value is None]
                self.delete_payload(collection_name, null, points=list(change.points or []))
        return results

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
        self.copies: list[Any] = []  # the states of copies on other nodes, whose peer ids are 2, 3, ...

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
        self.made[request.collection_name].optimizers_config.MergeFrom(request.optimizers_config)
        return grpc.CollectionOperationResponse(result=True)

    def CollectionClusterInfo(self, request: Any, context: Any) -> Any:
        require(self.local, request.collection_name, context)
        here = grpc.LocalShardInfo(shard_id=0, points_count=0, state=grpc.ReplicaState.Active)
        there = [grpc.RemoteShardInfo(shard_id=0, peer_id=2 + n, state=state) for n, state in enumerate(self.copies)]
        return grpc.CollectionClusterInfoResponse(peer_id=1, shard_count=1, local_shards=[here], remote_shards=there)

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

    def UpdateBatch(self, request: Any, context: Any) -> Any:
        require(self.local, request.collection_name, context)
        operations = [GrpcToRest.convert_points_update_operation(operation) for operation in request.operations]
        try:
            self.local.batch_update_points(request.collection_name, operations)
        except KeyError as missing:
            context.abort(rpc.StatusCode.NOT_FOUND, f"Not found: No point with id {missing} found")
        one = grpc.UpdateResult(operation_id=0, status=grpc.UpdateStatus.Completed)
        return grpc.UpdateBatchResponse(result=[one] * len(operations))

    def UpdateVectors(self, request: Any, context: Any) -> Any:
        require(self.local, request.collection_name, context)
        points = [GrpcToRest.convert_point_vectors(point) for point in request.points]
        try:
            self.local.update_vectors(request.collection_name, points)
        except KeyError as missing:
            context.abort(rpc.StatusCode.NOT_FOUND, f"Not found: No point with id {missing} found")
        return done()

    def Delete(self, request: Any, context: Any) -> Any:
        require(self.local, request.collection_name, context)
        ids = [GrpcToRest.convert_point_id(point) for point in request.points.points.ids]
        self.local.delete(request.collection_name, ids)
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


@dataclass
class Fault:
    """What happens to one call of a method: it is refused with `code`, perhaps after it was carried out; `act` is done
    before."""

    method: str
    code: rpc.StatusCode | None = None
    detail: str = "made up"
    carried_out: bool = False
    act: Callable[[], object] = lambda: None


class Faults(rpc.ServerInterceptor):  # type: ignore[misc]
    """Faults that wait for their calls, in order; with `read_only`, what a read-only key meets."""

    def __init__(self) -> None:
        self.waiting: list[Fault] = []
        self.calls: Counter[str] = Counter()
        self.read_only = False

    def intercept_service(self, continuation: Any, details: Any) -> Any:
        method = details.method.rpartition("/")[2]
        handler = continuation(details)
        self.calls[method] += 1
        fault = next((fault for fault in self.waiting if fault.method == method), None)
        if self.read_only and method in WRITING:
            fault = Fault(method, rpc.StatusCode.PERMISSION_DENIED, "Forbidden: Global manage access is required")
        elif fault is None:
            return handler
        else:
            self.waiting.remove(fault)

        def answer(request: Any, context: Any) -> Any:
            fault.act()
            answered = handler.unary_unary(request, context) if fault.carried_out or fault.code is None else None
            if fault.code is not None:
                context.abort(fault.code, fault.detail)
            return answered

        return rpc.unary_unary_rpc_method_handler(
            answer,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )


class StandIn:
    """An empty local Qdrant behind a gRPC port, which stays the same when it is stopped and started again."""

    def __init__(
        self,
        other: StandIn | None = None,
        collections: Collections | None = None,
        tls: rpc.ServerCredentials | None = None,
    ) -> None:
        if other is not None:  # a second node of one cluster
            collections = other.collections
        self.collections: Collections = collections or Collections(LocalClient(":memory:"))
        self.local = self.collections.local
        self.faults = Faults()
        self.port, self.tls = 0, tls
        self.start()

    def start(self) -> None:
        # One thread, because local mode is not safe for several.
        self.server = rpc.server(ThreadPoolExecutor(1), interceptors=[self.faults])
        add_CollectionsServicer_to_server(self.collections, self.server)  # type: ignore[no-untyped-call]
        add_PointsServicer_to_server(Points(self.local), self.server)  # type: ignore[no-untyped-call]
        address = f"127.0.0.1:{self.port}"
        self.port = (
            self.server.add_secure_port(address, self.tls) if self.tls else self.server.add_insecure_port(address)
        )
        self.server.start()

    def stop(self) -> None:
        self.server.stop(None).wait()


@contextmanager
def grpc_qdrant() -> Iterator[tuple[int, int]]:
    """Serves an empty local Qdrant; gives the REST port, which knows little but the version, and the gRPC port."""
    stand_in = StandIn()
    with rest_server() as rest_port:
        yield rest_port, stand_in.port
    stand_in.stop()


@contextmanager
def grpc_side(collections: Collections) -> Iterator[int]:
    """Serves the calls about collections and points; gives the port."""
    stand_in = StandIn(collections=collections)
    yield stand_in.port
    stand_in.stop()


ANSWERS = {
    "/": {"title": "qdrant - vector search engine", "version": "1.19.0"},
    "/collections": {"result": {"collections": []}, "status": "ok", "time": 0.0},
    "/cluster": {"result": {"status": "disabled"}, "status": "ok", "time": 0.0},
}


class Server(ThreadingHTTPServer):
    """Says nothing of connections that break."""

    def handle_error(self, *_: object) -> None:
        pass


@contextmanager
def rest_server(
    status: int = 200, port: int = 0, answers: dict[str, Any] | None = None, tls: ssl.SSLContext | None = None
) -> Iterator[int]:
    """Answer the REST calls of a connection, and those of `answers`; a path is looked up with its query.

    `status` other than 200 refuses everything but the version.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            code, body = 200, {**ANSWERS, **(answers or {})}.get(self.path)
            if body is None or (status != 200 and self.path != "/"):
                code, body = (404 if status == 200 else status), {"status": {"error": "refused"}}
            content = json.dumps(body).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with Server(("127.0.0.1", port), Handler) as server:
        if tls:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield server.server_port
        server.shutdown()
