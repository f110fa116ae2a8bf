"""`python -m ingest`: fill the index, and list what it holds."""

from __future__ import annotations

if __name__ == "__main__":
    from search.cli.interrupt import end_on_interrupt

    end_on_interrupt()

import os
import shlex
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ingest import hubness
from ingest.options import Embedding, NewCollections, Output, Selection
from ingest.status import status
from ingest.transfer import commands, exchange
from search.cli import command
from search.cli.application import application, program
from search.cli.command import Exit, PathOption, UrlOption, expanded, note
from search.errors import AnnotationError, SettingsError
from search.settings import load_settings
from search.text import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ingest.annotations import Annotations
    from ingest.download.coco import Downloaded
    from ingest.summary import Summary
    from search.encoder.clip import ClipEncoder
    from search.encoder.remembered import KnownEncoder
    from search.index import CollectionInfo, CollectionSpec, Index

app = application("Embed photos and their captions into the two collections of the index.")


def run(
    images: Annotated[Path, typer.Option(help="The photo folder; with COCO, the one that contains val2014")],
    selection: Selection,
    embedding: Embedding,
    new: NewCollections,
    output: Output,
    annotations: Annotated[
        Path | None,
        typer.Option(
            help="Captions: dataset_coco.json, captions_*.json, a table (CSV, TSV, JSON lines), or a folder of text "
            "files (default: text files beside the photos, if there are any)",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Embed photos and captions and upsert them. A second run embeds only what is missing or has changed."""
    summary, command_line = fill(images, selection, embedding, new, output, annotations)
    if not output.json:
        typer.echo(f"next: {command_line}")
    if summary.failures:
        raise typer.Exit(Exit.PARTLY)


def fill(
    images: Path,
    selection: Selection,
    embedding: Embedding,
    new: NewCollections,
    output: Output,
    annotations: Path | None,
) -> tuple[Summary, str]:
    """Ingest and print the report; return the summary, and the command that searches the data set."""
    from ingest.annotations import name_of, read_annotations
    from ingest.summary import Summary, write_failures
    from search.index import collection_name, open_for_writing

    start = time.perf_counter()
    settings = load_settings(output.path, output.url)
    with closing(open_for_writing(settings)) as index:
        stored = _stored(index, output.dataset or name_of(annotations or images))
        read = read_annotations(annotations, images, follow_links=embedding.links(stored))
        _describe(read, selection)
        dataset = output.dataset or read.dataset
        collections = collection_name(dataset, "images"), collection_name(dataset, "captions")
        summary = Summary(failures=selection.failures(read))
        try:
            _ingest(index, dataset, read, images, selection, embedding, new, output, summary)
            infos = [index.info(collection) for collection in collections]
            command_line = _search_command(index, dataset, output)
        finally:  # however the run ends, the file lists its failures
            listed = write_failures(output.failures, [failure.as_json() for failure in summary.failures])
    summary.seconds = time.perf_counter() - start
    _report(summary, infos, listed, output)
    if settings.qdrant_url and not output.json:
        typer.echo(f"dashboard: {index.place}/dashboard#/collections/{collections[0]}")
    return summary, command_line


app.command(
    examples=["--images ~/Pictures", "--annotations coco/dataset_coco.json --images coco --split test"],
    needs={"--yes": ["--prune"]},
)(expanded(run))


def _search_command(index: Index, dataset: str, output: Output) -> str:
    """Return the command that searches a data set of this index."""
    from search.searcher import only_dataset

    place = ["--path", str(output.path)] if output.path else ["--url", output.url] if output.url else []
    try:
        is_default = only_dataset(index) == dataset
    except SettingsError:
        is_default = False
    options = shlex.join([*place, *([] if is_default else ["--dataset", dataset])])
    return shown(f'{program("search")} text "a dog on a beach" {options}'.rstrip())


def _stored(index: Index, dataset: str) -> CollectionSpec | None:
    """Return the specification of the photos of a data set, if it exists."""
    from search.index import collection_name

    collection = collection_name(dataset, "images")
    return index.spec(collection) if collection in index.collections() else None


def _describe(annotations: Annotations, selection: Selection) -> None:
    """State what a folder holds, and what Karpathy's `train` lacks."""
    if annotations.format == "folder":
        photos, captions = len(annotations.images), len(annotations.captions)
        note(f"{annotations.file}: {photos:,} photos, {captions:,} captions in text files")
    if selection.split == ["train"] and "restval" in annotations.splits():
        note("note: Karpathy's training set is train plus restval: add --split restval")


def _ingest(
    index: Index,
    dataset: str,
    annotations: Annotations,
    photos: Path,
    selection: Selection,
    embedding: Embedding,
    new: NewCollections,
    output: Output,
    summary: Summary,
) -> None:
    """Embed the selected entries into an open index; `summary` holds what was done, even if this is interrupted."""
    from ingest.folder import all_refused, unreachable_photos
    from ingest.pipeline import ingest
    from ingest.prune import Gone, check_prunable, find_gone
    from ingest.selection import part_of, with_urls
    from ingest.specs import check_source, collection_specs, create_collections
    from search.encoder.lazy import prepare

    stored = _stored(index, dataset)
    if not output.add:
        check_source(index, dataset, annotations)
    photo_url = output.photo_url if output.photo_url is not None or stored is None else stored.photo_url
    chosen = with_urls(selection.choose(annotations), photo_url)
    part = part_of(chosen, selection.shard)
    follow_links = embedding.links(stored)
    if stored is not None:
        stored.check_imported(False)
    if failures := unreachable_photos(photos, part[0], follow_links=follow_links):
        summary.failures += failures
        raise AnnotationError(all_refused(photos, [failure.reason for failure in failures]))
    if selection.prune:
        check_prunable(annotations, stored, selection.splits)
    known = embedding.known(stored)

    def specs_of(encoder: ClipEncoder | KnownEncoder) -> tuple[CollectionSpec, CollectionSpec]:
        return collection_specs(
            annotations,
            chosen,
            photos,
            encoder,
            dataset,
            embedding.decode,
            follow_links=follow_links,
            photo_url=photo_url,
        )

    def load() -> list[ClipEncoder]:
        with summary.timed("load the model"), command.loading(embedding.model_of(stored)):
            loaded = embedding.encoders(stored)
        first, used = loaded[0], ", ".join(encoder.device for encoder in loaded)
        text_model = f", text model {first.text_model_id}" if first.text_model_id else ""
        note(f"model {first.model_id}{text_model}: {first.dim} dimensions, {first.dtype} on {used}")
        if known is not None:  # the collections have been compared with what was known, not with the model itself
            warnings = create_collections(index, specs_of(first), None)
            summary.warnings += [warning for warning in warnings if warning not in summary.warnings]
        return loaded

    encoders = embedding.lazy_encoders(load)
    specs = specs_of(known or encoders[0])
    gone = find_gone(index, specs, annotations, selection.splits) if selection.is_whole else Gone()
    summary.images.gone, summary.captions.gone = len(gone.images), len(gone.captions)
    if gone:
        are = "is" if len(gone.images) + len(gone.captions) == 1 else "are"
        selection.confirm_pruning(
            f"{gone} of {dataset} at {index.place} {are} no longer in {shown(str(annotations.file))}"
        )
    try:
        ingest(index, specs, part, encoders, embedding.plan(new.tuning(), prune=selection.prune), summary, gone)
        if encoders.loaded:
            prepare(encoders[0])
    except KeyboardInterrupt:
        done = f"{summary.images.embedded:,} images and {summary.captions.embedded:,} captions"
        note(f"\ninterrupted: {done} of this run are stored; run the same command again to resume")
        raise typer.Exit(Exit.INTERRUPTED) from None


@app.command(examples=["", "--images 20 --out /tmp/demo --path /tmp/demo/index"])
def demo(
    images: Annotated[int, typer.Option(min=20, help="Number of images in the test split")] = 300,
    out: Annotated[Path, typer.Option(help="Folder for the pictures and the page")] = Path("demo"),
    path: PathOption = None,
    url: UrlOption = None,
) -> None:
    """Demonstrate everything offline: draw a data set, ingest it with a tiny CLIP, search it and evaluate it."""
    from ingest.demo import tour

    start = time.perf_counter()
    place = ["--path", str(path)] if path else ["--url", url] if url else []
    annotations = tour.draw(out, images)
    tour.drop_old_collections(load_settings(path, url), annotations)
    files = ["--annotations", str(annotations), "--images", str(out / "images")]
    tour.print_command("ingest", "run", *files, "--model", os.path.relpath(tour.MODEL), *place)
    output = Output(path=path, url=url, dataset=tour.DATASET)
    fill(out / "images", Selection(), Embedding(model=str(tour.MODEL)), NewCollections(), output, annotations)
    tour.search_and_evaluate(load_settings(path, url), place, out)
    pages = " and ".join(str((out / page).resolve()) for page in ("index.html", "report/report.html"))
    typer.echo(
        f"\ndone in {time.perf_counter() - start:.0f} seconds; see the results in {pages}\n"
        f'next: {program("search")} text "an umbrella on a city street" --open, or real COCO: see README.md'
    )


@app.command(examples=["--split test", "--out /data/coco"], needs={"--jobs": ["--split"]})
def download(
    out: Annotated[Path, typer.Option(help="Folder for the annotations and the photos")] = Path("coco"),
    split: Annotated[
        list[str] | None,
        typer.Option(
            help="Download only these photos, one by one: test, val, train, restval or all; may be repeated "
            "(default: everything, as two archives)"
        ),
    ] = None,
    annotations: Annotated[
        Path | None, typer.Option(help="An existing dataset_coco.json, which is then not downloaded")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, max=64, help="Number of parallel downloads, with --split")] = 16,
    keep_archives: Annotated[
        bool, typer.Option("--keep-archives", help="Keep the archives after unpacking them")
    ] = False,
    verify: Annotated[bool, typer.Option(help="Verify the size and MD5 of the archives")] = True,
    failures: Annotated[Path, typer.Option(help="File that lists photos that could not be downloaded")] = Path(
        "failures.jsonl"
    ),
) -> None:
    """Download Karpathy's annotations and COCO's photos. A second run resumes where the first one stopped."""
    from ingest.download.coco import OFFICIAL, Failure, download_coco
    from ingest.summary import write_failures

    failed: list[Failure] = []
    try:
        done = download_coco(
            out,
            splits=split or [],
            annotations=annotations,
            jobs=jobs,
            keep_archives=keep_archives,
            verify=verify,
            sources=OFFICIAL,
            failures=failed,
        )
    except KeyboardInterrupt:
        note("\ninterrupted: downloaded files are kept; run the same command again to resume")
        raise typer.Exit(Exit.INTERRUPTED) from None
    finally:
        listed = write_failures(failures, [failure.as_json() for failure in failed])
    _report_download(done, listed, split or ["test"])
    if done.failures:
        raise typer.Exit(Exit.PARTLY)


def _report_download(done: Downloaded, listed: Path, splits: Sequence[str]) -> None:
    complete = done.photos - len(done.failures)
    typer.echo(f"{complete:,} of {done.photos:,} photos are in {done.images}, {done.fetched:,} of them new")
    if done.failures:
        typer.echo(f"{len(done.failures):,} photos could not be downloaded; they are listed in {listed.resolve()}")
        for failure in done.failures[:5]:
            note(f"  {failure.file}: {failure.reason}")
    files = shlex.join(["--annotations", str(done.annotations), "--images", str(done.images)])
    options = shlex.join(word for name in splits for word in ("--split", name))
    typer.echo(f"next: {program('ingest')} run {files} {options}")


@app.command(examples=["--dataset coco"])
def drop(
    dataset: Annotated[str, typer.Option(help="The data set whose two collections to delete")],
    yes: Annotated[bool, typer.Option("--yes", help="Delete without asking for confirmation")] = False,
    path: PathOption = None,
    url: UrlOption = None,
) -> None:
    """Delete the two collections of a data set from the index; photos and annotations are kept."""
    from search.index import collection_name, open_for_writing

    with closing(open_for_writing(load_settings(path, url))) as index:
        names = [collection_name(dataset, "captions"), collection_name(dataset, "images")]
        existing = [name for name in names if name in index.collections()] or names
        points = {collection: index.count(collection) for collection in existing}
        if not yes:
            listed = " and ".join(f"{collection} ({count:,} points)" for collection, count in points.items())
            typer.confirm(f"delete {listed} from {index.place}?", abort=True)
        for collection, count in points.items():
            index.drop(collection)
            typer.echo(f"{collection}: {count:,} points deleted")


app.command(examples=["", "--url http://localhost:6333 --json"])(status)
app.command(examples=["--references coco/dataset_coco.json --alpha 0.75"], needs=hubness.NEEDS)(hubness.command)
app.command(examples=["--from ./index --to http://localhost:6333"])(expanded(commands.copy))
app.command(examples=["coco.tar.gz"])(commands.backup)
app.command(examples=["coco.tar.gz --path restored"])(commands.restore)
app.command(examples=["--out parquet"])(exchange.export)
app.command("import", needs=exchange.NEEDS)(expanded(exchange.import_))


def _report(summary: Summary, infos: list[CollectionInfo], failures: Path, output: Output) -> None:
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
        typer.echo(f"{summary.truncated:,} captions were longer than the model's limit and were truncated")
    if output.verbose:
        typer.echo(summary.timings())
    if summary.failures:
        typer.echo(f"{summary.count_failures()} could not be read or embedded; they are listed in {failures.resolve()}")
        for failure in summary.failures[:5]:
            note("  " + shown(": ".join(filter(None, (failure.file, failure.reason)))))
    typer.echo(summary.sentence())


def main() -> None:
    command.run(app, "ingest")


if __name__ == "__main__":
    main()
