"""Collection snapshots of a Qdrant server, over its REST API: gRPC neither downloads nor uploads them.

https://qdrant.tech/documentation/concepts/snapshots/ and https://api.qdrant.tech/api-reference/snapshots describe the
calls. A snapshot holds what one node has of a collection.
"""

from __future__ import annotations

import http.client
import json
import secrets
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote, urlencode, urlsplit

from search.errors import IndexFailure, ServerError
from search.index.reach import failure
from search.settings import Settings

CHUNK = 1024 * 1024  # bytes
WORK_SECONDS = 3600.0  # making or recovering the snapshot of a large collection takes minutes without a byte
CODES = {401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND"}


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot on the server: its size in bytes, and its SHA-256 where the server says (storage on S3 does not)."""

    collection: str
    name: str
    size: int
    sha256: str | None


class Snapshots:
    """The snapshot calls of the server that the settings name."""

    def __init__(self, settings: Settings) -> None:
        self.url = settings.qdrant_urls[0] if settings.qdrant_urls else ""
        address = urlsplit(self.url)
        self._secure = address.scheme == "https"
        self._host = address.hostname or ""
        self._port = address.port or (443 if self._secure else 6333)
        self._prefix = address.path.rstrip("/")
        key = settings.qdrant_api_key
        self._headers = {"api-key": key.get_secret_value()} if key else {}
        self._seconds = settings.qdrant_timeout

    def refuse_cluster(self) -> None:
        """Raises ServerError where the server is one of several nodes, none of which has everything."""
        peers = len(self._result(None, "GET", "/cluster").get("peers") or ())
        if peers > 1:
            raise ServerError(
                f"the server at {self.url} is one of {peers} nodes, and a snapshot holds one node's part of a "
                "collection: use `python -m ingest copy --from ... --to ...`, which copies everything"
            )

    def create(self, collection: str) -> Snapshot:
        """A new snapshot of the collection, once it is complete."""
        made = self._result(collection, "POST", f"{_path(collection)}?wait=true", seconds=WORK_SECONDS)
        try:
            return Snapshot(collection, made["name"], int(made["size"]), made.get("checksum"))
        except (KeyError, TypeError, ValueError) as error:
            raise ServerError(f"{self.url} made a snapshot of {collection} and does not describe it: {made}") from error

    @contextmanager
    def reading(self, snapshot: Snapshot) -> Iterator[BinaryIO]:
        """The bytes of a snapshot, as a stream."""
        path = f"{_path(snapshot.collection)}/{quote(snapshot.name, safe='')}"
        with self._answer(snapshot.collection, "GET", path) as response:
            yield response

    def delete(self, snapshot: Snapshot) -> None:
        """Takes the snapshot from the server's disk."""
        self._result(
            snapshot.collection, "DELETE", f"{_path(snapshot.collection)}/{quote(snapshot.name, safe='')}?wait=true"
        )

    def recover(self, collection: str, file: Path, sha256: str) -> None:
        """Replaces the collection, or makes it, with what a snapshot file holds; the server checks its SHA-256."""
        boundary = secrets.token_hex(16)
        head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="snapshot"; filename="{collection}.snapshot"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        ).encode()
        tail = f"\r\n--{boundary}--\r\n".encode()

        def body() -> Iterator[bytes]:
            yield head
            with file.open("rb") as stream:
                while chunk := stream.read(CHUNK):
                    yield chunk
            yield tail

        asked = urlencode({"wait": "true", "priority": "snapshot", "checksum": sha256})
        headers = {
            "Content-Type": f"multipart/form-data; boundary={boundary}",
            "Content-Length": str(len(head) + file.stat().st_size + len(tail)),
        }
        done = self._result(
            None, "POST", f"{_path(collection)}/upload?{asked}", seconds=WORK_SECONDS, body=body(), headers=headers
        )
        if done is not True:
            raise ServerError(f"{self.url} did not recover {collection} from its snapshot: {done}")

    def _result(self, collection: str | None, method: str, path: str, **more: Any) -> Any:
        with self._answer(collection, method, path, **more) as response:
            text = response.read()
        try:
            return json.loads(text)["result"]
        except (ValueError, KeyError, TypeError) as error:
            raise ServerError(f"{method} {self.url}{path}: an answer that is not Qdrant's: {text[:100]!r}") from error

    @contextmanager
    def _answer(
        self,
        collection: str | None,
        method: str,
        path: str,
        *,
        seconds: float | None = None,
        body: Iterator[bytes] | None = None,
        headers: dict[str, str] | None = None,
    ) -> Iterator[http.client.HTTPResponse]:
        """The answer to a call, if it is a good one; network errors within become ServerError too."""
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=seconds or self._seconds)
        try:
            connection.request(method, self._prefix + path, body=body, headers={**self._headers, **(headers or {})})
            response = connection.getresponse()
            if response.status != 200:
                raise self._refused(collection, response)
            yield response
        except TimeoutError as error:
            raise failure(self.url, collection, "DEADLINE_EXCEEDED", str(error)) from error
        except (ConnectionError, http.client.HTTPException, ssl.SSLError, socket.gaierror) as error:
            raise failure(self.url, collection, "UNAVAILABLE", str(error) or type(error).__name__) from error
        finally:
            connection.close()

    def _refused(self, collection: str | None, response: http.client.HTTPResponse) -> IndexFailure:
        text = response.read(2000).decode(errors="replace")
        try:
            text = json.loads(text)["status"]["error"]
        except (ValueError, KeyError, TypeError):
            text = text[:300]
        return failure(self.url, collection, CODES.get(response.status, str(response.status)), text)


def _path(collection: str) -> str:
    return f"/collections/{quote(collection, safe='')}/snapshots"
