"""The HNSW index of a collection on a server: defer building it, build it, and report what is pending."""

from __future__ import annotations

import time
from collections.abc import Callable

from qdrant_client import QdrantClient, models

from search.errors import ServerError
from search.index.server.cluster import short_of_copies
from search.index.server.connection import Connection

STALLED_SECONDS = 1200.0  # building one large segment shows no progress for minutes
PAUSE = 0.2  # seconds between checks
GREEN_CHECKS = 3  # how often in a row a collection must be green before its index counts as built
DEFAULT_INDEXING_THRESHOLD = 10_000  # KB; the server's default

# The key, in the collection's metadata, of the indexing threshold to restore. It is written in the same request that
# turns indexing off, so that the next run after a killed one finds it.
DEFERRED_THRESHOLD = "indexing_threshold_put_off"


def defer_indexing(connection: Connection, collection: str) -> None:
    """Turn indexing off until `build`, so that segments are not indexed again and again as they grow
    (https://qdrant.tech/documentation/operations/optimizer)."""
    info = _info(connection, collection)
    threshold = info.config.optimizer_config.indexing_threshold
    if threshold == 0:  # set by a killed run, by a run on another machine, or by the user
        return
    _set_threshold(connection, collection, 0, remember=DEFAULT_INDEXING_THRESHOLD if threshold is None else threshold)


def build(connection: Connection, collection: str, report: Callable[[int], None] | None = None) -> None:
    """Turn indexing on again if it was deferred, and wait until the server has nothing left to build.

    `report` is called with the number of indexed vectors whenever it has changed.

    Raises:
        ServerError: the server's optimizer failed, or makes no progress.
    """
    metadata = _info(connection, collection).config.metadata or {}
    if metadata.get(DEFERRED_THRESHOLD) is not None:
        _set_threshold(connection, collection, int(metadata[DEFERRED_THRESHOLD]), remember=None)
    # A collection turns yellow a moment after a write, so one green answer is not enough.
    green, indexed, last_progress, nudged = 0, -1, time.monotonic(), False
    while green < GREEN_CHECKS:
        info = _info(connection, collection)
        if info.status == models.CollectionStatus.GREY and not nudged:
            # Pending since a restart: any update starts the optimizer.
            nudged = connection.call(collection, lambda client: _nudge(client, collection))
        if info.status == models.CollectionStatus.RED:
            raise ServerError(f"the optimizer of {collection} at {connection.url} failed: see the server's log")
        if info.indexed_vectors_count != indexed:
            indexed, last_progress = info.indexed_vectors_count or 0, time.monotonic()
            if report:
                report(indexed)
        if time.monotonic() - last_progress > STALLED_SECONDS:
            raise ServerError(
                f"{collection} at {connection.url} has been building its index for {STALLED_SECONDS / 60:.0f} minutes "
                f"without progress ({indexed:,} vectors indexed): see the server's log"
            )
        green = green + 1 if info.status == models.CollectionStatus.GREEN else 0
        if green < GREEN_CHECKS:
            time.sleep(PAUSE)


def pending(connection: Connection, collection: str, *, exact: bool) -> str | None:
    """Return, in one line, why answers may be slow or incomplete (see `ReadIndex.pending`); None if they are not."""
    info = _info(connection, collection)
    reasons = [None if exact else _unfinished_index(info, collection), _missing_copies(connection, info, collection)]
    return "; ".join(filter(None, reasons)) or None


def _unfinished_index(info: models.CollectionInfo, collection: str) -> str | None:
    """Return why the HNSW index is not complete, or None if it is."""
    indexed = f"{info.indexed_vectors_count or 0:,} of {info.points_count or 0:,} vectors are indexed"
    slowly = f"{indexed}; the others are compared one by one, which is exact but slow"
    if info.status == models.CollectionStatus.RED:
        return f"the optimizer of {collection} failed: see the server's log"
    if (info.config.metadata or {}).get(DEFERRED_THRESHOLD) is not None:
        return (
            f"the index of {collection} is deferred while it is filled ({slowly}): `python -m ingest run` completes it"
        )
    if info.config.optimizer_config.indexing_threshold == 0:
        return f"indexing of {collection} is turned off ({slowly}): set its indexing_threshold"
    if info.status == models.CollectionStatus.GREY:
        return (
            f"the index of {collection} has been pending since a restart ({slowly}): any `python -m ingest run` builds "
            "it"
        )
    if info.status == models.CollectionStatus.YELLOW:
        return f"the index of {collection} is still being built ({slowly})"
    return None


def _missing_copies(connection: Connection, info: models.CollectionInfo, collection: str) -> str | None:
    """Return how many shards lack a copy, in one line; None if none does."""
    short, params = short_of_copies(connection, info, collection), info.config.params
    if not short:
        return None
    return (
        f"{short} of {params.shard_number or short} shards of {collection} have fewer copies in use than the "
        f"replication factor {params.replication_factor or 1}: a node is unavailable, was removed, or is being brought "
        "up to date"
    )


def _info(connection: Connection, collection: str) -> models.CollectionInfo:
    return connection.call(collection, lambda client: client.get_collection(collection))


def _nudge(client: QdrantClient, collection: str) -> bool:
    return client.update_collection(collection, optimizers_config=models.OptimizersConfigDiff())


def _set_threshold(connection: Connection, collection: str, threshold: int, *, remember: int | None) -> None:
    connection.call(
        collection,
        lambda client: client.update_collection(
            collection,
            optimizers_config=models.OptimizersConfigDiff(indexing_threshold=threshold),
            metadata={DEFERRED_THRESHOLD: remember},  # an update with null deletes the entry
        ),
    )
