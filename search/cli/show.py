"""Format hits as JSON objects for programs; search/cli/terminal.py formats them for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from search.records import KINDS, Hit, Kind

if TYPE_CHECKING:
    from search.encoder import Truncation
    from search.query import Part


def by_kind(hits: Sequence[Hit]) -> list[tuple[Kind, list[Hit]]]:
    """Return the hits that are images and the hits that are captions, without empty groups; the order is kept."""
    groups = [(kind, [hit for hit in hits if hit.kind == kind]) for kind in KINDS]
    return [(kind, group) for kind, group in groups if group]


def as_json(hits: Sequence[Hit]) -> list[dict[str, Any]]:
    """Return hits as JSON objects.

    `rank` counts within a `kind`, "image" or "caption". Results are in the order of `score`, which is the `cosine`
    unless it was corrected for hubness, or captions were evidence. The fields of the payload follow, without those that
    users added. Images have their nearest `caption`, and its `caption_id` and `caption_cosine` if it was evidence.
    `also` holds the hits that this one stands for, without ranks and nearest captions.
    """
    return [
        {"rank": hit.rank, **_fields(hit), **_nearest(hit), "also": [_fields(other) for other in hit.also]}
        for hit in hits
    ]


def truncated_as_json(truncations: Mapping[int, Truncation]) -> list[dict[str, int]]:
    """Return a JSON object for each part that is longer than the model reads: `part` (from 0), `read`, `given`."""
    return [{"part": part, **asdict(truncation)} for part, truncation in truncations.items()]


def truncation_note(part: Part, truncation: Truncation) -> str:
    """Return a line about a text that is longer than the model reads."""
    from search.query import brief

    return f"the model reads the first {truncation.read} of the {truncation.given:,} tokens of: {brief(part)}"


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
