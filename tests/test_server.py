"""Connecting to a Qdrant server: what happens when it is not what it should be."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import pytest
from pydantic import SecretStr

from search.errors import CocoSearchError, ServerError
from search.index import open_index
from search.index.server import connect
from search.settings import Settings

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
    with rest_server(status) as port, pytest.raises(ServerError, match="refuses the API key: set QDRANT_API_KEY"):
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
def test_what_grpc_refuses_is_explained(code: grpc.StatusCode, words: str) -> None:
    from qdrant_client import QdrantClient

    from search.index.server import ServerIndex

    with grpc_server(code) as port:
        client = QdrantClient(url="http://127.0.0.1", grpc_port=port, prefer_grpc=True, check_compatibility=False)
        index = ServerIndex(client, "http://127.0.0.1", "test")
        with pytest.raises(CocoSearchError, match=words) as refusal:
            index.count("coco_images")
        assert "\n" not in str(refusal.value)
        index.close()


def test_without_grpc_it_is_rest() -> None:
    with rest_server() as port:
        index = connect(settings(port, grpc_port=1))
        assert "REST" in index.engine
        assert index.collections() == []
        index.close()


def test_nothing_but_a_web_page() -> None:
    with rest_server(404) as port, pytest.raises(ServerError, match=r"404|NOT_FOUND"):
        connect(settings(port))


def test_a_real_server_speaks_grpc_and_refuses_a_wrong_key(qdrant_server: Settings) -> None:
    index = open_index(qdrant_server)
    assert "gRPC" in index.engine
    index.close()
    if os.environ.get("QDRANT_API_KEY"):
        with pytest.raises(ServerError, match="API key"):
            connect(qdrant_server.model_copy(update={"qdrant_api_key": SecretStr("wrong")}))
