"""Carry out `python -m ingest run`, from its options to its report; `demo` uses it too.

`fill` opens the index, reads the annotations and lists the failures; `_check_and_embed` checks what can be checked
before the model is loaded, and calls `ingest` (ingest/pipeline.py).
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import typer

from ingest.annotations import Annotations, name_of, read_annotations
from ingest.failures import count_of, describe_failures, listing
from ingest.folder import all_refused, unreachable_photos
from ingest.models import LazyEncoders, Model
from ingest.options import Embedding, NewCollections, Output, Selection
from ingest.pipeline import ingest
from ingest.prune import Gone, check_prunable, find_gone
from ingest.selection import part_of, with_urls
from ingest.specs import check_source, collection_specs, create_collections, folder_warnings
from ingest.summary import Summary
from search.cli import command
from search.cli.application import program
from search.cli.command import Exit, note
from search.encoder.clip import ClipEncoder
from search.encoder.lazy import cache_text_tower
from search.errors import AnnotationError, SettingsError
from search.index import CollectionInfo, CollectionSpec, Index, collection_name, only_dataset, open_for_writing
from search.records import KINDS, Image
from search.settings import load_settings
from search.text import shown


@dataclass(frozen=True, slots=True)
class Arguments:
    """The command line of `ingest run`.

    `source`: the file or folder of annotations; None for the photos of the folder, with any captions beside them.
    """

    photo_folder: Path
    source: Path | None
    selection: Selection
    embedding: Embedding
    new: NewCollections
    output: Output


def fill(arguments: Arguments) -> tuple[Summary, str]:
    """Ingest and print the report; return the summary, and the command that searches the data set."""
    start = time.perf_counter()
    photo_folder, source, output = arguments.photo_folder, arguments.source, arguments.output
    selection, embedding = arguments.selection, arguments.embedding
    settings = load_settings(output.path, output.url)
    with closing(open_for_writing(settings)) as index:
        # The data set remembers whether links are followed, but its name may be known only once the file is read.
        namesake = _stored(index, output.dataset or name_of(source or photo_folder))
        annotations = read_annotations(source, photo_folder, follow_links=embedding.links(namesake))
        _describe(annotations, selection)
        dataset = output.dataset or annotations.dataset
        summary = Summary(failures=selection.failures(annotations))
        with listing(output.failures, summary.failures, describe_failures):
            _check_and_embed(arguments, index, dataset, annotations, summary)
            infos = [index.info(collection_name(dataset, kind)) for kind in KINDS]
            command_line = _search_command(index, dataset, output)
    summary.seconds = time.perf_counter() - start
    _report(summary, infos, output)
    if settings.qdrant_url and not output.json:
        typer.echo(f"dashboard: {index.place}/dashboard#/collections/{infos[0].name}")
    return summary, command_line


def _check_and_embed(
    arguments: Arguments, index: Index, dataset: str, annotations: Annotations, summary: Summary
) -> None:
    """Check the selected entries, then embed them; `summary` holds what was done, however this ends."""
    photo_folder, output = arguments.photo_folder, arguments.output
    selection, embedding = arguments.selection, arguments.embedding
    stored = _stored(index, dataset)
    photo_url, follow_links = output.photo_url_of(stored), embedding.links(stored)
    if not output.add:
        check_source(index, dataset, annotations)
    elif stored is not None:
        summary.warnings += folder_warnings(stored, annotations, photo_folder)
    chosen = with_urls(selection.choose(annotations), photo_url)
    part = part_of(chosen, selection.shard)  # what this machine embeds
    if stored is not None:
        stored.check_imported(imported=False)
    _check_reachable(photo_folder, part.images, summary, follow_links=follow_links)
    if selection.prune:
        check_prunable(annotations, stored, selection.splits)

    specs_of = partial(
        collection_specs,
        annotations,
        chosen,
        photo_folder,
        dataset=dataset,
        decode=embedding.decode,
        follow_links=follow_links,
        photo_url=photo_url,
        added_to=stored.sources if stored is not None and output.add else (),
    )
    model = Model(embedding, stored)
    known = model.known()

    def load() -> list[ClipEncoder]:
        encoders = _load(model, summary)
        if known is not None:  # so far, the collections have been compared with what was known, not with the model
            warnings = create_collections(index, specs_of(encoders[0]), tuning=None)
            summary.warnings += [warning for warning in warnings if warning not in summary.warnings]
        return encoders

    encoders = LazyEncoders(load, len(model.devices))
    specs = specs_of(known or encoders[0])  # loads the model if nothing is known about it, as for a new data set
    gone = find_gone(index, specs, annotations, selection.splits) if selection.is_whole else Gone()
    summary.images.gone, summary.captions.gone = len(gone.images), len(gone.captions)
    if gone:
        are = "is" if len(gone.images) + len(gone.captions) == 1 else "are"
        file = shown(str(annotations.file))
        selection.confirm_pruning(f"{gone} of {dataset} at {index.place} {are} no longer in {file}")
    options = embedding.run_options(arguments.new.tuning(), prune=selection.prune)
    try:
        ingest(index, specs, part, encoders, options, summary, gone)
        if encoders.loaded:
            cache_text_tower(encoders[0])
    except KeyboardInterrupt:
        done = f"{summary.images.embedded:,} images and {summary.captions.embedded:,} captions"
        note(f"\ninterrupted: {done} of this run are stored; run the same command again to resume")
        raise typer.Exit(Exit.INTERRUPTED) from None


def _check_reachable(folder: Path, images: Sequence[Image], summary: Summary, *, follow_links: bool) -> None:
    """Raise AnnotationError, and add the failures to `summary`, if not one photo can be reached."""
    if failures := unreachable_photos(folder, images, follow_links=follow_links):
        summary.failures += failures
        raise AnnotationError(all_refused(folder, [failure.reason for failure in failures]))


def _load(model: Model, summary: Summary) -> list[ClipEncoder]:
    """Load the model on each device, and state which it is."""
    with summary.timed("load the model"), command.loading(model.name):
        encoders = model.load()
    first, devices = encoders[0], ", ".join(encoder.device for encoder in encoders)
    text_model = f", text model {first.text_model_id}" if first.text_model_id else ""
    note(f"model {first.model_id}{text_model}: {first.dim} dimensions, {first.dtype} on {devices}")
    return encoders


def _stored(index: Index, dataset: str) -> CollectionSpec | None:
    """Return the specification of the photos of a data set, if it exists."""
    collection = collection_name(dataset, "images")
    return index.spec(collection) if collection in index.collections() else None


def _describe(annotations: Annotations, selection: Selection) -> None:
    """State what a folder holds, and what Karpathy's `train` lacks."""
    if annotations.format == "folder":
        photos = count_of(len(annotations.images), "photo")
        captions = count_of(len(annotations.captions), "caption")
        note(f"{annotations.file}: {photos}, {captions} in text files")
    if selection.split == ["train"] and "restval" in annotations.splits():
        note("note: Karpathy's training set is train plus restval: add --split restval")


