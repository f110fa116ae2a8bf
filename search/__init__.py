"""The index of captioned photos, and how it is asked.

from search import Options, Part, Searcher

with Searcher.open() as searcher:
    for hit in searcher.text("a dog on a beach", k=5):
        print(hit.score, hit.record)
    for hit in searcher.search([Part(text="a beach"), Part(text="people", weight=-1)], Options(k=5, to="both")):
        print(hit.score, hit.record)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from search.records import Caption, Hit, Image
from search.settings import Settings

if TYPE_CHECKING:
    from search.index import Where
    from search.query import Options, Part
    from search.retrieve import Searcher

__all__ = ["Caption", "Hit", "Image", "Options", "Part", "Searcher", "Settings", "Where"]

# Importing any module of this package runs this file, so what is heavy waits for its first use.
_HEAVY = {
    "Options": "search.query",
    "Part": "search.query",
    "Searcher": "search.retrieve",
    "Where": "search.index",
}


def __getattr__(name: str) -> Any:
    if name in _HEAVY:
        return getattr(importlib.import_module(_HEAVY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
