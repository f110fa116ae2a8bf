"""Which nodes of a cluster answer, and how many copies of its shards that leaves.

Replica states alone do not tell: the copies on a node that was killed stay Active for the others until a write to them
fails (https://qdrant.tech/documentation/guides/distributed_deployment).
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

ASK_SECONDS = 1.0  # that a node has to answer; all are asked at once
TELEMETRY_SECONDS = 6.0  # a node waits ASK_SECONDS for each of the others, more than once if one hangs
FRESH_SECONDS = 5.0  # one command looks at several collections
# A Listener takes writes and answers no queries, because its operator wants it so.
IN_USE = {models.ReplicaState.ACTIVE, models.ReplicaState.ACTIVEREAD, models.ReplicaState.LISTENER}


@dataclass(frozen=True, slots=True)
class Health:
    """The URLs that do not answer, and the ids of the cluster's peers that do not."""

    silent: tuple[str, ...] = ()
    away: frozenset[int] = frozenset()


class Nodes:
    """The nodes that the settings name, to be asked how they are."""

    def __init__(self, settings: Settings) -> None:
        self._nodes = {url: Rest(url, settings) for url in settings.qdrant_urls}
        self._known: tuple[float, str, Health] | None = None

    def ready(self, urls: Iterable[str]) -> set[str]:
        """Return which of the nodes answer within ASK_SECONDS; a process that hangs still accepts connections.

        A refusal is an answer too, but not that the node is only just starting.
        """

        def ask(node: Rest) -> bool:
            with node.answer("GET", "/readyz", seconds=ASK_SECONDS):
                return True

        answers = _ask_all({url: self._nodes[url] for url in urls}, ask)
        return {url for url, answer in answers.items() if answer is not None}

    def health(self, connected: str) -> Health:
        """Ask every node for its view of the cluster; `connected` is the URL of the one that is in use.

        This takes milliseconds, a second if a node does not answer that the settings name, and up to TELEMETRY_SECONDS
        more if one hangs that they do not name.
        """
        if self._known and self._known[1] == connected and time.monotonic() < self._known[0] + FRESH_SECONDS:
            return self._known[2]
        answers = _ask_all(self._nodes, _getting("/cluster"))
        silent = tuple(url for url, answer in answers.items() if answer is None)
        views = {url: answer for url, answer in answers.items() if answer and answer.get("status") == "enabled"}
        away = missing_peers(views[connected], views.values()) if connected in views else frozenset()
        if away and len(away) != len(silent):  # QDRANT_URL does not name all of them: their fellow nodes know
            node = {connected: self._nodes[connected]}
            question = _getting(f"/cluster/telemetry?timeout={ASK_SECONDS:.0f}", TELEMETRY_SECONDS)
            telemetry = _ask_all(node, question, TELEMETRY_SECONDS)[connected]
            away = silent_peers(away, views[connected], views.values(), telemetry)
        health = Health(silent, away)
        self._known = time.monotonic(), connected, health
        return health


def missing_peers(view: Mapping[str, Any], views: Collection[Mapping[str, Any]]) -> frozenset[int]:
    """Return the ids of the peers in one node's `view` of the cluster whose own view is not among `views`.

    A view is the `result` of `GET /cluster`.
    """
    return frozenset(map(int, view["peers"])) - {int(each["peer_id"]) for each in views}


def silent_peers(
    missing: frozenset[int],
    view: Mapping[str, Any],
    views: Collection[Mapping[str, Any]],
    telemetry: Mapping[str, Any] | None,
) -> frozenset[int]:
    """Return those of the `missing` peers that do not answer the other nodes either.

    `telemetry` is the `result` of `GET /cluster/telemetry`, for which a node asks all others. Older versions of Qdrant
    lack it; then the messages tell that the nodes could not deliver to each other.
    """
    peers = ((telemetry or {}).get("cluster") or {}).get("peers")
    if peers:
        responsive = {int(peer) for peer, told in peers.items() if told["responsive"]}
        return missing - responsive
    undelivered = {address for each in views for address in each.get("message_send_failures", {})}
    return frozenset(peer for peer in missing if view["peers"][str(peer)]["uri"] in undelivered)


def shards_short_of_copies(placement: models.CollectionClusterInfo, factor: int, away: Collection[int]) -> int:
    """Count the shards with fewer than `factor` copies in use, on peers that are not `away`.

    A shard that is left without any copy is in no list of the placement, but in its `shard_count`.
    """
    copies = [(shard.shard_id, placement.peer_id, shard.state) for shard in placement.local_shards]
    copies += [(shard.shard_id, shard.peer_id, shard.state) for shard in placement.remote_shards]
    in_use = Counter(shard for shard, peer, state in copies if state in IN_USE and peer not in away)
    listed = {shard for shard, _, _ in copies}
    unlisted = max(0, placement.shard_count - len(listed))
    return unlisted + sum(in_use[shard] < factor for shard in listed)


def short_of_copies(connection: Connection, found: models.CollectionInfo, collection: str) -> int | None:
    """Count the shards of a collection that have fewer copies in use than its replication factor.

    None if the server does not say: the client's local mode has no cluster, and a key for single collections may not
    look at it.
    """
    with contextlib.suppress(NotImplementedError, ServerError):
        placement = connection.ask(collection, lambda client: client.collection_cluster_info(collection))
        factor = found.config.params.replication_factor or 1
        return shards_short_of_copies(placement, factor, connection.health().away)
    return None


def _getting(path: str, seconds: float = ASK_SECONDS) -> Callable[[Rest], Any]:
    return lambda node: node.result("GET", path, seconds=seconds)


def _ask_all(
    nodes: Mapping[str, Rest], question: Callable[[Rest], Any], seconds: float = ASK_SECONDS
) -> dict[str, Any]:
    """Return every node's answer, by URL: None if it does not answer in time, {} if it refuses the key for this."""
    answers: dict[str, Any] = dict.fromkeys(nodes)

    def ask(url: str, node: Rest) -> None:
        try:
            answers[url] = question(node)
        except ServerError as error:
            if not error.transient and error.__cause__ is None:
                answers[url] = {}

    # Looking up a name, or several addresses of one host, may take longer than the time-out: such threads are left.
    threads = [threading.Thread(target=ask, args=node, daemon=True) for node in nodes.items()]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return dict(answers)
