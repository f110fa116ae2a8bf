"""Run many queries through the same steps together; an error of one does not affect the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from search.errors import CocoSearchError

T = TypeVar("T")
U = TypeVar("U")


def map_values(
    outcomes: Sequence[T | CocoSearchError], step: Callable[[list[T]], Sequence[U | CocoSearchError]]
) -> list[U | CocoSearchError]:
    """Return the outcomes in order, each value replaced by what `step` makes of it; errors remain.

    `step` takes all values in one call, and returns the outcome of each, a value or an error.
    """
    results = iter(step([outcome for outcome in outcomes if not isinstance(outcome, CocoSearchError)]))
    return [outcome if isinstance(outcome, CocoSearchError) else next(results) for outcome in outcomes]
