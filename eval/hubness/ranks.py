"""Rank images by corrected scores: by exact arithmetic, and by the answers that `search` pages are made from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from eval.metrics import NOT_FOUND, Floats, PositiveRanks, Ranking, Ranks
from eval.progress import Progress, no_progress
from eval.protocol import Evaluation, Ids, Task
from eval.ranks.oracle import rounding
from eval.runs import TOP
from search.errors import EvaluationError, QueryError
from search.index import ReadIndex, SearchParams, Where
from search.ranking import pages
from search.ranking.hubness import Correction, Corrections
from search.ranking.sentence_sets import are_in

SAME = 1e-12  # float64 scores closer than this are a tie: they differ by the order of the additions
CELLS = 1 << 22  # scores in memory at a time, 32 MiB of float64
ITEMS_PER_TILE = 4096
HITS_PER_CALL = 25_600


@dataclass(frozen=True, slots=True)
class FirstTen:
    """The ten best images of each caption: gallery rows int64 (n, 10), -1 for none, and scores float64 (n, 10)."""

    rows: Ids
    scores: Floats


@dataclass(frozen=True, slots=True)
class Corrected:
    """How one engine ranks the images: the rank of each caption's image, and the first ten images."""

    ranking: Ranking
    first: FirstTen


def correction_of(index: ReadIndex, evaluation: Evaluation, alpha: float | None) -> Correction | None:
    """Return the correction by `alpha` (None: the stored one), or None if there is none to evaluate.

    Raises:
        EvaluationError: images have no numbers, or a caption that is evaluated is one of their references.
    """
    try:
        correction = Corrections(index, evaluation.spec.collection).of(alpha)
    except QueryError as error:
        raise EvaluationError(str(error)) from None
    if correction is not None:
        check_references(evaluation)
    return correction


def check_references(evaluation: Evaluation) -> None:
    """Raise EvaluationError unless all images have numbers that were measured without the evaluated captions."""
    stored, split = evaluation.spec.hubness, "+".join(evaluation.splits)
    if stored is None or not stored.complete or not np.isfinite(evaluation.hubness).all():
        raise EvaluationError(
            f"images of split {split} have no number to correct scores by: "
            "run `python -m ingest hubness --references FILE|SPLIT` first"
        )
    if leaked := int(are_in(stored.sentences, evaluation.texts).sum()):
        raise EvaluationError(
            f"{leaked:,} of {evaluation.captions:,} captions of split {split} are among the references that hubness "
            "was measured with, so corrected scores would be too good: run `python -m ingest hubness` with others, or "
            "leave the correction out with --hubness 0"
        )


def score_blocks(task: Task, width: int = 0) -> Iterator[tuple[slice, Floats]]:
    """Yield the cosines of some queries with the whole gallery, float64 (rows, gallery), block by block.

    Blocks have as many rows as if the gallery had `width` items, if it has fewer.
    """
    queries, gallery = task.queries.vectors, task.gallery.vectors
    rows = max(1, CELLS // max(len(gallery), width))
    for start in range(0, len(queries), rows):
        block = slice(start, min(start + rows, len(queries)))
        cosines = np.empty((block.stop - start, len(gallery)))
        for first in range(0, len(gallery), ITEMS_PER_TILE):
            tile = slice(first, first + ITEMS_PER_TILE)
            cosines[:, tile] = queries[block].astype(np.float64) @ gallery[tile].astype(np.float64).T
        yield block, cosines


def ranks_of(scores: Floats, positives: Ids) -> tuple[Ranks, Ranks]:
    """Return the rank and the pessimistic rank of one positive in each row of scores (n, gallery)."""
    own = scores[np.arange(len(scores)), positives][:, np.newaxis]
    higher = np.count_nonzero(scores > own + SAME, axis=1)
    return 1 + higher, np.count_nonzero(scores >= own - SAME, axis=1)


def by_oracle(task: Task, numbers: Floats, alpha: float, progress: Progress = no_progress) -> Corrected:
    """Rank in float64 by the stored vectors and `numbers`, float64 (gallery,). `task` is text-to-image."""
    queries, k = len(task.queries.ids), min(TOP, len(task.gallery.ids))
    ranks, worst = (np.empty(queries, dtype=np.int64) for _ in range(2))
    first = FirstTen(np.empty((queries, k), dtype=np.int64), np.empty((queries, k)))
    for block, scores in score_blocks(task):
        scores -= alpha * numbers
        ranks[block], worst[block] = ranks_of(scores, task.positives[block])
        best = np.argpartition(scores, scores.shape[1] - k, axis=1)[:, -k:]
        order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1, kind="stable")
        first.rows[block] = np.take_along_axis(best, order, axis=1)
        first.scores[block] = np.take_along_axis(scores, first.rows[block], axis=1)
        progress(len(scores))
    return Corrected(complete(ranks, worst, task.starts), first)


