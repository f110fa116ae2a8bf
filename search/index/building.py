"""The HNSW index of a collection on a server: put off while much is written, built, and what is pending."""

from __future__ import annotations

import contextlib
import time

from qdrant_client import QdrantClient, models

from search.errors import ServerError
from search.index.reach import Connection

STALLED_SECONDS = 1200.0  # building one large segment shows no progress for minutes
PAUSE = 0.2  # seconds between looks
QUIET_CHECKS = 3  # how often in a row a collection must be green before its index counts as built
DEFAULT_INDEXING_THRESHOLD = 10_000  # KB; the server's own where a collection has none

# The indexing threshold to go back to, in the collection's metadata: it is written in the same request that turns
# indexing off, so whoever comes after a killed run finds it.
PUT_OFF = "indexing_threshold_put_off"


def put_off(connection: Connection, collection: str) -> None:
    """Turns indexing off until `build`, so that nothing is indexed that grows and is indexed again
    (https://qdrant.tech/documentation/operations/optimizer)."""
    found = _look(connection, collection)
    threshold = found.config.optimizer_config.indexing_threshold
    if threshold == 0:  # by a run that was killed, by another machine's, or by somebody who wants it so
        return
    _set_threshold(connection, collection, 0, remember=DEFAULT_INDEXING_THRESHOLD if threshold is None else threshold)


def build(connection: Connection, collection: str) -> None:
    """Turns indexing on again where it was put off, and waits until the server has nothing left to build.

    Raises:
        ServerError: the server's optimizer failed, or does not get on.
    """
    metadata = _look(connection, collection).config.metadata or {}
    if metadata.get(PUT_OFF) is not None:
        _set_threshold(connection, collection, int(metadata[PUT_OFF]), remember=None)
    # A collection turns yellow a moment after a write, so one green answer is not enough.
    green, indexed, moved, nudged = 0, -1, time.monotonic(), False
    while green < QUIET_CHECKS:
        found = _look(connection, collection)
        if found.status == models.CollectionStatus.GREY and not nudged:
            # Pending since a restart: any update sets it off.
            nudged = connection.ask(collection, lambda client: _nudge(client, collection))
        if found.status == models.CollectionStatus.RED:
            raise ServerError(f"the optimizer of {collection} at {connection.url} failed: see the server's log")
        if found.indexed_vectors_count != indexed:
            indexed, moved = found.indexed_vectors_count or 0, time.monotonic()
        if time.monotonic() - moved > STALLED_SECONDS:
            raise ServerError(
                f"{collection} at {connection.url} has been building its index for {STALLED_SECONDS / 60:.0f} minutes "
                f"without getting on ({indexed:,} vectors indexed): see the server's log"
            )
        green = green + 1 if found.status == models.CollectionStatus.GREEN else 0
        if green < QUIET_CHECKS:
            time.sleep(PAUSE)


def pending(connection: Connection, collection: str) -> str | None:
    """What keeps a collection from answering as it should, in one line; None where nothing does."""
    found = _look(connection, collection)
    indexed = f"{found.indexed_vectors_count or 0:,} of {found.points_count or 0:,} vectors are indexed"
    slowly = f"{indexed}; searching compares with the others one by one, which is exact but slow"
    if found.status == models.CollectionStatus.RED:
        return f"the optimizer of {collection} failed: see the server's log"
    if away := _copies_away(connection, collection):
        return f"{collection} lacks {away} of the copies of its shards: a node is away or is being brought up to date"
    if (found.config.metadata or {}).get(PUT_OFF) is not None:
        return (
            f"the index of {collection} is put off while it is filled ({slowly}): `python -m ingest run` ends with it"
        )
    if found.config.optimizer_config.indexing_threshold == 0:
        return f"indexing of {collection} is turned off ({slowly}): give it an indexing_threshold"
    if found.status == models.CollectionStatus.GREY:
        return f"the index of {collection} waits since a restart ({slowly}): any `python -m ingest run` sets it off"
    if found.status == models.CollectionStatus.YELLOW:
        return f"the index of {collection} is still being built ({slowly})"
    return None


def _copies_away(connection: Connection, collection: str) -> int:
    """How many copies of shards the cluster knows of but cannot use now."""
    # The client's local mode has no cluster, and a key for single collections may not look at it.
    with contextlib.suppress(NotImplementedError, ServerError):
        cluster = connection.ask(collection, lambda client: client.collection_cluster_info(collection))
        states = [shard.state for shard in cluster.local_shards] + [shard.state for shard in cluster.remote_shards]
        return sum(state != models.ReplicaState.ACTIVE for state in states)
    return 0


def _look(connection: Connection, collection: str) -> models.CollectionInfo:
    return connection.ask(collection, lambda client: client.get_collection(collection))


def _nudge(client: QdrantClient, collection: str) -> bool:
    return client.update_collection(collection, optimizers_config=models.OptimizersConfigDiff())


def _set_threshold(connection: Connection, collection: str, threshold: int, *, remember: int | None) -> None:
    connection.ask(
        collection,
        lambda client: client.update_collection(
            collection,
            optimizers_config=models.OptimizersConfigDiff(indexing_threshold=threshold),
            metadata={PUT_OFF: remember},  # an update with null removes the entry
        ),
    )
