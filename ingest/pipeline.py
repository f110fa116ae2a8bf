"""Ingestion: photos are read ahead, encoded, and upserted in the background; then the captions; each stage timed."""

from __future__ import annotations

import re
import sys
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import NoReturn, TypeVar

import numpy as np
from tqdm import tqdm

from ingest.karpathy import Annotations, Unusable
from ingest.padding import correct_padding, with_padding_of, wrongly_padded
from ingest.photos import PhotoReader, Recipe
from ingest.summary import Failure, Summary
from ingest.writer import Writer
from search.encoder.clip import ClipEncoder
from search.encoder.images import PendingVectors
from search.errors import AnnotationError, IndexFailure, PhotoError, SettingsError, SpecMismatch
from search.index import (
    CollectionSpec,
    Index,
    Points,
    ReadIndex,
    SplitSize,
    Tuning,
    Where,
    defer_indexing_if_many,
    usable,
)
from search.photos import LINK_LEADS_OUT, NO_FILE, current_mark
from search.records import Caption, Image, Vectors
from search.text import spell_path

IDS_PER_COUNT = 5000
ANNOUNCE_FROM = 5000  # points whose indexing takes seconds
FULL_DECODE = "full"
NO_VECTOR = "the model gives no usable vector: NaN, infinite or of zero length"

R = TypeVar("R", Image, Caption)


@dataclass(frozen=True, slots=True)
class Plan:
    """How a run goes about it.

    `workers` read photos, as processes for a GPU; `scaled_decode` lets JPEG be scaled while it is decoded; `force`
    encodes again what is there already; `tuning` says how collections are built.
    """

    workers: int
    processes: bool
    scaled_decode: bool = False
    force: bool = False
    tuning: Tuning | None = None


def ingest(
    index: Index,
    specs: tuple[CollectionSpec, CollectionSpec],
    chosen: tuple[Sequence[Image], Sequence[Caption]],
    encoders: Sequence[ClipEncoder],
    plan: Plan,
    summary: Summary,
) -> None:
    """Embeds the chosen images and captions and writes them into the two collections that `specs` describe.

    What was embedded before and has not changed since, a photo by its content and a caption by its text, is not
    embedded again, whatever else changed about it: its payload alone is written. Fields that users added to a payload
    stay. A photo that cannot be opened, and an input for which the model gives no usable vector, becomes a failure of
    the summary; captions of such a photo are embedded all the same. `encoders` are copies of one model on different
    devices. What `summary` counts as embedded or updated is acknowledged by the index, also when an error ends the run.

    Raises:
        SpecMismatch: the collections were made with another model or prompt, or with texts padded otherwise and not
            all captions are encoded again.
        AnnotationError: not one photo can be read or embedded; no caption has been embedded then.
        WorkerDied: a reading process was killed.
        IndexFailure: the index refuses what is written, or does not hold it in the end.
    """
    (to_images, to_captions), (images, captions) = specs, chosen
    wrong = wrongly_padded(index, specs, captions) if plan.force else []
    # What is stored keeps its specification until all of it is encoded again, in case this run is killed.
    specs = to_images, to_captions = with_padding_of(wrong, to_images), with_padding_of(wrong, to_captions)
    for empty in _check(index, specs):  # an empty collection binds nobody to a model
        index.drop(empty)
    same_folder = to_images.collection in index.collections() and (
        index.spec(to_images.collection).photo_folder == to_images.photo_folder
    )
    for spec in specs:
        summary.warnings += index.create(spec, plan.tuning)
    with Writer(index, to_images, summary.images, summary) as writer:
        failed_images = _embed_images(index, writer, encoders, to_images, images, plan, summary, same_folder)
    if images and len(failed_images) == len(images):
        raise AnnotationError(all_refused(to_images.photo_folder, list(failed_images.values())))
    files = {image.id: image.file for image in images}
    with Writer(index, to_captions, summary.captions, summary) as writer:
        failed_captions = _embed_captions(index, writer, encoders, to_captions, captions, files, plan, summary)
    for spec in specs:  # also where nothing was written: an earlier run may have been stopped before this
        info = index.info(spec.collection)
        if info.points - info.indexed_vectors > ANNOUNCE_FROM:
            tqdm.write(f"building the index of {spec.collection} ({info.points:,} points)", file=sys.stderr)
        with summary.timed("build the index"):
            index.optimize(spec.collection)
    with summary.timed("count"):
        _check_counts(index, to_images.collection, [image for image in images if image.id not in failed_images])
        _check_counts(index, to_captions.collection, [each for each in captions if each.id not in failed_captions])
        for spec in specs:
            _forget_empty_splits(index, spec)
    if wrong:
        correct_padding(index, wrong, encoders[0].padding, summary)


