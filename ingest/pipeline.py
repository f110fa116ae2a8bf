"""Ingestion: photos are read ahead, encoded, and upserted in the background; then the captions; each stage timed."""

from __future__ import annotations

import re
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import NoReturn, Self, TypeVar

from tqdm import tqdm

from ingest.karpathy import Annotations
from ingest.photos import PhotoReader, ReadBatch, Recipe
from ingest.summary import Failure, Summary, Tally
from search.encoder import ClipEncoder
from search.errors import IndexFailure, PhotoError, SettingsError, SpecMismatch
from search.index import CollectionSpec, Index, Points, SplitSize, Tuning, Where, put_off_if_many
from search.pixels import is_same_photo
from search.records import Caption, Image
from search.tensors import PendingVectors

POINTS_PER_LOOK_UP = 1000
IDS_PER_COUNT = 5000
WRITES_UNDER_WAY = 4
WORTH_A_WORD = 5000  # points whose indexing takes seconds
FULL_DECODE = "full"

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

    Points that are stored already, with the same payload and from the same photo, are left alone. A photo that cannot
    be opened becomes a failure of the summary; its captions are embedded all the same. `encoders` are copies of one
    model on different devices. What `summary` counts as embedded is acknowledged by the index, also when an error ends
    the run.

    Raises:
        SpecMismatch: the collections were made with another model or prompt.
        WorkerDied: a reading process was killed.
        IndexFailure: the index refuses what is written, or does not hold it in the end.
    """
    (to_images, to_captions), (images, captions) = specs, chosen
    for empty in _check(index, specs):  # an empty collection binds nobody to a model
        index.drop(empty)
    for spec in specs:
        summary.warnings += index.create(spec, plan.tuning)
    with _Writer(index, to_images, summary.images, summary) as writer:
        _embed_images(index, writer, encoders, to_images, images, plan, summary)
    with _Writer(index, to_captions, summary.captions, summary) as writer:
        _embed_captions(index, writer, encoders, to_captions, captions, plan, summary)
    for spec in specs:  # also where nothing was written: an earlier run may have been stopped before this
        info = index.info(spec.collection)
        if info.points - info.indexed_vectors > WORTH_A_WORD:
            tqdm.write(f"building the index of {spec.collection} ({info.points:,} points)", file=sys.stderr)
        with summary.timed("build the index"):
            index.optimize(spec.collection)
    unread = {failure.image_id for failure in summary.failures}
    with summary.timed("count"):
        _check_counts(index, to_images.collection, [image for image in images if image.id not in unread])
        _check_counts(index, to_captions.collection, captions)


def _check_counts(index: Index, collection: str, written: Sequence[Image] | Sequence[Caption]) -> None:
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


def _check(index: Index, specs: Sequence[CollectionSpec]) -> list[str]:
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
    match = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", shard)
    which, machines = map(int, match.groups()) if match else (1, 0)
    if which > machines:
        raise SettingsError(f"--shard {shard!r}: say which of how many machines this is, such as 2/8")
    images = [image for image in chosen[0] if image.order % machines == which - 1]
    mine = {image.id for image in images}
    return images, [caption for caption in chosen[1] if caption.image_id in mine]


def collection_specs(
    annotations: Annotations,
    chosen: tuple[Sequence[Image], Sequence[Caption]],
    photos: Path,
    encoder: ClipEncoder,
    dataset: str,
    decode: str = FULL_DECODE,
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
        decode=decode,
        annotations=annotations.sha256,
        photos=str(photos.resolve()),
        splits={
            split: SplitSize(images=count, captions=captions[split], images_in_file=in_file[split])
            for split, count in sorted(images.items())
        },
        version=version("coco-search"),
    )
    return of_images, of_images.model_copy(update={"kind": "captions"})


def _embed_images(
    index: Index,
    writer: _Writer,
    encoders: Sequence[ClipEncoder],
    spec: CollectionSpec,
    images: Sequence[Image],
    plan: Plan,
    summary: Summary,
) -> None:
    folder = Path(spec.photos)
    current: set[int] = set()
    if not plan.force:
        with summary.timed("look up"):
            current = {image.id for image, stored in _stored(index, spec, images) if _is_current(image, stored, folder)}
    summary.images.already_there = len(current)
    put_off_if_many(index, spec.collection, len(images) - len(current))
    batches = _batches(images, current, encoders[0].batch_size)
    recipe = Recipe(folder, encoders[0].preparation, plan.scaled_decode)
    with (
        _bar(len(images) - len(current), "images") as bar,
        PhotoReader(
            recipe, workers=plan.workers, processes=plan.processes, batch_size=encoders[0].batch_size
        ) as reader,
    ):
        under_way: deque[tuple[list[Image], PendingVectors]] = deque()
        read = reader.batches([[image.file for image in batch] for batch in batches])
        for number, (batch, photos) in enumerate(zip(batches, summary.waited("photos", read), strict=True)):
            good = _sort_out(batch, photos, summary)
            with summary.waiting("encoder", "encode images"):
                if good:
                    pending = encoders[number % len(encoders)].start(photos.rows(list(good)))
                    under_way.append((list(good.values()), pending))
            if len(under_way) > len(encoders):  # so that a device has its next batch while the last one is fetched
                _finish(under_way.popleft(), writer, summary)
            bar.update(len(batch))
        for last in under_way:
            _finish(last, writer, summary)


def _sort_out(batch: Sequence[Image], photos: ReadBatch, summary: Summary) -> dict[int, Image]:
    """The images that could be read, with their marks, by row of the batch; the others become failures."""
    summary.worked(photos.seconds)
    good = {}
    for row, (image, outcome) in enumerate(zip(batch, photos.outcomes, strict=True)):
        if isinstance(outcome, PhotoError):
            summary.failures.append(Failure(image.file, image.id, "open", str(outcome)))
        else:
            good[row] = replace(image, photo=outcome)
    return good


def _finish(batch: tuple[list[Image], PendingVectors], writer: _Writer, summary: Summary) -> None:
    images, pending = batch
    with summary.waiting("encoder", "encode images"):
        vectors = pending.vectors()
    writer.put(Points(images, vectors))


def _embed_captions(
    index: Index,
    writer: _Writer,
    encoders: Sequence[ClipEncoder],
    spec: CollectionSpec,
    captions: Sequence[Caption],
    plan: Plan,
    summary: Summary,
) -> None:
    # Like lengths together waste no padding, and like sentences get one vector: their ties are real ties.
    ordered = sorted(captions, key=lambda caption: (len(caption.text), caption.text))
    current: set[int] = set()
    if not plan.force:
        with summary.timed("look up"):
            current = {
                caption.id for caption, stored in _stored(index, spec, ordered) if _says_the_same(caption, stored)
            }
    summary.captions.already_there = len(current)
    put_off_if_many(index, spec.collection, len(captions) - len(current))
    batches = _batches(ordered, current, encoders[0].texts_at_once)
    with ExitStack() as stack:
        bar = stack.enter_context(_bar(len(captions) - len(current), "captions"))
        threads = [stack.enter_context(ThreadPoolExecutor(1)) for _ in encoders]

        def encode(number: int) -> Future[Points]:
            which = number % len(encoders)
            return threads[which].submit(_encode_captions, encoders[which], batches[number])

        ahead = map(encode, range(len(batches)))
        under_way = deque(islice(ahead, 2 * len(encoders)))
        for _ in batches:
            with summary.waiting("encoder", "encode captions"):
                points = under_way.popleft().result()
            under_way.extend(islice(ahead, 1))
            summary.truncated += sum(caption.truncated for caption in points.records if isinstance(caption, Caption))
            writer.put(points)
            bar.update(len(points))


def _encode_captions(encoder: ClipEncoder, captions: Sequence[Caption]) -> Points:
    texts = [caption.text for caption in captions]
    marked = [replace(caption, truncated=cut) for caption, cut in zip(captions, encoder.too_long(texts), strict=True)]
    return Points(marked, encoder.encode_texts(texts))


def _says_the_same(caption: Caption, stored: Image | Caption) -> bool:
    return isinstance(stored, Caption) and replace(stored, truncated=False) == caption


def _stored(index: Index, spec: CollectionSpec, records: Sequence[R]) -> Iterator[tuple[R, Image | Caption]]:
    """The records that the collection has under their ids, each with what is stored there."""
    for start in range(0, len(records), POINTS_PER_LOOK_UP):
        some = {record.id: record for record in records[start : start + POINTS_PER_LOOK_UP]}
        for stored in index.retrieve(spec.collection, list(some)).records:
            yield some[stored.id], stored


def _is_current(image: Image, stored: Image | Caption, folder: Path) -> bool:
    """Whether what is stored says the same, and was made from the photo that is there now."""
    if not isinstance(stored, Image) or stored.photo is None or replace(stored, photo=None) != image:
        return False
    return is_same_photo(folder, image.file, stored.photo)


def _batches(records: Sequence[R], current: set[int], size: int) -> list[list[R]]:
    """Batches of what is to be embedded. Their borders do not depend on what is there already, so a run that was killed
    and taken up again encodes the same batches as an undisturbed one, to the same bits."""
    batches = (records[start : start + size] for start in range(0, len(records), size))
    return [missing for batch in batches if (missing := [record for record in batch if record.id not in current])]


class _Writer:
    """Upserts in threads of its own, a few batches behind; a context manager that waits for the last of them."""

    def __init__(self, index: Index, spec: CollectionSpec, tally: Tally, summary: Summary) -> None:
        self._index, self._spec, self._tally, self._summary = index, spec, tally, summary
        self._pool = ThreadPoolExecutor(index.streams, thread_name_prefix="upsert")
        self._counting = Lock()
        self._under_way: deque[Future[None]] = deque()

    def put(self, points: Points) -> None:
        """Queues points; waits while too many are queued. Raises what an earlier write raised."""
        with self._summary.waiting("writer"):
            while len(self._under_way) >= WRITES_UNDER_WAY:
                self._under_way.popleft().result()
        self._under_way.append(self._pool.submit(self._write, points))

    def _write(self, points: Points) -> None:
        start = time.perf_counter()
        self._index.upsert(self._spec.collection, points)
        with self._counting:
            self._tally.embedded += len(points)
            self._summary.worked({"upsert": time.perf_counter() - start})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True)
        if error is None:
            for write in self._under_way:
                write.result()


def _bar(total: int, unit: str) -> tqdm[NoReturn]:
    return tqdm(total=total, unit=f" {unit}", desc=unit, disable=not total, dynamic_ncols=True)
