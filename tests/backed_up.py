"""An embedded index that tests back up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from test_copy import fill

from search.index import CollectionSpec
from search.index.edge.index import EdgeIndex

MakeSpec = Callable[..., CollectionSpec]


def two_data_sets(folder: Path, make_spec: MakeSpec) -> EdgeIndex:
    """Return a closed index of two data sets, three collections."""
    index = EdgeIndex(folder / "filled")
    for spec in (make_spec(), make_spec(kind="captions"), make_spec(dataset="other")):
        fill(index, spec, 40)
    index.close()
    return index
