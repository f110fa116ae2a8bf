"""Encode and upsert captions."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace
from itertools import islice

from ingest.failures import NO_VECTOR, Failure
from ingest.progress import bar_of
from ingest.renamed import copy_vectors, same_captions
from ingest.stages.run import Run, batches_of, only_usable, unusable_rows
from ingest.writer import Writer
from search.encoder.clip import ClipEncoder
from search.index import CollectionSpec, defer_indexing_if_many
from search.records import Caption, Image, Vectors


def embed_captions(
    run: Run, spec: CollectionSpec, writer: Writer, captions: Sequence[Caption], files: Mapping[int, str]
) -> set[int]:
    """Embed the captions whose stored vector is not current, and return the ids of those that failed.

    `files` are the photos by image id.
    """
    # Batches of similar lengths waste no padding, and equal texts get one vector: their ties are real ties.
    ordered = sorted(captions, key=lambda caption: (len(caption.text), caption.text))
    failed: set[int] = set()
    current = writer.look_up(ordered, _current_caption, force=run.options.force)
    if not run.options.force:
        new = [caption for caption in ordered if caption.id not in current and writer.is_new(caption)]
        current |= copy_vectors(run.index, spec.collection, same_captions(run.gone.captions, new), writer.copy)
    if len(current) == len(captions):
        return failed
    defer_indexing_if_many(run.index, spec.collection, len(captions) - len(current))
    batches = batches_of(ordered, current, run.encoders[0].texts_at_once)
    with bar_of(len(captions) - len(current), "captions") as bar, closing(_encode_ahead(run, batches)) as encoded:
        for batch, vectors in encoded:
            for caption in (batch[row] for row in unusable_rows(vectors)):
                file = files.get(caption.image_id, "")
                failure = Failure(file, caption.image_id, "encode", NO_VECTOR, "captions", caption.id)
                run.summary.failures.append(failure)
                failed.add(caption.id)
            points = only_usable(batch, vectors)
            run.summary.truncated += sum(each.truncated for each in points.records if isinstance(each, Caption))
            writer.put(points)
            bar.update(len(batch))
    return failed


def _current_caption(caption: Caption, stored: Image | Caption) -> Caption | None:
    """Return the caption, marked as truncated like the stored one, if its text is still the one that was embedded."""
    if not isinstance(stored, Caption) or stored.text != caption.text:
        return None
    return replace(caption, truncated=True) if stored.truncated else caption


def _encode_ahead(run: Run, batches: Sequence[list[Caption]]) -> Generator[tuple[list[Caption], Vectors], None, None]:
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
