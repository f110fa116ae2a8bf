"""Format hits for a terminal: a table that fits its width, with colour and links if it shows them."""

from __future__ import annotations

import os
import shutil
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TextIO

from search.cli.show import by_kind
from search.records import Hit
from search.text import shown

WIDTH_WITHOUT_TERMINAL = 120
JOINERS = "\u200c\u200d"  # invisible, but part of Persian words and of emoji


@dataclass(frozen=True, slots=True)
class Style:
    """The width of a line in columns, and whether escape sequences (colour, links) may be written."""

    width: int = WIDTH_WITHOUT_TERMINAL
    escapes: bool = False

    @classmethod
    def of(cls, stream: TextIO) -> Style:
        """Return the style of a stream: escape sequences only on a terminal, without `NO_COLOR` and `TERM=dumb`."""
        plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
        width = shutil.get_terminal_size((WIDTH_WITHOUT_TERMINAL, 0)).columns
        return cls(width, escapes=stream.isatty() and not plain)

    def bold(self, text: str) -> str:
        return f"\x1b[1m{text}\x1b[0m" if self.escapes else text

    def dim(self, text: str) -> str:
        return f"\x1b[2m{text}\x1b[0m" if self.escapes else text

    def link(self, text: str, address: str | None) -> str:
        """Return `text` as a hyperlink (OSC 8) if there is an address that can be written into one."""
        if not self.escapes or not address or not address.isascii() or not address.isprintable():
            return text
        return f"\x1b]8;;{address}\x1b\\{text}\x1b]8;;\x1b\\"


@dataclass(frozen=True, slots=True)
class Place:
    """Where the photo of a hit is: its path, and the address that a terminal opens, if there is one."""

    path: str
    address: str | None = None


def table(
    hits: Sequence[Hit],
    style: Style | None = None,
    *,
    places: Mapping[int, Place] | None = None,
    files: bool = False,
) -> str:
    """Return hits as aligned text, in one table for images and one for captions.

    Args:
        style: of the stream that the table is written to.
        places: by image id; the ids link to these addresses.
        files: write the path of each photo into a line of its own, which is never shortened.
    """
    style = style or Style()
    groups = [_table(group, style, places or {}, files=files) for _, group in by_kind(hits)]
    return "\n\n".join(groups) or "nothing found"


def _table(hits: Sequence[Hit], style: Style, places: Mapping[int, Place], *, files: bool) -> str:
    scores_of: dict[str, Callable[[Hit], float | None]] = {"score": lambda hit: hit.score}
    if any(hit.uncorrected is not None for hit in hits):
        scores_of["cosine"] = lambda hit: hit.cosine
    if any(hit.evidence for hit in hits):
        scores_of["caption's"] = lambda hit: hit.evidence.score if hit.evidence else None
    head = ["rank", *scores_of, "image"]
    rows = []
    for hit in hits:
        scores = [score_of(hit) for score_of in scores_of.values()]
        cells = ("-" if score is None else f"{score:.4f}" for score in scores)
        rows.append([str(hit.rank), *cells, str(hit.image_id) if hit.record else ""])
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    indent = sum(widths) + 2 * len(widths)
    lines = [style.bold(_aligned(head, widths) + "caption")]
    for (*numbers, image), hit in zip(rows, hits, strict=True):
        place = places.get(hit.image_id)
        left = style.dim(_aligned(numbers, widths))
        link = " " * (widths[-1] - len(image)) + style.link(image, place.address if place else None)
        also = f" (+{len(hit.also)})" if hit.also else ""
        lines.append(f"{left}{link}  {cut(one_line(hit.text), style.width - indent - len(also))}{also}")
        if files and place:
            lines.append(" " * indent + style.dim(one_line(place.path)))
    return "\n".join(lines)


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "".join(f"{cell:>{width}}  " for cell, width in zip(cells, widths, strict=False))


def one_line(text: str) -> str:
    """Return `text` in one line without control characters, and with lone surrogates spelled out."""
    return " ".join("".join(char if char.isprintable() or char in JOINERS else " " for char in shown(text)).split())


def columns(text: str) -> int:
    """Return the number of columns that a terminal needs for a text in one line."""
    return sum(map(_columns, text))


def cut(text: str, width: int) -> str:
    """Return `text` in at most `width` columns, with "…" at its end if it was longer."""
    if columns(text) <= width:
        return text
    left = max(width - 1, 1)
    for end, char in enumerate(text):
        left -= _columns(char)
        if left < 0:
            return text[:end].rstrip() + "…"
    return text


def _columns(char: str) -> int:
    if unicodedata.category(char) in ("Mn", "Me", "Cf"):  # drawn over the character before, or not at all
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1
