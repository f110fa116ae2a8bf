"""Read the queries, the gallery and the positives back from the index, and check that they are complete."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from eval.protocol import FIRST_CAPTIONS, Evaluation, Ids, Side, both_tasks
from search.errors import EvaluationError
from search.index import CollectionSpec, ReadIndex, Where, collection_name
from search.records import COCO_PHOTOS, Caption, Image, Vectors

ADVICE = "run the ingestion again; photos that it could not read are listed in its failures.jsonl"


def read_ground_truth(
    index: ReadIndex,
    dataset: str,
    splits: Sequence[str],
    captions_per_image: int | None = FIRST_CAPTIONS,
    *,
    allow_missing: bool = False,
) -> Evaluation:
    """Read the vectors and the ground truth of some splits ("all" for every one) from the index.

    `captions_per_image` is the number of captions of each image to use, from the first, None for all of them. With
    `allow_missing`, captions without their image and images without captions are left out, and the notes give their
    number.

    Raises:
        CollectionMissing: the index does not hold the data set.
        EvaluationError: a split does not exist, images or captions of it are missing, or the stored vectors are not
            those of queries.
    """
    names = collection_name(dataset, "images"), collection_name(dataset, "captions")
    spec = index.spec(names[0])
    if spec.roles:
        raise EvaluationError(
            f"{spec.model_id} encodes queries and documents differently, and {dataset} holds documents only, which "
            "cannot be evaluated as queries: evaluate a model without such roles"
        )
    if spec.splits and not any(size.captions for size in spec.splits.values()):
        raise EvaluationError(
            f"{dataset} has no captions, which are the queries of an evaluation: ingest it with --annotations FILE, or "
            "with a text file NAME.txt beside every photo NAME.jpg"
        )
    if missing := [split for split in splits if split not in spec.splits and split != "all"]:
        raise EvaluationError(
            f"{names[0]} has no split {missing[0]!r}: "
            + (f"use {_options(spec.splits)}" if spec.splits else "run `python -m ingest run` first")
        )
    chosen = tuple(sorted(spec.splits)) if "all" in splits else tuple(sorted(set(splits)))
    last = None if captions_per_image is None else captions_per_image - 1
    where = None if "all" in splits else chosen

    images = _Images.read(index, names[0], Where(splits=where), captions_per_image)
    captions = _Captions.read(index, names[1], Where(splits=where, max_position=last))
    _check_no_more_images(spec, chosen, images)
    notes = _notes(spec, chosen)
    if allow_missing:
        images, captions, left_out = _complete_part(spec, chosen, images, captions)
    else:
        _check_complete(spec, chosen, images, captions)
        images, left_out = _with_captions(images)
    notes += left_out
    _check_no_more_captions(images, captions)

    row = {image_id: number for number, image_id in enumerate(images.side.ids.tolist())}
    image_of = np.array([row[image_id] for image_id in captions.image_ids.tolist()], dtype=np.int64)
    image_to_text, text_to_image = both_tasks(images.side, captions.side, image_of)
    return Evaluation(
        spec=spec,
        splits=("all",) if "all" in splits else chosen,
        captions_per_image=captions_per_image,
        image_to_text=image_to_text,
        text_to_image=text_to_image,
        image_of=image_of,
        files=images.files,
        texts=captions.texts,
        hubness=np.array(images.hubness, dtype=np.float64),
        truncated=sum(captions.truncated),
        notes=tuple(notes),
        of_coco=images.of_coco,
    )


def _options(splits: Iterable[str]) -> str:
    """Return the options that choose one of these splits, or all."""
    return ", ".join(f"--split {split}" for split in splits) + ", or --split all"


@dataclass(frozen=True, slots=True)
class _Images:
    """The images, in the order of the annotation file; `captions` int64 (n,): how many each should have.

    `of_coco`: whether every one has an address at MS COCO.
    """

    side: Side
    captions: Ids
    splits: list[str]
    files: list[str]
    hubness: list[float]
    of_coco: bool

    @classmethod
    def read(cls, index: ReadIndex, collection: str, where: Where, captions_per_image: int | None) -> _Images:
        vectors, records = _Vectors(index, collection, where), list[tuple[int, int, int, str, str, float]]()
        of_coco = True
        for image in vectors.records():
            if not isinstance(image, Image):
                raise EvaluationError(f"{collection} holds something other than images: {image}")
            wanted = min(len(image.captions), captions_per_image or len(image.captions))
            number = np.nan if image.hubness is None else image.hubness
            records.append((image.order, image.id, wanted, image.split, image.file, number))
            of_coco = of_coco and (image.url or "").startswith(COCO_PHOTOS)
        order = np.argsort([record[0] for record in records], kind="stable")
        _, ids, wanted_of, splits, files, numbers = zip(*(records[place] for place in order), strict=True)
        side = Side(collection, np.array(ids, dtype=np.int64), vectors.rows[order], where)
        return cls(side, np.array(wanted_of, dtype=np.int64), list(splits), list(files), list(numbers), of_coco)

    def only(self, keep: npt.NDArray[np.bool_]) -> _Images:
        rows = np.flatnonzero(keep)
        splits, files = [self.splits[row] for row in rows], [self.files[row] for row in rows]
        numbers = [self.hubness[row] for row in rows]
        return _Images(_only(self.side, keep), self.captions[rows], splits, files, numbers, self.of_coco)


@dataclass(frozen=True, slots=True)
class _Captions:
    """The captions, and the id of the image of each, `image_ids` int64 (n,)."""

    side: Side
    image_ids: Ids
    texts: list[str]
    truncated: list[bool]

    @classmethod
    def read(cls, index: ReadIndex, collection: str, where: Where) -> _Captions:
        vectors = _Vectors(index, collection, where)
        ids, image_ids, texts, truncated = list[int](), list[int](), list[str](), list[bool]()
        for caption in vectors.records():
            if not isinstance(caption, Caption):
                raise EvaluationError(f"{collection} holds something other than captions: {caption}")
            ids.append(caption.id)
            image_ids.append(caption.image_id)
            texts.append(caption.text)
            truncated.append(caption.truncated)
        side = Side(collection, np.array(ids, dtype=np.int64), vectors.rows, where)
        return cls(side, np.array(image_ids, dtype=np.int64), texts, truncated)

    def only(self, keep: npt.NDArray[np.bool_]) -> _Captions:
        rows = np.flatnonzero(keep)
        texts, truncated = [self.texts[row] for row in rows], [self.truncated[row] for row in rows]
        return _Captions(_only(self.side, keep), self.image_ids[rows], texts, truncated)


def _only(side: Side, keep: npt.NDArray[np.bool_]) -> Side:
    """Return a part of a side; its filter keeps the rest out of Qdrant's answers too."""
    where = replace(side.where, not_ids=tuple(side.ids[~keep].tolist()) or None)
    return Side(side.collection, side.ids[keep], side.vectors[keep], where)