def all_refused(folder: Path, reasons: Sequence[str]) -> str:
    """Return the message for a run of which every photo was refused, with the way out."""
    counts = Counter(reasons).most_common()
    why = counts[0][0] if len(counts) == 1 else "; ".join(f"{count:,} times {reason}" for reason, count in counts[:3])
    way_out = {
        LINK_LEADS_OUT: "give --follow-links if these links are to be followed",
        NO_VECTOR: "use another --dtype or --model",
    }
    is_what = "is there" if why == NO_FILE else "can be used"
    return (
        f"none of the {len(reasons):,} photos {is_what} (looked in {folder}: {why}): "
        f"{way_out.get(counts[0][0], 'check --images')}"
    )


def _forget_empty_splits(index: Index, spec: CollectionSpec) -> None:
    """Do not expect anything of splits of earlier runs that hold no points any more, such as one that was renamed."""
    stored = index.spec(spec.collection)
    splits = {
        name: size
        for name, size in stored.splits.items()
        if name in spec.splits or index.count(spec.collection, where=Where(splits=(name,)))
    }
    if splits != stored.splits:
        index.set_spec(stored.model_copy(update={"splits": splits}))


def _check_counts(index: ReadIndex, collection: str, written: Sequence[Image] | Sequence[Caption]) -> None:
    """Raises IndexFailure unless the index holds every one of these records, in its split."""
    ids: dict[str, list[int]] = {}
    for record in written:
        ids.setdefault(record.split, []).append(record.id)
    for split, wanted in ids.items():
        parts = (tuple(wanted[start : start + IDS_PER_COUNT]) for start in range(0, len(wanted), IDS_PER_COUNT))
        stored = sum(index.count(collection, where=Where(splits=(split,), ids=part)) for part in parts)
        if stored != len(wanted):
            raise IndexFailure(
                f"{collection} at {index.place} holds {stored:,} of the {len(wanted):,} points of split {split} that "
                "were written: does something else change it? Give the same command again to add what is missing"
            )


def _check(index: ReadIndex, specs: Sequence[CollectionSpec]) -> list[str]:
    """Refuses specifications that do not fit, before any collection is changed; names misfits that are empty."""
    empty, there = [], index.collections()
    for spec in specs:
        if spec.collection in there:
            try:
                index.spec(spec.collection).merged(spec)
            except SpecMismatch:
                if index.count(spec.collection):
                    raise
                empty.append(spec.collection)
    return empty


def part_of(chosen: tuple[Sequence[Image], Sequence[Caption]], shard: str) -> tuple[Sequence[Image], Sequence[Caption]]:
    """The images, and their captions, that fall to one of several machines: "2/8" is the second of eight.

    Raises:
        SettingsError: `shard` is not of that form.
    """
    which, machines = _shard(shard)
    images = [image for image in chosen[0] if image.order % machines == which - 1]
    mine = {image.id for image in images}
    return images, [caption for caption in chosen[1] if caption.image_id in mine]


def skipped_of(unusable: Sequence[Unusable], shard: str) -> list[Unusable]:
    """Return the entries that one of several machines reports as skipped; see `part_of`."""
    which, machines = _shard(shard)
    return [each for each in unusable if each.order % machines == which - 1]


