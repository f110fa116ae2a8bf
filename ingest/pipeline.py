"""Embed photos, then captions, and upsert them, stage by stage.

The path of a photo, which `_ImageStage.embed` shows from top to bottom:

1. `Writer.look_up` (ingest/writer.py) finds the photos whose stored vector is current, and `copy_vectors`
   (ingest/renamed.py) those that were only renamed. Only the others continue; without any, no model is loaded.
2. Read and decode: `PhotoReader` (ingest/photos.py) prepares photos in its workers, a few batches ahead of the model. A
   photo that cannot be read or decoded, such as a truncated JPEG, comes out as the PhotoError that
   search/photos/decode.py raised, and `_fail` adds it to the failures of the summary.
3. Encode: `_start` hands a batch to a device, and `_finish_oldest` fetches the vectors of an earlier one.
4. Upsert: `Writer.put` (ingest/writer.py) writes points in the background.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Mapping, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from itertools import cycle, islice
from typing import NoReturn, TypeVar

import numpy as np
from tqdm.auto import tqdm

from ingest.building import build_index
from ingest.folder import all_refused
from ingest.padding import correct_padding, with_padding_of, wrongly_padded
from ingest.photos import PhotoReader, ReadBatch, Recipe
from ingest.prune import Gone, prune
from ingest.renamed import copy_vectors, renamed_images, same_captions
from ingest.selection import Chosen
from ingest.specs import (
    check_counts,
    create_collections,
    extend_hubness,
    forget_empty_splits,
    has_same_folder,
    hubness_warnings,
    outdate_hubness,
)
from ingest.summary import NO_VECTOR, Failure, Summary
from ingest.writer import Writer
from search.encoder.clip import ClipEncoder
from search.encoder.images import PendingVectors
from search.errors import AnnotationError, PhotoError
from search.index import CollectionSpec, Index, Points, Tuning, defer_indexing_if_many, usable
from search.photos import PhotoFolder
from search.ranking.cosines import store_cosines
from search.records import Caption, Image, Vectors

TRIED_FIRST = 64  # photos that are opened to see whether there is anything to embed, before a model is loaded

R = TypeVar("R", Image, Caption)


@dataclass(frozen=True, slots=True)
class Plan:
    """How photos are read and collections built.

    `workers` read photos, as `processes` (None: if there is a GPU to feed) or threads; `scaled_decode` lets JPEG be
    scaled while it is decoded; `force` encodes everything again, even if its stored vector is current; `tuning` is for
    new collections; `prune` deletes the points that are gone.
    """

    workers: int
    processes: bool | None
    scaled_decode: bool = False
    force: bool = False
    tuning: Tuning | None = None
    prune: bool = False


@dataclass(frozen=True, slots=True)
class _Run:
    """What both stages of a run share.

    `encoders` are copies of one model on different devices. They may be lazy, so nothing but the encoding of inputs may
    use one.
    """

    index: Index
    encoders: Sequence[ClipEncoder]
    plan: Plan
    summary: Summary
    gone: Gone


def ingest(
    index: Index,
    specs: tuple[CollectionSpec, CollectionSpec],
    chosen: Chosen,
    encoders: Sequence[ClipEncoder],
    plan: Plan,
    summary: Summary,
    gone: Gone | None = None,
) -> None:
    """Embed images and captions and write them into the two collections that `specs` describe.

    A photo whose content, or a caption whose text, is unchanged since it was embedded is not embedded again; if
    anything else changed, only its payload is written. New photos and captions with the content of some that are `gone`
    get their vectors. Fields that users added to a payload stay. A photo that cannot be opened, and an input without a
    usable vector, becomes a failure of the summary; the captions of such a photo are still embedded. What `summary`
    counts as embedded or updated is acknowledged by the index, even if an error ends the run.

    Raises:
        SpecMismatch: the collections were made with another model or prompt, or with texts padded differently and
            not all captions are encoded again.
        AnnotationError: not one photo can be read or embedded; no caption has been embedded then.
        WorkerDied: a reading process was killed.
        IndexFailure: the index refuses what is written, or does not hold it in the end.
    """
    run, (images, captions) = _Run(index, encoders, plan, summary, gone or Gone()), chosen
    wrong = wrongly_padded(index, specs, captions) if plan.force else []
    # A stored collection keeps its specification until all of it is encoded again, in case this run is killed.
    specs = of_images, of_captions = with_padding_of(wrong, specs[0]), with_padding_of(wrong, specs[1])
    same_folder = has_same_folder(index, of_images)
    summary.warnings += create_collections(index, specs, plan.tuning)
    with Writer(index, of_images, summary.images, summary) as writer:
        failed_images = _ImageStage(run, of_images, writer, same_folder=same_folder).embed(images)
    if images and len(failed_images) == len(images):
        raise AnnotationError(all_refused(of_images.photo_folder, list(failed_images.values())))
    files = {image.id: image.file for image in images}
    with Writer(index, of_captions, summary.captions, summary) as writer:
        failed_captions = _embed_captions(run, of_captions, writer, captions, files)
    if plan.prune:
        prune(index, specs, run.gone, summary)
    _build_indexes(run, specs)
    with summary.timed("count"):
        check_counts(index, of_images.collection, [image for image in images if image.id not in failed_images])
        check_counts(index, of_captions.collection, [each for each in captions if each.id not in failed_captions])
        for spec in specs:
            forget_empty_splits(index, spec)
        written = summary.images.embedded + summary.captions.embedded
        store_cosines(index, of_images.dataset, changed=bool(written))
    summary.warnings += hubness_warnings(index, of_images.collection)
    if wrong:
        correct_padding(index, wrong, encoders[0].padding, summary)


def _build_indexes(run: _Run, specs: Sequence[CollectionSpec]) -> None:
    """Optimize the collections, even if nothing was written: an earlier run may have been stopped before this."""
    for spec in specs:
        with run.summary.timed("build the index"):
            build_index(run.index, spec.collection)


class _ImageStage:
    """Reads, decodes, encodes and upserts photos.

    `same_folder`: the stored points were made from the photo folder of this run.
    """

    def __init__(self, run: _Run, spec: CollectionSpec, writer: Writer, *, same_folder: bool) -> None:
        self._run, self._spec, self._writer, self._same_folder = run, spec, writer, same_folder
        self._folder = PhotoFolder(spec.photo_folder, follow_links=spec.follow_links)
        self._recipe = Recipe(spec.photo_folder, None, run.plan.scaled_decode, spec.follow_links)
        self._in_flight: deque[tuple[list[Image], PendingVectors, ClipEncoder]] = deque()
        self._failed: dict[int, str] = {}
        self._has_written = False

    def embed(self, images: Sequence[Image]) -> dict[int, str]:
        """Embed the images whose stored vector is not current, and return why some of them failed, by id."""
        current = self._writer.look_up(images, self._current_record, force=self._run.plan.force)
        if not self._run.plan.force:
            current |= self._copy_renamed([image for image in images if image.id not in current])
        missing = [image for image in images if image.id not in current]
        if len(missing) <= TRIED_FIRST:
            self._fail_unreadable(missing)
        if len(missing) > len(self._failed):
            self._embed(images, current | self._failed.keys())
        return self._failed

    def _copy_renamed(self, images: Sequence[Image]) -> set[int]:
        """Copy the vectors of renamed photos, and return their new ids."""
        run, spec = self._run, self._spec
        new = list(filter(self._writer.is_new, images))
        pairs = renamed_images(run.gone.images, new, spec.photo_folder, follow_links=spec.follow_links)
        copied = copy_vectors(run.index, spec.collection, pairs, self._writer.copy)
        if copied:
            extend_hubness(run.index, spec.collection, len(copied))
        return copied

    def _fail_unreadable(self, images: Sequence[Image]) -> None:
        """Let images fail that cannot be opened: if there are no others, as in most folders, no model is needed."""
        for image in images:
            try:
                self._recipe.read_alone(image.file)
            except PhotoError as error:
                self._fail(image, "open", str(error))

    def _embed(self, images: Sequence[Image], done: Set[int]) -> None:
        """Embed the images whose ids are not in `done`."""
        run, first = self._run, self._run.encoders[0]
        self._recipe = replace(self._recipe, preparation=first.preparation)
        defer_indexing_if_many(run.index, self._spec.collection, len(images) - len(done))
        batches = _batches(images, done, first.batch_size)
        devices = cycle(run.encoders)
        processes = "cuda" in first.device if run.plan.processes is None else run.plan.processes
        reader = PhotoReader(self._recipe, workers=run.plan.workers, processes=processes, batch_size=first.batch_size)
        with _bar(len(images) - len(done), "images") as bar, reader:
            read_ahead = reader.batches([[image.file for image in batch] for batch in batches])
            for batch, photos in zip(batches, run.summary.waited("photos", read_ahead), strict=True):
                run.summary.worked(photos.seconds)
                self._start(batch, photos, next(devices))
                if len(self._in_flight) > len(run.encoders):  # each device has its next batch before one is fetched
                    self._finish_oldest()
                bar.update(len(batch))
            while self._in_flight:
                self._finish_oldest()

    def _current_record(self, image: Image, stored: Image | Caption) -> Image | None:
        """Return the image with its photo's mark if that photo is still the one that was embedded."""
        if not isinstance(stored, Image) or stored.photo is None:
            return None
        same_place = self._same_folder and image.file == stored.file
        mark = self._folder.current_mark(image.file, stored.photo, same_place=same_place)
        return None if mark is None else replace(image, photo=mark, hubness=stored.hubness)

    def _start(self, batch: Sequence[Image], photos: ReadBatch, encoder: ClipEncoder) -> None:
        """Start to encode the photos of a batch; those that could not be read or decoded fail."""
        rows, images = [], []
        for row, (image, outcome) in enumerate(zip(batch, photos.outcomes, strict=True)):
            if isinstance(outcome, PhotoError):
                self._fail(image, "open", str(outcome))
            else:
                rows.append(row)
                images.append(replace(image, photo=outcome))
        with self._run.summary.waiting("encoder", "encode images"):
            if rows:
                self._in_flight.append((images, encoder.start(photos.rows(rows)), encoder))

    def _finish_oldest(self) -> None:
        """Fetch the vectors of the batch that was started first, and queue its points for writing."""
        images, pending, encoder = self._in_flight.popleft()
        with self._run.summary.waiting("encoder", "encode images"):
            vectors = pending.vectors()
            for row in _unusable(vectors):
                try:
                    images[row], vectors[row] = self._encode_alone(images[row], encoder)
                except PhotoError as error:
                    self._fail(images[row], "open", str(error))
        for row in _unusable(vectors):
            if images[row].id not in self._failed:
                self._fail(images[row], "encode", NO_VECTOR)
        self._write(_only_usable(images, vectors))

    def _write(self, points: Points) -> None:
        if len(points) and not self._has_written:
            outdate_hubness(self._run.index, self._spec.collection)
            self._has_written = True
        self._writer.put(points)

    def _encode_alone(self, image: Image, encoder: ClipEncoder) -> tuple[Image, Vectors]:
        """Read and encode a photo again, alone; return it with its mark, and its vector (dim,), perhaps unusable."""
        mark, photo = self._recipe.read_alone(image.file)
        return replace(image, photo=mark), encoder.encode_images(photo)[0]

    def _fail(self, image: Image, stage: str, reason: str) -> None:
        self._run.summary.failures.append(Failure(image.file, image.id, stage, reason))
        self._failed[image.id] = reason


