"""Writing points to a Qdrant server: requests of a bounded size, several under way, each acknowledged."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

from qdrant_client import QdrantClient, models

from search.errors import ServerError
from search.index import Points
from search.index.reach import Connection

STREAMS = 4  # Qdrant recommends two to four: https://qdrant.tech/documentation/manage-data/bulk-upload/
POINTS_PER_REQUEST = 256  # likewise
BYTES_PER_REQUEST = 8 * 2**20  # a server takes 32 MB by REST; wide vectors reach this before so many points
JSON_BYTES = 22  # of a float32 written out as decimal digits, with its comma


class Uploader:
    """Sends points over a connection; a request that is not acknowledged is sent again."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._pool = ThreadPoolExecutor(connection.streams, thread_name_prefix="upload")

    def upload(self, collection: str, points: Points) -> None:
        """Writes points, in no particular order: ids are stable. When it returns, all are applied; when it raises, some
        may be.

        Raises:
            CollectionMissing: there is no such collection.
            ServerError: the server refuses a request, or stays away.
        """
        width = 4 if self._connection.binary else JSON_BYTES
        sent = [self._pool.submit(self._send, collection, batch) for batch in requests(points, width)]
        wait(sent, return_when=FIRST_EXCEPTION)
        for request in sent:
            request.cancel()  # what has not begun when another failed
        wait(sent)
        for request in sent:
            if not request.cancelled():
                request.result()

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _send(self, collection: str, batch: models.Batch) -> None:
        def call(client: QdrantClient) -> None:
            status = client.upsert(collection, batch, wait=True).status
            if status != models.UpdateStatus.COMPLETED:  # it is in the server's log, but nobody can read it yet
                raise ServerError(
                    f"the Qdrant server at {self._connection.url} has not applied a write in time ({status})",
                    transient=True,
                )

        self._connection.ask(collection, call)


def requests(points: Points, width: int) -> Iterator[models.Batch]:
    """The points in order, at most POINTS_PER_REQUEST and about BYTES_PER_REQUEST at a time, at least one.

    `width`: bytes that one number of a vector takes on its way.
    """
    payloads = [record.payload() for record in points.records]
    start, size = 0, 0
    for end, payload in enumerate(payloads):
        grown = size + width * points.vectors.shape[1] + len(str(payload).encode())
        if end > start and (grown > BYTES_PER_REQUEST or end - start == POINTS_PER_REQUEST):
            yield _batch(points, payloads, start, end)
            start, grown = end, grown - size
        size = grown
    if payloads:
        yield _batch(points, payloads, start, len(payloads))


def _batch(points: Points, payloads: list[dict[str, object]], start: int, end: int) -> models.Batch:
    return models.Batch(
        ids=[record.id for record in points.records[start:end]],
        vectors=points.vectors[start:end].tolist(),
        payloads=payloads[start:end],
    )
