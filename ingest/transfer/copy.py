"""Copying collections from one index to another: points as they are stored, nothing is encoded again.

Both sides give their points in ascending order of ids, so one walk along the two finds what the target lacks or holds
otherwise, with a batch of each in memory. That is also how a copy that was killed is taken up again, and how it is
verified at the end.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tqdm import tqdm

from search.errors import IndexFailure
from search.index import TRIAL, Index, Points, Quantization, ReadIndex, Tuning, collection_name, defer_indexing_if_many
from search.records import Caption, Image, Vectors

POINTS_PER_WRITE = 1000
TOLERANCE = 1e-6  # an engine that scales unit vectors again moves a number by some 3e-8
CHECKSUM_BITS = 128

Point = tuple[Image | Caption, Vectors]
"""A record and its vector, float32 (dim,)."""


@dataclass(slots=True)
class Comparison:
    """What a walk along two collections found, in points. Fields that users added in the target alone do not count.

    `same`: equal payloads, and vectors that differ by at most TOLERANCE in any number; `inexact` of them are not equal
    to the bit, and `largest_difference` is the most by which they differ. `missing` are in the source alone, `extra` in
    the target alone. `source_checksum` is over all points of the source, `target_checksum` over the target's points of
    the same ids; they are sums, so the order of points does not matter.
    """

    same: int = 0
    inexact: int = 0
    different: int = 0
    missing: int = 0
    extra: int = 0
    largest_difference: float = 0.0
    source_checksum: int = 0
    target_checksum: int = 0

    @property
    def source(self) -> int:
        """Points in the source."""
        return self.same + self.different + self.missing

    def add(self, mine: Point | None, theirs: Point | None) -> bool:
        """Counts a point of the source and its counterpart; whether it has to be written."""
        if mine is None:
            self.extra += 1
            return False
        if theirs is not None:
            theirs = _without_strange_fields(theirs, mine), theirs[1]
        checksum = point_checksum(*mine)
        self.source_checksum = (self.source_checksum + checksum) % 2**CHECKSUM_BITS
        if theirs is None:
            self.missing += 1
            return True
        same_bits = mine[1].tobytes() == theirs[1].tobytes()
        same_payload = mine[0].payload() == theirs[0].payload()
        if not (same_payload and same_bits):
            checksum = point_checksum(*theirs)
        self.target_checksum = (self.target_checksum + checksum) % 2**CHECKSUM_BITS
        difference = 0.0 if same_bits else float(np.abs(mine[1] - theirs[1]).max())
        if not (same_payload and difference <= TOLERANCE):
            self.different += 1
            return True
        self.same += 1
        self.inexact += not same_bits
        self.largest_difference = max(self.largest_difference, difference)
        return False


@dataclass(frozen=True, slots=True)
class Copied:
    """One collection after copying: points written now and there before, and how source and target compare."""

    collection: str
    written: int
    already_there: int
    indexed_vectors: int
    found: Comparison

    def as_json(self) -> dict[str, Any]:
        return {
            "collection": self.collection,
            "points": self.found.source,
            "written": self.written,
            "already_there": self.already_there,
            "extra": self.found.extra,
            "inexact": self.found.inexact,
            "largest_difference": self.found.largest_difference,
            "source_checksum": f"{self.found.source_checksum:032x}",
            "target_checksum": f"{self.found.target_checksum:032x}",
            "indexed_vectors": self.indexed_vectors,
        }


def _without_strange_fields(theirs: Point, mine: Point) -> Image | Caption:
    """Return the target's record without what users added there alone, which a copy leaves in place."""
    known = mine[0].extra or {}
    return replace(theirs[0], extra={key: value for key, value in (theirs[0].extra or {}).items() if key in known})


