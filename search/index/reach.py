"""Reaching a Qdrant server: the connection, what its refusals mean in words, and asking again where that helps."""

from __future__ import annotations

import contextlib
import re
import socket
import sys
import threading
import time
import warnings as python_warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import TypeVar
from urllib.parse import urlsplit

import grpc
from qdrant_client import QdrantClient
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from search.errors import CollectionMissing, IndexFailure, ServerError
from search.index import retry
from search.settings import Settings, is_loopback

OLDEST = (1, 16)  # the first with collection metadata
CONNECT_SECONDS = 3.0
# Qdrant answers INTERNAL for what it could not do just now, such as reading from a node that has died
# (CollectionError::is_transient in its source), and a connection that breaks may end as UNKNOWN or CANCELLED.
TRANSIENT = {
    *("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED", "CANCELLED", "INTERNAL", "UNKNOWN"),
    *("429", "500", "502", "503", "504"),
}
DISK_FULL = ("no space left on device", "out of disk")
NODE_LOST = ("active replica", "read operations failed", "temporarily unavailable")
# A channel notices a host that has vanished, and tries to reach it again within seconds, not minutes.
_CHANNEL = {
    "grpc.initial_reconnect_backoff_ms": 250,
    "grpc.max_reconnect_backoff_ms": 2000,
    "grpc.keepalive_time_ms": 20_000,
    "grpc.keepalive_timeout_ms": 10_000,
}

T = TypeVar("T")


class Connection:
    """A client, and how to ask through it.

    `streams`: how many uploads may be under way at the same time; `binary`: vectors travel as four bytes a number, not
    as JSON; `again` finds a node that answers when this one no longer does.
    """

    def __init__(
        self,
        client: QdrantClient,
        url: str,
        engine: str,
        *,
        streams: int = 1,
        binary: bool = True,
        again: Callable[[], Connection] | None = None,
    ) -> None:
        self.client, self.url, self.engine = client, url, engine
        self.streams, self.binary = streams, binary
        self._again, self._moving = again, threading.Lock()
        self._quiet_until = 0.0

    def ask(self, collection: str | None, call: Callable[[QdrantClient], T]) -> T:
        """What `call` gets from the client; it is called again while the server is away or overloaded.

        Raises:
            CollectionMissing: there is no such collection, or no longer.
            ServerError: the server refuses, or stays away.
        """

        def attempt() -> T:
            with translated(self.url, collection):
                return call(self.client)

        return retry.patiently(attempt, self._waiting)

    def _waiting(self, error: ServerError) -> None:
        if time.monotonic() > self._quiet_until:  # a word for each time that it is away, not for each try
            print(f"note: {error}; trying again for {retry.RETRY_SECONDS:.0f} seconds", file=sys.stderr)
        self._quiet_until = time.monotonic() + retry.RETRY_SECONDS
        if self._again is not None:
            with self._moving:
                if not listens(*_address(self.url)):
                    self._move(self._again)

    def _move(self, again: Callable[[], Connection]) -> None:
        with contextlib.suppress(ServerError):  # no other node answers either: it is tried again later
            other = again()
            print(f"note: {self.url} does not answer, {other.url} does", file=sys.stderr)
            # The old client is not closed, since other threads may be asking it.
            self.client, self.url, self.engine, self.binary = other.client, other.url, other.engine, other.binary


def reach(settings: Settings, streams: int) -> Connection:
    """The server that `settings.qdrant_url` names, by gRPC, or by REST where gRPC is not reachable; a read-only API key
    is enough. Of several nodes, the first that answers, and another one when that dies.

    Raises:
        ServerError: nothing answers there, it is no Qdrant or too old a one, or it refuses the API key.
    """
    urls = settings.qdrant_urls

    def first(again: Callable[[], Connection] | None = None) -> Connection:
        failures = []
        for url in urls:
            try:
                return _reach_one(url, settings, streams, again)
            except ServerError as error:
                failures.append(error)
        raise failures[0]

    return first(first if len(urls) > 1 else None)


def _reach_one(url: str, settings: Settings, streams: int, again: Callable[[], Connection] | None) -> Connection:
    address = urlsplit(url)
    host, http_port = _address(url)
    grpc_port = settings.qdrant_grpc_port or (6334 if http_port == 443 else http_port + 1)
    key = settings.qdrant_api_key.get_secret_value() if settings.qdrant_api_key else None
    if key and address.scheme == "http" and not is_loopback(host):
        print(f"warning: the API key travels unencrypted to {host}: use https", file=sys.stderr)

    def client(prefer_grpc: bool) -> QdrantClient:
        with python_warnings.catch_warnings():
            python_warnings.simplefilter("ignore", UserWarning)  # of the key, which we have warned of
            return QdrantClient(
                url=url,
                port=http_port,
                grpc_port=grpc_port,
                prefer_grpc=prefer_grpc,
                grpc_options=dict(_CHANNEL),
                api_key=key,
                timeout=settings.qdrant_timeout,
                check_compatibility=False,  # done below, as an error
            )

    rest = client(prefer_grpc=False)
    try:
        with translated(url):
            server = rest.info().version
            rest.get_collections()  # a wrong API key shows here
    except ValueError as error:  # an answer that is not Qdrant's
        raise ServerError(
            f"something answers at {url}, but it is no Qdrant: give scheme, host and port alone, "
            "such as http://localhost:6333"
        ) from error
    check_versions(url, server)
    if not listens(host, grpc_port):
        engine = f"qdrant {server}, REST (nothing listens on the gRPC port {grpc_port})"
        return Connection(rest, url, engine, streams=streams, binary=False, again=again)
    rest.close()
    fast = client(prefer_grpc=True)
    with translated(url):
        fast.get_collections()
    return Connection(fast, url, f"qdrant {server}, gRPC", streams=streams, again=again)


