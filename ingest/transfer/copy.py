"""Copy collections from one index to another: points as they are stored, without encoding anything again.

Both sides yield their points in ascending order of ids, so one walk along the two finds the points that are missing or
different in the target, with a batch of each in memory. A copy that was killed resumes the same way, and is verified
the same way at the end.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from ingest.specs import outdate_hubness
from search.errors import IndexFailure
from search.index import (
    TRIAL,
    HubnessSpec,
    Index,
    Points,
    Quantization,
    ReadIndex,
    Tuning,
    collection_name,
    defer_indexing_if_many,
)
from search.records import Caption, Image, Vectors

POINTS_PER_WRITE = 1000
TOLERANCE = 1e-6  # an engine that scales unit vectors again changes a number by about 3e-8
CHECKSUM_BITS = 128

Point = tuple[Image | Caption, Vectors]
"""A record and its vector, float32 (dim,)."""

Pairs = Iterator[tuple[Point, Point | None] | tuple[None, Point]]
"""Points of the source with their counterparts in the target, and points that only the target has."""


@dataclass(slots=True)
class Comparison:
    """Counts of points from a walk along two collections. Fields that users added only in the target are ignored.

    `same`: equal payloads, and vectors that differ by at most TOLERANCE in any number; `inexact` of them are not equal
    to the bit, by at most `largest_difference`. `missing` are only in the source, `extra` only in the target.
    `source_checksum` covers all points of the source, `target_checksum` the target's points of the same ids; they are
    sums, so the order of points does not matter.
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
    def points(self) -> int:
        """The number of points in the source."""
        return self.same + self.different + self.missing

    def add(self, source: Point | None, target: Point | None) -> bool:
        """Count a point of the source and its counterpart; return whether the target needs it."""
        if source is None:
            self.extra += 1
            return False
        if target is not None:
            target = _without_added_fields(target, source), target[1]
        checksum = point_checksum(*source)
        self.source_checksum = (self.source_checksum + checksum) % 2**CHECKSUM_BITS
        if target is None:
            self.missing += 1
            return True
        same_bits = source[1].tobytes() == target[1].tobytes()
        same_payload = source[0].payload() == target[0].payload()
        if not (same_payload and same_bits):
            checksum = point_checksum(*target)
        self.target_checksum = (self.target_checksum + checksum) % 2**CHECKSUM_BITS
        difference = 0.0 if same_bits else float(np.abs(source[1] - target[1]).max())
        if not (same_payload and difference <= TOLERANCE):
            self.different += 1
            return True
        self.same += 1
        self.inexact += not same_bits
        self.largest_difference = max(self.largest_difference, difference)
        return False


@dataclass(frozen=True, slots=True)
class Copied:
    """The result of copying one collection; `comparison` is that of source and target afterwards."""

    collection: str
    written: int
    already_there: int
    indexed_vectors: int
    comparison: Comparison

    def as_json(self) -> dict[str, Any]:
        return {
            "collection": self.collection,
            "points": self.comparison.points,
            "written": self.written,
            "already_there": self.already_there,
            "extra": self.comparison.extra,
            "inexact": self.comparison.inexact,
            "largest_difference": self.comparison.largest_difference,
            "source_checksum": f"{self.comparison.source_checksum:032x}",
            "target_checksum": f"{self.comparison.target_checksum:032x}",
            "indexed_vectors": self.indexed_vectors,
        }


def _without_added_fields(target: Point, source: Point) -> Image | Caption:
    """Return the target's record without fields that users added only there, which a copy keeps."""
    known = source[0].extra or {}
    return replace(target[0], extra={key: value for key, value in (target[0].extra or {}).items() if key in known})