def point_checksum(record: Image | Caption, vector: Vectors) -> int:
    """BLAKE2b over the id, the payload as JSON with sorted keys, and the vector's little-endian float32 bytes."""
    payload = json.dumps(record.payload(), ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    parts = record.id.to_bytes(8, "little"), payload.encode("utf-8", "surrogatepass"), vector.astype("<f4").tobytes()
    return int.from_bytes(hashlib.blake2b(b"".join(parts), digest_size=CHECKSUM_BITS // 8).digest(), "little")


def chosen_collections(index: ReadIndex, datasets: Sequence[str]) -> list[str]:
    """The collections of these data sets, or all.

    Raises:
        CollectionMissing: a data set has no collection here.
        IndexFailure: there is nothing at all.
    """
    there = [name for name in index.collections() if TRIAL not in name or name.rpartition("_")[0] in datasets]
    if not datasets:
        if not there:
            raise IndexFailure(f"there are no collections in {index.place}")
        return there
    names: list[str] = []
    for dataset in dict.fromkeys(datasets):
        pair = [collection_name(dataset, "captions"), collection_name(dataset, "images")]
        names += [name for name in pair if name in there] or [index.spec(pair[1]).collection]  # which says what is here
    return names


def prepare(source: ReadIndex, target: Index, collections: Sequence[str], asked: Tuning | None) -> list[str]:
    """Makes the target's collections, or accepts those that are there; returns warnings.

    `asked` says how to build new ones; None: quantised and on disk like the source's.

    Raises:
        SpecMismatch: one of them was made with another model or prompt; none has been touched then.
    """
    there, warnings = target.collections(), list[str]()
    specs = [source.spec(collection) for collection in collections]
    for spec in specs:
        if spec.collection in there:
            target.spec(spec.collection).merged(spec)
    for spec in specs:
        tuning = asked if asked or spec.collection in there else _tuning_of(source, spec.collection)
        warnings += target.create(spec, tuning)
    return warnings


def copy_collection(source: ReadIndex, target: Index, collection: str) -> Copied:
    """Writes what the target lacks or holds otherwise, builds its index, and compares everything again.

    Points of the target that the source lacks stay, and are counted.

    Raises:
        IndexFailure: one of the indexes refuses, or the target does not hold what was written.
    """
    pending: list[Point] = []
    first = Comparison()
    defer_indexing_if_many(target, collection, source.count(collection) - target.count(collection))
    for mine, theirs in _walk(source, target, collection, f"copying {collection}"):
        if first.add(mine, theirs) and mine is not None:
            added = {**(theirs[0].extra or {}), **(mine[0].extra or {})} if theirs else mine[0].extra
            pending.append((replace(mine[0], extra=added), mine[1]))
        if len(pending) >= POINTS_PER_WRITE:
            _write(target, collection, pending)
            pending = []
    if pending:
        _write(target, collection, pending)
    written = first.missing + first.different
    target.optimize(collection)  # also where nothing was written: an earlier copy may have been stopped before this
    found = first
    if written:
        found = Comparison()
        for mine, theirs in _walk(source, target, collection, f"verifying {collection}"):
            found.add(mine, theirs)
    info = target.info(collection)
    if found.missing or found.different or info.points != found.source + found.extra:
        raise IndexFailure(
            f"{collection} in {target.place} is not what {source.place} holds: {found.missing:,} points are missing, "
            f"{found.different:,} differ, {info.points:,} are counted: is something else writing there? "
            "Give the same command again"
        )
    return Copied(collection, written, first.same, info.indexed_vectors, found)


def _walk(
    source: ReadIndex, target: ReadIndex, collection: str, doing: str
) -> Iterator[tuple[Point, Point | None] | tuple[None, Point]]:
    """The points of both sides, matched by id; a progress bar counts the source's."""
    with tqdm(desc=doing, total=source.count(collection), unit=" points", file=sys.stderr, dynamic_ncols=True) as bar:
        theirs = _points(target, collection)
        # Points are written behind this place only, so the walk never meets what it wrote.
        other = next(theirs, None)
        for mine in _points(source, collection):
            while other is not None and other[0].id < mine[0].id:
                yield None, other
                other = next(theirs, None)
            if other is not None and other[0].id == mine[0].id:
                yield mine, other
                other = next(theirs, None)
            else:
                yield mine, None
            bar.update()
        while other is not None:
            yield None, other
            other = next(theirs, None)


def _points(index: ReadIndex, collection: str) -> Iterator[Point]:
    for batch in index.scan(collection, vectors=True):
        if batch.vectors is not None:
            yield from zip(batch.records, batch.vectors, strict=True)


def _write(target: Index, collection: str, points: Sequence[Point]) -> None:
    target.upsert(collection, Points([record for record, _ in points], np.stack([vector for _, vector in points])))


def _tuning_of(index: ReadIndex, collection: str) -> Tuning:
    settings = index.info(collection).settings
    known: dict[str, Quantization] = {"int8": "int8", "binary": "binary"}
    return Tuning(known.get(settings["quantization"], "none"), bool(settings["on_disk"]))
