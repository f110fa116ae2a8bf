"""Published figures to compare with, and what to check if those of a run differ."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from typing import Any

from eval.protocol import DIRECTIONS, FIRST_CAPTIONS, Evaluation
from eval.runs import PublishedMetrics, Scores
from eval.stats import Interval
from search.index import CollectionSpec

PUBLISHED_FILE = "published.json"
ROUNDED = 0.05  # published figures are given to a tenth
CHECKS = (
    "the weights (`revision` and `weights` in the fingerprint), the image processor's resize filter and crop, "
    "and that captions are the raw sentences"
)

ByDirection = dict[str, Scores]
Intervals = dict[str, dict[str, Interval]]


@dataclass(frozen=True, slots=True)
class Published:
    """One published row: `models` are the names under which it is published, `scores` direction -> metric."""

    name: str
    models: tuple[str, ...]
    source: str
    scores: ByDirection

    def is_of(self, spec: CollectionSpec) -> bool:
        """Return whether the name or folder of a collection's model is one of these, and no other embeds the texts."""
        last = spec.model.rstrip("/").rpartition("/")[2].lower()
        return spec.text_model is None and last in {name.lower() for name in self.models}


def published() -> tuple[Published, ...]:
    """Return the rows of `published.json`."""
    return tuple(
        Published(
            row["name"],
            tuple(row["models"]),
            row["source"],
            {direction: row[direction] for direction in DIRECTIONS},
        )
        for row in _file()["rows"]
    )


def _file() -> dict[str, Any]:
    content = resources.files("eval.report").joinpath(PUBLISHED_FILE).read_text(encoding="utf-8")
    return json.loads(content)  # type: ignore[no-any-return]


def ids_hash(ids: Iterable[int]) -> str:
    """Return the SHA-256 of ids in ascending order, in decimal, one a line."""
    return hashlib.sha256("\n".join(map(str, sorted(ids))).encode()).hexdigest()


def gallery() -> tuple[int, str]:
    """Return the number of images of the published figures, and the hash of their ids."""
    content = _file()
    return content["images"], content["ids_sha256"]


def is_published_gallery(evaluation: Evaluation) -> bool:
    """Return whether the images are those of the published figures: COCO's complete Karpathy test split."""
    ids = evaluation.image_to_text.queries.ids.tolist()
    return gallery() == (len(ids), ids_hash(ids))


def gallery_warnings(evaluation: Evaluation) -> list[str]:
    """Return a line if the images are COCO's, but not those of the published figures."""
    if not evaluation.of_coco or is_published_gallery(evaluation):
        return []
    return [
        f"published figures are left out: they are for the {gallery()[0]:,} images of COCO's complete Karpathy test "
        f"split, and this evaluation is over {evaluation.images:,} other or fewer images of COCO"
    ]


def compare_with_published(evaluation: Evaluation, scores: ByDirection, intervals: Intervals) -> list[PublishedMetrics]:
    """Return the published rows, those of the same model with a verdict on each figure; none for other images.

    `scores` and `intervals` are direction -> metric.
    """
    if not is_published_gallery(evaluation):
        return []
    return [
        PublishedMetrics(
            name=row.name,
            source=row.source,
            scores=row.scores,
            same_model=(same := row.is_of(evaluation.spec)),
            verdict=_verdict(row, scores, intervals, evaluation) if same else [],
        )
        for row in published()
    ]


def _verdict(row: Published, scores: ByDirection, intervals: Intervals, evaluation: Evaluation) -> list[str]:
    """Return a line for each figure, within our interval or how far off, and what to check if one is off."""
    lines, off = [], False
    for direction in DIRECTIONS:
        for metric, theirs in row.scores[direction].items():
            ours, (low, high) = scores[direction][metric], intervals[direction][metric]
            assert ours is not None  # the headline's ranks are all known
            assert theirs is not None
            if low - ROUNDED <= theirs <= high + ROUNDED:
                lines.append(f"{direction} {metric}: {ours:.1f}, within the interval of the published {theirs:g}")
            else:
                off = True
                side = "below" if ours < theirs else "above"
                gap = abs(ours - theirs)
                lines.append(f"{direction} {metric}: {ours:.1f}, {gap:.1f} points {side} the published {theirs:g}")
    differences = protocol_differences(evaluation)
    if differences:
        lines.append(f"what differs from the published protocol: {'; '.join(differences)}")
    if off:
        lines.append(f"check: {'what differs, then ' if differences else ''}{CHECKS}")
    return lines


def protocol_differences(evaluation: Evaluation) -> list[str]:
    """Return what differs in which captions were evaluated and how the vectors were made."""
    spec, differences = evaluation.spec, []
    if evaluation.captions_per_image != FIRST_CAPTIONS:
        differences.append("the captions (all here, the first five there)")
    if spec.prompt:
        differences.append(f"the prompt ({spec.prompt!r} here, none there)")
    if spec.dtype != "float32":
        differences.append(f"the number type ({spec.dtype} here, float32 there)")
    if spec.decode != "full":
        differences.append(f"how photos were decoded ({spec.decode} here, full there)")
    if evaluation.truncated:
        differences.append(f"{evaluation.truncated:,} captions that were cut at the model's limit")
    return differences
