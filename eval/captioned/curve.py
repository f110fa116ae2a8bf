"""Choose the weight of captions on a validation split: `python -m eval tune --evidence`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from eval.captioned.ranks import RanksByBlock, blocks, fuse, read_cosines
from eval.metrics import recall, scores
from eval.progress import Progress
from eval.protocol import Evaluation
from eval.stats import Interval, intervals
from search.index import ReadIndex
from search.ranking.evidence import Evidence

GRID = tuple(step / 20 for step in range(21))
DEPTHS = (1, 5, 10)
METRICS = tuple(map(recall, DEPTHS))


@dataclass(frozen=True, slots=True)
class Step:
    """One weight: recall in percent by metric, and the 95 % interval of the first of them."""

    weight: float
    recall: dict[str, float]
    interval: Interval


@dataclass(frozen=True, slots=True)
class Curve:
    """Recall of the task "captioned gallery, leave one out" by weight, on one split.

    `best` is the weight with the highest sum of the three recalls, the smallest if several are equal.
    """

    dataset: str
    split: str
    images: int
    captions: int
    best: float
    curve: tuple[Step, ...]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def tune_evidence(index: ReadIndex, evaluation: Evaluation, progress: Progress) -> Curve:
    """Rank the images for every caption by each weight of the grid, in float64; weight 0 is the photo alone.

    Raises:
        EvaluationError: there are no captions to compare.
    """
    cosines = read_cosines(index, evaluation)
    ranks = {weight: RanksByBlock(evaluation.text_to_image) for weight in GRID}
    for block in blocks(evaluation, words=False):
        for weight, of_weight in ranks.items():
            of_weight.add(block.rows, fuse(block, Evidence(weight, cosines["images"], cosines["captions"])))
        progress(len(block.photos))
    steps = []
    for weight, of_weight in ranks.items():
        ranking = of_weight.ranking()
        found = {name: float(value or 0) for name, value in scores(ranking, METRICS).items()}
        first = METRICS[0]
        steps.append(Step(weight, found, intervals(ranking, evaluation.image_of, metrics=[first])[first.name]))
    best = max(steps, key=lambda step: (round(sum(step.recall.values()), 9), -step.weight))
    return Curve(
        dataset=evaluation.spec.dataset,
        split="+".join(evaluation.splits),
        images=evaluation.images,
        captions=evaluation.captions,
        best=best.weight,
        curve=tuple(steps),
    )


def evidence_table(curve: Curve) -> str:
    """Return the curve and the best weight as text for a terminal."""
    return "\n".join(_lines(curve))


def _lines(curve: Curve) -> Iterator[str]:
    yield (
        f"{curve.dataset}, split {curve.split}, captioned gallery, leave one out: {curve.captions:,} captions as "
        f"queries for {curve.images:,} images"
    )
    others = "".join(f"{metric.name:>11}" for metric in METRICS[1:])
    yield f"{'weight':>7}  {METRICS[0].name:>9}  {'95% interval':^13}{others}"
    for step in curve.curve:
        first, *more = step.recall.values()
        own = "{:.2f}-{:.2f}".format(*step.interval)
        yield f"{step.weight:>7.2f}  {first:>9.2f}  {own:^13}" + "".join(f"{each:>11.2f}" for each in more)
    advice = f"`search --evidence captions={curve.best:g}`" if curve.best else "search without --evidence"
    yield f"the highest sum of the three is that of weight {curve.best:g}: {advice}"
