"""`python -m search`: ask the index in words or with a picture."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from search import command, show
from search.command import DatasetOption, DeviceOption, JsonOption, PathOption, UrlOption
from search.records import Hit, Kind
from search.settings import load_settings

if TYPE_CHECKING:
    from search.index import Where
    from search.retrieve import Searcher

app = command.application("Search captioned photos with words or with a picture.")

ToOption = Annotated[Kind, typer.Option("--to", help="What to find")]
CountOption = Annotated[int, typer.Option("-k", min=1, max=10_000, help="How many results")]
SplitOption = Annotated[list[str] | None, typer.Option("--split", help="Only this split; may be repeated")]
ModelOption = Annotated[
    str | None, typer.Option("--model", help="Where the model is now, if it moved (default: the remembered one)")
]


HtmlOption = Annotated[Path | None, typer.Option("--html", help="Write the pictures found into one HTML file")]
ImagesOption = Annotated[
    Path | None,
    typer.Option("--images", help="Where the photos are now (default: the remembered folder)"),
]


@app.command()
def text(
    query: Annotated[str, typer.Argument(help='What to look for, such as "a dog on a beach"', show_default=False)],
    k: CountOption = 10,
    to: ToOption = "images",
    split: SplitOption = None,
    as_json: JsonOption = False,
    html: HtmlOption = None,
    images: ImagesOption = None,
    path: PathOption = None,
    url: UrlOption = None,
    dataset: DatasetOption = None,
    model: ModelOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Find the images, or captions, nearest to a text."""
    with _searcher(path, url, dataset, model, device) as searcher:
        _show(searcher, query, searcher.text(query, k, to=to, where=_where(split)), as_json, html, images)


@app.command()
def image(
    query: Annotated[str, typer.Argument(metavar="FILE|ID", help="A picture, or the id of a stored one")],
    k: CountOption = 10,
    to: ToOption = "captions",
    split: SplitOption = None,
    as_json: JsonOption = False,
    html: HtmlOption = None,
    images: ImagesOption = None,
    path: PathOption = None,
    url: UrlOption = None,
    dataset: DatasetOption = None,
    model: ModelOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Find the captions, or images, nearest to a picture."""
    with _searcher(path, url, dataset, model, device) as searcher:
        if query.isascii() and query.isdigit():
            hits = searcher.image_id(int(query), k, to=to, where=_where(split))
        else:
            hits = searcher.image(Path(query), k, to=to, where=_where(split))
        _show(searcher, f"image {query}", hits, as_json, html, images)


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 lets others in")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one")] = 8000,
    images: ImagesOption = None,
    path: PathOption = None,
    url: UrlOption = None,
    dataset: DatasetOption = None,
    model: ModelOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Search in a browser: a web page and its JSON API."""
    from search.web.serve import serve

    try:
        serve(load_settings(path, url), dataset, host=host, port=port, model=model, images=images, device=device)
    except KeyboardInterrupt:
        raise typer.Exit(command.Exit.INTERRUPTED) from None


@contextmanager
def _searcher(
    path: Path | None, url: str | None, dataset: str | None, model: str | None, device: str
) -> Iterator[Searcher]:
    from search.index import open_index
    from search.retrieve import Searcher, encoder_for

    index = open_index(load_settings(path, url))
    with Searcher(index, dataset, encoder=lambda spec: encoder_for(spec, model, device)) as searcher:
        yield searcher


def _where(splits: list[str] | None) -> Where | None:
    from search.index import Where

    return Where(splits=tuple(splits)) if splits else None


def _show(
    searcher: Searcher, query: str, hits: list[Hit], as_json: bool, html: Path | None, images: Path | None
) -> None:
    typer.echo(show.json_lines(hits) if as_json else show.table(hits) + "\n", nl=False)
    if html is not None:
        from search.sheet import Section, contact_sheet

        sheet = contact_sheet(query, [Section(query, hits)], lambda image_id: searcher.photo(image_id, images))
        html.write_text(sheet, encoding="utf-8")
        command.note(f"the pictures are in {html.resolve()}")


def main() -> None:
    command.run(app, "python -m search")


if __name__ == "__main__":
    main()
