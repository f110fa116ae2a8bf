"""Format hits as a table for people and as JSON objects for programs."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from search.records import Caption, Hit, Image, Kind

if TYPE_CHECKING:
    from search.encoder import Truncation
    from search.query import Part

WIDTH_WITHOUT_TERMINAL = 120


def by_kind(hits: Sequence[Hit]) -> list[tuple[Kind, list[Hit]]]:
    """Return the hits that are images and the hits that are captions, without empty groups; the order is kept."""
    kinds: tuple[Kind, ...] = ("images", "captions")
    groups = [(kind, [hit for hit in hits if hit.kind == kind]) for kind in kinds]
    return [(kind, group) for kind, group in groups if group]


def as_json(hits: Sequence[Hit], offset: int = 0) -> list[dict[str, Any]]:
    """Return hits as JSON objects.

    `rank` counts from `offset` + 1 within its `kind`, "image" or "caption". Results are in the order of `score`, which
    is the `cosine` unless it was corrected for hubness, or captions were evidence. The fields of the payload follow,
    without those that users added. Images have their nearest `caption`, and its `caption_id` and `caption_cosine` if it
    was evidence. `also` holds the hits that this one stands for, without ranks and
    nearest captions.
    """
    return [
        {"rank": rank, **_fields(hit), **_nearest(hit), "also": [_fields(other) for other in hit.also]}
        for _, group in by_kind(hits)
        for rank, hit in enumerate(group, start=offset + 1)
    ]


def truncated_as_json(truncations: Mapping[int, Truncation]) -> list[dict[str, int]]:
    """Return a JSON object for each part that is longer than the model reads: `part` (from 0), `read`, `given`."""
    return [{"part": part, **asdict(truncation)} for part, truncation in truncations.items()]


def truncation_note(part: Part, truncation: Truncation) -> str:
    """Return a line about a text that is longer than the model reads."""
    from search.query import brief

    return f"the model reads the first {truncation.read} of the {truncation.given:,} tokens of: {brief(part)}"


def table(hits: Sequence[Hit], width: int | None = None, first: int = 1) -> str:
    """Return hits as aligned text, in one table for images and one for captions.

    `width` is the number of columns (default: the terminal's), `first` the first rank.
    """
    width = width or shutil.get_terminal_size((WIDTH_WITHOUT_TERMINAL, 0)).columns
    return "\n\n".join(_table(group, width, first) for _, group in by_kind(hits)) or "nothing found"


def _table(hits: Sequence[Hit], width: int, first: int) -> str:
    columns: dict[str, Callable[[Hit], float | None]] = {"score": lambda hit: hit.score}
    if any(hit.uncorrected is not None for hit in hits):
        columns["cosine"] = lambda hit: hit.cosine
    if any(hit.evidence for hit in hits):
        columns["caption's"] = lambda hit: hit.evidence.score if hit.evidence else None
    rows = [["rank", *columns, "image", "file" if hits[0].kind == "images" else "caption"]]
    for rank, hit in enumerate(hits, start=first):
        scores = [column(hit) for column in columns.values()]
        cells = ("-" if score is None else f"{score:.4f}" for score in scores)
        rows.append([str(rank), *cells, *_columns(hit)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for *numbers, text in rows:
        left = "".join(f"{number:>{wide}}  " for number, wide in zip(numbers, widths, strict=False))
        lines.append(left + _shorten(text, width - len(left)))
    return "\n".join(lines)


def _fields(hit: Hit) -> dict[str, Any]:
    kind = "image" if hit.kind == "images" else "caption"
    scores = {"score": round(hit.score, 6), "cosine": round(hit.cosine, 6)}
    return {**scores, "kind": kind, **(hit.record.fields() if hit.record else {})}


def _nearest(hit: Hit) -> dict[str, Any]:
    if hit.kind == "captions":
        return {}
    evidence = hit.evidence
    used = {"caption_id": evidence.id, "caption_cosine": round(evidence.score, 6)} if evidence else {}
    return {"caption": hit.caption, **used}


def _columns(hit: Hit) -> tuple[str, str]:
    more = f"(+{len(hit.also)})  " if hit.also else ""
    match hit.record:
        case Image(id=image_id, file=file):
            return str(image_id), f"{more}{file}  {hit.caption or ''}"
        case Caption(image_id=image_id, text=text):
            return str(image_id), more + text
        case None:
            return "", str(hit.id)


def _shorten(text: str, width: int) -> str:
    text = " ".join("".join(char if char.isprintable() else " " for char in text).split(" "))
    return text if len(text) <= width else text[: max(width - 1, 1)] + "…"
