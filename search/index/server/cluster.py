"""Find the nodes of a cluster that do not answer, and count the shards that lack copies.

Replica states are not enough: the other nodes list the copies on a killed node as Active until a write to them fails
(https://qdrant.tech/documentation/guides/distributed_deployment).
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qdrant_client import models

from search.errors import ServerError
from search.index.server.rest import Rest
from search.settings import Settings

if TYPE_CHECKING:
    from search.index.server.connection import Connection

ANSWER_SECONDS = 1.0  # for each node to answer; requests to all nodes run in parallel
TELEMETRY_SECONDS = 6.0  # a node waits ANSWER_SECONDS for each of the others, more than once if one hangs
CACHE_SECONDS = 5.0  # one command looks at several collections
# A Listener takes writes but answers no queries, because its operator configured it so.
IN_USE = {models.ReplicaState.ACTIVE, models.ReplicaState.ACTIVEREAD, models.ReplicaState.LISTENER}


@dataclass(frozen=True, slots=True)
class Health:
    """The URLs whose nodes do not answer, and the ids of the cluster's peers that do not answer."""

    silent_nodes: tuple[str, ...] = ()
    silent_peers: frozenset[int] = frozenset()


class Nodes:
    """The nodes that the settings name."""

    def __init__(self, settings: Settings) -> None:
        self._nodes = {url: Rest(url, settings) for url in settings.qdrant_urls}
        self._cached: tuple[float, str, Health] | None = None

    def ready(self, urls: Iterable[str]) -> set[str]:
        """Return the URLs whose nodes answer within ANSWER_SECONDS; a process that hangs still accepts connections.

        A refusal counts as an answer; the answer that the node is still starting does not.
        """

        def is_ready(node: Rest) -> bool:
            with node.answer("GET", "/readyz", seconds=ANSWER_SECONDS):
                return True

        answers = _request_all({url: self._nodes[url] for url in urls}, is_ready)
        return {url for url, answer in answers.items() if answer is not None}

    def health(self, connected: str) -> Health:
        """Request every node's view of the cluster; `connected` is the URL of the node in use.

        This takes milliseconds, a second if a node that the settings name does not answer, and up to TELEMETRY_SECONDS
        more if a node that they do not name hangs.
        """
        if self._cached and self._cached[1] == connected and time.monotonic() < self._cached[0] + CACHE_SECONDS:
            return self._cached[2]
        answers = _request_all(self._nodes, _get("/cluster"))
        silent_urls = tuple(url for url, answer in answers.items() if answer is None)
        views = {url: answer for url, answer in answers.items() if answer and answer.get("status") == "enabled"}
        missing = missing_peers(views[connected], views.values()) if connected in views else frozenset()
        if missing and len(missing) != len(silent_urls):  # QDRANT_URL does not name them all: ask a node about the rest
            node = {connected: self._nodes[connected]}
            request = _get(f"/cluster/telemetry?timeout={ANSWER_SECONDS:.0f}", TELEMETRY_SECONDS)
            telemetry = _request_all(node, request, TELEMETRY_SECONDS)[connected]
            missing = silent_peers(missing, views[connected], views.values(), telemetry)
        health = Health(silent_urls, missing)
        self._cached = time.monotonic(), connected, health
        return health


def missing_peers(view: Mapping[str, Any], views: Collection[Mapping[str, Any]]) -> frozenset[int]:
    """Return the ids of the peers in one node's `view` of the cluster whose own view is not among `views`.

    A view is the `result` of `GET /cluster`.
    """
    return frozenset(map(int, view["peers"])) - {int(other["peer_id"]) for other in views}


def silent_peers(
    missing: frozenset[int],
    view: Mapping[str, Any],
    views: Collection[Mapping[str, Any]],
    telemetry: Mapping[str, Any] | None,
) -> frozenset[int]:
    """Return those of the `missing` peers that do not answer the other nodes either.

    `telemetry` is the `result` of `GET /cluster/telemetry`, which a node collects from all others. Older versions of
    Qdrant lack it; then the messages that the nodes failed to deliver to each other are used.
    """
    peers = ((telemetry or {}).get("cluster") or {}).get("peers")
    if peers:
        responsive = {int(peer) for peer, state in peers.items() if state["responsive"]}
        return missing - responsive
    undelivered = {address for other in views for address in other.get("message_send_failures", {})}
    return frozenset(peer for peer in missing if view["peers"][str(peer)]["uri"] in undelivered)


def shards_short_of_copies(placement: models.CollectionClusterInfo, factor: int, silent: Collection[int]) -> int:
    """Count the shards with fewer than `factor` copies in use on peers that are not `silent`.

    A shard without any copy is in none of the placement's lists, but counts in its `shard_count`.
    """
    copies = [(shard.shard_id, placement.peer_id, shard.state) for shard in placement.local_shards]
    copies += [(shard.shard_id, shard.peer_id, shard.state) for shard in placement.remote_shards]
    in_use = Counter(shard for shard, peer, state in copies if state in IN_USE and peer not in silent)
    listed = {shard for shard, _, _ in copies}
    unlisted = max(0, placement.shard_count - len(listed))
    return unlisted + sum(in_use[shard] < factor for shard in listed)


def short_of_copies(connection: Connection, info: models.CollectionInfo, collection: str) -> int | None:
    """Count the shards of a collection that have fewer copies in use than its replication factor.

    Return None if the server does not report it: the client's local mode has no cluster, and a key for single
    collections gives no access to it.
    """
    with contextlib.suppress(NotImplementedError, ServerError):
        placement = connection.call(collection, lambda client: client.collection_cluster_info(collection))
        factor = info.config.params.replication_factor or 1
        return shards_short_of_copies(placement, factor, connection.health().silent_peers)
    return None


def _get(path: str, seconds: float = ANSWER_SECONDS) -> Callable[[Rest], Any]:
    return lambda node: node.result("GET", path, seconds=seconds)


def _request_all(
    nodes: Mapping[str, Rest], request: Callable[[Rest], Any], seconds: float = ANSWER_SECONDS
) -> dict[str, Any]:
    """Return every node's answer, by URL: None if it does not answer in time, {} if it refuses the key."""
    answers: dict[str, Any] = dict.fromkeys(nodes)

    def store_answer(url: str, node: Rest) -> None:
        try:
            answers[url] = request(node)
        except ServerError as error:
            if not error.transient and error.__cause__ is None:
                answers[url] = {}

    # Name resolution, or several addresses of one host, may take longer than the timeout: such threads are abandoned.
    threads = [threading.Thread(target=store_answer, args=node, daemon=True) for node in nodes.items()]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return dict(answers)
