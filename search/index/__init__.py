"""The index: two collections of vectors behind one small protocol, `search.index.protocol`.

`open_index` opens the embedded engine (Qdrant Edge, a folder) or a Qdrant server to read it, `open_for_writing` to read
and write it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from search.index.names import TRIAL, collection_name, only_dataset
from search.index.points import MAX_ID, Batch, Points, check_id, usable
from search.index.protocol import (
    DEFER_INDEXING_FROM,
    OVERSAMPLING,
    CollectionInfo,
    Index,
    ReadIndex,
    SearchParams,
    defer_indexing_if_many,
)
from search.index.sources import Source
from search.index.spec import (
    CollectionSpec,
    CosineSpec,
    HubnessSpec,
    SplitSize,
    short_model_name,
)
from search.index.tuning import Quantization, Tuning
from search.index.where import Where, Words
from search.settings import Settings

if TYPE_CHECKING:
    from search.index.relay.announce import Running

__all__ = [
    "DEFER_INDEXING_FROM",
    "MAX_ID",
    "OVERSAMPLING",
    "TRIAL",
    "Batch",
    "CollectionInfo",
    "CollectionSpec",
    "CosineSpec",
    "HubnessSpec",
    "Index",
    "Points",
    "Quantization",
    "ReadIndex",
    "SearchParams",
    "Source",
    "SplitSize",
    "Tuning",
    "Where",
    "Words",
    "check_id",
    "collection_name",
    "defer_indexing_if_many",
    "only_dataset",
    "open_for_writing",
    "open_index",
    "short_model_name",
    "usable",
]


def open_index(settings: Settings, *, until_exit: bool = False) -> ReadIndex:
    """Open the index that the settings name, to read it: a Qdrant server if they have a URL, else the embedded engine.

    If a running `python -m search serve` has an embedded index open, it is read through that process. `until_exit`
    leaves an embedded index open when it is closed; see `EdgeIndex`.

    Raises:
        ServerError: the server does not answer or refuses the API key.
    """
    if running := _running(settings):
        from search.index.relay.client import RemoteIndex

        return RemoteIndex(settings.index_path, running)
    return _open(settings, until_exit=until_exit)


def open_for_writing(settings: Settings) -> Index:
    """Open the index that the settings name, to write points or delete them.

    Raises:
        ServerError: the server does not answer or refuses the API key.
        IndexBusy: a running `python -m search serve` has the embedded index open.
    """
    if running := _running(settings):
        from search.index.relay.announce import busy_error

        raise busy_error(settings.index_path, running)
    return _open(settings)


def _running(settings: Settings) -> Running | None:
    """Return the server process that has the embedded index open, or None."""
    if settings.qdrant_url:
        return None
    from search.index.relay.announce import find_running

    return find_running(settings.index_path)


def _open(settings: Settings, *, until_exit: bool = False) -> Index:
    if settings.qdrant_url:
        from search.index.server.index import connect

        return connect(settings)
    from search.index.edge.index import EdgeIndex

    return EdgeIndex(settings.index_path, until_exit=until_exit)
