"""Embed photos, then captions, and upsert them; then prune, build the HNSW index, and check what is stored.

`ingest/stages/images.py` describes the path of a photo, `ingest/stages/captions.py` embeds captions.
"""

from __future__ import annotations

from collections.abc import Sequence

from ingest.annotations import Chosen
from ingest.building import build_index
from ingest.folder import all_refused
from ingest.padding import correct_padding, with_padding_of, wrongly_padded
from ingest.prune import Gone, prune
from ingest.specs import check_counts, create_collections, forget_empty_splits, has_same_folder, hubness_warnings
from ingest.stages.captions import embed_captions
from ingest.stages.images import ImageStage
from ingest.stages.run import Run, RunOptions
from ingest.summary import Summary
from ingest.writer import Writer
from search.encoder.clip import ClipEncoder
from search.errors import AnnotationError
from search.index import CollectionSpec, Index
from search.ranking.cosines import store_cosines


def ingest(
    index: Index,
    specs: tuple[CollectionSpec, CollectionSpec],
    part: Chosen,
    encoders: Sequence[ClipEncoder],
    options: RunOptions,
    summary: Summary,
    gone: Gone | None = None,
) -> None:
    """Embed the images and captions of `part`, and write them into the two collections that `specs` describe.

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
    run = Run(index, encoders, options, summary, gone or Gone())
    images, captions = part
    wrongly_padded_specs = wrongly_padded(index, specs, captions) if options.force else []
    # A stored collection keeps its specification until all of it is encoded again, in case this run is killed.
    of_images, of_captions = (with_padding_of(wrongly_padded_specs, spec) for spec in specs)
    specs = (of_images, of_captions)
    same_folder = has_same_folder(index, of_images)
    summary.warnings += create_collections(index, specs, options.tuning)
    with Writer(index, of_images, summary.images, summary) as writer:
        failed_images = ImageStage(run, of_images, writer, same_folder=same_folder).embed(images)
    if images and len(failed_images) == len(images):
        raise AnnotationError(all_refused(of_images.photo_folder, list(failed_images.values())))
    files = {image.id: image.file for image in images}
    with Writer(index, of_captions, summary.captions, summary) as writer:
        failed_captions = embed_captions(run, of_captions, writer, captions, files)
    if options.prune:
        prune(index, specs, run.gone, summary)
    _build_indexes(run, specs)
    with summary.timed("count"):
        check_counts(index, of_images.collection, [image for image in images if image.id not in failed_images])
        check_counts(index, of_captions.collection, [each for each in captions if each.id not in failed_captions])
        for spec in specs:
            forget_empty_splits(index, spec)
    with summary.timed("measure cosines"):
        written = summary.images.embedded + summary.captions.embedded
        store_cosines(index, of_images.dataset, changed=bool(written))
    summary.warnings += hubness_warnings(index, of_images.collection)
    if wrongly_padded_specs:
        correct_padding(index, wrongly_padded_specs, encoders[0].padding, summary)


def _build_indexes(run: Run, specs: Sequence[CollectionSpec]) -> None:
    """Optimize the collections, even if nothing was written: an earlier run may have been stopped before this."""
    for spec, tally in zip(specs, (run.summary.images, run.summary.captions), strict=True):
        with run.summary.timed("build the index"):
            build_index(run.index, spec.collection, tally.embedded + tally.updated)