def _shard(shard: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", shard)
    which, machines = map(int, match.groups()) if match else (1, 0)
    if which > machines:
        raise SettingsError(f"--shard {shard!r}: say which of how many machines this is, such as 2/8")
    return which, machines


def collection_specs(
    annotations: Annotations,
    chosen: tuple[Sequence[Image], Sequence[Caption]],
    photos: Path,
    encoder: ClipEncoder,
    dataset: str,
    decode: str = FULL_DECODE,
    *,
    follow_links: bool = False,
) -> tuple[CollectionSpec, CollectionSpec]:
    """Return how the image and the caption collection of this run are made."""
    in_file = annotations.splits()
    in_file.update(entry.split for entry in annotations.unusable if entry.kind == "images" and entry.split)
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
        padding=encoder.padding,
        decode=decode,
        annotations=annotations.sha256,
        photos=spell_path(photos.resolve()),
        follow_links=follow_links,
        splits={
            split: SplitSize(images=count, captions=captions[split], images_in_file=in_file[split])
            for split, count in sorted(images.items())
        },
        version=version("coco-search"),
    )
    return of_images, of_images.model_copy(update={"kind": "captions"})


def _embed_images(
    index: Index,
    writer: Writer,
    encoders: Sequence[ClipEncoder],
    spec: CollectionSpec,
    images: Sequence[Image],
    plan: Plan,
    summary: Summary,
    same_folder: bool,
) -> dict[int, str]:
    """Embed what is not current and return why some failed, by id.

    `same_folder`: the stored points were made from the photo folder of this run.
    """
    folder, failed = spec.photo_folder, dict[int, str]()

    def if_current(image: Image, stored: Image | Caption) -> Image | None:
        if not isinstance(stored, Image) or stored.photo is None:
            return None
        same_place = same_folder and image.file == stored.file
        mark = current_mark(folder, image.file, stored.photo, same_place=same_place, follow_links=spec.follow_links)
        return None if mark is None else replace(image, photo=mark)

    def fail(image: Image, stage: str, reason: str) -> None:
        summary.failures.append(Failure(image.file, image.id, stage, reason))
        failed[image.id] = reason

    current = writer.look_up(images, if_current, force=plan.force)
    defer_indexing_if_many(index, spec.collection, len(images) - len(current))
    batches = _batches(images, current, encoders[0].batch_size)
    recipe = Recipe(folder, encoders[0].preparation, plan.scaled_decode, spec.follow_links)
    with (
        _bar(len(images) - len(current), "images") as bar,
        PhotoReader(
            recipe, workers=plan.workers, processes=plan.processes, batch_size=encoders[0].batch_size
        ) as reader,
    ):
        under_way: deque[tuple[list[Image], PendingVectors, ClipEncoder]] = deque()

        def finish() -> None:
            started, pending, encoder = under_way.popleft()
            with summary.waiting("encoder", "encode images"):
                vectors = pending.vectors()
                for row in _unusable(vectors):
                    try:
                        started[row], vectors[row] = _again(encoder, recipe, started[row])
                    except PhotoError as error:
                        fail(started[row], "open", str(error))
            for row in _unusable(vectors):
                if started[row].id not in failed:
                    fail(started[row], "encode", NO_VECTOR)
            writer.put(_only_usable(started, vectors))

        read = reader.batches([[image.file for image in batch] for batch in batches])
        for number, (batch, photos) in enumerate(zip(batches, summary.waited("photos", read), strict=True)):
            summary.worked(photos.seconds)
            rows, opened = [], []
            for row, (image, outcome) in enumerate(zip(batch, photos.outcomes, strict=True)):
                if isinstance(outcome, PhotoError):
                    fail(image, "open", str(outcome))
                else:
                    rows.append(row)
                    opened.append(replace(image, photo=outcome))
            with summary.waiting("encoder", "encode images"):
                if rows:
                    encoder = encoders[number % len(encoders)]
                    under_way.append((opened, encoder.start(photos.rows(rows)), encoder))
            if len(under_way) > len(encoders):  # so that a device has its next batch while the last one is fetched
                finish()
            bar.update(len(batch))
        while under_way:
            finish()
    return failed


