"""Ingestion: read and decode photos, encode them and their captions, upsert both; each stage timed."""

from __future__ import annotations

import itertools
import json
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn, TypeVar

import PIL.Image
from tqdm import tqdm

from ingest.karpathy import Annotations
from search.encoder import ClipEncoder
from search.errors import PhotoError
from search.index import CollectionSpec, Index, Points, SplitSize
from search.pixels import open_photo
from search.records import Caption, Image

PHOTOS_PER_WRITE = 128
CAPTIONS_PER_WRITE = 2048
POINTS_PER_LOOK_UP = 1000
DECODE = "full"

R = TypeVar("R", Image, Caption)


@dataclass(frozen=True, slots=True)
class Failure:
    """One input that could not be embedded."""

    file: str
    image_id: int
    stage: str
    reason: str


@dataclass(slots=True)
class Tally:
    """What happened to the records of one collection."""

    embedded: int = 0
    already_there: int = 0


@dataclass(slots=True)
class Summary:
    """What a run did; `seconds` per stage, where reading and decoding counts only while the encoder waited for it."""

    images: Tally = field(default_factory=Tally)
    captions: Tally = field(default_factory=Tally)
    truncated: int = 0
    failures: list[Failure] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start

    def write_failures(self, file: Path) -> None:
        """One JSON object a line: file, image_id, stage, reason."""
        lines = (
            {"file": failure.file, "image_id": failure.image_id, "stage": failure.stage, "reason": failure.reason}
            for failure in self.failures
        )
        file.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def ingest(
    index: Index,
    specs: tuple[CollectionSpec, CollectionSpec],
    chosen: tuple[Sequence[Image], Sequence[Caption]],
    encoder: ClipEncoder,
) -> Summary:
    """Embeds the chosen images and captions and writes them into the two collections that `specs` describe.

    Points that are stored already, with the same payload, are left alone. A photo that cannot be opened becomes a
    failure of the summary; its captions are embedded all the same.

    Raises:
        SpecMismatch: the collections were made with another model or prompt.
    """
    (to_images, to_captions), (images, captions) = specs, chosen
    summary = Summary()
    for spec in specs:
        summary.warnings += index.create(spec)
    with summary.timed("look up"):
        new_images = _not_stored(index, to_images.collection, images, summary.images)
        new_captions = _not_stored(index, to_captions.collection, captions, summary.captions)
    _embed_images(index, to_images, encoder, new_images, summary)
    _embed_captions(index, to_captions, encoder, new_captions, summary)
    for spec, tally in ((to_images, summary.images), (to_captions, summary.captions)):
        if tally.embedded:
            with summary.timed("build the index"):
                index.optimize(spec.collection)
    return summary


def collection_specs(
    annotations: Annotations,
    chosen: tuple[Sequence[Image], Sequence[Caption]],
    photos: Path,
    encoder: ClipEncoder,
    dataset: str,
) -> tuple[CollectionSpec, CollectionSpec]:
    """How the image and the caption collection of this run come about."""
    in_file = annotations.splits()
    images = Counter(image.split for image in chosen[0])
    captions = Counter(caption.split for caption in chosen[1])
    of_images = CollectionSpec(
        dataset=dataset,
        kind="images",
        dim=encoder.dim,
        model=encoder.name,
        revision=encoder.revision,
        weights=encoder.weights,
        dtype=encoder.dtype,
        prompt=encoder.prompt,
        decode=DECODE,
        annotations=annotations.sha256,
        photos=str(photos.resolve()),
        splits={
            split: SplitSize(images=count, captions=captions[split], images_in_file=in_file[split])
            for split, count in sorted(images.items())
        },
        version=version("coco-search"),
    )
    return of_images, of_images.model_copy(update={"kind": "captions"})


def _not_stored(index: Index, collection: str, records: Sequence[R], tally: Tally) -> list[R]:
    """The records that are not in the collection exactly as they are here."""
    missing: list[R] = []
    for start in range(0, len(records), POINTS_PER_LOOK_UP):
        some = records[start : start + POINTS_PER_LOOK_UP]
        stored = set(index.retrieve(collection, [record.id for record in some]).records)
        missing += [record for record in some if record not in stored]
    tally.already_there = len(records) - len(missing)
    return missing


def _embed_images(
    index: Index, spec: CollectionSpec, encoder: ClipEncoder, images: Sequence[Image], summary: Summary
) -> None:
    with _bar(len(images), "images") as bar:
        for batch in _decoded(Path(spec.photos), images, summary):
            opened = [(image, pixels) for image, pixels in batch if isinstance(pixels, PIL.Image.Image)]
            summary.failures += [
                Failure(image.file, image.id, "open", str(error))
                for image, error in batch
                if isinstance(error, PhotoError)
            ]
            if opened:
                with summary.timed("encode images"):
                    vectors = encoder.encode_images([pixels for _, pixels in opened])
                with summary.timed("upsert"):
                    index.upsert(spec.collection, Points([image for image, _ in opened], vectors))
            summary.images.embedded += len(opened)
            bar.update(len(batch))


def _embed_captions(
    index: Index, spec: CollectionSpec, encoder: ClipEncoder, captions: Sequence[Caption], summary: Summary
) -> None:
    # Like lengths together waste no padding, and like sentences get one vector: their ties are real ties.
    ordered = sorted(captions, key=lambda caption: (len(caption.text), caption.text))
    with _bar(len(ordered), "captions") as bar:
        for start in range(0, len(ordered), CAPTIONS_PER_WRITE):
            batch = ordered[start : start + CAPTIONS_PER_WRITE]
            with summary.timed("encode captions"):
                vectors = encoder.encode_texts([caption.text for caption in batch])
            with summary.timed("upsert"):
                index.upsert(spec.collection, Points(batch, vectors))
            summary.captions.embedded += len(batch)
            bar.update(len(batch))
    summary.truncated = encoder.truncated


def _decoded(
    photos: Path, images: Sequence[Image], summary: Summary
) -> Iterator[list[tuple[Image, PIL.Image.Image | PhotoError]]]:
    """Batches of opened photos; the next batch is decoded by threads while the caller encodes this one."""

    def opened(image: Image) -> tuple[Image, PIL.Image.Image | PhotoError]:
        try:
            return image, open_photo(photos, image.file)
        except PhotoError as error:
            return image, error

    with ThreadPoolExecutor(thread_name_prefix="decode") as pool:
        starts = range(0, len(images), PHOTOS_PER_WRITE)
        batches = (pool.map(opened, images[start : start + PHOTOS_PER_WRITE]) for start in starts)
        under_way = deque(itertools.islice(batches, 1))
        while under_way:
            under_way.extend(itertools.islice(batches, 1))
            with summary.timed("wait for photos"):
                batch = list(under_way.popleft())
            yield batch


def _bar(total: int, unit: str) -> tqdm[NoReturn]:
    return tqdm(total=total, unit=f" {unit}", desc=unit, disable=not total, dynamic_ncols=True)
