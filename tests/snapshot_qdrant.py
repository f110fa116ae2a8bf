"""A stand-in for a Qdrant server with snapshots: the gRPC side is grpc_qdrant's, the REST side is here.

It answers as https://api.qdrant.tech/api-reference/snapshots documents. A real snapshot is a tar of storage files; here
it is a pickle of the same facts. What a server must do right (nothing is read back unless it was uploaded whole, with
the right checksum) is done right; `damage` and the like do what servers and networks do wrong.
"""

from __future__ import annotations

import email
import hashlib
import json
import pickle
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from grpc_qdrant import ANSWERS, Collections, LocalClient, grpc_side
from qdrant_client import models
from qdrant_client.grpc import CreateCollection


class SnapshotServer:
    """`requests` are those about snapshots: method, path, query."""

    def __init__(self) -> None:
        self.collections = Collections(LocalClient(":memory:"))
        self.snapshots: dict[tuple[str, str], bytes] = {}
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.key: str | None = None
        self.peers = 0  # of a cluster; 0: it is none
        self.says_checksum = True
        self.damage: tuple[bytes, bytes] | None = None  # replaced while a snapshot is downloaded
        self.sent: int | None = None  # bytes of every answer to a download after which the connection ends
        self.sent_once: int | None = None  # of the next one
        self.knows_ranges = True
        self.breaks: list[str] = []  # methods whose next call is not answered
        self.loses_answers: list[str] = []  # methods whose next call is carried out, and its answer lost
        self.keeps_snapshots = False  # refuses to delete
        self.loses_points = False  # on recovery
        self.port = self.grpc_port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @contextmanager
    def running(self) -> Iterator[SnapshotServer]:
        with (
            grpc_side(self.collections) as self.grpc_port,
            ThreadingHTTPServer(("127.0.0.1", 0), handler(self)) as http,
        ):
            self.port = http.server_port
            threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
            yield self
            http.shutdown()

    def cluster(self) -> dict[str, Any]:
        if not self.peers:
            return {"status": "disabled"}
        peers = {str(number): {"uri": f"http://node{number}:6335/"} for number in range(self.peers)}
        return {"status": "enabled", "peer_id": 0, "peers": peers}

    def create(self, collection: str) -> dict[str, Any]:
        local = self.collections.local
        points = local.scroll(collection, limit=10**6, with_vectors=True)[0]
        facts = {
            "metadata": local.get_collection(collection).config.metadata,
            "made": self.collections.made[collection].SerializeToString(),
            "points": [(point.id, point.vector, point.payload) for point in points],
        }
        name, content = f"{collection}-1-2026-01-01-00-00-0{len(self.snapshots)}.snapshot", pickle.dumps(facts)
        self.snapshots[collection, name] = content
        return self.described(collection, name)

    def described(self, collection: str, name: str) -> dict[str, Any]:
        content = self.snapshots[collection, name]
        checksum = hashlib.sha256(content).hexdigest() if self.says_checksum else None
        return {"name": name, "creation_time": "2026-01-01T00:00:00", "size": len(content), "checksum": checksum}

    def recover(self, collection: str, content: bytes) -> None:
        facts, local = pickle.loads(content), self.collections.local
        made = CreateCollection.FromString(facts["made"])
        local.delete_collection(collection)
        size = made.vectors_config.params.size
        vectors = models.VectorParams(size=size, distance=models.Distance.COSINE)
        local.create_collection(collection, vectors_config=vectors, metadata=facts["metadata"])
        self.collections.made[collection] = made
        points = facts["points"][int(self.loses_points) :]
        local.upsert(collection, [models.PointStruct(id=i, vector=v, payload=p) for i, v, p in points])


def handler(server: SnapshotServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            address = urlsplit(self.path)
            length = int(self.headers.get("Content-Length", 0))
            body = self.rfile.read(length)
            assert len(body) == length
            if server.key not in (None, self.headers.get("api-key")) and self.path != "/":
                self._send(401, b"Must provide an API key or an Authorization bearer token")
            elif self.command in server.breaks:
                server.breaks.remove(self.command)  # the connection ends without an answer
            elif self.path == "/cluster":
                self._good(server.cluster())
            elif self.path in ANSWERS:
                self._send(200, json.dumps(ANSWERS[self.path]).encode())
            else:
                server.requests.append((self.command, address.path, dict(parse_qsl(address.query))))
                self._snapshots(address.path.split("/")[1:], dict(parse_qsl(address.query)), body)

        do_POST = do_DELETE = do_GET  # noqa: N815

        def _snapshots(self, parts: list[str], query: dict[str, str], body: bytes) -> None:
            _, collection, word, *rest = parts
            assert word == "snapshots"
            exists = server.collections.local.collection_exists(collection)
            if rest == ["upload"] and self.command == "POST":
                self._upload(collection, query, body)
            elif not exists:
                self._bad(404, f"Not found: Collection `{collection}` doesn't exist!")
            elif not rest and self.command == "GET":
                names = [name for owner, name in server.snapshots if owner == collection]
                self._good([server.described(collection, name) for name in names])
            elif not rest and self.command == "POST":
                self._good(server.create(collection))
            elif (collection, rest[0]) not in server.snapshots:
                self._bad(404, f"Not found: Snapshot {rest[0]} not found")
            elif self.command == "GET":
                self._download(server.snapshots[collection, rest[0]])
            elif server.keeps_snapshots:
                self._bad(500, "Service internal error: the disk is read-only")
            else:
                del server.snapshots[collection, rest[0]]
                self._good(True)

        def _upload(self, collection: str, query: dict[str, str], body: bytes) -> None:
            head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
            whole = email.message_from_bytes(head + body)
            assert whole.is_multipart()
            _, part = whole.walk()
            assert part.get_param("name", header="content-disposition") == "snapshot"
            content = part.get_payload(decode=True)
            assert isinstance(content, bytes)
            if query.get("checksum") not in (None, hashlib.sha256(content).hexdigest()):
                self._bad(400, "Wrong input: Snapshot checksum mismatch")
                return
            server.recover(collection, content)
            self._good(True)

        def _download(self, content: bytes) -> None:
            content = content.replace(*server.damage) if server.damage else content
            asked = self.headers.get("Range", "") if server.knows_ranges else ""
            content = content[int(asked.removeprefix("bytes=").rstrip("-") or 0) :]
            self.send_response(206 if asked else 200)
            self.send_header("Content-Type", "application/octet-stream")
            self.end_headers()
            sent, server.sent_once = server.sent_once or server.sent, None
            self.wfile.write(content[:sent])

        def _good(self, result: Any) -> None:
            self._send(200, json.dumps({"result": result, "status": "ok", "time": 0.0}).encode())

        def _bad(self, status: int, error: str) -> None:
            self._send(status, json.dumps({"status": {"error": error}, "time": 0.0}).encode())

        def _send(self, status: int, body: bytes) -> None:
            if self.command in server.loses_answers:
                server.loses_answers.remove(self.command)
                return
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    return Handler
