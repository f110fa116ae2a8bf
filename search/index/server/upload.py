"""Write points to a Qdrant server in several concurrent requests of bounded size, each of which is acknowledged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Any

from qdrant_client import QdrantClient, models

from search.errors import ServerError
from search.index.points import Points
from search.index.server.connection import Connection

STREAMS = 4  # Qdrant recommends two to four: https://qdrant.tech/documentation/manage-data/bulk-upload/
POINTS_PER_REQUEST = 256  # likewise
BYTES_PER_REQUEST = 8 * 2**20  # a server accepts 32 MB by REST; wide vectors reach this first
ID_BYTES = 20  # of an id in decimal digits, with its comma
JSON_BYTES = 22  # of a float32 in decimal digits, with its comma

Call = Callable[[QdrantClient], list[models.UpdateResult]]


class Uploader:
    """Sends writes over a connection, and retries those that are not acknowledged.

    Each method returns once all of its writes are applied, in no particular order: ids are stable. If it raises, some
    may be applied.

    Raises:
        CollectionMissing: the collection does not exist.
        ServerError: the server refuses a request, or remains unavailable.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._pool = ThreadPoolExecutor(connection.streams, thread_name_prefix="upload")

    def upload(self, collection: str, points: Points) -> None:
        """Write points."""

        def upsert(batch: models.Batch) -> Call:
            return lambda client: [client.upsert(collection, batch, wait=True)]

        self._send_all(collection, map(upsert, requests(points, self._width)))

    def set_vectors(self, collection: str, points: Points) -> None:
        """Write the vectors of existing points."""

        def update(part: slice) -> Call:
            rows = zip(points.records[part], points.vectors[part].tolist(), strict=True)
            vectors = [models.PointVectors(id=record.id, vector=vector) for record, vector in rows]
            return lambda client: [client.update_vectors(collection, vectors, wait=True)]

        sizes = [self._width * points.vectors.shape[1]] * len(points)
        self._send_all(collection, map(update, parts(sizes)))

    def set_fields(self, collection: str, fields: Mapping[int, Mapping[str, Any]]) -> None:
        """Merge fields into the payloads of existing points, by id."""
        changes = [(point_id, dict(changed)) for point_id, changed in fields.items()]

        def update(part: slice) -> Call:
            operations: list[models.UpdateOperation] = [  # the server deletes fields that are None
                models.SetPayloadOperation(set_payload=models.SetPayload(payload=changed, points=[point_id]))
                for point_id, changed in changes[part]
            ]
            return lambda client: client.batch_update_points(collection, operations, wait=True)

        self._send_all(collection, map(update, parts(_size(changed) for _, changed in changes)))

    def delete(self, collection: str, ids: Sequence[int]) -> None:
        """Delete points; those that do not exist are ignored."""

        def delete(part: slice) -> Call:
            selected = models.PointIdsList(points=list(ids[part]))
            return lambda client: [client.delete(collection, selected, wait=True)]

        self._send_all(collection, map(delete, parts([ID_BYTES] * len(ids))))

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    @property
    def _width(self) -> int:
        """The bytes that one number of a vector takes in a request."""
        return 4 if self._connection.binary else JSON_BYTES

    def _send_all(self, collection: str, calls: Iterable[Call]) -> None:
        futures = [self._pool.submit(self._send, collection, call) for call in calls]
        wait(futures, return_when=FIRST_EXCEPTION)
        for request in futures:
            request.cancel()  # those that have not started when another failed
        wait(futures)
        for request in futures:
            if not request.cancelled():
                request.result()

    def _send(self, collection: str, call: Call) -> None:
        def acknowledged(client: QdrantClient) -> None:
            for result in call(client):
                if result.status != models.UpdateStatus.COMPLETED:  # in the server's log, but not readable yet
                    raise ServerError(
                        f"the Qdrant server at {self._connection.url} has not applied a write in time "
                        f"({result.status})",
                        transient=True,
                    )

        self._connection.call(collection, acknowledged)


def requests(points: Points, width: int) -> Iterator[models.Batch]:
    """Yield the points in order, in one batch for each request.

    `width`: the bytes that one number of a vector takes in a request.
    """
    payloads = [record.payload() for record in points.records]
    for part in parts(width * points.vectors.shape[1] + _size(payload) for payload in payloads):
        yield models.Batch(
            ids=[record.id for record in points.records[part]],
            vectors=points.vectors[part].tolist(),
            payloads=payloads[part],
        )


def parts(sizes: Iterable[int]) -> Iterator[slice]:
    """Yield the slice of points for each request: at least one point, at most POINTS_PER_REQUEST, about
    BYTES_PER_REQUEST. `sizes` are those of the points, in bytes."""
    start, end, total = 0, -1, 0
    for end, size in enumerate(sizes):
        if end > start and (total + size > BYTES_PER_REQUEST or end - start == POINTS_PER_REQUEST):
            yield slice(start, end)
            start, total = end, 0
        total += size
    if start <= end:
        yield slice(start, end + 1)


def _size(payload: dict[str, Any]) -> int:
    return len(str(payload).encode("utf-8", "surrogatepass"))
