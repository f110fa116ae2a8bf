"""The task "captioned gallery, leave one out" of a run: recall by photos, by captions, by both, and by words."""

from __future__ import annotations

from eval.captioned.ranks import RanksByBlock, blocks, fuse, read_cosines
from eval.differences import adjusted, differences
from eval.hubness.block import tested
from eval.metrics import METRICS, pessimistic_scores, scores
from eval.progress import Progress
from eval.protocol import TEXT_TO_IMAGE, Evaluation
from eval.runs import CaptionedMetrics, RankerMetrics
from search.index import ReadIndex
from search.ranking.evidence import Evidence

PHOTO, CAPTIONS, BOTH, WORDS = "photo only", "captions only", "both", "captions by words"
ABOUT = {
    PHOTO: "the cosine of the photo",
    CAPTIONS: "the cosine of its best other caption",
    BOTH: "the score of `search --evidence`",
    WORDS: "BM25 of its best other caption, words without the endings of plurals",
}


def captioned_block(
    index: ReadIndex, evaluation: Evaluation, weight: float, *, resamples: int, progress: Progress
) -> CaptionedMetrics:
    """Rank all images for each caption in float64; compare each way with the photo alone, and captions with both.

    Raises:
        EvaluationError: there are no captions to compare.
    """
    cosines = read_cosines(index, evaluation)
    evidence = Evidence(weight, cosines["images"], cosines["captions"])
    ranks = {name: RanksByBlock(evaluation.text_to_image) for name in ABOUT}
    for block in blocks(evaluation, words=True):
        assert block.words is not None
        ranks[PHOTO].add(block.rows, block.photos)
        ranks[CAPTIONS].add(block.rows, block.captions)
        ranks[BOTH].add(block.rows, fuse(block, evidence))
        ranks[WORDS].add(block.rows, block.words)
        progress(len(block.photos))
    rankings = {name: of.ranking() for name, of in ranks.items()}
    pairs = [(PHOTO, CAPTIONS), (PHOTO, BOTH), (PHOTO, WORDS), (CAPTIONS, BOTH)]
    found = adjusted(
        [differences(rankings[a], rankings[b], evaluation.image_of, resamples=resamples) for a, b in pairs]
    )
    return CaptionedMetrics(
        weight=weight,
        columns=[
            RankerMetrics(
                name=name,
                about=ABOUT[name],
                scores={TEXT_TO_IMAGE: scores(ranking)},
                pessimistic={TEXT_TO_IMAGE: worst} if (worst := pessimistic_scores(ranking, METRICS)) else {},
            )
            for name, ranking in rankings.items()
        ],
        significance={f"{b} - {a}": tested(of_pair) for (a, b), of_pair in zip(pairs, found, strict=True)},
    )
