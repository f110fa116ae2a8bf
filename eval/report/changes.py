"""The queries that changed most between two runs as one HTML file, with photos: the first hits of both side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eval.compare import Change, Comparison
from eval.report.misses import Exhibit, Photos, Records, exhibits
from eval.report.page import template
from eval.runs import Run
from search.sheet import OpenPhoto

TEMPLATE = "changes.html.j2"


@dataclass(frozen=True, slots=True)
class Pair:
    """One query in both runs."""

    change: Change
    a: Exhibit
    b: Exhibit


def changes_page(found: Comparison, records: Records, open_photo: OpenPhoto) -> str:
    """Return the whole page, with the photos inside it; it fetches nothing.

    `records` looks up images and captions. A photo that cannot be opened is replaced by the reason.
    """
    photos = Photos(open_photo)

    def of_run(run: Run, direction: str, changes: Sequence[Change]) -> list[Exhibit]:
        by_query = {result.query: result for result in run.results if result.direction == direction}
        return exhibits([by_query[change.query] for change in changes], records, photos)

    def pairs(direction: str, changes: Sequence[Change]) -> list[Pair]:
        in_a, in_b = (of_run(run, direction, changes) for run in (found.a, found.b))
        return [Pair(*sides) for sides in zip(changes, in_a, in_b, strict=True)]

    groups = [
        (f"{direction.name}: {title}", direction.name, pairs(direction.name, changes))
        for direction in found.directions
        for title, changes in (("improved most in B", direction.improved), ("worsened most in B", direction.worsened))
        if changes
    ]
    return template(TEMPLATE).render(runs={"A": found.a, "B": found.b}, groups=groups, photos=photos.used)