def check_versions(url: str, server: str) -> None:
    """Warns where client and server are more than one minor version apart, which Qdrant does not test.

    Raises:
        ServerError: the server cannot do what is needed.
    """
    ours = version("qdrant-client")
    their_minor, our_minor = _minor(server), _minor(ours)
    if their_minor is None or our_minor is None:  # a development build
        return
    if their_minor < OLDEST:
        raise ServerError(f"the server at {url} is Qdrant {server}: {'.'.join(map(str, OLDEST))} or newer is needed")
    if their_minor[0] != our_minor[0] or abs(their_minor[1] - our_minor[1]) > 1:
        print(
            f"warning: the server at {url} is Qdrant {server}, the client {ours}: more than one minor version apart",
            file=sys.stderr,
        )


def _address(url: str) -> tuple[str, int]:
    """Host and HTTP port."""
    address = urlsplit(url)
    return address.hostname or "", address.port or (443 if address.scheme == "https" else 6333)


def _minor(number: str) -> tuple[int, int] | None:
    found = re.match(r"(\d+)\.(\d+)", number)
    return (int(found[1]), int(found[2])) if found else None


def listens(host: str, port: int) -> bool:
    """Whether something accepts connections there."""
    try:
        with socket.create_connection((host, port), timeout=CONNECT_SECONDS):
            return True
    except OSError:
        return False


@contextlib.contextmanager
def translated(url: str, collection: str | None = None) -> Iterator[None]:
    """Turns what the client raises into ServerError or CollectionMissing."""
    try:
        yield
    except grpc.RpcError as error:
        code = error.code().name if isinstance(error, grpc.Call) else "UNKNOWN"
        detail = (error.details() if isinstance(error, grpc.Call) else None) or str(error)
        raise failure(url, collection, code, detail) from error
    except UnexpectedResponse as error:
        codes = {401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND"}
        detail = error.content.decode(errors="replace")[:300]
        raise failure(url, collection, codes.get(error.status_code or 0, str(error.status_code)), detail) from error
    except ResponseHandlingException as error:
        late = "timed out" in str(error).lower() or "timeout" in type(error.source).__name__.lower()
        raise failure(url, collection, "DEADLINE_EXCEEDED" if late else "UNAVAILABLE", str(error)) from error
    except ResourceExhaustedResponse as error:
        raise failure(url, collection, "RESOURCE_EXHAUSTED", str(error), error.retry_after_s) from error
    except ValueError as error:  # what the client's local mode raises for a collection that is not there
        if collection is None or "not found" not in str(error):
            raise
        raise failure(url, collection, "NOT_FOUND", str(error)) from error


def failure(url: str, collection: str | None, code: str, detail: str, retry_after: float = 0.0) -> IndexFailure:
    """What a gRPC or HTTP status code of the server at `url` means in words, and what to do about it."""
    detail = " ".join(detail.split())[:300]
    says = detail.lower()
    if code == "UNAUTHENTICATED":
        return ServerError(
            f"the Qdrant server at {url} refuses the API key ({detail}): set QDRANT_API_KEY to the server's key"
        )
    if code == "PERMISSION_DENIED":
        return ServerError(
            f"the Qdrant server at {url} refuses the API key for this ({detail}): a read-only key can search but not "
            "write; set QDRANT_API_KEY to the server's full key"
        )
    if any(words in says for words in DISK_FULL):
        return ServerError(
            f"the disk of the Qdrant server at {url} is full ({detail}): make room there, then give the same command "
            "again; what was acknowledged is safe"
        )
    if code == "NOT_FOUND" and "no point" in says:
        return ServerError(
            f"a point of {collection} at {url} was deleted meanwhile ({detail}): give the same command again"
        )
    if code == "NOT_FOUND" and collection is not None:
        return CollectionMissing(f"no collection {collection} at {url}: run `python -m ingest run --url {url}`")
    message = f"the Qdrant server at {url} failed with {code}: {detail}"
    if any(words in says for words in NODE_LOST):
        message = f"the Qdrant cluster at {url} cannot reach all of its data, a node is away ({detail})"
    elif code == "UNAVAILABLE":
        message = (
            f"no Qdrant server answers at {url} ({detail}): start it with `docker compose up -d`, "
            "or leave out --url and QDRANT_URL for the embedded index"
        )
    elif code == "DEADLINE_EXCEEDED":
        message = f"the Qdrant server at {url} took too long: raise QDRANT_TIMEOUT (seconds)"
    return ServerError(message, transient=code in TRANSIENT, retry_after=retry_after)
