"""The answer to a query: a list of hits that a notebook shows as a contact sheet."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, SupportsIndex, overload

from search.records import Hit

if TYPE_CHECKING:
    from PIL import Image

SHOWN = 50  # hits in a contact sheet


class Hits(list[Hit]):
    """A list of hits, best first. It also remembers how to open their photos, of captions while the index is open.

    Slices are `Hits`, too, and their hits keep their ranks. Copies and pickles hold only the hits.
    """

    def __init__(self, hits: Iterable[Hit] = (), open_photo: Callable[[Hit], Image.Image] | None = None) -> None:
        super().__init__(hits)
        self._open_photo = open_photo

    @overload
    def __getitem__(self, place: SupportsIndex) -> Hit: ...
    @overload
    def __getitem__(self, place: slice) -> Hits: ...
    def __getitem__(self, place: SupportsIndex | slice) -> Hit | Hits:
        if isinstance(place, slice):
            return Hits(super().__getitem__(place), self._open_photo)
        return super().__getitem__(place)

    def __reduce__(self) -> tuple[type[Hits], tuple[list[Hit]]]:
        return Hits, (list(self),)

    def as_json(self) -> list[dict[str, Any]]:
        """Return the hits as JSON objects, as `--json` prints them."""
        from search.cli.show import as_json

        return as_json(self)

    def _repr_html_(self) -> str:
        """Return a contact sheet of the first hits, for a notebook."""
        from search.sheet import notebook_sheet

        return notebook_sheet(self[:SHOWN], len(self), self._open_photo)
