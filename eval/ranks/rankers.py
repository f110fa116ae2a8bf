"""The rankers of a report: the same queries ranked by the oracle, by Qdrant exactly, as served, in other settings."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

from eval.fingerprint import engine_of
from eval.metrics import Ranking, Ranks
from eval.progress import Progress
from eval.protocol import Evaluation, Side, Task
from eval.ranks.hnsw_check import Used, used
from eval.ranks.oracle import OracleRanks
from eval.ranks.replay import AS_SERVED, EXACTLY, Replay, replay
from eval.runs import TOP
from search.errors import EvaluationError
from search.index import (
    TRIAL,
    CollectionSpec,
    Index,
    Points,
    Quantization,
    ReadIndex,
    SearchParams,
    Tuning,
    Where,
    defer_indexing_if_many,
)

ORACLE, EXACT, SERVED = "oracle", "qdrant-exact", "qdrant-served"


@dataclass(frozen=True, slots=True)
class Ranker:
    """One engine in one setting: its rankings, and Qdrant's answers, by direction.

    `used`: whether HNSW or a full scan answered. `bytes_per_vector`: the memory of one vector that a query is compared
    with, without the graph.
    """

    name: str
    about: str
    rankings: dict[str, Ranking]
    replays: dict[str, Replay] | None = None
    used: dict[str, Used] | None = None
    bytes_per_vector: float | None = None

    def ranks(self, direction: str) -> Ranks:
        return self.rankings[direction].ranks


def oracle_ranker(oracle: Mapping[str, OracleRanks]) -> Ranker:
    rankings = {direction: ranks.ranking for direction, ranks in oracle.items()}
    return Ranker(ORACLE, "exact arithmetic on the stored vectors", rankings)


def exact_ranker(index: ReadIndex, oracle: Mapping[str, OracleRanks], progress: Progress) -> Ranker:
    """Rank by Qdrant's full scan; the oracle's ranks tell which hits to fetch."""
    replays = {
        direction: replay(index, ranks.task, EXACTLY, expected=(ranks.lowest, ranks.highest), progress=progress)
        for direction, ranks in oracle.items()
    }
    dim = next(iter(oracle.values())).task.queries.vectors.shape[1]
    rankings = {direction: answers.exact_ranking(oracle[direction].task) for direction, answers in replays.items()}
    return Ranker(EXACT, f"{engine_of(index)}, exact=True", rankings, replays, None, 4.0 * dim)


def served_ranker(
    index: ReadIndex, evaluation: Evaluation, progress: Progress, answered: dict[str, Used] | None = None
) -> Ranker:
    """Rank as `search` does, by ten hits: the collections' own HNSW, thresholds and quantisation.

    `answered` is the result of `answered_by`, if it is known already.
    """
    replays = {task.name: _first_ten(index, task, AS_SERVED, progress) for task in evaluation.tasks}
    quantization: Quantization = index.info(evaluation.text_to_image.gallery.collection).settings["quantization"]
    return _ranker(
        SERVED,
        f"{engine_of(index)}, as `search` queries it: the first {TOP} hits",
        replays,
        answered or answered_by(index, evaluation),
        bytes_per_vector(evaluation.spec.dim, quantization),
    )


def hnsw_rankers(
    index: ReadIndex,
    copies_in: Index | None,
    evaluation: Evaluation,
    served: dict[str, Used],
    efs: Sequence[int],
    progress: Progress,
) -> list[Ranker]:
    """Rank by HNSW with beams of different widths: by the collection's own graph if it serves, else by a copy's."""
    replays: dict[int, dict[str, Replay]] = {ef: {} for ef in efs}
    answered: dict[str, Used] = {}
    for task in evaluation.tasks:
        as_it_is = served[task.name] == "hnsw"
        context = (
            nullcontext(task) if as_it_is else copy_of(writable(copies_in), task, "hnsw", Tuning(index_everything=True))
        )
        with context as by_hnsw:
            answered[task.name] = "hnsw" if as_it_is else _used(index, by_hnsw)
            for ef in efs:
                replays[ef][task.name] = _first_ten(index, by_hnsw, SearchParams(ef=ef), progress)
    about = ", ".join(
        name if served[name] == "hnsw" else f"{name} (on a copy made to use HNSW)" for name in sorted(served)
    )
    return [
        _ranker(f"hnsw ef={ef}", f"a beam of {ef}: {about}", replays[ef], answered, 4.0 * evaluation.spec.dim)
        for ef in efs
    ]


def quantized_rankers(
    index: Index, evaluation: Evaluation, quantization: Quantization, progress: Progress
) -> list[Ranker]:
    """Rank by HNSW on a quantised copy of both galleries, with and without rescoring the hits in float32."""
    settings = {f"{quantization} rescored": SearchParams(rescore=True), quantization: SearchParams(rescore=False)}
    replays: dict[str, dict[str, Replay]] = {name: {} for name in settings}
    answered: dict[str, Used] = {}
    for task in evaluation.tasks:
        tuning = Tuning(quantization=quantization, index_everything=True)
        with copy_of(index, task, quantization, tuning) as copied:
            answered[task.name] = _used(index, copied)
            for name, params in settings.items():
                replays[name][task.name] = _first_ten(index, copied, params, progress)
    size = bytes_per_vector(evaluation.spec.dim, quantization)
    about = {True: "more hits than requested, scored again in float32", False: "scores as they are"}
    return [
        _ranker(name, f"{quantization} copy, HNSW, {about[params.rescore]}", replays[name], answered, size)
        for name, params in settings.items()
    ]


def answered_by(index: ReadIndex, evaluation: Evaluation) -> dict[str, Used]:
    """Return how the collections themselves answer, by direction."""
    return {task.name: _used(index, task) for task in evaluation.tasks}


def writable(copies_in: Index | None) -> Index:
    """Return the index into which copies are written.

    Raises:
        EvaluationError: it is None.
    """
    if copies_in is None:
        raise EvaluationError("a ranker needs a copy of the gallery, but the index is open for reading only")
    return copies_in


def check_copies(index: Index, evaluation: Evaluation) -> None:
    """Create an empty collection as `copy_of` does, and drop it.

    Raises:
        IndexFailure: the index refuses, for example because its key may only read.
    """
    spec = _copied_spec(index.spec(evaluation.text_to_image.gallery.collection), "check")
    try:
        index.create(spec)
    finally:
        index.drop(spec.collection)


@contextmanager
def copy_of(index: Index, task: Task, label: str, tuning: Tuning) -> Iterator[Task]:
    """Yield the task over a copy of its gallery, made with `tuning` in the same index; drop the copy afterwards.

    Its name is unique. A copy that a killed run left behind stays until `python -m ingest drop`.
    """
    side = task.gallery
    spec = _copied_spec(index.spec(side.collection), label)
    try:
        index.create(spec, tuning)
        defer_indexing_if_many(index, spec.collection, len(side.ids))
        for batch in index.scan(side.collection, where=side.where, vectors=True):
            assert batch.vectors is not None
            index.upsert(spec.collection, Points(batch.records, batch.vectors))
        index.optimize(spec.collection)
        yield replace(task, gallery=Side(spec.collection, side.ids, side.vectors, Where()))
    finally:
        index.drop(spec.collection)


def _copied_spec(spec: CollectionSpec, label: str) -> CollectionSpec:
    return replace(spec, dataset=f"{spec.dataset}{TRIAL}{label}-{secrets.token_hex(4)}")


def bytes_per_vector(dim: int, quantization: Quantization) -> float:
    """Return the size: four bytes a dimension in float32, one and a number for each vector in int8, a bit in binary."""
    return {"none": 4.0 * dim, "int8": dim + 4.0, "binary": dim / 8}[quantization]


def _first_ten(index: ReadIndex, task: Task, params: SearchParams, progress: Progress) -> Replay:
    # A limit above the number of reported hits would widen the beam and flatter the scores.
    return replay(index, task, params, progress=progress)


def _used(index: ReadIndex, task: Task) -> Used:
    return used(index, task.gallery.collection, task.queries.vectors, task.gallery.where)


def _ranker(name: str, about: str, replays: dict[str, Replay], answered: dict[str, Used] | None, size: float) -> Ranker:
    rankings = {direction: answers.ranking() for direction, answers in replays.items()}
    return Ranker(name, about, rankings, replays, answered, size)
