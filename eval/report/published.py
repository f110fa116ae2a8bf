"""Published figures to compare with, and what to check if those of a run differ."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources

from eval.protocol import DIRECTIONS, FIRST_CAPTIONS, Evaluation
from eval.runs import PublishedMetrics, Scores
from eval.stats import Interval
from search.index import CollectionSpec

PUBLISHED_FILE = "published.json"
PUBLISHED_IMAGES = 5000

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
    data = json.loads(resources.files("eval.report").joinpath(PUBLISHED_FILE).read_text(encoding="utf-8"))
    return tuple(
        Published(
            row["name"],
            tuple(row["models"]),
            row["source"],
            {direction: row[direction] for direction in DIRECTIONS},
        )
        for row in data["rows"]
    )


def compare_with_published(evaluation: Evaluation, scores: ByDirection, intervals: Intervals) -> list[PublishedMetrics]:
    """Return the published rows, those of the same model with a verdict on each figure; none if the data is not COCO.

    `scores` and `intervals` are direction -> metric.
    """
    if "coco" not in evaluation.spec.dataset.lower() and evaluation.images != PUBLISHED_IMAGES:
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
    if different := gallery_differences(evaluation):
        return [f"not comparable with {row.name}, published: {'; '.join(different)}"]
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
    differences = embedding_differences(evaluation.spec, evaluation.truncated)
    if differences:
        lines.append(f"what differs from the published protocol: {'; '.join(differences)}")
    if off:
        lines.append(f"check: {'what differs, then ' if differences else ''}{CHECKS}")
    return lines


def gallery_differences(evaluation: Evaluation) -> list[str]:
    """Return what makes a comparison meaningless: other queries or another gallery."""
    differences = []
    if evaluation.images != PUBLISHED_IMAGES:
        differences.append(f"the gallery ({evaluation.images:,} images here, {PUBLISHED_IMAGES:,} there)")
    if evaluation.splits != ("test",):
        differences.append(f"the split ({'+'.join(evaluation.splits)} here, test there)")
    if evaluation.captions_per_image != FIRST_CAPTIONS:
        differences.append("the captions (all here, the first five there)")
    return differences


def embedding_differences(spec: CollectionSpec, truncated: int) -> list[str]:
    """Return what differs in how the vectors were made."""
    differences = []
    if spec.prompt:
        differences.append(f"the prompt ({spec.prompt!r} here, none there)")
    if spec.dtype != "float32":
        differences.append(f"the number type ({spec.dtype} here, float32 there)")
    if spec.decode != "full":
        differences.append(f"how photos were decoded ({spec.decode} here, full there)")
    if truncated:
        differences.append(f"{truncated:,} captions that were cut at the model's limit")
    return differences
