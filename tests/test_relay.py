"""Reading through `search serve` while it is restarted or fails."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import uvicorn
from fastapi import FastAPI
from points import image, unit

from search.errors import IndexFailure, ServerError
from search.index import Batch, CollectionInfo, CollectionSpec, Points, SearchParams, Where
from search.index.edge.index import EdgeIndex
from search.index.relay import wire
from search.index.relay.announce import Running, announced
from search.index.relay.client import RemoteIndex
from search.index.relay.routes import index_calls

VECTOR = {"shape": [1, 1], "float32": "AAAAAA=="}


class Relay(ThreadingHTTPServer):
    """Answers calls with 7; the connections of the first `breaks` calls break, and `status` may refuse calls."""

    def __init__(self, breaks: int = 0, status: int = 200) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.breaks, self.status, self.calls = breaks, status, 0
        self.running = Running(f"http://127.0.0.1:{self.server_port}", os.getpid())
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    server: Relay

    def do_GET(self) -> None:
        self._send(200, {"pid": os.getpid()})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.calls += 1
        if self.server.breaks >= self.server.calls:
            return
        self._send(self.server.status, {"part": 7})

    def _send(self, status: int, answer: dict[str, int]) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode() + b"\n")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def open_relays() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def start(stack: ExitStack, breaks: int = 0, status: int = 200) -> Relay:
    relay = Relay(breaks, status)
    stack.callback(relay.server_close)
    stack.callback(relay.shutdown)
    return relay


def test_a_broken_connection_is_retried(tmp_path: Path, open_relays: ExitStack) -> None:
    relay = start(open_relays, breaks=2)
    with announced(tmp_path, relay.running):
        assert RemoteIndex(tmp_path, relay.running).count("coco_images") == 7
    assert relay.calls == 3


def test_a_server_that_was_restarted_is_found(tmp_path: Path, open_relays: ExitStack) -> None:
    old, new = start(open_relays, status=401), start(open_relays)  # another server uses the old one's port
    with announced(tmp_path, new.running):
        index = RemoteIndex(tmp_path, old.running)
        assert index.count("coco_images") == 7
        assert index.count("coco_images") == 7
    assert (old.calls, new.calls) == (1, 2)


def test_a_server_without_a_model_or_of_an_older_version_encodes_nothing(
    tmp_path: Path, open_relays: ExitStack, served: tuple[RemoteIndex, str]
) -> None:
    assert RemoteIndex(tmp_path, start(open_relays).running).served_model() is None  # it sends its process id alone
    assert served[0].served_model() is None
    with pytest.raises(IndexFailure, match="has no model loaded"):
        served[0].encode("encode_texts", {"texts": ["a dog"]})


@pytest.mark.parametrize(("breaks", "status", "words"), [(1000, 200, "stopped answering"), (0, 500, "answered 500")])
def test_permanent_failures_end_at_once(
    tmp_path: Path, open_relays: ExitStack, breaks: int, status: int, words: str
) -> None:
    relay = start(open_relays, breaks, status)
    with pytest.raises(IndexFailure, match=f"{words}.*: run the command again"):
        RemoteIndex(tmp_path, relay.running).count("coco_images")  # not announced: it is gone
    assert relay.calls == 1


class Clustered(EdgeIndex):
    """Reports what only a server reports."""

    def info(self, collection: str) -> CollectionInfo:
        return dataclasses.replace(super().info(collection), pending="a node is away", shards_short_of_copies=2)


@pytest.fixture
def served(tmp_path: Path, make_spec: Callable[..., CollectionSpec], dataset: str) -> Iterator[tuple[RemoteIndex, str]]:
    """An index behind the real routes, and the name of a collection of three points in it."""
    index = Clustered(tmp_path / "index")
    index.create(make_spec())
    name = f"{dataset}_images"
    index.upsert(name, Points([image(number) for number in range(3)], unit(3)))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        running = Running(f"http://127.0.0.1:{listener.getsockname()[1]}")
        app = FastAPI()
        app.include_router(index_calls(index, running))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield RemoteIndex(tmp_path / "index", running), name
        server.should_exit = True
        thread.join()
    index.close()


def test_an_answer_that_breaks_off_is_an_error(
    served: tuple[RemoteIndex, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    index, collection = served
    whole = EdgeIndex.scan

    def broken(self: EdgeIndex, *arguments: object, **options: object) -> Iterator[Batch]:
        yield from whole(self, *arguments, **options)  # type: ignore[arg-type]
        raise RuntimeError("the server dies between two parts")

    assert sum(len(batch.records) for batch in index.scan(collection)) > 0
    monkeypatch.setattr(EdgeIndex, "scan", broken)
    with pytest.raises(ServerError, match="stopped answering"):
        list(index.scan(collection))


def test_information_is_complete(served: tuple[RemoteIndex, str]) -> None:
    remote, name = served
    info = remote.info(name)
    assert (info.points, info.pending, info.shards_short_of_copies) == (3, "a node is away", 2)
    assert info.settings["segments"] >= 1
    assert info.spec == remote.spec(name)


@pytest.mark.parametrize(
    ("method", "arguments", "problem"),
    [
        ("count", {"where": {"colour": "red"}}, "where.colour"),
        ("scan", {"where": {"colour": "red"}}, "where.colour"),
        ("query", {"vectors": VECTOR, "limit": 3, "where": {"colour": "red"}}, "where.colour"),
        ("query", {"vectors": VECTOR, "limit": 3, "diversity": 0.5}, "diversity"),
        ("query", {"vectors": VECTOR, "limit": 3, "ef": "auto"}, "ef"),
        ("query", {"limit": 3}, "vectors"),
        ("retrieve", {"ids": [1], "order": "id"}, "order"),
        ("summarize", {}, "unknown method"),
    ],
)
def test_a_call_of_another_version_is_one_clear_error(
    served: tuple[RemoteIndex, str], method: str, arguments: dict[str, object], problem: str
) -> None:
    remote, name = served
    words = rf"this command is coco-search \d.*, but python -m search serve .* is \d.*{problem}.*: stop that process"
    with pytest.raises(IndexFailure, match=words):
        remote._one(wire.COUNT, method, name, arguments)


def test_unknown_fields_matter_only_if_they_are_used() -> None:
    assert wire.pack(wire.PARAMS, SearchParams()) == {}
    assert wire.pack(wire.PARAMS, SearchParams(ef=9, where=Where(contains="dog"))) == {
        "ef": 9,
        "where": {"contains": "dog"},
    }


@pytest.mark.parametrize("read", [RemoteIndex.info, RemoteIndex.spec, RemoteIndex.pending])
def test_an_answer_of_another_version_is_one_clear_error(
    tmp_path: Path, open_relays: ExitStack, read: Callable[[RemoteIndex, str], object]
) -> None:
    relay = start(open_relays)  # which answers with 7
    with pytest.raises(IndexFailure, match=r"another version than this command.*: stop that process"):
        read(RemoteIndex(tmp_path, relay.running), "coco_images")