def point_checksum(record: Image | Caption, vector: Vectors) -> int:
    """Return BLAKE2b of the id, the payload as JSON with sorted keys, and the vector's little-endian float32 bytes."""
    payload = json.dumps(record.payload(), ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    parts = record.id.to_bytes(8, "little"), payload.encode("utf-8", "surrogatepass"), vector.astype("<f4").tobytes()
    return int.from_bytes(hashlib.blake2b(b"".join(parts), digest_size=CHECKSUM_BITS // 8).digest(), "little")


def chosen_collections(index: ReadIndex, datasets: Sequence[str]) -> list[str]:
    """Return the names of the collections of these data sets, or of all.

    Raises:
        CollectionMissing: a data set has no collection in the index.
        IndexFailure: the index is empty.
    """
    existing = [name for name in index.collections() if TRIAL not in name or name.rpartition("_")[0] in datasets]
    if not datasets:
        if not existing:
            raise IndexFailure(f"there are no collections in {index.place}")
        return existing
    names: list[str] = []
    for dataset in dict.fromkeys(datasets):
        pair = [collection_name(dataset, "captions"), collection_name(dataset, "images")]
        # `spec` raises an error that lists the collections.
        names += [name for name in pair if name in existing] or [index.spec(pair[1]).collection]
    return names


def prepare(source: ReadIndex, target: Index, collections: Sequence[str], tuning: Tuning | None) -> list[str]:
    """Create the target's collections, or accept existing ones; return warnings.

    `tuning` is for new ones; None: quantised and on disk like the source's.

    Raises:
        SpecMismatch: one of them was made with another model or prompt; none has been changed then.
    """
    existing, warnings = target.collections(), list[str]()
    specs = [source.spec(collection) for collection in collections]
    for spec in specs:
        if spec.collection in existing:
            target.spec(spec.collection).merged(spec)
    for spec in specs:
        like_source = None if tuning or spec.collection in existing else _tuning_of(source, spec.collection)
        warnings += target.create(spec, tuning or like_source)
    return warnings


def copy_collection(source: ReadIndex, target: Index, collection: str) -> Copied:
    """Copy the points of one collection, and the description of their numbers `hubness`; see `write_differences`."""
    numbers = source.spec(collection).hubness
    _set_hubness(target, collection, numbers and numbers.incomplete())
    copied = write_differences(
        target, collection, partial(_walk, source, target, collection), source.count(collection), source.place
    )
    _set_hubness(target, collection, numbers and (numbers.incomplete() if copied.comparison.extra else numbers))
    return copied


def write_differences(
    target: Index, collection: str, walk: Callable[[str], Pairs], count: int, place: str, doing: str = "copying"
) -> Copied:
    """Write the points that are missing or different in the target, build its index, and compare everything again.

    Points that only the target has stay. `walk` yields the points of the source, `count` of them, from `place`, each
    with its counterpart; it is called with a description for its progress bar, a second time for the comparison.

    Raises:
        IndexFailure: the source cannot be read, the target refuses, or it does not hold what was written.
    """
    pending: list[Point] = []
    before = Comparison()
    defer_indexing_if_many(target, collection, count - target.count(collection))
    for point, counterpart in walk(f"{doing} {collection}"):
        if before.add(point, counterpart) and point is not None:
            record, vector = point
            extra = {**(counterpart[0].extra or {}), **(record.extra or {})} if counterpart else record.extra
            pending.append((replace(record, extra=extra), vector))
        if len(pending) >= POINTS_PER_WRITE:
            _write(target, collection, pending)
            pending = []
    if pending:
        _write(target, collection, pending)
    written = before.missing + before.different
    target.optimize(collection)  # even if nothing was written: an earlier copy may have been stopped before this
    after = before
    if written:
        after = Comparison()
        for point, counterpart in walk(f"verifying {collection}"):
            after.add(point, counterpart)
    info = target.info(collection)
    if after.missing or after.different or info.points < after.points + after.extra:
        raise IndexFailure(
            f"{collection} in {target.place} differs from {place}: {after.missing:,} points are missing, "
            f"{after.different:,} differ, {info.points:,} are counted: is another process writing there? "
            "Run the same command again"
        )
    return Copied(collection, written, before.same, info.indexed_vectors, after)


def _set_hubness(target: Index, collection: str, hubness: HubnessSpec | None) -> None:
    """Store what describes the numbers of the target; they are incomplete while points are being copied."""
    spec = target.spec(collection)
    if spec.hubness != hubness:
        target.set_spec(replace(spec, hubness=hubness))


def _walk(source: ReadIndex, target: ReadIndex, collection: str, doing: str) -> Pairs:
    """Yield the points of both sides, matched by id; a progress bar counts those of the source."""
    with tqdm(desc=doing, total=source.count(collection), unit=" points", file=sys.stderr, dynamic_ncols=True) as bar:
        # The caller only writes points that this walk has passed, so it never meets them.
        target_points = _points(target, collection)
        other = next(target_points, None)
        for point in _points(source, collection):
            while other is not None and other[0].id < point[0].id:
                yield None, other
                other = next(target_points, None)
            if other is not None and other[0].id == point[0].id:
                yield point, other
                other = next(target_points, None)
            else:
                yield point, None
            bar.update()
        while other is not None:
            yield None, other
            other = next(target_points, None)


def _points(index: ReadIndex, collection: str) -> Iterator[Point]:
    for batch in index.scan(collection, vectors=True):
        if batch.vectors is not None:
            yield from zip(batch.records, batch.vectors, strict=True)


def _write(target: Index, collection: str, points: Sequence[Point]) -> None:
    if any(isinstance(record, Image) and record.hubness is None for record, _ in points):
        outdate_hubness(target, collection)
    target.upsert(collection, Points([record for record, _ in points], np.stack([vector for _, vector in points])))


def _tuning_of(index: ReadIndex, collection: str) -> Tuning:
    settings = index.info(collection).settings
    known: dict[str, Quantization] = {"int8": "int8", "binary": "binary"}
    return Tuning(known.get(settings["quantization"], "none"), bool(settings["on_disk"]))
