"""Read an embedded index through the running `python -m search serve` that has it open."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from pydantic import TypeAdapter

from search.encoder import Truncation
from search.errors import IndexFailure, ServerError
from search.index import retry
from search.index.points import Batch
from search.index.protocol import DEFAULT_PARAMS, CollectionInfo, SearchParams
from search.index.relay import wire
from search.index.relay.announce import COMMAND, ROUTE, Running, find_running, hello
from search.index.relay.wire import PackedVectors, pack, unpack, unpack_failure
from search.index.spec import CollectionSpec
from search.index.where import Where
from search.records import Hit, Vectors

if TYPE_CHECKING:
    from PIL import Image

    from search.encoder.images import Pixels, Preparation

T = TypeVar("T")
ANSWER_SECONDS = 120.0
NETWORK_FAILURES = (OSError, ValueError, http.client.HTTPException)


class RemoteIndex:
    """The ReadIndex protocol through another process on this machine."""

    def __init__(self, path: Path, running: Running) -> None:
        self.path = path
        self._running = running
        self._notice = retry.Notice()

    @property
    def place(self) -> str:
        return str(self.path)

    @property
    def engine(self) -> str:
        return f"{self._one(wire.TEXT, 'engine')}, through {COMMAND}, process {self._running.pid}"

    def collections(self) -> list[str]:
        return self._one(wire.NAMES, "collections")

    def query(
        self, collection: str, vectors: Vectors, limit: int, params: SearchParams = DEFAULT_PARAMS
    ) -> list[list[Hit]]:
        query = wire.Query(vectors=PackedVectors.of(vectors), limit=limit, **pack(wire.PARAMS, params))
        answer = self._one(wire.HITS, "query", collection, pack(wire.QUERY, query))
        return [[hit.unpack() for hit in hits] for hits in answer]

    def retrieve(self, collection: str, ids: Sequence[int], *, vectors: bool = False) -> Batch:
        arguments = pack(wire.RETRIEVE, wire.Retrieve(ids=list(ids), vectors=vectors))
        return self._one(wire.BATCH, "retrieve", collection, arguments).unpack()

    def scan(self, collection: str, *, where: Where | None = None, vectors: bool = False) -> Iterator[Batch]:
        arguments = pack(wire.SCAN, wire.Scan(where=where, vectors=vectors))
        for part in self._call(wire.BATCH, "scan", collection, arguments):
            yield part.unpack()

    def count(self, collection: str, *, where: Where | None = None) -> int:
        return self._one(wire.COUNT, "count", collection, pack(wire.FILTER, wire.Count(where=where)))

    def served_model(self) -> RemoteModel | None:
        """Return the model of the server.

        Return None if the server is still loading it, or is an older version, or if the model takes whole pictures,
        which may be too large to send.
        """
        if not hello(self._running).get("model"):
            return None
        model = self._one(wire.MODEL, "model")
        return RemoteModel(self, model, model.preparation) if model.preparation else None

    def encode(self, method: str, arguments: wire.Json) -> Vectors:
        """Return vectors, float32 (n, dim), that the model of the server computes."""
        return self._one(wire.VECTORS, method, None, arguments).unpack()

    def truncations(self, texts: Sequence[str]) -> list[Truncation | None]:
        """Return for each text how much of it the model of the server reads, None if that is all of it."""
        return self._one(wire.TRUNCATIONS, "truncations", None, pack(wire.TEXTS, wire.Texts(texts=list(texts))))

    def silent_nodes(self) -> list[str]:
        return []

    def pending(self, collection: str, *, exact: bool = False) -> str | None:
        return None if exact else self._one(wire.NOTE, "pending", collection)

    def spec(self, collection: str) -> CollectionSpec:
        return self._one(wire.SPEC, "spec", collection)

    def info(self, collection: str) -> CollectionInfo:
        return self._one(wire.INFO, "info", collection)

    def disk_bytes(self, collection: str) -> int | None:
        return self._one(wire.SIZE, "disk_bytes", collection)

    def close(self) -> None:
        """Do nothing: every call uses a new connection."""

    def _one(
        self, kind: TypeAdapter[T], method: str, collection: str | None = None, arguments: wire.Json | None = None
    ) -> T:
        """Return the answer to a call, which must have one part."""
        (part,) = self._call(kind, method, collection, arguments)
        return part

    def _call(
        self, kind: TypeAdapter[T], method: str, collection: str | None, arguments: wire.Json | None
    ) -> Iterator[T]:
        """Yield the parts of the answer. Until it begins, the call is retried while a server has the index open."""
        fields = {"method": method, "collection": collection, "arguments": arguments or {}, "version": wire.VERSION}
        call = json.dumps(fields)
        with contextlib.ExitStack() as open_:
            answer = retry.while_unavailable(lambda: open_.enter_context(self._answer(method, call)), self._notice)
            try:
                for line in _lines(answer):
                    fields = json.loads(line)
                    if "failure" in fields:
                        raise unpack_failure(fields)
                    yield unpack(kind, fields["part"])
            except NETWORK_FAILURES as error:
                raise self._failure(self._running, f"stopped answering ({type(error).__name__})") from error
            except wire.Incompatible as problem:
                raise IndexFailure(
                    f"{COMMAND} (process {self._running.pid}) has another version than this command, coco-search "
                    f"{wire.VERSION}, which cannot read its answer to {method!r} ({problem}): "
                    "stop that process and start it again"
                ) from None

    @contextlib.contextmanager
    def _answer(self, method: str, call: str) -> Iterator[http.client.HTTPResponse]:
        server = self._running
        headers = {**server.headers, "Content-Type": "application/json"}
        with contextlib.closing(server.connect(ANSWER_SECONDS)) as connection:
            try:
                connection.request("POST", ROUTE, call, headers)
                answer = connection.getresponse()
            except NETWORK_FAILURES as error:
                running, _ = self._find_again()
                transient = running and not isinstance(error, TimeoutError)
                what = f"stopped answering ({type(error).__name__})"
                raise self._failure(server, what, transient=transient) from error
            with answer:
                if answer.status != 200:
                    _, restarted = self._find_again()
                    raise self._failure(server, f"answered {answer.status} to {method}", transient=restarted)
                yield answer

    def _find_again(self) -> tuple[bool, bool]:
        """Find the server that has the index open now; return whether one exists, and whether it is a new one."""
        before, now = self._running, find_running(self.path)
        self._running = now or before
        return now is not None, self._running != before

    def _failure(self, server: Running, what: str, *, transient: bool = False) -> ServerError:
        return ServerError(
            f"{COMMAND} (process {server.pid}), which has {self.path} open, {what}: run the command again",
            transient=transient,
        )


def _lines(answer: http.client.HTTPResponse) -> Iterator[bytes]:
    """Yield the lines of an answer.

    If the connection ends between two chunks, `readline` takes that for the end of the answer; `read1` raises
    IncompleteRead.
    """
    pieces: list[bytes] = []
    while data := answer.read1():
        first, *others = data.split(b"\n")
        pieces.append(first)
        for other in others:
            yield b"".join(pieces)
            pieces = [other]
    if rest := b"".join(pieces):
        raise http.client.IncompleteRead(rest)


class RemoteModel:
    """The model of the server: an `Encoder`. Pictures are opened and prepared here, and sent as pixels."""

    def __init__(self, index: RemoteIndex, model: wire.Model, preparation: wire.PackedPreparation) -> None:
        self._index, self._preparation = index, preparation
        self.name, self.dim = model.name, model.dim

    @property
    def preparation(self) -> Preparation:
        from PIL import Image

        from search.encoder.images import Preparation  # not above: texts need no photo library

        packed = self._preparation
        return Preparation(packed.size, packed.crop, Image.Resampling(packed.resample))

    def encode_images(self, images: Pixels | Sequence[Image.Image]) -> Vectors:
        assert isinstance(images, np.ndarray)  # the model has a preparation
        pictures = wire.Pictures(pixels=wire.PackedPixels.of(images))
        return self._index.encode("encode_images", pack(wire.PICTURES, pictures))

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        return self._index.encode("encode_texts", pack(wire.TEXTS, wire.Texts(texts=list(texts))))

    def truncations(self, texts: Sequence[str]) -> list[Truncation | None]:
        return self._index.truncations(texts)
