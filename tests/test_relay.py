"""Reading through `search serve` while that is restarted or breaks off."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from search.errors import IndexFailure
from search.index.relay.announce import Running, announced
from search.index.relay.client import RemoteIndex


class Relay(ThreadingHTTPServer):
    """Answers calls with 7; the connections of the first `breaks` calls end, and a `status` other than 200 refuses."""

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


def test_a_connection_that_breaks_is_made_again(tmp_path: Path, open_relays: ExitStack) -> None:
    relay = start(open_relays, breaks=2)
    with announced(tmp_path, relay.running):
        assert RemoteIndex(tmp_path, relay.running).count("coco_images") == 7
    assert relay.calls == 3


def test_a_server_that_was_restarted_is_found(tmp_path: Path, open_relays: ExitStack) -> None:
    old, new = start(open_relays, status=401), start(open_relays)  # another server took the old one's port
    with announced(tmp_path, new.running):
        index = RemoteIndex(tmp_path, old.running)
        assert index.count("coco_images") == 7
        assert index.count("coco_images") == 7
    assert (old.calls, new.calls) == (1, 2)


@pytest.mark.parametrize(("breaks", "status", "words"), [(1000, 200, "stopped answering"), (0, 500, "answered 500")])
def test_what_does_not_pass_ends_at_once(
    tmp_path: Path, open_relays: ExitStack, breaks: int, status: int, words: str
) -> None:
    relay = start(open_relays, breaks, status)
    with pytest.raises(IndexFailure, match=f"{words}.*: give the command again"):
        RemoteIndex(tmp_path, relay.running).count("coco_images")  # not announced: it is gone
    assert relay.calls == 1
