"""Define the commands of `python -m search`: query the index with texts, pictures, or both."""

from __future__ import annotations

if __name__ == "__main__":
    from search.cli.interrupt import end_on_interrupt

    end_on_interrupt()

import io
import math
import os
import sys
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from search.cli import command, show
from search.cli.application import application
from search.cli.command import Exit, expanded
from search.cli.ending import end_after
from search.cli.flags import MixFlags, OutputFlags, QueryFlags, SourceFlags
from search.cli.interrupt import ending_on_interrupt
from search.errors import SettingsError
from search.records import Hit
from search.settings import load_settings
from search.text import shown

if TYPE_CHECKING:
    from search.cli.terminal import Place
    from search.query import Options, Part
    from search.searcher import Searcher

NOT_IN_JSON = {"--files": ["--json"]}

app = application("Search captioned photos with words or with a picture.")


@app.command(
    examples=['"a dog on a beach"', '"a beach" --plus snow --minus people -k 20', '"a dog" --split val --json'],
    excludes=NOT_IN_JSON,
)
@expanded
def text(
    query: Annotated[str, typer.Argument(help='What to look for, such as "a dog on a beach"', show_default=False)],
    flags: QueryFlags,
    mix: MixFlags,
    source: SourceFlags,
    output: OutputFlags,
) -> None:
    """Find the images, or captions, nearest to a text."""
    from search.query import text_part

    _answer([text_part(query), *mix.parts()], flags.options(to="images"), source, output)


@app.command(examples=["holiday.jpg", "391895 --to images"], excludes=NOT_IN_JSON)
@expanded
def image(
    query: Annotated[str, typer.Argument(metavar="FILE|ID", help="A picture file, or the id of a stored image")],
    flags: QueryFlags,
    mix: MixFlags,
    source: SourceFlags,
    output: OutputFlags,
) -> None:
    """Find the captions, or images, nearest to a picture (default: captions, if there are any)."""
    from search.query import image_part

    options = flags.options(to="captions")
    _answer([image_part(query), *mix.parts()], options, source, output, or_images=flags.to is None)


@app.command(examples=["queries.txt", "- < queries.jsonl > answers.jsonl"])
@expanded
def batch(
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="One query per line: a text or a JSON object")],
    flags: QueryFlags,
    source: SourceFlags,
) -> None:
    """Answer many queries, one JSON object per line, in the order of the queries."""
    from search.batch import answers, lines_of

    failed = 0
    with ExitStack() as stack:
        stream = _standard_input() if file == "-" else stack.enter_context(Path(file).open("rb"))
        searcher = stack.enter_context(source.searcher(exact=flags.exact))
        for answer in answers(searcher, lines_of(stream), flags.options(to="images")):
            command.print_json(answer)
            if "error" in answer:
                failed += 1
                command.note(f"{file}, line {answer['line']}: {answer['error']}")
    if failed:
        command.note(f"{failed:,} of the queries could not be answered")
        raise typer.Exit(Exit.PARTLY)


@app.command(examples=["--open", "--host 0.0.0.0 --port 8080"])
@expanded
def serve(
    source: SourceFlags,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 accepts other machines")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 picks a free one")] = 8000,
    public_url: Annotated[
        list[str] | None,
        typer.Option(help="Address of a reverse proxy in front, such as https://photos.example.org; may be repeated"),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Where the photos are now (default: as ingested)"),
    ] = None,
    open_browser: Annotated[bool, typer.Option("--open", help="Show the page in the browser")] = False,
) -> None:
    """Serve a web page and a JSON API for searching."""
    with ending_on_interrupt():
        from search.web.serve import serve

    try:
        serve(
            load_settings(source.path, source.url),
            source.dataset,
            host=host,
            port=port,
            public_urls=public_url or (),
            make_encoder=partial(source.encoder, patience=math.inf),  # the model is loaded for pictures, in a thread
            images=images,
            shares_model=source.text_model is None,
            open_browser=open_browser,
        )
    except KeyboardInterrupt:
        raise typer.Exit(Exit.INTERRUPTED) from None


