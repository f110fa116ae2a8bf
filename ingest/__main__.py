"""`python -m ingest`: fill the index, and see what is in it."""

from __future__ import annotations

if __name__ == "__main__":
    from search.interrupt import end_on_interrupt

    end_on_interrupt()

import os
import shlex
import time
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ingest.transfer import commands
from ingest.transfer.commands import OnDiskOption, QuantizationOption, ReplicasOption, ShardsOption, asked_tuning
from search import command
from search.command import DatasetOption, Exit, JsonOption, PathOption, UrlOption, note
from search.errors import AnnotationError, PhotoError
from search.settings import load_settings
from search.text import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ingest.summary import Summary
    from search.index import CollectionInfo, ReadIndex
    from search.records import Image

app = command.application("Embed captioned photos into the two collections of the index.")


def _one_place(prompt: str | None) -> str | None:
    if prompt is not None and prompt.count("{}") != 1:
        raise typer.BadParameter(f"{prompt!r} needs exactly one {{}}, the place of the caption")
    return prompt


@app.command()
def run(
    annotations: Annotated[Path, typer.Option(help="dataset_coco.json, or its Flickr8k / Flickr30k sibling")],
    images: Annotated[Path, typer.Option(help="The photo folder, the one that holds val2014 and train2014")],
    split: Annotated[list[str] | None, typer.Option(help="test, val, train, restval or all; may be repeated")] = None,
    model: Annotated[
        str | None,
        typer.Option(help="A sentence-transformers model, name or folder (default: the remembered, or clip-ViT-B-32)"),
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help='Wraps every caption, such as "a photo of {}"', callback=_one_place)
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N images")] = None,
    shard: Annotated[
        str, typer.Option(help="This machine's part of the work where several fill one server, such as 2/8")
    ] = "1/1",
    force: Annotated[bool, typer.Option("--force", help="Encode everything again")] = False,
    devices: Annotated[str, typer.Option("--devices", "--device", help="auto, cpu or cuda:0,cuda:1")] = "auto",
    dtype: Annotated[
        Literal["auto", "float32", "float16", "bfloat16"],
        typer.Option(help="Of weights and inputs; auto: float16 on CUDA"),
    ] = "auto",
    batch_size: Annotated[int | None, typer.Option(min=1, help="Photos per forward pass")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Readers of photos (default: one per processor)")] = None,
    decode: Annotated[Literal["full", "scaled"], typer.Option(help="scaled: faster, a little less exact")] = "full",
    quantization: QuantizationOption = None,
    on_disk: OnDiskOption = False,
    shards: ShardsOption = None,
    replicas: ReplicasOption = None,
    follow_links: Annotated[
        bool | None,
        typer.Option(
            "--follow-links/--no-follow-links",
            help="Whether links may lead out of the photo folder (default: as remembered, or not)",
            show_default=False,
        ),
    ] = None,
    failures: Annotated[
        Path, typer.Option(help="Where photos and captions that cannot be read or embedded are listed")
    ] = Path("failures.jsonl"),
    path: PathOption = None,
    url: UrlOption = None,
    dataset: DatasetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Embed images and captions and upsert them. Running it again embeds only what is missing or has changed."""
    from ingest.karpathy import read_annotations
    from ingest.pipeline import Plan, collection_specs, ingest, part_of, skipped_of
    from ingest.summary import Failure, Summary, write_failures
    from search.encoder.clip import DEFAULT_MODEL, ClipEncoder
    from search.index import collection_name, open_for_writing

    settings = load_settings(path, url)
    read = read_annotations(annotations)
    chosen = read.select(split or ["all"], limit)
    mine = part_of(chosen, shard)
    skipped = skipped_of(read.skipped(split or ["all"], limit), shard)
    if split == ["train"] and "restval" in read.splits():
        note("note: Karpathy's training set is train plus restval: add --split restval")
    name = dataset or read.dataset
    collections = collection_name(name, "images"), collection_name(name, "captions")

    summary = Summary()
    for each in skipped:
        summary.failures.append(
            Failure(each.file, each.image_id, "annotations", each.reason, each.kind, each.caption_id)
        )
    try:
        with closing(open_for_writing(settings)) as index:
            spec = index.spec(collections[0]) if collections[0] in index.collections() else None
            follow = follow_links if follow_links is not None else bool(spec and spec.follow_links)
            _check_photos(images, mine[0], follow, summary)
            source, wrap = model or (spec.model if spec else DEFAULT_MODEL), prompt or (spec.prompt if spec else None)
            with summary.timed("load the model"):
                load = partial(ClipEncoder, source, dtype=dtype, batch_size=batch_size, prompt=wrap)
                device, *others = devices.split(",")
                first = load(device=device)
                encoders = [first, *(load(device=other, dim=first.dim, padding=first.padding) for other in others)]
            used = ", ".join(encoder.device for encoder in encoders)
            note(f"model {first.name}: {first.dim} dimensions, {first.dtype} on {used}")
            tuning = asked_tuning(quantization, on_disk, shards, replicas)
            plan = Plan(workers or os.cpu_count() or 1, "cuda" in first.device, decode == "scaled", force, tuning)
            specs = collection_specs(read, chosen, images, first, name, decode, follow_links=follow)
            try:
                ingest(index, specs, mine, encoders, plan, summary)
            except KeyboardInterrupt:
                done = f"{summary.images.embedded:,} images and {summary.captions.embedded:,} captions"
                note(f"\ninterrupted: {done} of this run are safe in the index; give the same command to go on")
                raise typer.Exit(Exit.INTERRUPTED) from None
            infos = [index.info(collection) for collection in collections]
    finally:  # the list is about this run, however it ends
        listed = write_failures(failures, [failure.as_json() for failure in summary.failures])
    _report(summary, infos, listed, as_json)
    if summary.failures:
        raise typer.Exit(Exit.PARTLY)


@app.command()
def demo(
    images: Annotated[int, typer.Option(min=20, help="Size of the test split")] = 300,
    out: Annotated[Path, typer.Option(help="Where the pictures and the page go")] = Path("demo"),
    path: PathOption = None,
    url: UrlOption = None,
) -> None:
    """Show the whole thing, without a network: draw a data set, ingest it with a tiny CLIP, search it, evaluate it."""
    from ingest.demo import tour

    start = time.perf_counter()
    place = ["--path", str(path)] if path else ["--url", url] if url else []
    annotations = tour.draw(out, images)
    tour.make_room(load_settings(path, url), annotations)
    files = ["--annotations", str(annotations), "--images", str(out / "images")]
    tour.say("ingest", "run", *files, "--model", os.path.relpath(tour.MODEL), *place)
    run(annotations, out / "images", model=str(tour.MODEL), dataset=tour.DATASET, path=path, url=url)
    tour.look(load_settings(path, url), place, out)
    pages = " and ".join(str((out / page).resolve()) for page in ("index.html", "report/report.html"))
    typer.echo(
        f"\ndone in {time.perf_counter() - start:.0f} seconds; look at what was found: {pages}\n"
        'next: python -m search text "an umbrella on a city street" --html found.html, or real COCO: see README.md'
    )


@app.command()
def download(
    out: Annotated[Path, typer.Option(help="Where the annotations and the photos go")] = Path("coco"),
    split: Annotated[
        list[str] | None,
        typer.Option(
            help="Only these photos, one by one: test, val, train, restval or all; may be repeated. "
            "Without it: everything, as the two whole archives"
        ),
    ] = None,
    annotations: Annotated[
        Path | None, typer.Option(help="A dataset_coco.json that is here already, instead of fetching it")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, max=64, help="Photos at the same time, with --split")] = 16,
    keep_archives: Annotated[bool, typer.Option("--keep-archives", help="Do not delete what is unpacked")] = False,
    verify: Annotated[bool, typer.Option(help="Compare the archives with their known size and MD5")] = True,
    failures: Annotated[Path, typer.Option(help="Where photos that did not come are listed")] = Path("failures.jsonl"),
) -> None:
    """Fetch Karpathy's annotations and COCO's photos. Running it again goes on where it stopped."""
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
        note("\nstopped: what is there is kept, the same command goes on from here")
        raise typer.Exit(Exit.INTERRUPTED) from None
    finally:
        listed = write_failures(failures, [failure.as_json() for failure in failed])
    there = done.photos - len(done.failures)
    typer.echo(f"{there:,} of {done.photos:,} photos are in {done.images}: {done.fetched:,} of them are new")
    if done.failures:
        typer.echo(f"{len(done.failures):,} photos did not come; they are listed in {listed.resolve()}")
        for failure in done.failures[:5]:
            note(f"  {failure.file}: {failure.reason}")
    files = shlex.join(["--annotations", str(done.annotations), "--images", str(done.images)])
    splits = shlex.join(word for name in split or ["test"] for word in ("--split", name))
    typer.echo(f"next: python -m ingest run {files} {splits}")
    if done.failures:
        raise typer.Exit(Exit.PARTLY)


@app.command()
def drop(
    dataset: Annotated[str, typer.Option(help="The data set whose two collections are deleted")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask")] = False,
    path: PathOption = None,
    url: UrlOption = None,
) -> None:
    """Delete the two collections of a data set from the index; photos and annotations stay."""
    from search.index import collection_name, open_for_writing

    with closing(open_for_writing(load_settings(path, url))) as index:
        names = [collection_name(dataset, "captions"), collection_name(dataset, "images")]
        for collection in [name for name in names if name in index.collections()] or names:
            points = index.count(collection)
            if not yes:
                typer.confirm(f"delete {collection} with {points:,} points from {index.place}?", abort=True)
            index.drop(collection)
            typer.echo(f"{collection}: {points:,} points deleted")


@app.command()
def status(
    path: PathOption = None,
    url: UrlOption = None,
    dataset: DatasetOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the collections with their points, indexed vectors, settings, model and data set."""
    from search.index import collection_name, open_index

    with closing(open_index(load_settings(path, url))) as index:
        silent = index.silent_nodes()
        heading = "\n".join([f"{index.place} ({index.engine})", *(f"does not answer: {node}" for node in silent)])
        if as_json:
            command.warn_of_silent_nodes(index)
        elif silent:  # at once: without these nodes, what follows may fail
            typer.echo(heading)
        names = index.collections()
        if dataset is not None:
            names = [collection_name(dataset, "captions"), collection_name(dataset, "images")]
        infos = [index.info(name) for name in names]
        if as_json:
            command.print_json([_as_json(index, info) for info in infos], indent=1)
            return
    if not silent:
        typer.echo(heading)
    for info in infos:
        typer.echo(_describe(info))
    if not infos:
        typer.echo("no collections yet: fill them with `python -m ingest run`")


for _command in (commands.copy, commands.backup, commands.restore):
    app.command()(_command)


def _check_photos(folder: Path, images: Sequence[Image], follow_links: bool, summary: Summary) -> None:
    """Raise AnnotationError, after listing them as failures, if not one of the photos can be reached in the folder."""
    from ingest.pipeline import all_refused
    from ingest.summary import Failure
    from search.photos import find_photo

    if not os.path.isdir(folder):  # noqa: PTH112 - unlike Path.is_dir, it raises nothing
        raise AnnotationError(f"no photo folder {folder}: check --images")
    failures = []
    for image in images:
        try:
            find_photo(folder, image.file, follow_links=follow_links)
            return
        except PhotoError as error:
            failures.append(Failure(image.file, image.id, "open", str(error)))
    if failures:
        summary.failures += failures
        raise AnnotationError(all_refused(folder, [failure.reason for failure in failures]))


def _report(summary: Summary, infos: list[CollectionInfo], failures: Path, as_json: bool) -> None:
    for warning in summary.warnings:
        note(f"warning: {warning}")
    if as_json:
        counts = {info.name: {"points": info.points, "indexed_vectors": info.indexed_vectors} for info in infos}
        command.print_json({**summary.as_json(), "collections": counts}, indent=1)
        return
    for info, tally in zip(infos, (summary.images, summary.captions), strict=True):
        updated = f"{tally.updated:,} updated without embedding, " if tally.updated else ""
        typer.echo(
            f"{info.name}: {info.points:,} points "
            f"({tally.embedded:,} embedded now, {updated}{tally.already_there:,} were there already)"
        )
    if summary.truncated:
        typer.echo(f"{summary.truncated:,} captions were longer than the model reads and were cut")
    typer.echo(summary.timings())
    if summary.failures:
        typer.echo(f"{summary.failed()} could not be read or embedded; they are listed in {failures.resolve()}")
        for failure in summary.failures[:5]:
            note("  " + shown(": ".join(filter(None, (failure.file, failure.reason)))))


def _as_json(index: ReadIndex, info: CollectionInfo) -> dict[str, Any]:
    from search.index import Where

    by_split = {split: index.count(info.name, where=Where(splits=(split,))) for split in info.spec.splits}
    return {
        "place": index.place,
        "engine": index.engine,
        "silent_nodes": index.silent_nodes(),
        **info.as_json(),
        "points_by_split": by_split,
        "disk_bytes": index.disk_bytes(info.name),
    }


def _describe(info: CollectionInfo) -> str:
    spec = info.spec
    sizes = ", ".join(
        f"{name} {size.images if spec.kind == 'images' else size.captions:,}" for name, size in spec.splits.items()
    )
    settings = ", ".join(
        f"{name} {value:,}" if type(value) is int else f"{name} {value}"
        for name, value in info.settings.items()
        if value not in (None, False)
    )
    indexed = f"{info.indexed_vectors:,}" if info.indexed_vectors else "0 (a small collection is scanned: exact)"
    return (
        f"\n{info.name}\n"
        f"  points           {info.points:,}\n"
        f"  indexed vectors  {indexed}\n"
        f"  settings         {settings}\n"
        + (f"  copies           {_copies(info)}\n" if info.shards_short_of_copies is not None else "")
        + (f"  pending          {info.pending}\n" if info.pending else "")
        + f"  model            {spec.model} ({spec.dim} dimensions, {spec.dtype})\n"
        f"  data set         {spec.dataset}: {sizes}\n"
        f"  photos           {spec.photos}"
    )


def _copies(info: CollectionInfo) -> str:
    shards, factor = info.settings["shards"] or 1, info.settings["replicas"] or 1
    if info.shards_short_of_copies:
        return f"{info.shards_short_of_copies} of {shards} shards have fewer than {factor}"
    return f"{factor} of each shard"


def main() -> None:
    command.run(app, "python -m ingest")


if __name__ == "__main__":
    main()
