"""Collection snapshots of a Qdrant server, over its REST API: gRPC neither downloads nor uploads them.

https://qdrant.tech/documentation/concepts/snapshots/ and https://api.qdrant.tech/api-reference/snapshots describe the
calls. A snapshot holds what one node has of a collection.

A call that fails because the server is away is retried, like every other (`search.index.server.retry`).
"""

from __future__ import annotations

import io
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast
from urllib.parse import quote, urlencode

from search.errors import CollectionMissing, ServerError
from search.index.server import retry
from search.index.server.refusals import translated
from search.index.server.rest import Rest
from search.settings import Settings

CHUNK = 1024 * 1024  # bytes
WORK_SECONDS = 3600.0  # making or recovering the snapshot of a large collection takes minutes without a byte

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot on the server: its size in bytes, and its SHA-256 if the server gives one (storage on S3 does not)."""

    collection: str
    name: str
    size: int
    sha256: str | None


class Snapshots:
    """The snapshot calls of the server that the settings name."""

    def __init__(self, settings: Settings) -> None:
        self._rest = Rest(settings.qdrant_urls[0] if settings.qdrant_urls else "", settings)
        self._notice = retry.Notice()

    @property
    def url(self) -> str:
        return self._rest.url

    def refuse_cluster(self) -> None:
        """Raise ServerError if the server is one of several nodes, none of which has everything."""
        cluster = self._patiently(lambda: self._rest.result("GET", "/cluster"))
        peers = len(cluster.get("peers") or ())
        if peers > 1:
            raise ServerError(
                f"the server at {self.url} is one of {peers} nodes, and a snapshot holds one node's part of a "
                "collection: use `python -m ingest copy --from ... --to ...`, which copies everything"
            )

    def create(self, collection: str) -> Snapshot:
        """Make a new snapshot of the collection, and return it when it is complete."""
        path, before = _path(collection), list[str]()

        def attempt() -> Any:
            listed = self._rest.result("GET", path, collection)
            new = [each for each in listed if each["name"] not in before] if before else []
            if new:  # made by an earlier attempt, whose answer was lost
                return new[0]
            before[:] = ["", *(each["name"] for each in listed)]
            return self._rest.result("POST", f"{path}?wait=true", collection, seconds=WORK_SECONDS)

        made = self._patiently(attempt)
        try:
            return Snapshot(collection, made["name"], int(made["size"]), made.get("checksum"))
        except (KeyError, TypeError, ValueError) as error:
            raise ServerError(f"{self.url} made a snapshot of {collection} and does not describe it: {made}") from error

    @contextmanager
    def reading(self, snapshot: Snapshot) -> Iterator[BinaryIO]:
        """Give the bytes of a snapshot as a stream; a broken download continues where it stopped."""
        with _Download(self._rest, snapshot, self._patiently) as stream:
            yield cast(BinaryIO, stream)

    def delete(self, snapshot: Snapshot) -> None:
        """Delete the snapshot from the server's disk."""
        path = f"{_path(snapshot.collection)}/{quote(snapshot.name, safe='')}?wait=true"
        with suppress(CollectionMissing):  # deleted by an earlier attempt, whose answer was lost
            self._patiently(lambda: self._rest.result("DELETE", path, snapshot.collection))

    def recover(self, collection: str, file: Path, sha256: str) -> None:
        """Replace the collection, or make it, with what a snapshot file holds; the server checks its SHA-256."""
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
        path = f"{_path(collection)}/upload?{asked}"
        headers = {
            "Content-Type": f"multipart/form-data; boundary={boundary}",
            "Content-Length": str(len(head) + file.stat().st_size + len(tail)),
        }
        done = self._patiently(
            lambda: self._rest.result("POST", path, seconds=WORK_SECONDS, body=body, headers=headers)
        )
        if done is not True:
            raise ServerError(f"{self.url} did not recover {collection} from its snapshot: {done}")

    def _patiently(self, attempt: Callable[[], T]) -> T:
        return retry.patiently(attempt, self._notice)


class _Download(io.RawIOBase):
    """The bytes of a snapshot. If the connection breaks, the rest is requested again."""

    def __init__(self, rest: Rest, snapshot: Snapshot, patiently: Callable[[Callable[[], bytes]], bytes]) -> None:
        self._rest, self._snapshot, self._patiently = rest, snapshot, patiently
        self._path = f"{_path(snapshot.collection)}/{quote(snapshot.name, safe='')}"
        self._position = 0
        self._open = ExitStack()
        self._response: Any = None

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        """Read `size` bytes, fewer at the end alone, and more than the snapshot's size if the server sends them."""
        data = b""
        while not data or (len(data) < size and self._position < self._snapshot.size):
            part = self._patiently(partial(self._attempt, size - len(data)))
            if not part:
                break
            data += part
            self._position += len(part)
        return data

    def close(self) -> None:
        self._open.close()
        super().close()

    def _attempt(self, size: int) -> bytes:
        try:
            if self._response is None:
                self._response = self._request()
            with translated(self._rest.url):
                data: bytes = self._response.read(size)
            if not data and self._position < self._snapshot.size:
                raise ServerError(
                    f"{self._rest.url} sent {self._position:,} of the {self._snapshot.size:,} bytes of "
                    f"{self._snapshot.name}",
                    transient=True,
                )
        except ServerError:
            self._open.close()
            self._response = None
            raise
        return data

    def _request(self) -> Any:
        headers = {"Range": f"bytes={self._position}-"} if self._position else {}
        response = self._open.enter_context(
            self._rest.answer("GET", self._path, self._snapshot.collection, headers=headers)
        )
        if self._position and response.status == 200:  # all of it again: storage on S3 knows no ranges
            skipped = 0
            while skipped < self._position and (data := response.read(min(CHUNK, self._position - skipped))):
                skipped += len(data)
        return response


def _path(collection: str) -> str:
    return f"/collections/{quote(collection, safe='')}/snapshots"
