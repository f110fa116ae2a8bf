"""The index of captioned photos, and how it is asked.

from search import Searcher

with Searcher.open() as searcher:
    for hit in searcher.text("a dog on a beach", k=5):
        print(hit.score, hit.record)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from search.records import Caption, Hit, Image
from search.settings import Settings

if TYPE_CHECKING:
    from search.retrieve import Searcher

__all__ = ["Caption", "Hit", "Image", "Searcher", "Settings"]


def __getattr__(name: str) -> Any:
    # Importing any module of this package runs this file, so what is heavy waits for its first use.
    if name == "Searcher":
        from search.retrieve import Searcher

        return Searcher
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
