"""The HNSW index of a collection on a server: put off while much is written, built, and what is pending."""

from __future__ import annotations

import time

from qdrant_client import QdrantClient, models

from search.errors import ServerError
from search.index.server.cluster import short_of_copies
from search.index.server.connection import Connection

STALLED_SECONDS = 1200.0  # building one large segment shows no progress for minutes
PAUSE = 0.2  # seconds between looks
QUIET_CHECKS = 3  # how often in a row a collection must be green before its index counts as built
DEFAULT_INDEXING_THRESHOLD = 10_000  # KB; the server's own where a collection has none

# The indexing threshold to go back to, in the collection's metadata: it is written in the same request that turns
# indexing off, so whoever comes after a killed run finds it.
DEFERRED_THRESHOLD = "indexing_threshold_put_off"


def defer_indexing(connection: Connection, collection: str) -> None:
    """Turn indexing off until `build`, so that nothing is indexed that grows and is indexed again
    (https://qdrant.tech/documentation/operations/optimizer)."""
    found = _look(connection, collection)
    threshold = found.config.optimizer_config.indexing_threshold
    if threshold == 0:  # by a run that was killed, by another machine's, or by somebody who wants it so
        return
    _set_threshold(connection, collection, 0, remember=DEFAULT_INDEXING_THRESHOLD if threshold is None else threshold)


def build(connection: Connection, collection: str) -> None:
    """Turn indexing on again if it was put off, and wait until the server has nothing left to build.

    Raises:
        ServerError: the server's optimizer failed, or makes no progress.
    """
    metadata = _look(connection, collection).config.metadata or {}
    if metadata.get(DEFERRED_THRESHOLD) is not None:
        _set_threshold(connection, collection, int(metadata[DEFERRED_THRESHOLD]), remember=None)
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
                f"without progress ({indexed:,} vectors indexed): see the server's log"
            )
        green = green + 1 if found.status == models.CollectionStatus.GREEN else 0
        if green < QUIET_CHECKS:
            time.sleep(PAUSE)


def pending(connection: Connection, collection: str, *, exact: bool) -> str | None:
    """Return what keeps a collection from answering as it should, in one line; None if nothing does."""
    found = _look(connection, collection)
    reasons = [None if exact else _unfinished(found, collection), _lacking(connection, found, collection)]
    return "; ".join(filter(None, reasons)) or None


def _unfinished(found: models.CollectionInfo, collection: str) -> str | None:
    """Return why the HNSW index does not hold everything."""
    indexed = f"{found.indexed_vectors_count or 0:,} of {found.points_count or 0:,} vectors are indexed"
    slowly = f"{indexed}; searching compares with the others one by one, which is exact but slow"
    if found.status == models.CollectionStatus.RED:
        return f"the optimizer of {collection} failed: see the server's log"
    if (found.config.metadata or {}).get(DEFERRED_THRESHOLD) is not None:
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


def _lacking(connection: Connection, found: models.CollectionInfo, collection: str) -> str | None:
    """Return how many shards lack a copy."""
    short, params = short_of_copies(connection, found, collection), found.config.params
    if not short:
        return None
    return (
        f"{short} of {params.shard_number or short} shards of {collection} have fewer copies in use than the "
        f"replication factor {params.replication_factor or 1}: a node is away, was removed, or is being brought up to "
        "date"
    )


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
            metadata={DEFERRED_THRESHOLD: remember},  # an update with null removes the entry
        ),
    )
