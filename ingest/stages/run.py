"""Define what the stages of a run share: its options, its results, and how the work is divided into batches."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from ingest.prune import Gone
from ingest.summary import Summary
from search.encoder.clip import ClipEncoder
from search.index import Index, Points, Tuning, usable
from search.records import Caption, Image, Vectors

R = TypeVar("R", Image, Caption)


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How photos are read and collections built.

    `workers` read photos, as processes if there is a GPU to feed, otherwise as threads; `scaled_decode` lets JPEG be
    scaled while it is decoded; `force` encodes everything again, even if its stored vector is current; `tuning` is for
    new collections; `prune` deletes the points that are gone.
    """

    workers: int
    scaled_decode: bool = False
    force: bool = False
    tuning: Tuning | None = None
    prune: bool = False


@dataclass(frozen=True, slots=True)
class Run:
    """What both stages of a run share.

    `encoders` are copies of one model on different devices. They may be lazy: the first use loads the model, so use one
    only if something must be encoded.
    """

    index: Index
    encoders: Sequence[ClipEncoder]
    options: RunOptions
    summary: Summary
    gone: Gone


def batches_of(records: Sequence[R], current: Set[int], size: int) -> list[list[R]]:
    """Return batches of the records that are not current.

    Batch bounds do not depend on which are current, so a run that was killed and resumed encodes the same batches as
    an undisturbed one, to the same bits.
    """
    all_batches = (records[start : start + size] for start in range(0, len(records), size))
    return [missing for batch in all_batches if (missing := [record for record in batch if record.id not in current])]


def unusable_rows(vectors: Vectors) -> list[int]:
    """Return the rows of vectors (n, dim) that are NaN, infinite or of zero length."""
    rows: list[int] = np.flatnonzero(~usable(vectors)).tolist()
    return rows


def only_usable(records: Sequence[Image] | Sequence[Caption], vectors: Vectors) -> Points:
    """Return points of the records whose vectors, in rows of (n, dim), are usable."""
    rows = np.flatnonzero(usable(vectors))
    return Points([records[row] for row in rows.tolist()], vectors[rows])