def by_index(
    index: ReadIndex, task: Task, correction: Correction, *, exact: bool, progress: Progress = no_progress
) -> Corrected:
    """Rank by the first ten images as `search` finds them: read until no other can be among them."""
    queries = len(task.queries.ids)
    ranks = np.full(queries, NOT_FOUND, dtype=np.int64)
    first = FirstTen(np.full((queries, TOP), -1, dtype=np.int64), np.full((queries, TOP), np.nan))
    row_of = {item: row for row, item in enumerate(task.gallery.ids.tolist())}
    where = task.gallery.where or Where()
    waiting, depth = list(range(queries)), pages.PREFETCH
    unproven: dict[int, pages.ReadHits] = {}
    while waiting:
        left: list[int] = []
        for some in _parts(waiting, max(1, HITS_PER_CALL // depth)):
            rankings = [unproven.get(query) for query in some]
            most = [correction.rivals(each.rival, each.hits[TOP - 1].score) if each else None for each in rankings]
            each_where = tuple(replace(where, max_hubness=number) for number in most)
            exact_now = exact or depth > pages.PREFETCH  # as `Pages`: HNSW misses hits that pass a narrow filter
            params = SearchParams(exact=exact_now, hubness=correction.alpha, each_where=each_where)
            answers = index.query(task.gallery.collection, task.queries.vectors[some], depth, params)
            for query, hits, number in zip(some, answers, most, strict=True):
                read = pages.ReadHits.of(hits, depth, correction)
                if number is not None:
                    read = unproven.pop(query).joined(read, number, correction)
                best = read.known(-np.inf)[:TOP]
                if len(best) < TOP and not read.whole:
                    unproven[query] = replace(read, hits=read.hits[:TOP])  # the others cannot come among them
                    left.append(query)
                    continue
                first.rows[query, : len(best)] = [row_of[hit.id] for hit in best]
                first.scores[query, : len(best)] = [hit.score for hit in best]
                own = next((hit.score for hit in best if row_of[hit.id] == task.positives[query]), None)
                if own is not None:
                    ranks[query] = 1 + sum(hit.score > own for hit in best)
                progress(1)
        waiting, depth = left, 2 * depth
    return Corrected(Ranking(ranks, TOP), first)


def overlap(found: FirstTen, oracle: FirstTen, dim: int) -> float:
    """Return the share of the oracle's first ten that were found, in percent; equal scores count as each other."""
    enough = oracle.scores[:, -1:] - rounding(dim)
    return 100 * float(np.mean(np.count_nonzero(found.scores >= enough, axis=1) / oracle.rows.shape[1]))


def occurrences(first: FirstTen, images: int) -> Ids:
    """Return in how many first tens each image is, int64 (images,): N_10 in the literature on hubs."""
    return np.bincount(first.rows[first.rows >= 0], minlength=images).astype(np.int64)


def skewness(counts: npt.NDArray[np.int64]) -> float:
    """Return the third standardised moment: 0 without hubs (Radovanović, Nanopoulos and Ivanović, JMLR 11, 2010)."""
    spread = float(counts.std())
    return float(np.mean(((counts - counts.mean()) / spread) ** 3)) if spread else 0.0


def complete(ranks: Ranks, worst: Ranks, starts: Ids) -> Ranking:
    """Return a ranking of queries with one positive each, from its ranks and the ranks with every tie lost."""
    ones = np.ones_like(ranks)
    pessimistic = Ranking(worst, positives=PositiveRanks(worst, starts, ones))
    return Ranking(ranks, positives=PositiveRanks(ranks, starts, ones), pessimistic=pessimistic)


def _parts(rows: Sequence[int], size: int) -> Iterator[list[int]]:
    return (list(rows[start : start + size]) for start in range(0, len(rows), size))
