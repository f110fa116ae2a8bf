"""The options that the ways of asking share, as two dataclasses instead of the same long list at each command."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from dataclasses import Field, dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from search.command import (
    DatasetOption,
    DeviceOption,
    JsonOption,
    PathOption,
    UrlOption,
    warn_of_pending,
    warn_of_silent_nodes,
)
from search.records import Wanted

if TYPE_CHECKING:
    from search.query import Options, Part
    from search.searcher import Searcher

WEIGHT_HELP = "may be repeated; 'snow^0.5' counts half"


@dataclass(frozen=True)
class Asking:
    """What is wanted, and of which index."""

    k: Annotated[int, typer.Option("-k", min=1, max=10_000, help="How many results")] = 10
    offset: Annotated[int, typer.Option("--offset", min=0, max=90_000, help="How many of the best to leave out")] = 0
    to: Annotated[
        Wanted | None, typer.Option("--to", help="What to find (default: images for a text, captions for a picture)")
    ] = None
    group: Annotated[bool, typer.Option("--group", help="One result for all captions of an image")] = False
    fold: Annotated[
        float | None,
        typer.Option("--fold", min=0, max=1, help="One result for near-duplicates, photos of such a cosine (try 0.95)"),
    ] = None
    split: Annotated[list[str] | None, typer.Option("--split", help="Only this split; may be repeated")] = None
    only: Annotated[
        list[int] | None, typer.Option("--id", help="Only this image, or its captions; may be repeated")
    ] = None
    contains: Annotated[
        str | None, typer.Option("--contains", help="Only where a caption contains all of these words")
    ] = None
    min_score: Annotated[
        float | None, typer.Option("--min-score", min=-1, max=1, help="Only from this cosine similarity on")
    ] = None
    cutoff: Annotated[
        float | None,
        typer.Option(
            "--cutoff",
            min=0,
            max=1,
            help="Drop the tail: what is less than this far up from a typical score (0) to the best (1); try 0.5",
        ),
    ] = None
    exact: Annotated[bool, typer.Option("--exact", help="Compare with every vector, without the HNSW index")] = False
    path: PathOption = None
    url: UrlOption = None
    dataset: DatasetOption = None
    model: Annotated[
        str | None, typer.Option("--model", help="Where the model is now, if it moved (default: the remembered one)")
    ] = None
    device: DeviceOption = "auto"

    def options(self, to: Wanted) -> Options:
        """As the library knows them; `to` is what to find where nothing was said."""
        from search.index import Where
        from search.query import Options

        return Options(
            k=self.k,
            offset=self.offset,
            to=self.to or to,
            where=Where(
                splits=tuple(self.split) if self.split else None,
                image_ids=tuple(self.only) if self.only else None,
                words=self.contains,
            ),
            min_score=self.min_score,
            cutoff=self.cutoff,
            group=self.group,
            fold=self.fold,
            exact=self.exact,
        )

    def searcher(self) -> Searcher:
        from search.index import open_index
        from search.searcher import Searcher, encoder_for
        from search.settings import load_settings

        index = open_index(load_settings(self.path, self.url))
        warn_of_silent_nodes(index)  # before it is asked what may need them
        searcher = Searcher(index, self.dataset, encoder=lambda spec: encoder_for(spec, self.model, self.device))
        warn_of_pending(index, [searcher.collection("images"), searcher.collection("captions")], exact=self.exact)
        return searcher


@dataclass(frozen=True)
class Mixing:
    """What is added to the query and taken away from it, and where the results go."""

    plus: Annotated[list[str] | None, typer.Option("--plus", help=f"Add a text ({WEIGHT_HELP})")] = None
    minus: Annotated[list[str] | None, typer.Option("--minus", help="Take a text away (likewise)")] = None
    plus_image: Annotated[
        list[str] | None, typer.Option("--plus-image", metavar="FILE|ID", help="Add a picture, or a stored one by id")
    ] = None
    minus_image: Annotated[
        list[str] | None, typer.Option("--minus-image", metavar="FILE|ID", help="Take a picture away (likewise)")
    ] = None
    json: JsonOption = False
    html: Annotated[Path | None, typer.Option("--html", help="Write the pictures found into one HTML file")] = None
    open: Annotated[bool, typer.Option("--open", help="Show the pictures found in the browser")] = False
    images: Annotated[
        Path | None, typer.Option("--images", help="Where the photos are now (default: the remembered folder)")
    ] = None

    def parts(self) -> list[Part]:
        return [
            *(text_part(value) for value in self.plus or ()),
            *(image_part(value) for value in self.plus_image or ()),
            *(text_part(value, -1) for value in self.minus or ()),
            *(image_part(value, -1) for value in self.minus_image or ()),
        ]


def text_part(value: str, sign: int = 1) -> Part:
    """`a beach` or, with a weight, `a beach^0.5`."""
    from search.query import Part

    text, weight = _weighted(value)
    return Part(text=text, weight=sign * weight)


def image_part(value: str, sign: int = 1) -> Part:
    """`42` is the id of a stored image, everything else a file; both may end in a weight, as in `42^0.5`."""
    from search.query import Part

    name, weight = _weighted(value)
    if name.isascii() and name.isdigit():
        return Part(image_id=int(name), weight=sign * weight)
    return Part(image=Path(name), weight=sign * weight)


def _weighted(value: str) -> tuple[str, float]:
    found = re.fullmatch(r"(.*)\^(\d+(?:\.\d*)?|\.\d+)", value, re.DOTALL)
    return (found[1], float(found[2])) if found else (value, 1.0)


def expanded(command: Callable[..., None]) -> Callable[..., None]:
    """`command` as Typer wants it: instead of each parameter that is a dataclass, the fields of that dataclass.

    Typer reads a function's signature, so it is enough to show it another one and to put the pieces together here.
    """
    hints = get_type_hints(command, include_extras=True)
    classes = {name: hint for name, hint in hints.items() if is_dataclass(hint) and isinstance(hint, type)}
    plain = [parameter for name, parameter in inspect.signature(command).parameters.items() if name not in classes]
    shown = [parameter.replace(annotation=hints[parameter.name]) for parameter in plain]
    for made in classes.values():
        types = get_type_hints(made, include_extras=True)
        shown += [_keyword(field, types[field.name]) for field in fields(made)]

    @functools.wraps(command)
    def called(**given: Any) -> None:
        pieces = {
            name: made(**{field.name: given.pop(field.name) for field in fields(made)})
            for name, made in classes.items()
        }
        command(**given, **pieces)

    called.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
    return called


def _keyword(field: Field[Any], annotation: Any) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(field.name, kind, default=field.default, annotation=annotation)
