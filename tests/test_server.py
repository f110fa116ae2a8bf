"""Connecting to a Qdrant server: what happens when it is not what it should be."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
import pytest
from grpc_qdrant import ANSWERS, rest_server
from points import image, unit
from qdrant_client import QdrantClient, models

from search.errors import CocoSearchError, ServerError
from search.index import CollectionSpec, Points, SearchParams, Tuning, open_index
from search.index.server.connection import Connection
from search.index.server.index import ServerIndex, connect
from search.settings import Settings


@contextmanager
def grpc_server(code: grpc.StatusCode) -> Iterator[int]:
    """Answers every call with one status code."""

    class Refuse(grpc.GenericRpcHandler):  # type: ignore[misc]
        def service(self, _: object) -> object:
            return grpc.unary_unary_rpc_method_handler(lambda _, context: context.abort(code, "refused"))

    server = grpc.server(ThreadPoolExecutor(2), handlers=[Refuse()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield port
    server.stop(None)


def settings(port: int, grpc_port: int | None = None) -> Settings:
    return Settings(qdrant_url=f"http://127.0.0.1:{port}", qdrant_grpc_port=grpc_port, qdrant_timeout=2)


@pytest.mark.parametrize("status", [401, 403])
def test_a_wrong_key_over_rest(status: int) -> None:
    with rest_server(status) as port, pytest.raises(ServerError, match=r"refuses the API key .*set QDRANT_API_KEY"):
        connect(settings(port))


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (grpc.StatusCode.UNAUTHENTICATED, "QDRANT_API_KEY"),
        (grpc.StatusCode.PERMISSION_DENIED, "QDRANT_API_KEY"),
        (grpc.StatusCode.NOT_FOUND, "python -m ingest run --url"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "QDRANT_TIMEOUT"),
        (grpc.StatusCode.UNAVAILABLE, "docker compose up"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "RESOURCE_EXHAUSTED: refused"),
    ],
)
def test_grpc_errors_are_explained(code: grpc.StatusCode, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.index.retry.RETRY_SECONDS", 0.05)
    with grpc_server(code) as port:
        client = QdrantClient(url="http://127.0.0.1", grpc_port=port, prefer_grpc=True, check_compatibility=False)
        index = ServerIndex(Connection(client, "http://127.0.0.1", "test"))
        with pytest.raises(CocoSearchError, match=words) as refusal:
            index.count("coco_images")
        assert "\n" not in str(refusal.value)
        index.close()


def test_rest_is_used_without_grpc() -> None:
    with rest_server() as port:
        index = connect(settings(port, grpc_port=1))
        assert "REST" in index.engine
        assert index.collections() == []
        index.close()


def test_a_web_server_is_not_a_qdrant_server() -> None:
    with rest_server(404) as port, pytest.raises(ServerError, match=r"404|NOT_FOUND"):
        connect(settings(port))


def test_too_old_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ANSWERS, "/", {"title": "qdrant", "version": "1.15.4"})
    with rest_server() as port, pytest.raises(ServerError, match=r"Qdrant 1\.15\.4: 1\.16 or newer is required"):
        connect(settings(port))


def test_an_html_page_is_not_a_qdrant_server() -> None:
    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>hello</html>")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(ServerError, match="is not a Qdrant server"):
            connect(settings(server.server_port))
        server.shutdown()


class Flaky(QdrantClient):
    """Fails some writes as an unavailable server does."""

    def __init__(self, failures: int, code: grpc.StatusCode) -> None:
        super().__init__(":memory:")
        self.failures, self.code = failures, code

    def upsert(self, *args: Any, **kwargs: Any) -> Any:
        if self.failures:
            self.failures -= 1
            raise FakeRpcError(self.code)
        return super().upsert(*args, **kwargs)


class FakeRpcError(grpc.RpcError, grpc.Call):  # type: ignore[misc]
    def __init__(self, code: grpc.StatusCode) -> None:
        self._code = code

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return "made up"

    def initial_metadata(self) -> None: ...
    def trailing_metadata(self) -> None: ...
    def is_active(self) -> bool:
        return False

    def time_remaining(self) -> None: ...
    def cancel(self) -> bool:
        return False

    def add_callback(self, callback: object) -> bool:
        return bool(callback)


def test_writes_are_retried_while_the_server_is_unavailable(
    make_spec: Callable[..., CollectionSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.index.retry.FIRST_PAUSE", 0.01)
    spec = make_spec()
    client = Flaky(3, grpc.StatusCode.UNAVAILABLE)
    index = ServerIndex(Connection(client, "http://flaky", "test"))
    index.create(spec)
    index.upsert(spec.collection, Points([image(1)], unit(1)))
    assert index.count(spec.collection) == 1

    monkeypatch.setattr("search.index.retry.RETRY_SECONDS", 0.05)
    client.failures = 1000
    with pytest.raises(ServerError, match="no Qdrant server answers"):
        index.upsert(spec.collection, Points([image(2)], unit(1)))

    client.failures, client.code = 1, grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(ServerError, match="INVALID_ARGUMENT"):
        index.upsert(spec.collection, Points([image(2)], unit(1)))
    assert client.failures == 0  # not retried: a retry would not help


class Recording(QdrantClient):
    """Local mode that records its requests."""

    def __init__(self) -> None:
        super().__init__(":memory:")
        self.asked: list[dict[str, Any]] = []

    def create_collection(self, *args: Any, **kwargs: Any) -> Any:
        self.asked.append(kwargs)
        return super().create_collection(*args, **kwargs)

    def query_batch_points(self, *args: Any, **kwargs: Any) -> Any:
        self.asked += [request.params.model_dump() for request in args[1]]
        return super().query_batch_points(*args, **kwargs)


def test_arguments_of_create_collection(make_spec: Callable[..., CollectionSpec]) -> None:
    client = Recording()
    index = ServerIndex(Connection(client, ":memory:", "test"))
    index.create(make_spec(kind="images"), Tuning("int8", on_disk=True, shards=3, replicas=2, index_everything=True))
    index.create(make_spec(kind="captions"))
    told, plain = client.asked
    assert told["quantization_config"].scalar.model_dump(exclude_none=True) == {
        "type": models.ScalarType.INT8, "quantile": 0.99, "always_ram": True,
    }  # fmt: skip
    assert told["vectors_config"].on_disk is True
    assert (told["shard_number"], told["replication_factor"], told["write_consistency_factor"]) == (3, 2, 1)
    assert told["hnsw_config"].full_scan_threshold == 10
    assert told["optimizers_config"].indexing_threshold == 1
    assert plain["vectors_config"].on_disk is None
    assert {name for name, value in plain.items() if value is not None} == {"vectors_config", "metadata"}


def test_arguments_of_queries(make_spec: Callable[..., CollectionSpec]) -> None:
    client = Recording()
    index = ServerIndex(Connection(client, ":memory:", "test"))
    spec = make_spec()
    index.create(spec)
    client.asked.clear()
    index.query(spec.collection, unit(1), 3, SearchParams(ef=7, rescore=False))
    index.query(spec.collection, unit(1), 3, SearchParams(rescore=True, oversampling=2.0))
    index.query(spec.collection, unit(1), 3, SearchParams(quantized=False))
    assert [asked["hnsw_ef"] for asked in client.asked] == [7, None, None]
    assert [asked["quantization"] for asked in client.asked] == [
        {"ignore": False, "rescore": False, "oversampling": 3.0},
        {"ignore": False, "rescore": True, "oversampling": 2.0},
        {"ignore": True, "rescore": True, "oversampling": 3.0},
    ]
    assert index.disk_bytes(spec.collection) is None


def test_settings_survive_grpc(local_grpc_server: tuple[int, int], make_spec: Callable[..., CollectionSpec]) -> None:
    rest_port, grpc_port = local_grpc_server
    index = connect(settings(rest_port, grpc_port))
    spec = make_spec()
    tuning = Tuning("binary", on_disk=True, shards=3, replicas=2, index_everything=True)
    index.create(spec, tuning)
    found = index.info(spec.collection).settings
    assert (found["quantization"], found["on_disk"], found["shards"], found["replicas"]) == ("binary", True, 3, 2)
    assert (found["indexing_threshold"], found["full_scan_threshold"], found["m"]) == (1, 10, 16)
    assert index.create(spec, tuning) == []
    warnings = index.create(spec, Tuning("binary", on_disk=True, shards=5))
    assert len(warnings) == 1
    assert "shards 3 and keeps it, not 5 as requested" in warnings[0]
    index.drop(spec.collection)
    index.close()


def test_a_real_server_speaks_grpc_and_refuses_a_wrong_key(qdrant_server: Settings) -> None:
    index = open_index(qdrant_server)
    assert "gRPC" in index.engine
    index.close()
    if qdrant_server.qdrant_api_key:
        with pytest.raises(ServerError, match="API key"):
            connect(replace(qdrant_server, qdrant_api_key="wrong"))
