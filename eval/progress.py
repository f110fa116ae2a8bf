"""Show how many queries are ranked, on stderr."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

from tqdm.auto import tqdm

Progress = Callable[[int], object]
"""Called with the number of queries ranked since the last call."""


def no_progress(queries: int) -> None:
    """Show nothing."""


def query_bar(name: str, queries: int) -> tqdm[NoReturn]:
    """Return a progress bar, to be closed or used as a context manager; its `update` is a `Progress`."""
    return tqdm(total=queries, desc=name, unit=" queries", dynamic_ncols=True)
