"""An embedded index that a running `python -m search serve` has open: read through that process."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from search.errors import ServerError
from search.index.points import Batch
from search.index.protocol import DEFAULT_PARAMS, CollectionInfo, SearchParams, Where
from search.index.relay.announce import COMMAND, HELLO, Running, find_running
from search.index.relay.wire import pack_params, pack_vectors, pack_where, unpack_batch, unpack_failure, unpack_hit
from search.index.server import retry
from search.index.spec import CollectionSpec, read_spec
from search.records import Hit, Vectors

ANSWER_SECONDS = 120.0
NETWORK_FAILURES = (OSError, ValueError, http.client.HTTPException)


class RemoteIndex:
    """The ReadIndex protocol over another process of this machine."""

    def __init__(self, path: Path, running: Running) -> None:
        self.path = path
        self._running = running
        self._notice = retry.Notice()

    @property
    def place(self) -> str:
        return str(self.path)

    @property
    def engine(self) -> str:
        return f"{self._one('engine')}, through {COMMAND}, process {self._running.pid}"

    def collections(self) -> list[str]:
        return list(self._one("collections"))

    def query(
        self, collection: str, vectors: Vectors, limit: int, params: SearchParams = DEFAULT_PARAMS
    ) -> list[list[Hit]]:
        answer = self._one("query", collection, vectors=pack_vectors(vectors), limit=limit, **pack_params(params))
        return [[unpack_hit(hit) for hit in hits] for hits in answer]

    def retrieve(self, collection: str, ids: Sequence[int], *, vectors: bool = False) -> Batch:
        return unpack_batch(self._one("retrieve", collection, ids=list(ids), vectors=vectors))

    def scan(self, collection: str, *, where: Where | None = None, vectors: bool = False) -> Iterator[Batch]:
        for part in self._ask("scan", collection, where=pack_where(where), vectors=vectors):
            yield unpack_batch(part)

    def count(self, collection: str, *, where: Where | None = None) -> int:
        return int(self._one("count", collection, where=pack_where(where)))

    def silent_nodes(self) -> list[str]:
        return []

    def pending(self, collection: str) -> str | None:
        said = self._one("pending", collection)
        return None if said is None else str(said)

    def spec(self, collection: str) -> CollectionSpec:
        return read_spec(collection, self._one("spec", collection))

    def info(self, collection: str) -> CollectionInfo:
        said = self._one("info", collection)
        spec = read_spec(collection, said["spec"])
        return CollectionInfo(collection, said["points"], said["indexed_vectors"], spec, said["settings"])

    def disk_bytes(self, collection: str) -> int | None:
        said = self._one("disk_bytes", collection)
        return None if said is None else int(said)

    def close(self) -> None:
        """Nothing is held: every call has a connection of its own."""

    def _one(self, method: str, collection: str | None = None, **arguments: object) -> Any:
        """The answer of a call that has one part."""
        (part,) = self._ask(method, collection, **arguments)
        return part

    def _ask(self, method: str, collection: str | None = None, **arguments: object) -> Iterator[Any]:
        """Yield the parts of the answer. A call is retried while a server is there, until its answer begins."""
        call = json.dumps({"method": method, "collection": collection, "arguments": arguments})
        with contextlib.ExitStack() as open_:
            answer = retry.patiently(lambda: open_.enter_context(self._answer(method, call)), self._notice)
            try:
                for line in answer:
                    said = json.loads(line)
                    if "failure" in said:
                        raise unpack_failure(said)
                    yield said["part"]
            except NETWORK_FAILURES as error:
                raise self._failure(f"stopped answering ({type(error).__name__})") from error

    @contextlib.contextmanager
    def _answer(self, method: str, call: str) -> Iterator[http.client.HTTPResponse]:
        headers = {**self._running.headers, "Content-Type": "application/json"}
        with contextlib.closing(self._running.connect(ANSWER_SECONDS)) as connection:
            try:
                connection.request("POST", HELLO, call, headers)
                answer = connection.getresponse()
            except NETWORK_FAILURES as error:
                there, _ = self._look_again()
                again = there and not isinstance(error, TimeoutError)
                raise self._failure(f"stopped answering ({type(error).__name__})", transient=again) from error
            if answer.status != 200:
                _, restarted = self._look_again()
                raise self._failure(f"answered {answer.status} to {method}", transient=restarted)
            yield answer

    def _look_again(self) -> tuple[bool, bool]:
        """Find the server that has the index open now; return whether there is one, and whether it is another one."""
        before, now = self._running, find_running(self.path)
        self._running = now or before
        return now is not None, self._running != before

    def _failure(self, what: str, *, transient: bool = False) -> ServerError:
        return ServerError(
            f"{COMMAND} (process {self._running.pid}), which has {self.path} open, {what}: give the command again",
            transient=transient,
        )
