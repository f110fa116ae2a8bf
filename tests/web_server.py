"""A web server for tests: a good one, unless it is told to do what bad servers and networks do."""

from __future__ import annotations

import io
import re
import socket
import struct
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

DATE = "Wed, 15 Apr 2015 00:00:00 GMT"


@dataclass(frozen=True)
class Answer:
    """How one request is answered; the defaults are a good server's."""

    status: int = 200
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    version: dict[str, str] = field(default_factory=lambda: {"ETag": '"one"', "Last-Modified": DATE})
    ranges: bool = True
    sent: int | None = None  # bytes of the body before the connection ends
    reset: bool = False  # it ends with an error rather than quietly
    hang: bool = False  # it does not end
    pace: float = 0  # seconds after each 16 KiB


class Server:
    """Serves `files`; `script` says how the next requests for an address are answered."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.script: dict[str, list[Answer]] = {}
        self.always: dict[str, Answer] = {}
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.over = threading.Event()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.http.handle_error = lambda *_: None  # type: ignore[method-assign]
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @classmethod
    @contextmanager
    def running(cls) -> Iterator[Server]:
        server = cls()
        try:
            yield server
        finally:
            server.over.set()
            server.http.shutdown()
            server.http.server_close()

    def asked(self, path: str) -> list[dict[str, str]]:
        return [headers for _, asked, headers in self.requests if asked == path]

    def _handler(server) -> type[BaseHTTPRequestHandler]:  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.close_connection = True
                server.requests.append((self.command, self.path, dict(self.headers)))
                script = server.script.get(self.path)
                answer = script.pop(0) if script else server.always.get(self.path, Answer())
                body = server.files.get(self.path) if answer.body is None else answer.body
                if body is None or answer.status >= 300:
                    self.send_response(404 if body is None else answer.status)
                    self._head(answer.headers, {"Content-Length": "0"})
                    return
                start = self._start(answer, len(body))
                self.send_response(206 if start else 200)
                ranges = {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"} if start else {}
                self._head(answer.version, {"Content-Length": str(len(body) - start)}, ranges, answer.headers)
                if self.command == "GET":
                    self._body(answer, body[start:][: answer.sent])

            do_HEAD = do_GET  # noqa: N815

            def _start(self, answer: Answer, size: int) -> int:
                wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
                version = self.headers.get("If-Range")
                good = answer.ranges and (version is None or version in answer.version.values())
                return int(wanted[1]) if wanted and good and int(wanted[1]) < size else 0

            def _head(self, *headers: dict[str, str]) -> None:
                for name, value in {key: value for some in headers for key, value in some.items()}.items():
                    self.send_header(name, value)
                self.end_headers()

            def _body(self, answer: Answer, body: bytes) -> None:
                for place in range(0, len(body), 16384):
                    self.wfile.write(body[place : place + 16384])
                    time.sleep(answer.pace)
                if answer.hang:
                    server.over.wait(30)
                if answer.reset:
                    time.sleep(0.05)  # what was sent arrives first
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self.connection.close()

            def log_message(self, *_: object) -> None:
                pass

        return Handler


def zipped(*members: tuple[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in members:
            file.writestr(name, content)
    return buffer.getvalue()
