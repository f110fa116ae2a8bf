"""`python -m ingest`: fill the index, and see what is in it."""

from __future__ import annotations

import json
import time
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from search import command
from search.command import DatasetOption, DeviceOption, Exit, JsonOption, PathOption, UrlOption, note
from search.errors import AnnotationError
from search.settings import load_settings

if TYPE_CHECKING:
    from ingest.pipeline import Summary
    from search.index import CollectionInfo

app = command.application("Embed captioned photos into the two collections of the index.")


@app.command()
def run(
    annotations: Annotated[Path, typer.Option(help="dataset_coco.json, or its Flickr8k / Flickr30k sibling")],
    images: Annotated[Path, typer.Option(help="The photo folder, the one that holds val2014 and train2014")],
    split: Annotated[list[str] | None, typer.Option(help="test, val, train, restval or all; may be repeated")] = None,
    model: Annotated[
        str | None,
        typer.Option(help="A sentence-transformers model, name or folder [default: the remembered, or clip-ViT-B-32]"),
    ] = None,
    prompt: Annotated[str | None, typer.Option(help='Wraps every caption, such as "a photo of {}"')] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N images")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Inputs per forward pass")] = None,
    device: DeviceOption = "auto",
    failures: Annotated[Path, typer.Option(help="Where unreadable photos are listed")] = Path("failures.jsonl"),
    path: PathOption = None,
    url: UrlOption = None,
    dataset: DatasetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Embed images and captions and upsert them. Running it again embeds only what is missing or has changed."""
    from ingest.karpathy import read_annotations
    from search.index import collection_name, open_index

    settings = load_settings(path, url)
    read = read_annotations(annotations)
    chosen = read.select(split or ["all"], limit)
    if split == ["train"] and "restval" in read.splits():
        note("note: Karpathy's training set is train plus restval: add --split restval")
    if not images.is_dir():
        raise AnnotationError(f"no photo folder {images}: check --images")
    name = dataset or read.dataset
    collections = collection_name(name, "images"), collection_name(name, "captions")

    with closing(open_index(settings)) as index:
        spec = index.spec(collections[0]) if collections[0] in index.collections() else None
        start = time.perf_counter()
        from ingest.pipeline import collection_specs, ingest
        from search.encoder import DEFAULT_MODEL, ClipEncoder

        encoder = ClipEncoder(
            model or (spec.model if spec else DEFAULT_MODEL),
            device=device,
            batch_size=batch_size,
            prompt=prompt or (spec.prompt if spec else None),
        )
        loading = time.perf_counter() - start
        note(f"model {encoder.name}: {encoder.dim} dimensions, {encoder.dtype} on {encoder.device}")
        summary = ingest(index, collection_specs(read, chosen, images, encoder, name), chosen, encoder)
        infos = [index.info(collection) for collection in collections]
    summary.seconds = {"load the model": loading, **summary.seconds}
    if summary.failures:
        summary.write_failures(failures)
    _report(summary, infos, failures, as_json)
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
    files = ["--annotations", str(annotations), "--images", str(out / "images")]
    tour.say("ingest", "run", *files, "--model", str(tour.MODEL), *place)
    run(annotations, out / "images", model=str(tour.MODEL), dataset=tour.DATASET, path=path, url=url)
    tour.look(load_settings(path, url), place, out / "index.html")
    page = (out / "index.html").resolve()
    typer.echo(
        f"\ndone in {time.perf_counter() - start:.0f} seconds; look at what was found: {page}\n"
        'next: python -m search text "a cat under an umbrella" --html found.html, or real COCO: see README.md'
    )


@app.command()
def status(
    path: PathOption = None,
    url: UrlOption = None,
    dataset: DatasetOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the collections with their points, indexed vectors, model and data set."""
    from search.index import open_index

    with closing(open_index(load_settings(path, url))) as index:
        names = [name for name in index.collections() if dataset is None or name.rpartition("_")[0] == dataset]
        infos = [index.info(name) for name in names]
    if as_json:
        typer.echo(json.dumps([info.as_json() for info in infos], ensure_ascii=False, indent=1))
        return
    typer.echo(f"{index.place} ({index.engine})")
    for info in infos:
        typer.echo(_describe(info))
    if not infos:
        typer.echo("no collections yet: fill them with `python -m ingest run`")


def _report(summary: Summary, infos: list[CollectionInfo], failures: Path, as_json: bool) -> None:
    for warning in summary.warnings:
        note(f"warning: {warning}")
    if as_json:
        counts = {info.name: {"points": info.points, "indexed_vectors": info.indexed_vectors} for info in infos}
        typer.echo(json.dumps({**asdict(summary), "collections": counts}, ensure_ascii=False, indent=1))
        return
    for info, tally in zip(infos, (summary.images, summary.captions), strict=True):
        typer.echo(
            f"{info.name}: {info.points:,} points "
            f"({tally.embedded:,} embedded now, {tally.already_there:,} were there already)"
        )
    if summary.truncated:
        typer.echo(f"{summary.truncated:,} captions were longer than the model reads and were cut")
    typer.echo("seconds: " + ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in summary.seconds.items()))
    if summary.failures:
        typer.echo(f"{len(summary.failures):,} photos could not be read; they are listed in {failures.resolve()}")
        for failure in summary.failures[:5]:
            note(f"  {failure.file}: {failure.reason}")


def _describe(info: CollectionInfo) -> str:
    spec = info.spec
    sizes = ", ".join(
        f"{name} {size.images if spec.kind == 'images' else size.captions:,}" for name, size in spec.splits.items()
    )
    indexed = f"{info.indexed_vectors:,}" if info.indexed_vectors else "0 (a small collection is scanned: exact)"
    return (
        f"\n{info.name}\n"
        f"  points           {info.points:,}\n"
        f"  indexed vectors  {indexed}\n"
        f"  model            {spec.model} ({spec.dim} dimensions, {spec.dtype})\n"
        f"  data set         {spec.dataset}: {sizes}\n"
        f"  photos           {spec.photos}"
    )


def main() -> None:
    command.run(app, "python -m ingest")


if __name__ == "__main__":
    main()
