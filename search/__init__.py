"""Search an index of captioned photos.

from search import Options, Part, Searcher

with Searcher.open() as searcher:
    for hit in searcher.text("a dog on a beach", k=5):
        print(hit.score, hit.record)
    for hit in searcher.search([Part(text="a beach"), Part(text="people", weight=-1)], Options(k=5, to="both")):
        print(hit.score, hit.record)
"""

from __future__ import annotations

import importlib

TYPE_CHECKING = False  # importing typing would take longer than the rest of this file

if TYPE_CHECKING:
    from search.hits import Hits
    from search.index import Where
    from search.query import Options, Part
    from search.records import Caption, Hit, Image
    from search.searcher import Searcher
    from search.settings import Settings

__all__ = ["Caption", "Hit", "Hits", "Image", "Options", "Part", "Searcher", "Settings", "Where"]

# Importing any module of this package runs this file, so each name is imported only when it is first used.
_MODULES = {
    "Caption": "search.records",
    "Hit": "search.records",
    "Hits": "search.hits",
    "Image": "search.records",
    "Options": "search.query",
    "Part": "search.query",
    "Searcher": "search.searcher",
    "Settings": "search.settings",
    "Where": "search.index",
}


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def main() -> None:
    """Run the command line, as the console script `coco-search`."""
    from search.cli.ending import end_after
    from search.cli.interrupt import run_command

    end_after(lambda: run_command("search.__main__"))
