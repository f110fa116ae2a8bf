"""Which queries, which gallery, which positives: read back from the index itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from search.errors import EvaluationError
from search.index import CollectionSpec, Index, Vectors, Where, collection_name
from search.records import Caption, Image

Ids = npt.NDArray[np.int64]
R = TypeVar("R", Image, Caption)

FIRST_CAPTIONS = 5  # as the literature reports it, where a few images have six or seven


@dataclass(frozen=True, slots=True)
class Side:
    """One collection as evaluated: `ids` int64 (n,), `vectors` float32 (n, dim), and the filter that selects it."""

    collection: str
    ids: Ids
    vectors: Vectors
    where: Where


@dataclass(frozen=True, slots=True)
class Task:
    """One direction: every query ranks the whole gallery.

    The positives of query i are the gallery rows `positives[starts[i]:starts[i + 1]]`; each query has at least one.
    """

    name: str
    queries: Side
    gallery: Side
    positives: Ids
    starts: Ids

    def positives_of(self, query: int) -> Ids:
        return self.positives[self.starts[query] : self.starts[query + 1]]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Both directions over the same images and captions."""

    spec: CollectionSpec
    splits: tuple[str, ...]
    captions_per_image: int | None
    image_to_text: Task
    text_to_image: Task
    notes: tuple[str, ...]

    @property
    def images(self) -> int:
        return len(self.image_to_text.queries.ids)

    @property
    def captions(self) -> int:
        return len(self.text_to_image.queries.ids)

    @property
    def tasks(self) -> tuple[Task, Task]:
        return self.image_to_text, self.text_to_image


def read_protocol(
    index: Index, dataset: str, splits: Sequence[str], captions_per_image: int | None = FIRST_CAPTIONS
) -> Evaluation:
    """Reads the vectors and the ground truth of some splits ("all" means every one) from the index.

    `captions_per_image` keeps the first so many of each image, None all of them.

    Raises:
        CollectionMissing: the index holds no such data set.
        EvaluationError: a split is not there, or images or captions that should be there are not.
    """
    names = collection_name(dataset, "images"), collection_name(dataset, "captions")
    spec = index.spec(names[0])
    if missing := [split for split in splits if split not in spec.splits and split != "all"]:
        raise EvaluationError(
            f"{names[0]} has no split {missing[0]!r}: it was filled from {', '.join(spec.splits) or 'nothing'}"
        )
    chosen = tuple(sorted(spec.splits)) if "all" in splits else tuple(sorted(set(splits)))
    last = None if captions_per_image is None else captions_per_image - 1
    where = None if "all" in splits else chosen
    of_images = Where(splits=where)
    of_captions = Where(splits=where, max_position=last)

    images, image_vectors = _read(index, names[0], of_images, Image)
    captions, caption_vectors = _read(index, names[1], of_captions, Caption)
    _check_complete(spec, chosen, images, captions, captions_per_image)
    image_side = Side(names[0], np.array([image.id for image in images], dtype=np.int64), image_vectors, of_images)
    caption_ids = np.array([caption.id for caption in captions], dtype=np.int64)
    caption_side = Side(names[1], caption_ids, caption_vectors, of_captions)

    row = {image.id: number for number, image in enumerate(images)}
    image_of = np.array([row[caption.image_id] for caption in captions], dtype=np.int64)
    per_image = np.bincount(image_of, minlength=len(images))
    return Evaluation(
        spec=spec,
        splits=("all",) if "all" in splits else chosen,
        captions_per_image=captions_per_image,
        image_to_text=Task(
            name="image-to-text",
            queries=image_side,
            gallery=caption_side,
            positives=np.argsort(image_of, kind="stable").astype(np.int64),
            starts=np.concatenate(([0], np.cumsum(per_image))).astype(np.int64),
        ),
        text_to_image=Task(
            name="text-to-image",
            queries=caption_side,
            gallery=image_side,
            positives=image_of,
            starts=np.arange(len(captions) + 1, dtype=np.int64),
        ),
        notes=_notes(spec, chosen),
    )


def _read(index: Index, collection: str, where: Where, kind: type[R]) -> tuple[list[R], Vectors]:
    records: list[R] = []
    blocks: list[Vectors] = []
    for batch in index.scan(collection, where=where, vectors=True):
        for record in batch.records:
            if not isinstance(record, kind):
                raise EvaluationError(f"{collection} holds something else than {kind.__name__.lower()}s: {record}")
            records.append(record)
        if batch.vectors is not None:
            blocks.append(batch.vectors)
    if not records:
        raise EvaluationError(f"{collection} holds no points of this split: run `python -m ingest run` first")
    return records, np.concatenate(blocks)


def _check_complete(
    spec: CollectionSpec,
    splits: Sequence[str],
    images: Sequence[Image],
    captions: Sequence[Caption],
    captions_per_image: int | None,
) -> None:
    """A missing image would make the gallery smaller and every score better, so it is an error."""
    advice = "run the ingestion again; photos that it could not read are listed in its failures.jsonl"
    for split in splits:
        there = sum(image.split == split for image in images)
        expected = spec.splits[split].images
        if there < expected:
            raise EvaluationError(f"split {split} lacks {expected - there:,} of {expected:,} images: {advice}")
        if there > expected:
            raise EvaluationError(
                f"split {split} holds {there:,} images where its annotation file has {expected:,}: it was filled from "
                "several files; ingest them under different --dataset names"
            )
    have = {caption.image_id for caption in captions}
    if silent := [image.id for image in images if image.id not in have]:
        raise EvaluationError(f"image {silent[0]} and {len(silent) - 1:,} more have no captions: {advice}")
    known = {image.id for image in images}
    if orphans := [caption.id for caption in captions if caption.image_id not in known]:
        raise EvaluationError(f"caption {orphans[0]} and {len(orphans) - 1:,} more have no image: {advice}")
    wanted = sum(min(len(image.captions), captions_per_image or len(image.captions)) for image in images)
    if len(captions) < wanted:
        raise EvaluationError(f"{wanted - len(captions):,} of {wanted:,} captions are missing: {advice}")
    if len(captions) > wanted:
        raise EvaluationError(
            f"{len(captions) - wanted:,} captions belong to no image's own list: they are left over from another "
            "annotation file; ingest it under another --dataset name"
        )


def _notes(spec: CollectionSpec, splits: Sequence[str]) -> tuple[str, ...]:
    """What a reader of the scores should know about the gallery."""
    notes = [
        f"split {split}: {spec.splits[split].images:,} of its {spec.splits[split].images_in_file:,} images "
        "were ingested; scores of a smaller gallery are higher"
        for split in splits
        if spec.splits[split].images < spec.splits[split].images_in_file
    ]
    if "train" in splits and "restval" not in splits:
        notes.append("Karpathy's training set is train plus restval; this is train alone")
    return tuple(notes)