def _embed_captions(
    run: _Run, spec: CollectionSpec, writer: Writer, captions: Sequence[Caption], files: Mapping[int, str]
) -> set[int]:
    """Embed the captions whose stored vector is not current, and return the ids of those that failed.

    `files` are the photos by image id.
    """
    # Batches of similar lengths waste no padding, and equal texts get one vector: their ties are real ties.
    ordered = sorted(captions, key=lambda caption: (len(caption.text), caption.text))
    failed: set[int] = set()
    current = writer.look_up(ordered, _current_caption, force=run.plan.force)
    if not run.plan.force:
        new = [caption for caption in ordered if caption.id not in current and writer.is_new(caption)]
        current |= copy_vectors(run.index, spec.collection, same_captions(run.gone.captions, new), writer.copy)
    if len(current) == len(captions):
        return failed
    defer_indexing_if_many(run.index, spec.collection, len(captions) - len(current))
    batches = _batches(ordered, current, run.encoders[0].texts_at_once)
    with _bar(len(captions) - len(current), "captions") as bar, closing(_encode_ahead(run, batches)) as encoded:
        for batch, vectors in encoded:
            for caption in (batch[row] for row in _unusable(vectors)):
                file = files.get(caption.image_id, "")
                failure = Failure(file, caption.image_id, "encode", NO_VECTOR, "captions", caption.id)
                run.summary.failures.append(failure)
                failed.add(caption.id)
            points = _only_usable(batch, vectors)
            run.summary.truncated += sum(each.truncated for each in points.records if isinstance(each, Caption))
            writer.put(points)
            bar.update(len(batch))
    return failed


