"""Import points from files: what `export` wrote, or vectors of any model beside annotations.

A file is compared with the collection batch by batch, and only points that are missing or different are written; so an
import that was killed resumes when it is repeated, and is verified at the end, as a copy is.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

import numpy as np
from tqdm.auto import tqdm

from ingest.annotations import Annotations, Chosen
from ingest.failures import Failure
from ingest.specs import create_collections, outdate_hubness, source_of, split_sizes
from ingest.transfer.copy import TOLERANCE, Copied, Pairs, Point, write_differences
from ingest.transfer.parquet import ParquetCollection
from ingest.transfer.vectors import Block, VectorFile, open_vectors
from search.errors import InvalidPoints, SettingsError
from search.index import CollectionSpec, Index, Points, ReadIndex, Tuning
from search.records import KINDS, Caption, Image, Kind, Vectors
from search.text import spell_path

UNKNOWN_DECODE = "unknown"


class PointFile(Protocol):
    """Points of one collection in a file; `count` of them, described by `spec`."""

    spec: CollectionSpec
    count: int

    @property
    def place(self) -> str:
        """The name of the file, for messages."""
        ...

    def points(self) -> Iterator[Points]:
        """Yield the points, in batches; no id occurs twice."""
        ...


def exported(files: Sequence[Path], dataset: str | None) -> list[PointFile]:
    """Open files that `export` wrote.

    Args:
        dataset: a new name for their data set.

    Raises:
        SettingsError: two files hold the same collection, or pyarrow is not installed.
        IndexFailure: one of them is damaged, or was not written by `export`.
        OSError: one of them cannot be read.
    """
    sources: dict[str, PointFile] = {}
    for file in files:
        source = ParquetCollection(file, dataset)
        other = sources.setdefault(source.spec.collection, source)
        if other is not source:
            raise SettingsError(
                f"{other.place} and {file} both hold {source.spec.collection}: import one after the other"
            )
    return list(sources.values())


class AnnotatedVectors:
    """The images, or the captions, of an annotation file with vectors from other files, which are read once here.

    Args:
        files: the files of vectors.
        spec: the specification of the collection.
        records: the images or captions by id; vectors of other ids are ignored.

    Raises:
        InvalidPoints: an id occurs twice, the vectors of two files differ in dimension, or not one can be used.
        IndexFailure: a file is damaged.
    """

    def __init__(
        self, files: Sequence[VectorFile], spec: CollectionSpec, records: Mapping[int, Image | Caption]
    ) -> None:
        self._files, self.spec, self._records = files, spec, records
        every = np.concatenate([file.ids for file in files])
        ids, times = np.unique(every, return_counts=True)
        if len(ids) < len(every):
            repeated = ids[times > 1]
            raise InvalidPoints(f"{self.place}: {len(repeated):,} ids occur more than once, first {repeated[0]}")
        self._ids = frozenset(ids.tolist())
        self._faults = {
            point_id: reason
            for file in files
            for block in _reading(file)
            for row, reason in block.unit()[1].items()
            if (point_id := int(block.ids[row])) in records
        }
        self.count = len(self._ids & records.keys()) - len(self._faults)
        if not self.count:
            raise InvalidPoints(f"{self.place}: not one of its {len(ids):,} vectors can be used{self._why_not()}")

    @property
    def place(self) -> str:
        return ", ".join(str(file.file) for file in self._files)

    def points(self) -> Iterator[Points]:
        for file in self._files:
            for block in file.blocks():
                vectors, _ = block.unit()
                ids = block.ids.tolist()
                rows = [row for row, each in enumerate(ids) if each in self._records and each not in self._faults]
                if rows:
                    yield Points([self._records[ids[row]] for row in rows], vectors[rows])

    def failures(self, known: Collection[int], files: Mapping[int, str]) -> list[Failure]:
        """Return what has no usable vector, and the ids that are not `known`; `files` are photos by image id."""
        unknown = dict.fromkeys(sorted(self._ids.difference(known)), "its id is not in the annotations")
        missing = dict.fromkeys((each for each in self._records if each not in self._ids), "it has no vector")
        failures = []
        for point_id, reason in {**unknown, **self._faults, **missing}.items():
            caption_id = point_id if self.spec.kind == "captions" else None
            record = self._records.get(point_id)
            image_id = record.image_id if record else point_id if caption_id is None else None
            file = files.get(record.image_id, "") if record else self.place
            failures.append(Failure(file, image_id, "vectors", reason, self.spec.kind, caption_id))
        return failures

    def _why_not(self) -> str:
        if not self._ids:
            return ""
        reason = next(iter(self._faults.values()), "its id is not in the annotations")
        return f" (the first: {reason})"


def annotated(
    annotations: Annotations,
    chosen: Chosen,
    vectors: Mapping[Kind, Sequence[Path]],
    dataset: str,
    model: str,
    photos: Path,
    failures: list[Failure],
) -> list[PointFile]:
    """Open files of vectors for the images and the captions of an annotation file.

    Args:
        chosen: the images and captions to import.
        vectors: Parquet or .npz files for each kind; those without files are left out.
        model: the name of the model that computed the vectors.
        photos: the photo folder.
        failures: gets what has no usable vector, and ids that are not in the annotation file.

    Raises:
        InvalidPoints, IndexFailure: as for `open_vectors` and `AnnotatedVectors`.
        OSError: a file cannot be read.
    """
    opened = {kind: [open_vectors(file) for file in files] for kind, files in vectors.items() if files}
    dims = {file.dim: file for files in opened.values() for file in files}
    if len(dims) > 1:
        sizes = ", ".join(f"{dim:,} in {file.file}" for dim, file in dims.items())
        raise InvalidPoints(f"the vectors differ in dimension: {sizes}")
    files_by_image = {image.id: image.file for image in annotations.images}
    sources: list[PointFile] = []
    for kind, files in opened.items():
        spec = CollectionSpec(
            dataset=dataset,
            kind=kind,
            dim=files[0].dim,
            model=model,
            weights=hashlib.sha256(f"imported vectors of {model}".encode()).hexdigest(),
            dtype=files[0].dtype,
            decode=UNKNOWN_DECODE,
            annotations=annotations.sha256,
            sources=(source_of(annotations),),
            photos=spell_path(photos.resolve()),
            imported=True,
            splits=split_sizes(annotations, chosen),
            version=version("coco-search"),
        )
        of_kind = KINDS.index(kind)
        source = AnnotatedVectors(files, spec, {record.id: record for record in chosen[of_kind]})
        known = {record.id for record in (annotations.images, annotations.captions)[of_kind]}
        failures += source.failures(known, files_by_image)
        sources.append(source)
    return sources


def load(index: Index, sources: Sequence[PointFile], tuning: Tuning | None) -> tuple[list[str], Iterator[Copied]]:
    """Create the collections, or accept existing ones; return warnings, and an iterator that loads one at a time.

    Points that are only in the index stay, and so do fields that users added. `tuning` is for new collections.

    Raises:
        SpecMismatch: one of them was made with another model; none has been changed then.
        IndexFailure: a file is damaged, the index refuses, or it does not hold in the end what was written.
    """
    warnings = create_collections(index, [source.spec for source in sources], tuning)
    return warnings, (_load_one(index, source) for source in sources)


def _load_one(index: Index, source: PointFile) -> Copied:
    collection, numbers = source.spec.collection, source.spec.hubness
    walk = partial(_match, source, index, collection)
    if numbers:  # until all points have those of the file
        outdate_hubness(index, collection)
    copied = write_differences(index, collection, walk, source.count, source.place, "importing")
    copied.comparison.extra = index.count(collection) - copied.comparison.points
    if numbers and not copied.comparison.extra:
        index.set_spec(replace(index.spec(collection), hubness=numbers))
    return copied


def _match(source: PointFile, target: ReadIndex, collection: str, doing: str) -> Pairs:
    """Yield the points of a file, each with its counterpart; a progress bar counts them."""
    is_empty = not target.count(collection)
    with tqdm(desc=doing, total=source.count, unit=" points", file=sys.stderr, dynamic_ncols=True) as bar:
        for points in source.points():
            stored: dict[int, tuple[Image | Caption, Vectors]] = {}
            if not is_empty:
                batch = target.retrieve(collection, [record.id for record in points.records], vectors=True)
                vectors = batch.vectors_by_id()
                stored = {record.id: (record, vectors[record.id]) for record in batch.records}
            for record, vector in zip(points.records, points.vectors, strict=True):
                counterpart = stored.get(record.id)
                yield (_with_number(record, vector, counterpart), vector), counterpart
            bar.update(len(points))


def _with_number(record: Image | Caption, vector: Vectors, stored: Point | None) -> Image | Caption:
    """Return an image without a number `hubness` with that of the stored one, if that has the same vector."""
    if stored is None or not (isinstance(record, Image) and isinstance(stored[0], Image)):
        return record
    if record.hubness is not None:  # the file has numbers of its own
        return record
    same = bool(np.abs(vector - stored[1]).max() <= TOLERANCE)
    return replace(record, hubness=stored[0].hubness) if same else record


def _reading(file: VectorFile) -> Iterator[Block]:
    """Yield the blocks of a file; a progress bar counts its vectors."""
    with tqdm(
        desc=f"reading {file.file.name}", total=len(file.ids), unit=" vectors", file=sys.stderr, dynamic_ncols=True
    ) as bar:
        for block in file.blocks():
            yield block
            bar.update(len(block.ids))
