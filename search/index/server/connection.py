"""Reach a Qdrant server: the connection, and retrying through it."""

from __future__ import annotations

import contextlib
import re
import socket
import sys
import threading
import warnings as python_warnings
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from typing import TypeVar
from urllib.parse import urlsplit

from qdrant_client import QdrantClient

from search.errors import ServerError
from search.index.server import retry
from search.index.server.cluster import Health, Nodes
from search.index.server.refusals import CONNECT_SECONDS, not_qdrant, translated
from search.settings import Settings, is_loopback

OLDEST = (1, 16)  # the first with collection metadata
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
    as JSON; `again` finds a node that answers when this one no longer does; `nodes` are all that the settings name.
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
        nodes: Nodes | None = None,
    ) -> None:
        self.client, self.url, self.engine = client, url, engine
        self.streams, self.binary = streams, binary
        self._again, self._moving = again, threading.Lock()
        self._nodes, self._notice = nodes, retry.Notice()

    def health(self) -> Health:
        """Return which nodes do not answer just now."""
        return self._nodes.health(self.url) if self._nodes else Health()

    def ask(self, collection: str | None, call: Callable[[QdrantClient], T]) -> T:
        """Return what `call` gets from the client; it is called again while the server is away or overloaded.

        Raises:
            CollectionMissing: there is no such collection, or no longer.
            ServerError: the server refuses, or stays away.
        """

        def attempt() -> T:
            with translated(self.url, collection):
                return call(self.client)

        return retry.patiently(attempt, self._waiting)

    def _waiting(self, error: ServerError) -> None:
        self._notice(error)
        if self._again is not None and self._nodes is not None:
            with self._moving:
                if not self._nodes.ready([self.url]):
                    self._move(self._again)

    def _move(self, again: Callable[[], Connection]) -> None:
        with contextlib.suppress(ServerError):  # no other node answers either: it is tried again later
            other = again()
            if other.url != self.url:
                print(f"note: {self.url} does not answer, {other.url} does", file=sys.stderr)
            # The old client is not closed, since other threads may be asking it.
            self.client, self.url, self.engine, self.binary = other.client, other.url, other.engine, other.binary


def reach(settings: Settings, streams: int) -> Connection:
    """Connect to the server that `settings.qdrant_url` names, by gRPC, or by REST if gRPC is not reachable.

    A read-only API key is enough. Of several nodes it is the first that answers, and another one when that dies. A
    server that does not answer yet is waited for, for FIRST_CONTACT_SECONDS: it may have been started a moment ago.

    Raises:
        ServerError: nothing answers there, it is not Qdrant or too old a version, it refuses the API key, or its
            certificate cannot be verified.
    """
    urls = settings.qdrant_urls
    for url in urls:
        host, _ = address_of(url)
        if settings.qdrant_api_key and url.startswith("http://") and not is_loopback(host):
            print(f"warning: the API key travels unencrypted to {host}: use https", file=sys.stderr)
    nodes = Nodes(settings)
    again = partial(_first, urls, settings, streams, nodes) if len(urls) > 1 else None
    seconds, notice = retry.FIRST_CONTACT_SECONDS, retry.Notice()
    return retry.patiently(
        lambda: _first(urls, settings, streams, nodes, again), lambda error: notice(error, seconds), seconds
    )


def _first(
    urls: Sequence[str],
    settings: Settings,
    streams: int,
    nodes: Nodes,
    again: Callable[[], Connection] | None = None,
) -> Connection:
    """Connect to the first node that answers, in their order."""
    failures: list[ServerError] = []
    for url in _ready_first(urls, nodes):
        try:
            client, engine, binary = _reach_one(url, settings)
        except ServerError as error:
            failures.append(error)
        else:
            return Connection(client, url, engine, streams=streams, binary=binary, again=again, nodes=nodes)
    # What retrying does not mend says more than a node that is away.
    raise next((failure for failure in failures if not failure.transient), failures[0])


def _ready_first(urls: Sequence[str], nodes: Nodes) -> list[str]:
    """Put the nodes that do not answer last: asking one that hangs or has vanished takes QDRANT_TIMEOUT."""
    if len(urls) == 1:
        return list(urls)
    ready = nodes.ready(urls)
    return sorted(urls, key=lambda url: url not in ready)


def _reach_one(url: str, settings: Settings) -> tuple[QdrantClient, str, bool]:
    """Return a client, the server's name and version, and whether vectors travel in binary."""
    host, http_port = address_of(url)
    grpc_port = settings.qdrant_grpc_port or (6334 if http_port == 443 else http_port + 1)
    key = settings.qdrant_api_key.get_secret_value() if settings.qdrant_api_key else None

    def client(prefer_grpc: bool) -> QdrantClient:
        with python_warnings.catch_warnings():
            python_warnings.simplefilter("ignore", UserWarning)  # of the key, which we warn of
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
    except ValueError as error:  # an answer that is not JSON
        raise not_qdrant(url) from error
    check_versions(url, server)
    if not listens(host, grpc_port):
        return rest, f"qdrant {server}, REST (nothing listens on the gRPC port {grpc_port})", False
    rest.close()
    fast = client(prefer_grpc=True)
    with translated(url):
        fast.get_collections()
    return fast, f"qdrant {server}, gRPC", True


def check_versions(url: str, server: str) -> None:
    """Warn if client and server are more than one minor version apart, which Qdrant does not test.

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


def address_of(url: str) -> tuple[str, int]:
    """Return the host and the HTTP port."""
    address = urlsplit(url)
    return address.hostname or "", address.port or (443 if address.scheme == "https" else 6333)


def _minor(number: str) -> tuple[int, int] | None:
    found = re.match(r"(\d+)\.(\d+)", number)
    return (int(found[1]), int(found[2])) if found else None


def listens(host: str, port: int) -> bool:
    """Return whether something accepts connections there."""
    try:
        with socket.create_connection((host, port), timeout=CONNECT_SECONDS):
            return True
    except OSError:
        return False
