"""Hits as a table for people and as JSON lines for programs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from typing import Any

from search.records import Caption, Hit, Image

WIDTH_OF_A_PIPE = 120


def as_json(hit: Hit, rank: int) -> dict[str, Any]:
    """One hit as a JSON object: `rank` (from 1), `score` (cosine), `kind` ("image" or "caption"), and the payload."""
    record = hit.record
    kind = "image" if isinstance(record, Image) else "caption"
    return {"rank": rank, "score": round(hit.score, 6), "kind": kind, **(record.payload() if record else {})}


def json_lines(hits: Sequence[Hit]) -> str:
    """One object a line, each line ended."""
    return "".join(json.dumps(as_json(hit, rank), ensure_ascii=False) + "\n" for rank, hit in enumerate(hits, start=1))


def table(hits: Sequence[Hit], width: int | None = None) -> str:
    """Hits as aligned text, `width` columns wide (default: the terminal's)."""
    if not hits:
        return "nothing found"
    width = width or shutil.get_terminal_size((WIDTH_OF_A_PIPE, 0)).columns
    rows = [("rank", "score", "image", "file" if isinstance(hits[0].record, Image) else "caption")]
    rows += [(str(rank), f"{hit.score:.4f}", *_columns(hit)) for rank, hit in enumerate(hits, start=1)]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = []
    for rank, score, image, text in rows:
        left = f"{rank:>{widths[0]}}  {score:>{widths[1]}}  {image:>{widths[2]}}  "
        lines.append(left + _shorten(text, width - len(left)))
    return "\n".join(lines)


def _columns(hit: Hit) -> tuple[str, str]:
    match hit.record:
        case Image(id=image_id, file=file, captions=captions):
            return str(image_id), f"{file}  {captions[0] if captions else ''}"
        case Caption(image_id=image_id, text=text):
            return str(image_id), text
        case None:
            return "", str(hit.id)


def _shorten(text: str, width: int) -> str:
    text = " ".join("".join(char if char.isprintable() else " " for char in text).split(" "))
    return text if len(text) <= width else text[: max(width - 1, 1)] + "…"