@dataclass
class _Vectors:
    """The vectors of a collection in one array `rows`, float32 (n, dim), filled while `records` is iterated over."""

    index: ReadIndex
    collection: str
    where: Where
    rows: Vectors = field(default_factory=lambda: np.empty((0, 0), dtype=np.float32))

    def records(self) -> Iterator[Image | Caption]:
        """Yield every record.

        Raises:
            EvaluationError: there are no records, or the collection is written to meanwhile.
        """
        count, filled = self.index.count(self.collection, where=self.where), 0
        if not count:
            raise EvaluationError(f"{self.collection} holds no points of this split: run `python -m ingest run` first")
        self.rows = np.empty((count, self.index.spec(self.collection).dim), dtype=np.float32)
        for batch in self.index.scan(self.collection, where=self.where, vectors=True):
            assert batch.vectors is not None
            if filled + len(batch.records) <= count:
                self.rows[filled : filled + len(batch.records)] = batch.vectors
            filled += len(batch.records)
            yield from batch.records
        if filled != count:
            raise EvaluationError(
                f"{self.collection} was changed while it was read ({count:,} points, then {filled:,}): run it again"
            )


def _check_no_more_images(spec: CollectionSpec, splits: Sequence[str], images: _Images) -> None:
    """Refuse images of another annotation file, which would make the gallery larger."""
    images_of = Counter(images.splits)
    for split in splits:
        if images_of[split] > spec.splits[split].images:
            raise EvaluationError(
                f"split {split} holds {images_of[split]:,} images where its annotation file or folder has "
                f"{spec.splits[split].images:,}: remove the others with `python -m ingest run --prune`, or ingest "
                "several files under different --dataset names"
            )