def _unusable(vectors: Vectors) -> list[int]:
    rows: list[int] = np.flatnonzero(~usable(vectors)).tolist()
    return rows


def _only_usable(records: Sequence[Image] | Sequence[Caption], vectors: Vectors) -> Points:
    rows = np.flatnonzero(usable(vectors))
    return Points([records[row] for row in rows.tolist()], vectors[rows])


def _again(encoder: ClipEncoder, recipe: Recipe, image: Image) -> tuple[Image, Vectors]:
    """Read and encode a photo again, alone; return the image with its mark, and float32 (dim,), perhaps unusable."""
    mark, photo = recipe.read_alone(image.file)
    return replace(image, photo=mark), encoder.encode_images(photo)[0]


def _embed_captions(
    index: Index,
    writer: Writer,
    encoders: Sequence[ClipEncoder],
    spec: CollectionSpec,
    captions: Sequence[Caption],
    files: Mapping[int, str],
    plan: Plan,
    summary: Summary,
) -> set[int]:
    """Embed what is not current and return the ids of those that failed; `files` are the photos' by image id."""

    def if_current(caption: Caption, stored: Image | Caption) -> Caption | None:
        if not isinstance(stored, Caption) or stored.text != caption.text:
            return None
        return replace(caption, truncated=stored.truncated)

    # Like lengths together waste no padding, and like sentences get one vector: their ties are real ties.
    ordered = sorted(captions, key=lambda caption: (len(caption.text), caption.text))
    failed: set[int] = set()
    current = writer.look_up(ordered, if_current, force=plan.force)
    defer_indexing_if_many(index, spec.collection, len(captions) - len(current))
    batches = _batches(ordered, current, encoders[0].texts_at_once)
    with ExitStack() as stack:
        bar = stack.enter_context(_bar(len(captions) - len(current), "captions"))
        threads = [stack.enter_context(ThreadPoolExecutor(1)) for _ in encoders]

        def encode(number: int) -> Future[tuple[list[Caption], Vectors]]:
            which = number % len(encoders)
            return threads[which].submit(_encode_captions, encoders[which], batches[number])

        ahead = map(encode, range(len(batches)))
        under_way = deque(islice(ahead, 2 * len(encoders)))
        for _ in batches:
            with summary.waiting("encoder", "encode captions"):
                marked, vectors = under_way.popleft().result()
            under_way.extend(islice(ahead, 1))
            for caption in (marked[row] for row in _unusable(vectors)):
                file = files.get(caption.image_id, "")
                summary.failures.append(Failure(file, caption.image_id, "encode", NO_VECTOR, "captions", caption.id))
                failed.add(caption.id)
            points = _only_usable(marked, vectors)
            summary.truncated += sum(each.truncated for each in points.records if isinstance(each, Caption))
            writer.put(points)
            bar.update(len(marked))
    return failed


def _encode_captions(encoder: ClipEncoder, captions: Sequence[Caption]) -> tuple[list[Caption], Vectors]:
    """Return the captions, each marked if the model truncates it, and their vectors float32 (n, dim)."""
    texts = [caption.text for caption in captions]
    marked = [replace(caption, truncated=cut) for caption, cut in zip(captions, encoder.too_long(texts), strict=True)]
    return marked, encoder.encode_texts(texts)


def _batches(records: Sequence[R], current: set[int], size: int) -> list[list[R]]:
    """Batches of what is to be embedded. Their borders do not depend on what is there already, so a run that was killed
    and taken up again encodes the same batches as an undisturbed one, to the same bits."""
    batches = (records[start : start + size] for start in range(0, len(records), size))
    return [missing for batch in batches if (missing := [record for record in batch if record.id not in current])]


def _bar(total: int, unit: str) -> tqdm[NoReturn]:
    return tqdm(total=total, unit=f" {unit}", desc=unit, disable=not total, dynamic_ncols=True)
