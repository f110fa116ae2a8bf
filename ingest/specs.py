"""Specify the two collections of a run, create them, and check what they hold in the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from ingest.annotations import Annotations, Chosen
from search.encoder.clip import ClipEncoder
from search.encoder.remembered import KnownEncoder
from search.errors import IndexFailure, SpecMismatch
from search.index import CollectionSpec, Index, ReadIndex, Source, SplitSize, Tuning, Where, collection_name
from search.index.sources import others
from search.records import KINDS, Caption, Image
from search.text import spell_path

IDS_PER_COUNT = 5000
FULL_DECODE = "full"


def collection_specs(
    annotations: Annotations,
    chosen: Chosen,
    photos: Path,
    encoder: ClipEncoder | KnownEncoder,
    dataset: str,
    decode: str = FULL_DECODE,
    *,
    follow_links: bool = False,
    photo_url: str | None = None,
    added_to: Sequence[Source] = (),
) -> tuple[CollectionSpec, CollectionSpec]:
    """Return the specifications of the image and the caption collection of this run.

    `added_to`: the sources to which that of this run is added, even if one is missing, and might have been moved here.
    """
    source = source_of(annotations)
    of_images = CollectionSpec(
        dataset=dataset,
        kind="images",
        dim=encoder.dim,
        model=encoder.name,
        revision=encoder.model_id.revision,
        weights=encoder.weights,
        text_model=encoder.text_model_id,
        trust_remote_code=encoder.trust_remote_code,
        roles=encoder.roles,
        dtype=encoder.dtype,
        prompt=encoder.prompt,
        padding=encoder.padding,
        decode=decode,
        annotations=annotations.sha256,
        photos=spell_path(photos.resolve()),
        follow_links=follow_links,
        photo_url=photo_url,
        sources=(*(each for each in added_to if each != source), source),
        splits=split_sizes(annotations, chosen),
        version=version("coco-search"),
    )
    return of_images, replace(of_images, kind="captions")


def check_source(index: ReadIndex, dataset: str, annotations: Annotations) -> None:
    """Raise SpecMismatch if the data set was filled from another source."""
    for kind in KINDS:
        collection = collection_name(dataset, kind)
        if collection in index.collections():
            try:
                index.spec(collection).check_source(source_of(annotations))
            except SpecMismatch:
                if index.count(collection):  # an empty collection may be filled from anything
                    raise


def folder_warnings(stored: CollectionSpec, annotations: Annotations, photos: Path) -> list[str]:
    """Return a warning if the photos of these annotations are in another folder than those of another source."""
    remembered, has_others = stored.photo_folder, bool(others(stored.sources, source_of(annotations)))
    if not (has_others and remembered.is_dir() and photos.is_dir()) or remembered.samefile(photos):
        return []
    return [
        f"the photos of {stored.dataset} were in {remembered}, but a data set has one photo folder: from now on, all "
        f"are looked up in {photos}; put the others there, too"
    ]


def source_of(annotations: Annotations) -> Source:
    """Return the source of these annotations as a collection remembers it."""
    return Source(format=annotations.format, path=spell_path(annotations.file.resolve()))


def split_sizes(annotations: Annotations, chosen: Chosen) -> dict[str, SplitSize]:
    """Return the size of each split of the chosen images and captions."""
    in_file = annotations.splits()
    in_file.update(entry.split for entry in annotations.unusable if entry.kind == "images" and entry.split)
    images = Counter(image.split for image in chosen.images)
    captions = Counter(caption.split for caption in chosen.captions)
    return {
        split: SplitSize(images=count, captions=captions[split], images_in_file=in_file[split])
        for split, count in sorted(images.items())
    }


def create_collections(index: Index, specs: Sequence[CollectionSpec], tuning: Tuning | None) -> list[str]:
    """Create the collections that do not exist, accept those that do, and return warnings.

    A stored collection that does not fit is dropped if it is empty: no vector binds it to a model.

    Raises:
        SpecMismatch: a stored collection does not fit; no collection has been changed then.
    """
    for name in _empty_misfits(index, specs):
        index.drop(name)
    return [warning for spec in specs for warning in index.create(spec, tuning)]


def _empty_misfits(index: ReadIndex, specs: Sequence[CollectionSpec]) -> list[str]:
    """Return the names of empty stored collections that do not fit; raise SpecMismatch for one that holds points."""
    empty, stored = [], index.collections()
    for spec in specs:
        if spec.collection in stored:
            try:
                index.spec(spec.collection).merged(spec)
            except SpecMismatch:
                if index.count(spec.collection):
                    raise
                empty.append(spec.collection)
    return empty


def has_same_folder(index: ReadIndex, spec: CollectionSpec) -> bool:
    """Return whether the stored collection was made from the photo folder of `spec`."""
    return spec.collection in index.collections() and index.spec(spec.collection).photo_folder == spec.photo_folder


def check_counts(index: ReadIndex, collection: str, written: Sequence[Image] | Sequence[Caption]) -> None:
    """Raise IndexFailure unless the index holds every one of these records, in its split."""
    ids: dict[str, list[int]] = {}
    for record in written:
        ids.setdefault(record.split, []).append(record.id)
    for split, split_ids in ids.items():
        stored = count_ids(index, collection, split_ids, splits=(split,))
        if stored != len(split_ids):
            raise IndexFailure(
                f"{collection} at {index.place} holds {stored:,} of the {len(split_ids):,} points of split {split} "
                "that were written: is another process changing it? Run the same command again to add the missing ones"
            )


def count_ids(index: ReadIndex, collection: str, ids: Sequence[int], splits: tuple[str, ...] | None = None) -> int:
    """Return how many of these ids the collection holds, in these splits or in all; repeated ids count once."""
    every = sorted(set(ids))
    parts = (tuple(every[start : start + IDS_PER_COUNT]) for start in range(0, len(every), IDS_PER_COUNT))
    return sum(index.count(collection, where=Where(splits=splits, ids=part)) for part in parts)


def outdate_hubness(index: Index, collection: str) -> None:
    """Mark the numbers `hubness` of a collection as incomplete, if it has any: images are about to be embedded."""
    spec = index.spec(collection)
    if spec.hubness and spec.hubness.complete:
        index.set_spec(replace(spec, hubness=spec.hubness.incomplete()))


def extend_hubness(index: Index, collection: str, copied: int) -> None:
    """Count images that were copied together with their numbers `hubness` among those that have one."""
    spec = index.spec(collection)
    if spec.hubness and spec.hubness.complete:
        numbers = replace(spec.hubness, points=spec.hubness.points + copied)
        index.set_spec(replace(spec, hubness=numbers))


def hubness_warnings(index: ReadIndex, collection: str) -> list[str]:
    """Return what to do about numbers that are incomplete, in one line."""
    stored = index.spec(collection).hubness
    if stored is None or stored.complete:
        return []
    return [f"images of {collection} have no number to correct their scores by: run `python -m ingest hubness` again"]


def forget_empty_splits(index: Index, spec: CollectionSpec) -> None:
    """Remove splits without points from the stored specification, such as one that was renamed since an earlier run."""
    stored = index.spec(spec.collection)
    splits = {
        name: size
        for name, size in stored.splits.items()
        if name in spec.splits or index.count(spec.collection, where=Where(splits=(name,)))
    }
    if splits != stored.splits:
        index.set_spec(replace(stored, splits=splits))