def _current_caption(caption: Caption, stored: Image | Caption) -> Caption | None:
    """Return the caption, marked as truncated like the stored one, if its text is still the one that was embedded."""
    if not isinstance(stored, Caption) or stored.text != caption.text:
        return None
    return replace(caption, truncated=True) if stored.truncated else caption


def _encode_ahead(run: _Run, batches: Sequence[list[Caption]]) -> Generator[tuple[list[Caption], Vectors], None, None]:
    """Yield batches in order with their vectors; each encoder works in a thread of its own, two batches ahead."""
    with ExitStack() as stack:
        threads = [stack.enter_context(ThreadPoolExecutor(1)) for _ in run.encoders]

        def submit(number: int) -> Future[tuple[list[Caption], Vectors]]:
            device = number % len(run.encoders)
            return threads[device].submit(_encode_captions, run.encoders[device], batches[number])

        futures = map(submit, range(len(batches)))
        in_flight = deque(islice(futures, 2 * len(run.encoders)))
        for _ in batches:
            with run.summary.waiting("encoder", "encode captions"):
                encoded = in_flight.popleft().result()
            in_flight.extend(islice(futures, 1))
            yield encoded


def _encode_captions(encoder: ClipEncoder, captions: Sequence[Caption]) -> tuple[list[Caption], Vectors]:
    """Return the captions, each marked if the model truncates it, and their vectors float32 (n, dim)."""
    texts = [caption.text for caption in captions]
    marked = [
        replace(caption, truncated=truncation is not None)
        for caption, truncation in zip(captions, encoder.truncations(texts), strict=True)
    ]
    return marked, encoder.encode_texts(texts)


def _batches(records: Sequence[R], current: Set[int], size: int) -> list[list[R]]:
    """Return batches of the records that are not current.

    Batch bounds do not depend on which are current, so a run that was killed and resumed encodes the same batches as
    an undisturbed one, to the same bits.
    """
    all_batches = (records[start : start + size] for start in range(0, len(records), size))
    return [missing for batch in all_batches if (missing := [record for record in batch if record.id not in current])]


def _unusable(vectors: Vectors) -> list[int]:
    rows: list[int] = np.flatnonzero(~usable(vectors)).tolist()
    return rows


def _only_usable(records: Sequence[Image] | Sequence[Caption], vectors: Vectors) -> Points:
    rows = np.flatnonzero(usable(vectors))
    return Points([records[row] for row in rows.tolist()], vectors[rows])


def _bar(total: int, unit: str) -> tqdm[NoReturn]:
    return tqdm(total=total, unit=f" {unit}", desc=unit, disable=not total, dynamic_ncols=True)