def _standard_input() -> io.BufferedReader:
    """Return the standard input of this process, as a binary stream that keeps what is already buffered."""
    stream = getattr(sys.stdin, "buffer", None)
    if stream is None:
        raise SettingsError("standard input is closed: pass the queries in a file, or on standard input")
    return stream  # type: ignore[no-any-return]


def _answer(
    parts: list[Part], options: Options, source: SourceFlags, output: OutputFlags, *, or_images: bool = False
) -> None:
    """Print the hits; with `or_images`, images if the data set has no captions."""
    with source.searcher(exact=options.exact) as searcher:
        if or_images and searcher.kinds == ["images"]:
            options = replace(options, to="images")
        else:
            _check_effect(options)
        hits = searcher.search(parts, options)
        if output.json:
            for line in show.as_json(hits):
                command.print_json(line)
        else:
            _print_table(searcher, hits, output)
        [truncations] = searcher.truncations([parts])
        for number, truncation in truncations.items():
            command.note(f"note: {show.truncation_note(parts[number], truncation)}")
        if output.html is not None or output.open:
            _write_sheet(searcher, parts, options, hits, output)


def _check_effect(options: Options) -> None:
    """Raise typer.BadParameter for an option about a kind of results that are not requested."""
    if options.group and "captions" not in options.kinds:
        raise typer.BadParameter("--group merges captions, and has no effect on images: add --to captions")
    for name, value in (("--hubness", options.hubness), ("--evidence", options.evidence)):
        if value is not None and "images" not in options.kinds:
            raise typer.BadParameter(f"{name} has no effect on captions: add --to images")


def _print_table(searcher: Searcher, hits: list[Hit], output: OutputFlags) -> None:
    from search.cli.terminal import Style, table

    style = Style.of(sys.stdout)
    places = _places(searcher, hits, output.images) if output.files or style.escapes else {}
    typer.echo(table(hits, style, places=places, files=output.files))


def _places(searcher: Searcher, hits: list[Hit], folder: Path | None) -> dict[int, Place]:
    """Return where the photos of the hits are, by image id: a file, or an address on the web."""
    from search.cli.terminal import Place
    from search.errors import PhotoError

    places = {}
    for image_id, image in searcher.images([hit.image_id for hit in hits]).items():
        try:
            file = searcher.photo_file(image, folder)
            places[image_id] = Place(str(file), file.resolve().as_uri())
        except PhotoError as error:
            url = image.url if image.url and image.url.startswith(("http://", "https://")) else None
            places[image_id] = Place(f"{url or image.file} ({error})", url)
    return places


def _write_sheet(searcher: Searcher, parts: list[Part], options: Options, hits: list[Hit], output: OutputFlags) -> None:
    import tempfile
    import webbrowser

    from search.query import describe, named_images
    from search.sheet import Section, contact_sheet, origin

    picture = next(iter(named_images([part for part in parts if part.weight > 0])), None)
    title = describe(parts)
    sections = [Section(kind, group, picture) for kind, group in show.by_kind(hits)] or [Section(title, [])]
    about = origin(searcher.index.spec(searcher.collection("images")), options)
    page = contact_sheet(title, sections, lambda image_id: searcher.photo(image_id, output.images), about=about)
    file = output.html or Path(tempfile.mkdtemp(prefix="coco-search-")) / "found.html"
    file.write_text(shown(page), encoding="utf-8")
    command.note(f"wrote the pictures to {file.resolve()}")
    if output.open and not webbrowser.open(file.resolve().as_uri()):
        command.note("cannot open a browser: open that file yourself")


def main() -> None:
    # Before NumPy loads: a second thread does not make one sentence faster, and waits for busy cores.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    command.run(app, "search")


if __name__ == "__main__":
    end_after(main)
