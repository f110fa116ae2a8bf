"""Collection snapshots of a Qdrant server, over its REST API, since gRPC neither downloads nor uploads them.

See https://qdrant.tech/documentation/concepts/snapshots/ and https://api.qdrant.tech/api-reference/snapshots. A
snapshot contains one node's part of a collection.

Requests are retried while the server is unavailable, like all others (`search.index.retry`).
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
from search.index import retry
from search.index.server.failures import translate_errors
from search.index.server.rest import Rest
from search.settings import Settings

CHUNK = 1024 * 1024  # bytes
WORK_SECONDS = 3600.0  # creating or recovering a large snapshot takes minutes, in which the server sends nothing

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot on the server: its size in bytes, and its SHA-256 unless the server keeps snapshots on S3."""

    collection: str
    name: str
    size: int
    sha256: str | None


class Snapshots:
    """The snapshots of the server that the settings name."""

    def __init__(self, settings: Settings) -> None:
        self._rest = Rest(settings.qdrant_urls[0] if settings.qdrant_urls else "", settings)
        self._notice = retry.Notice()

    @property
    def url(self) -> str:
        return self._rest.url

    def refuse_cluster(self) -> None:
        """Raise ServerError if the server is one of several nodes, none of which has all of a collection."""
        cluster = self._retry(lambda: self._rest.result("GET", "/cluster"))
        peers = len(cluster.get("peers") or ())
        if peers > 1:
            raise ServerError(
                f"the server at {self.url} is one of {peers} nodes, and a snapshot holds one node's part of a "
                "collection: use `python -m ingest copy --from ... --to ...`, which copies everything"
            )

    def create(self, collection: str) -> Snapshot:
        """Create a snapshot of the collection, and return it once it is complete."""
        path = _path(collection)
        existing: set[str] | None = None  # the names before the first attempt

        def attempt() -> Any:
            nonlocal existing
            snapshots = self._rest.result("GET", path, collection)
            new = [] if existing is None else [each for each in snapshots if each["name"] not in existing]
            if new:  # created by an earlier attempt, whose answer was lost
                return new[0]
            existing = {each["name"] for each in snapshots}
            return self._rest.result("POST", f"{path}?wait=true", collection, seconds=WORK_SECONDS)

        answer = self._retry(attempt)
        try:
            return Snapshot(collection, answer["name"], int(answer["size"]), answer.get("checksum"))
        except (KeyError, TypeError, ValueError) as error:
            raise ServerError(
                f"{self.url} created a snapshot of {collection} but did not describe it: {answer}"
            ) from error

    @contextmanager
    def reading(self, snapshot: Snapshot) -> Iterator[BinaryIO]:
        """Yield the bytes of a snapshot as a stream; a broken download resumes where it stopped."""
        with _Download(self._rest, snapshot, self._retry) as stream:
            yield cast(BinaryIO, stream)

    def delete(self, snapshot: Snapshot) -> None:
        """Delete the snapshot from the server's disk."""
        path = f"{_path(snapshot.collection)}/{quote(snapshot.name, safe='')}?wait=true"
        with suppress(CollectionMissing):  # deleted by an earlier attempt, whose answer was lost
            self._retry(lambda: self._rest.result("DELETE", path, snapshot.collection))

    def recover(self, collection: str, file: Path, sha256: str) -> None:
        """Replace or create the collection from a snapshot file, whose SHA-256 the server verifies."""
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

        parameters = urlencode({"wait": "true", "priority": "snapshot", "checksum": sha256})
        path = f"{_path(collection)}/upload?{parameters}"
        headers = {
            "Content-Type": f"multipart/form-data; boundary={boundary}",
            "Content-Length": str(len(head) + file.stat().st_size + len(tail)),
        }
        recovered = self._retry(
            lambda: self._rest.result("POST", path, seconds=WORK_SECONDS, body=body, headers=headers)
        )
        if recovered is not True:
            raise ServerError(f"{self.url} did not recover {collection} from its snapshot: {recovered}")

    def _retry(self, attempt: Callable[[], T]) -> T:
        return retry.while_unavailable(attempt, self._notice)


class _Download(io.RawIOBase):
    """The bytes of a snapshot as a stream. If the connection breaks, only the rest is requested again."""

    def __init__(self, rest: Rest, snapshot: Snapshot, retry: Callable[[Callable[[], bytes]], bytes]) -> None:
        self._rest, self._snapshot, self._retry = rest, snapshot, retry
        self._path = f"{_path(snapshot.collection)}/{quote(snapshot.name, safe='')}"
        self._position = 0
        self._open = ExitStack()
        self._response: Any = None

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        """Read `size` bytes, fewer only at the end, even beyond the snapshot's size if the server sends more."""
        data = b""
        while not data or (len(data) < size and self._position < self._snapshot.size):
            part = self._retry(partial(self._attempt, size - len(data)))
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
            with translate_errors(self._rest.url):
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
        if self._position and response.status == 200:  # everything from the start: storage on S3 has no ranges
            skipped = 0
            while skipped < self._position and (data := response.read(min(CHUNK, self._position - skipped))):
                skipped += len(data)
        return response


def _path(collection: str) -> str:
    return f"/collections/{quote(collection, safe='')}/snapshots"