def _check_no_more_captions(images: _Images, captions: _Captions) -> None:
    """Refuse captions that belong to no image: in the gallery, they would be positives of no query."""
    if (extra := len(captions.texts) - int(images.captions.sum())) > 0:
        raise EvaluationError(
            f"{extra:,} captions are no longer listed with any image: remove them with `python -m ingest run --prune`, "
            "or ingest several files under different --dataset names"
        )


def _check_complete(spec: CollectionSpec, splits: Sequence[str], images: _Images, captions: _Captions) -> None:
    """Refuse missing images and captions: a smaller gallery makes every score better."""
    or_not = "; --allow-missing evaluates what is stored"
    images_of = Counter(images.splits)
    for split in splits:
        expected = spec.splits[split].images
        if images_of[split] < expected:
            raise EvaluationError(
                f"split {split} lacks {expected - images_of[split]:,} of {expected:,} images: {ADVICE}{or_not}"
            )
    uncaptioned, orphans = _unmatched(images, captions)
    uncaptioned &= images.captions > 0
    if uncaptioned.any():
        first = images.side.ids[uncaptioned][0]
        raise EvaluationError(f"image {first} and {uncaptioned.sum() - 1:,} more have no captions: {ADVICE}{or_not}")
    if orphans.any():
        first = captions.side.ids[orphans][0]
        raise EvaluationError(f"caption {first} and {orphans.sum() - 1:,} more have no image: {ADVICE}{or_not}")
    wanted, have = int(images.captions.sum()), len(captions.texts)
    if have < wanted:
        raise EvaluationError(f"{wanted - have:,} of {wanted:,} captions are missing: {ADVICE}{or_not}")


def _with_captions(images: _Images) -> tuple[_Images, list[str]]:
    """Return the images with captions in the annotation file, because others have no positive, and a note on them."""
    wordless = int((images.captions == 0).sum())
    note = f"{wordless:,} images have no captions in the annotation file and are left out"
    return (images.only(images.captions > 0), [note]) if wordless else (images, [])


def _complete_part(
    spec: CollectionSpec, splits: Sequence[str], images: _Images, captions: _Captions
) -> tuple[_Images, _Captions, list[str]]:
    """Return the images with captions, the captions with an image, and notes on those left out."""
    expected = sum(spec.splits[split].images for split in splits)
    wanted = int(images.captions.sum())
    uncaptioned, orphans = _unmatched(images, captions)
    images, captions = images.only(~uncaptioned), captions.only(~orphans)
    if not len(images.files):
        raise EvaluationError(f"no image of this split has a stored caption: {ADVICE}")
    notes = []
    if lost := expected - len(images.files):
        notes.append(
            f"{lost:,} of {expected:,} images take no part (missing, or without captions): the gallery is smaller and "
            "scores are higher than those of the whole split"
        )
    if orphans.any():
        notes.append(f"{orphans.sum():,} captions without their image take no part")
    if missing_captions := wanted - len(captions.texts):
        notes.append(f"{missing_captions:,} captions of the remaining images are missing")
    return images, captions, notes


def _unmatched(images: _Images, captions: _Captions) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Return which images have no caption, and which captions have no image."""
    return ~np.isin(images.side.ids, captions.image_ids), ~np.isin(captions.image_ids, images.side.ids)


def _notes(spec: CollectionSpec, splits: Sequence[str]) -> list[str]:
    """Return what a reader of the scores should know about the gallery."""
    notes = [
        f"split {split}: {spec.splits[split].images:,} of its {spec.splits[split].images_in_file:,} images "
        "were ingested; scores of a smaller gallery are higher"
        for split in splits
        if spec.splits[split].images < spec.splits[split].images_in_file
    ]
    if "train" in splits and "restval" not in splits:
        notes.append("Karpathy's training set is train plus restval; this is train alone")
    return notes
