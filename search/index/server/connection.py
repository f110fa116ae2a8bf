"""Connect to a Qdrant server, and call it with retries."""

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

from search.errors import CocoSearchError, IndexFailure, ServerError
from search.index import retry
from search.index.server.cluster import Health, Nodes
from search.index.server.failures import CONNECT_SECONDS, not_qdrant, translate_errors
from search.settings import Settings, is_loopback

OLDEST = (1, 16)  # the first with collection metadata
# A channel detects a host that has vanished, and reconnects to it within seconds instead of minutes.
_CHANNEL = {
    "grpc.initial_reconnect_backoff_ms": 250,
    "grpc.max_reconnect_backoff_ms": 2000,
    "grpc.keepalive_time_ms": 20_000,
    "grpc.keepalive_timeout_ms": 10_000,
}

T = TypeVar("T")


class Connection:
    """A client of one node, replaced by that of another node if the first no longer answers.

    `streams`: the number of concurrent uploads; `binary`: vectors are sent as four bytes a number, not as JSON;
    `find_another` connects to a node that answers if this one no longer does; `nodes` are all that the settings name.
    """

    def __init__(
        self,
        client: QdrantClient,
        url: str,
        engine: str,
        *,
        streams: int = 1,
        binary: bool = True,
        find_another: Callable[[], Connection] | None = None,
        nodes: Nodes | None = None,
    ) -> None:
        self.client, self.url, self.engine = client, url, engine
        self.streams, self.binary = streams, binary
        self._find_another, self._switching = find_another, threading.Lock()
        self._nodes, self._notice = nodes, retry.Notice()
        self._closed = False

    def health(self) -> Health:
        """Return the nodes that do not answer at present."""
        return self._nodes.health(self.url) if self._nodes else Health()

    def call(self, collection: str | None, request: Callable[[QdrantClient], T]) -> T:
        """Return the result of `request`, which is retried while the server is unavailable or overloaded.

        Raises:
            CollectionMissing: the collection does not exist, or no longer exists.
            ServerError: the server refuses the request, or remains unavailable.
            IndexFailure: this connection is closed.
        """
        if self._closed:
            raise IndexFailure(f"the connection to {self.url} is closed: open the index again")

        def attempt() -> T:
            with translate_errors(self.url, collection):
                return request(self.client)

        return retry.while_unavailable(attempt, self._before_retry)

    def close(self) -> None:
        self._closed = True
        self.client.close()

    def _before_retry(self, error: ServerError, seconds: float) -> None:
        self._notice(error, seconds)
        if self._find_another is not None and self._nodes is not None:
            with self._switching:
                if not self._nodes.ready([self.url]):
                    self._switch(self._find_another)

    def _switch(self, find_another: Callable[[], Connection]) -> None:
        with contextlib.suppress(ServerError):  # no other node answers either: the next retry looks again
            other = find_another()
            if other.url != self.url:
                print(f"note: {self.url} does not answer; continuing with {other.url}", file=sys.stderr)
            # The old client is not closed, since other threads may be using it.
            self.client, self.url, self.engine, self.binary = other.client, other.url, other.engine, other.binary


def open_connection(settings: Settings, streams: int) -> Connection:
    """Connect to the server that `settings.qdrant_url` names, over gRPC, or over REST if gRPC is not reachable.

    A read-only API key is enough. Of several nodes, the first that answers is used, and another one if that fails. If
    none answers, retry for FIRST_CONTACT_SECONDS: the server may have been started a moment ago.

    Raises:
        ServerError: nothing answers, it is not Qdrant or its version is too old, it refuses the API key, or its
            certificate cannot be verified.
    """
    urls = settings.qdrant_urls
    for url in urls:
        host, _ = address_of(url)
        if settings.qdrant_api_key and url.startswith("http://") and not is_loopback(host):
            print(f"warning: the API key is sent unencrypted to {host}: use https", file=sys.stderr)
    nodes = Nodes(settings)
    find_another = partial(_connect_to_first, urls, settings, streams, nodes) if len(urls) > 1 else None
    connect = partial(_connect_to_first, urls, settings, streams, nodes, find_another)
    return retry.while_unavailable(connect, retry.Notice(), retry.FIRST_CONTACT_SECONDS)


