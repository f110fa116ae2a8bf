"""Choose alpha on a validation split: `python -m eval tune --hubness`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from eval.hubness.ranks import check_references, ranks_of, score_blocks
from eval.metrics import Ranking, recall
from eval.progress import Progress
from eval.protocol import Evaluation
from eval.stats import RESAMPLES, Interval, image_numbers, intervals, percentile_interval, resample

GRID = tuple(step / 8 for step in range(17))  # 0 to 2
DEPTH = 5
METRIC = recall(DEPTH)


@dataclass(frozen=True, slots=True)
class Step:
    """One alpha: recall@5 in percent with its 95 % interval, and the gain over alpha 0 with its own."""

    alpha: float
    recall: float
    interval: Interval
    gain: float
    gain_interval: Interval


@dataclass(frozen=True, slots=True)
class Curve:
    """recall@5 of text-to-image by alpha, on one split.

    `best` is the alpha of the highest recall, the smallest of equal ones. `recommended` is the same, or 0 if the
    interval of its gain contains 0: a correction that may not help is not worth its cost.
    """

    dataset: str
    split: str
    images: int
    captions: int
    best: float
    recommended: float
    curve: tuple[Step, ...]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def tune_hubness(evaluation: Evaluation, progress: Progress) -> Curve:
    """Rank the images for every caption by each alpha of the grid, in float64.

    Raises:
        EvaluationError: images have no numbers, or a caption is one of their references.
    """
    check_references(evaluation)
    task = evaluation.text_to_image
    ranks = np.empty((len(GRID), len(task.queries.ids)), dtype=np.int64)
    for block, cosines in score_blocks(task):
        for number, alpha in enumerate(GRID):
            ranks[number, block], _ = ranks_of(cosines - alpha * evaluation.hubness, task.positives[block])
        progress(len(cosines))
    plain = Ranking(ranks[0])
    steps = tuple(_step(alpha, plain, Ranking(of), evaluation) for alpha, of in zip(GRID, ranks, strict=True))
    best = max(steps, key=lambda step: (step.recall, -step.alpha))
    return Curve(
        dataset=evaluation.spec.dataset,
        split="+".join(evaluation.splits),
        images=evaluation.images,
        captions=evaluation.captions,
        best=best.alpha,
        recommended=best.alpha if best.gain_interval[0] > 0 else 0.0,
        curve=steps,
    )


def _step(alpha: float, plain: Ranking, corrected: Ranking, evaluation: Evaluation) -> Step:
    found, before = (100 * (ranking.ranks <= DEPTH).astype(np.float64) for ranking in (corrected, plain))
    interval = intervals(corrected, evaluation.image_of, metrics=[METRIC])[METRIC.name]
    gains = found - before
    drawn = resample(
        gains[:, np.newaxis], [], image_numbers(evaluation.image_of, len(gains)), resamples=RESAMPLES, seed=0
    )
    gain = float(gains.mean())
    return Step(alpha, float(found.mean()), interval, gain, percentile_interval(drawn.means[:, 0], gain))


def table(curve: Curve) -> str:
    """Return the curve and the recommendation as text for a terminal."""
    return "\n".join(_lines(curve))


def _lines(curve: Curve) -> Iterator[str]:
    yield (
        f"{curve.dataset}, split {curve.split}, text-to-image: {curve.captions:,} captions as queries for "
        f"{curve.images:,} images"
    )
    yield f"{'alpha':>7}{METRIC.name:>11}  {'95% interval':^15}{'gain':>8}  {'95% interval':^18}"
    for step in curve.curve:
        own, gain = "{:.2f}-{:.2f}".format(*step.interval), "{:+.2f} to {:+.2f}".format(*step.gain_interval)
        yield f"{step.alpha:>7.3f}{step.recall:>11.2f}  {own:^15}{step.gain:>+8.2f}  {gain:^18}"
    if curve.recommended:
        yield (
            f"recommended: alpha {curve.recommended:g}; store it with "
            f"`python -m ingest hubness --alpha {curve.recommended:g}`"
        )
    else:
        best = f"; the highest recall is that of alpha {curve.best:g}" if curve.best else ""
        yield f"recommended: alpha 0, which corrects nothing: no gain is certain on this split{best}"
