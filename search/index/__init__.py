"""The index: two collections of vectors behind one small protocol.

`open_index(settings)` opens the embedded engine (Qdrant Edge, a folder) or a Qdrant server; both keep one contract,
`search.index.protocol`.
"""

from __future__ import annotations

from search.index.points import MAX_ID, Batch, Points, usable
from search.index.protocol import (
    OVERSAMPLING,
    WORTH_PUTTING_OFF,
    CollectionInfo,
    Index,
    SearchParams,
    Where,
    put_off_if_many,
)
from search.index.spec import TRIAL, CollectionSpec, SplitSize, collection_name
from search.index.tuning import Quantization, Tuning
from search.settings import Settings

__all__ = [
    "MAX_ID",
    "OVERSAMPLING",
    "TRIAL",
    "WORTH_PUTTING_OFF",
    "Batch",
    "CollectionInfo",
    "CollectionSpec",
    "Index",
    "Points",
    "Quantization",
    "SearchParams",
    "SplitSize",
    "Tuning",
    "Where",
    "collection_name",
    "open_index",
    "put_off_if_many",
    "usable",
]


def open_index(settings: Settings, *, writing: bool = False) -> Index:
    """The index that the settings name: a Qdrant server where there is a URL, else the embedded engine.

    An embedded index that a running `python -m search serve` has open is read through that process.

    Args:
        writing: whether points will be written or deleted.

    Raises:
        ServerError: the server does not answer or refuses the API key.
        IndexBusy: `writing`, and a running server has the embedded index open.
    """
    if settings.qdrant_url:
        from search.index.server.index import connect

        return connect(settings)
    from search.index.relay.announce import find_running

    if running := find_running(settings.index_path):
        from search.index.relay.client import RemoteIndex, busy

        if writing:
            raise busy(settings.index_path, running)
        return RemoteIndex(settings.index_path, running)
    from search.index.edge.index import EdgeIndex

    return EdgeIndex(settings.index_path)
