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
from search.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ingest.download.coco import Downloaded

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
    from ingest.fill import Arguments, fill

    summary, command_line = fill(Arguments(images, annotations, selection, embedding, new, output))
    if not output.json:
        typer.echo(f"next: {command_line}")
    if summary.failures:
        raise typer.Exit(Exit.PARTLY)


app.command(
    examples=["--images ~/Pictures", "--annotations coco/dataset_coco.json --images coco --split test"],
    needs={"--yes": ["--prune"]},
)(expanded(run))


@app.command(examples=["", "--images 20 --out /tmp/demo --path /tmp/demo/index"])
def demo(
    images: Annotated[int, typer.Option(min=20, help="Number of images in the test split")] = 300,
    out: Annotated[Path, typer.Option(help="Folder for the pictures and the page")] = Path("demo"),
    path: PathOption = None,
    url: UrlOption = None,
) -> None:
    """Demonstrate everything offline: draw a data set, ingest it with a tiny CLIP, search it and evaluate it."""
    from ingest.demo import tour
    from ingest.fill import Arguments, fill

    start = time.perf_counter()
    place = ["--path", str(path)] if path else ["--url", url] if url else []
    annotations = tour.draw(out, images)
    embedding = Embedding(model=str(tour.MODEL))
    tour.drop_old_collections(load_settings(path, url), embedding, annotations)
    files = ["--annotations", str(annotations), "--images", str(out / "images")]
    tour.print_command("ingest", "run", *files, "--model", os.path.relpath(tour.MODEL), *place)
    output = Output(path=path, url=url, dataset=tour.DATASET)
    fill(Arguments(out / "images", annotations, Selection(), embedding, NewCollections(), output))
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
    from ingest.download.coco import OFFICIAL, Failure, describe_failures, download_coco
    from ingest.failures import listing

    failed: list[Failure] = []
    with listing(failures, failed, describe_failures):
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
    _report_download(done, split or ["test"])
    if done.failures:
        raise typer.Exit(Exit.PARTLY)


def _report_download(done: Downloaded, splits: Sequence[str]) -> None:
    complete = done.photos - len(done.failures)
    typer.echo(f"{complete:,} of {done.photos:,} photos are in {done.images}, {done.fetched:,} of them new")
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


def main() -> None:
    command.run(app, "ingest")


if __name__ == "__main__":
    main()
