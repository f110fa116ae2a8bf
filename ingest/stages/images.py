"""Read, decode, encode and upsert photos.

The path of a photo, which `ImageStage.embed` shows from top to bottom:

1. `Writer.look_up` (ingest/writer.py) finds the photos whose stored vector is current, and `copy_vectors`
   (ingest/renamed.py) those that were only renamed. Only the others continue; without any, no model is loaded.
2. Read and decode: `PhotoReader` (ingest/photos.py) prepares photos in its workers, a few batches ahead of the model. A
   photo that cannot be read or decoded, such as a truncated JPEG, comes out as the PhotoError that
   search/photos/decode.py raised, and `_fail` adds it to the failures of the summary. If few photos are new,
   `_fail_until_one_opens` does so first: a model that is known from an earlier run is not loaded for them.
3. Encode: `_start` hands a batch to a device, and `_finish_oldest` fetches the vectors of an earlier one.
4. Upsert: `Writer.put` (ingest/writer.py) writes points in the background.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence, Set
from dataclasses import replace
from itertools import cycle

from ingest.failures import NO_VECTOR, Failure
from ingest.photos import PhotoReader, ReadBatch, Recipe
from ingest.progress import bar_of
from ingest.renamed import copy_vectors, renamed_images
from ingest.specs import extend_hubness, outdate_hubness
from ingest.stages.run import Run, batches_of, only_usable, unusable_rows
from ingest.writer import Writer
from search.encoder.clip import ClipEncoder
from search.encoder.images import PendingVectors
from search.errors import PhotoError
from search.index import CollectionSpec, Points, defer_indexing_if_many
from search.photos import PhotoFolder
from search.records import Caption, Image, Vectors

TRIED_FIRST = 64  # photos; if more are new, the model is loaded without looking for one that can be opened


class ImageStage:
    """Reads, decodes, encodes and upserts photos.

    `same_folder`: the stored points were made from the photo folder of this run.
    """

    def __init__(self, run: Run, spec: CollectionSpec, writer: Writer, *, same_folder: bool) -> None:
        self._run, self._spec, self._writer, self._same_folder = run, spec, writer, same_folder
        self._folder = PhotoFolder(spec.photo_folder, follow_links=spec.follow_links)
        self._recipe = Recipe(spec.photo_folder, None, run.options.scaled_decode, spec.follow_links)
        self._in_flight: deque[tuple[list[Image], PendingVectors, ClipEncoder]] = deque()
        self._failed: dict[int, str] = {}
        self._has_written = False

    def embed(self, images: Sequence[Image]) -> dict[int, str]:
        """Embed the images whose stored vector is not current, and return why some of them failed, by id."""
        current = self._writer.look_up(images, self._current_record, force=self._run.options.force)
        if not self._run.options.force:
            current |= self._copy_renamed([image for image in images if image.id not in current])
        missing = [image for image in images if image.id not in current]
        if len(missing) <= TRIED_FIRST:
            self._fail_until_one_opens(missing)
        if len(missing) > len(self._failed):
            self._embed_missing(images, current | self._failed.keys())
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

    def _fail_until_one_opens(self, images: Sequence[Image]) -> None:
        """Record the photos that cannot be opened, up to the first that can.

        If none can, there is nothing to embed, and the model is not loaded, unless the run had to load it at the start.
        """
        for image in images:
            try:
                self._recipe.read_alone(image.file)
            except PhotoError as error:
                self._fail(image, "open", str(error))
            else:
                return

    def _embed_missing(self, images: Sequence[Image], done: Set[int]) -> None:
        """Embed the images whose ids are not in `done`."""
        run, first = self._run, self._run.encoders[0]
        self._recipe = replace(self._recipe, preparation=first.preparation)
        defer_indexing_if_many(run.index, self._spec.collection, len(images) - len(done))
        batches = batches_of(images, done, first.batch_size)
        devices = cycle(run.encoders)
        reader = PhotoReader(
            self._recipe,
            workers=run.options.workers,
            processes="cuda" in first.device,
            batch_size=min(first.batch_size, len(images) - len(done)),
        )
        with bar_of(len(images) - len(done), "images") as bar, reader:
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
            for row in unusable_rows(vectors):
                try:
                    images[row], vectors[row] = self._encode_alone(images[row], encoder)
                except PhotoError as error:
                    self._fail(images[row], "open", str(error))
        for row in unusable_rows(vectors):
            if images[row].id not in self._failed:
                self._fail(images[row], "encode", NO_VECTOR)
        self._write(only_usable(images, vectors))

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