def _connect_to_first(
    urls: Sequence[str],
    settings: Settings,
    streams: int,
    nodes: Nodes,
    find_another: Callable[[], Connection] | None = None,
) -> Connection:
    """Connect to the first of these nodes that answers."""
    failures: list[ServerError] = []
    for url in _ready_first(urls, nodes):
        try:
            client, engine, binary = _open_client(url, settings)
        except ServerError as error:
            failures.append(error)
        else:
            return Connection(
                client, url, engine, streams=streams, binary=binary, find_another=find_another, nodes=nodes
            )
    # A permanent failure says more than a node that is unavailable.
    raise next((failure for failure in failures if not failure.transient), failures[0])


def _ready_first(urls: Sequence[str], nodes: Nodes) -> list[str]:
    """Sort nodes that do not answer to the end: a request to one that hangs or has vanished takes QDRANT_TIMEOUT."""
    if len(urls) == 1:
        return list(urls)
    ready = nodes.ready(urls)
    return sorted(urls, key=lambda url: url not in ready)


def _open_client(url: str, settings: Settings) -> tuple[QdrantClient, str, bool]:
    """Return a client, the server's name and version, and whether vectors are sent in binary."""
    host, http_port = address_of(url)
    grpc_port = settings.qdrant_grpc_port or (6334 if http_port == 443 else http_port + 1)

    def client(prefer_grpc: bool) -> QdrantClient:
        with python_warnings.catch_warnings():
            python_warnings.simplefilter("ignore", UserWarning)  # of an unencrypted key: see `open_connection`
            return QdrantClient(
                url=url,
                port=http_port,
                grpc_port=grpc_port,
                prefer_grpc=prefer_grpc,
                grpc_options=dict(_CHANNEL),
                api_key=settings.qdrant_api_key or None,
                timeout=settings.qdrant_timeout,
                check_compatibility=False,  # see `check_versions`
                verify=urlsplit(url).scheme != "http",  # http needs no certificates; reading them takes 0.04 s
            )

    both = client(prefer_grpc=True)  # of REST and gRPC
    try:
        with translate_errors(url):
            server = both.http.service_api.root().version
            both.http.collections_api.get_collections()  # a wrong API key shows here
        check_versions(url, server)
    except ValueError as error:  # an answer that is not JSON
        both.close()
        raise not_qdrant(url) from error
    except CocoSearchError:
        both.close()
        raise
    if not listens(host, grpc_port):
        both.close()
        rest = client(prefer_grpc=False)
        return rest, f"qdrant {server}, REST (nothing listens on the gRPC port {grpc_port})", False
    with translate_errors(url):
        both.get_collections()
    return both, f"qdrant {server}, gRPC", True


def check_versions(url: str, server: str) -> None:
    """Warn if client and server are more than one minor version apart, which Qdrant does not test.

    Raises:
        ServerError: the server is older than OLDEST.
    """
    ours = version("qdrant-client")
    their_minor, our_minor = _minor(server), _minor(ours)
    if their_minor is None or our_minor is None:  # a development build
        return
    if their_minor < OLDEST:
        raise ServerError(f"the server at {url} is Qdrant {server}: {'.'.join(map(str, OLDEST))} or newer is required")
    if their_minor[0] != our_minor[0] or abs(their_minor[1] - our_minor[1]) > 1:
        print(
            f"warning: the server at {url} is Qdrant {server}, the client is {ours}: more than one minor version apart",
            file=sys.stderr,
        )


def address_of(url: str) -> tuple[str, int]:
    """Return the host and the HTTP port of a URL."""
    address = urlsplit(url)
    return address.hostname or "", address.port or (443 if address.scheme == "https" else 6333)


def _minor(number: str) -> tuple[int, int] | None:
    match = re.match(r"(\d+)\.(\d+)", number)
    return (int(match[1]), int(match[2])) if match else None


def listens(host: str, port: int) -> bool:
    """Return whether something accepts connections at this address."""
    try:
        with socket.create_connection((host, port), timeout=CONNECT_SECONDS):
            return True
    except OSError:
        return False
