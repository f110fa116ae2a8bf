"""Declare the options that the search commands share, as dataclasses instead of a long list at each command."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from search.cli import ending
from search.cli.command import (
    OUTPUT,
    DatasetOption,
    DeviceOption,
    JsonOption,
    PathOption,
    TextModelOption,
    TrustOption,
    UrlOption,
    loading,
    note,
    warn_of_pending,
    warn_of_silent_nodes,
)
from search.errors import QueryError
from search.records import MAX_HUBNESS, Wanted

if TYPE_CHECKING:
    from search.encoder import Encoder
    from search.index import CollectionSpec
    from search.query import Options, Part
    from search.searcher import Searcher

WEIGHT_HELP = "may be repeated; 'snow^0.5' counts half"


def evidence_option(value: str) -> float:
    """Return the weight that `--evidence` gives."""
    from search.query import evidence_weight

    try:
        return evidence_weight(value)
    except QueryError as error:
        raise typer.BadParameter(f"--evidence: {error}") from None


@dataclass(frozen=True)
class QueryFlags:
    """The options of an answer; the names are those of `Options` and `Where`."""

    PANEL: ClassVar = "Results"

    k: Annotated[int, typer.Option("-k", min=1, max=10_000, help="How many results")] = 10
    offset: Annotated[int, typer.Option("--offset", min=0, max=90_000, help="How many results to skip")] = 0
    to: Annotated[
        Wanted | None, typer.Option("--to", help="What to find (default: images for a text, captions for a picture)")
    ] = None
    group: Annotated[bool, typer.Option("--group", help="One result for all captions of an image")] = False
    fold: Annotated[
        float | None,
        typer.Option("--fold", min=0, max=1, help="Merge photos with at least this cosine into one result; try 0.95"),
    ] = None
    splits: Annotated[list[str] | None, typer.Option("--split", help="Only this split; may be repeated")] = None
    image_ids: Annotated[
        list[int] | None, typer.Option("--image-id", min=0, help="Only this image, or its captions; may be repeated")
    ] = None
    contains: Annotated[
        str | None,
        typer.Option("--contains", help="Only captions that contain all of these words, or images whose captions do"),
    ] = None
    min_score: Annotated[
        float | None, typer.Option("--min-score", min=-1, max=1, help="The lowest cosine similarity of a result")
    ] = None
    cutoff: Annotated[
        float | None,
        typer.Option(
            "--cutoff",
            min=0,
            max=1,
            help="Drop the tail: results below this fraction of the way from a typical score to the best; try 0.5",
        ),
    ] = None
    hubness: Annotated[
        float | None,
        typer.Option(
            "--hubness",
            min=0,
            max=MAX_HUBNESS,
            help="Subtract this many times the number that `ingest hubness` stored with each image (default: the "
            "stored alpha, for texts; 0: nothing); --min-score and --cutoff still refer to cosines",
        ),
    ] = None
    evidence: Annotated[
        str | None,
        typer.Option(
            "--evidence",
            metavar="captions[=WEIGHT]",
            help="Rank photos for a text by their captions too; WEIGHT (up to 1, default 0.75) is that of a photo's "
            "best caption; --min-score and --cutoff still refer to the cosines of photos",
        ),
    ] = None
    exact: Annotated[bool, typer.Option("--exact", help="Compare with every vector, without the HNSW index")] = False

    def options(self, to: Wanted) -> Options:
        """Return the options as the library defines them; `to` is the default of the command."""
        from search.query import Options

        weight = None if self.evidence is None else evidence_option(self.evidence)
        given = {name: value for name, value in asdict(self).items() if value is not None}
        return Options(to=to).updated({**given, "evidence": weight})


@dataclass(frozen=True)
class SourceFlags:
    """The index to search, and the model that encodes the query."""

    PANEL: ClassVar = "Model"

    path: PathOption = None
    url: UrlOption = None
    dataset: DatasetOption = None
    model: Annotated[
        str | None, typer.Option("--model", help="Where the model is now, if it moved (default: the remembered one)")
    ] = None
    text_model: TextModelOption = None
    trust_remote_code: TrustOption = False
    device: DeviceOption = "auto"

    def encoder(self, spec: CollectionSpec, **options: Any) -> Encoder:
        """Return the encoder of queries for a collection; `options` are further ones of `encoder_for`."""
        from search.encoder.for_collection import encoder_for

        encoder = encoder_for(
            spec,
            self.model,
            self.device,
            text_model=self.text_model,
            trust_remote_code=self.trust_remote_code,
            **options,
        )
        if self.text_model is not None and spec.text_model is None:
            note(
                f"note: the captions of {spec.dataset} were embedded by {spec.model_id}, not by {self.text_model}: "
                "only the photos can be compared with a text"
            )
        return encoder

    def searcher(self, *, exact: bool) -> Searcher:
        """Open the index, and warn of what keeps it from answering as it should."""
        from search.index import open_index
        from search.searcher import Searcher
        from search.settings import load_settings

        index = open_index(load_settings(self.path, self.url), until_exit=ending.soon)
        warn_of_silent_nodes(index)  # first: what follows may need these nodes
        searcher = Searcher(index, self.dataset, encoder=partial(self.encoder, index=index, loading=loading))
        warn_of_pending(index, [searcher.collection("images"), searcher.collection("captions")], exact=exact)
        return searcher


@dataclass(frozen=True)
class MixFlags:
    """The parts that are added to the query and subtracted from it."""

    PANEL: ClassVar = "Further parts of the query"

    plus: Annotated[list[str] | None, typer.Option("--plus", help=f"Add a text ({WEIGHT_HELP})")] = None
    minus: Annotated[list[str] | None, typer.Option("--minus", help="Subtract a text (likewise)")] = None
    plus_image: Annotated[
        list[str] | None, typer.Option("--plus-image", metavar="FILE|ID", help="Add a picture, or a stored one by id")
    ] = None
    minus_image: Annotated[
        list[str] | None, typer.Option("--minus-image", metavar="FILE|ID", help="Subtract a picture (likewise)")
    ] = None

    def parts(self) -> list[Part]:
        from search.query import image_part, text_part

        return [
            *(text_part(value) for value in self.plus or ()),
            *(image_part(value) for value in self.plus_image or ()),
            *(text_part(value, -1) for value in self.minus or ()),
            *(image_part(value, -1) for value in self.minus_image or ()),
        ]


@dataclass(frozen=True)
class OutputFlags:
    """The form of the results."""

    PANEL: ClassVar = OUTPUT

    json: JsonOption = False
    files: Annotated[bool, typer.Option("--files", help="Print the file of each photo below it")] = False
    html: Annotated[Path | None, typer.Option("--html", help="Write the pictures found into one HTML file")] = None
    open: Annotated[bool, typer.Option("--open", help="Show the pictures found in the browser")] = False
    images: Annotated[
        Path | None,
        typer.Option(
            "--images",
            exists=True,
            file_okay=False,
            help="Where the photos are now (default: the remembered folder)",
        ),
    ] = None

    def __post_init__(self) -> None:
        if self.json and self.images is not None and not (self.html or self.open):
            raise typer.BadParameter("--images has no effect with --json unless --html or --open is given")