def _search_command(index: Index, dataset: str, output: Output) -> str:
    """Return the command that searches a data set of this index."""
    place = ["--path", str(output.path)] if output.path else ["--url", output.url] if output.url else []
    try:
        is_default = only_dataset(index) == dataset
    except SettingsError:
        is_default = False
    options = shlex.join([*place, *([] if is_default else ["--dataset", dataset])])
    return shown(f'{program("search")} text "a dog on a beach" {options}'.rstrip())


def _report(summary: Summary, infos: list[CollectionInfo], output: Output) -> None:
    for warning in summary.warnings:
        note(f"warning: {warning}")
    if output.json:
        counts = {info.name: {"points": info.points, "indexed_vectors": info.indexed_vectors} for info in infos}
        command.print_json({**summary.as_json(), "collections": counts}, indent=1)
        return
    for info, tally in zip(infos, (summary.images, summary.captions), strict=True):
        updated = f"{tally.updated:,} updated without embedding, " if tally.updated else ""
        pruned = f", {tally.pruned:,} removed" if tally.pruned else ""
        typer.echo(
            f"{info.name}: {info.points:,} points "
            f"({tally.embedded:,} embedded now, {updated}{tally.already_there:,} were there already{pruned})"
        )
    if summary.truncated:
        typer.echo(f"{count_of(summary.truncated, 'caption')} truncated at the model's limit")
    if output.verbose:
        typer.echo(summary.timings())
    typer.echo(summary.sentence())
