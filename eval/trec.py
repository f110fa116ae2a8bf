"""TREC run and qrels files, which trec_eval, ir_measures and ranx read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from eval.metrics import Floats
from eval.protocol import Task
from eval.ranks.oracle import first_hits

DEPTH = 100  # hits of each query
TAG = "coco-search"
QUERIES_PER_BLOCK = 256  # ranked at a time


def write_trec(folder: Path, tasks: Iterable[Task], depth: int | None = DEPTH) -> None:
    """Write `<direction>.run.txt` and `<direction>.qrels.txt` of each task into an existing folder.

    The runs are the oracle's first `depth` hits of each query, None for all, positives first in every tie. Queries and
    documents have the ids of the index; the qrels hold every positive.
    """
    for task in tasks:
        with (folder / f"{task.name}.qrels.txt").open("w", encoding="ascii") as stream:
            for row, query in enumerate(task.queries.ids.tolist()):
                positives = task.gallery.ids[task.positives_of(row)].tolist()
                stream.writelines(f"{query} 0 {positive} 1\n" for positive in positives)
        with (folder / f"{task.name}.run.txt").open("w", encoding="ascii") as stream:
            for first in range(0, len(task.queries.ids), QUERIES_PER_BLOCK):
                block = _rows(task, first, first + QUERIES_PER_BLOCK)
                rows, cosines = first_hits(block, depth or len(task.gallery.ids))
                hits = zip(
                    block.queries.ids.tolist(), block.gallery.ids[rows].tolist(), decreasing(cosines), strict=True
                )
                for query, items, scores in hits:
                    stream.writelines(
                        f"{query} Q0 {item} {rank} {score:.9g} {TAG}\n"
                        for rank, (item, score) in enumerate(zip(items, scores.tolist(), strict=True), start=1)
                    )


def decreasing(scores: Floats) -> npt.NDArray[np.float32]:
    """Return descending scores (n, k) as float32 that decrease strictly: an equal one becomes the next lower number.

    Tools sort a run by its scores, some of them in float32, and order equal ones by rules of their own.
    """
    strict = scores.astype(np.float32)
    for place in range(1, strict.shape[1]):
        below = np.nextafter(strict[:, place - 1], np.float32(-np.inf))
        strict[:, place] = np.minimum(strict[:, place], below)
    return strict


def _rows(task: Task, first: int, last: int) -> Task:
    """Return the task with a part of its queries."""
    side = task.queries
    starts = task.starts[first : last + 1]
    return replace(
        task,
        queries=replace(side, ids=side.ids[first:last], vectors=side.vectors[first:last]),
        positives=task.positives[starts[0] : starts[-1]],
        starts=starts - starts[0],
    )
