"""The options of `python -m eval run`, and the choices that it shares with the benchmarks."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import typer

from search.cli.command import INDEX, OUTPUT, DatasetOption, JsonOption, PathOption, UrlOption
from search.records import MAX_HUBNESS
from search.settings import load_settings

if TYPE_CHECKING:
    from eval.evaluate import Plan
    from search.index import Index, ReadIndex


class Quantized(str, Enum):
    """How vectors are quantised. (An enumeration, because Typer does not accept a list of literals.)"""

    INT8 = "int8"
    BINARY = "binary"


class Engine(str, Enum):
    """How Qdrant ranks. (An enumeration, because Typer does not accept a list of literals.)"""

    EXACT = "exact"
    SERVED = "served"
    NONE = "none"


FormatOption = Annotated[
    Literal["latex", "markdown", "csv"] | None,
    typer.Option("--format", help="Print one table for a paper: latex (booktabs), markdown or csv"),
]
ImagesOption = Annotated[
    Path | None,
    typer.Option(
        "--images", exists=True, file_okay=False, help="Where the photos are now (default: the remembered folder)"
    ),
]


@dataclass(frozen=True)
class Queries:
    """What is evaluated."""

    PANEL: ClassVar = "Queries"

    split: Annotated[
        list[str] | None, typer.Option("--split", help="test, val, ... or all; may be repeated (default: test)")
    ] = None
    captions: Annotated[
        Literal["first", "all"], typer.Option("--captions", help="The first five of each image, or all")
    ] = "first"
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Evaluate what is stored if images or captions are missing")
    ] = False

    @property
    def captions_per_image(self) -> int | None:
        from eval.protocol import FIRST_CAPTIONS

        return FIRST_CAPTIONS if self.captions == "first" else None


@dataclass(frozen=True)
class Measured:
    """What is measured besides the oracle."""

    PANEL: ClassVar = "Measurements"

    engine: Annotated[
        list[Engine] | None,
        typer.Option(
            "--engine", help="Besides the oracle: exact, served, or none; may be repeated (default: exact and served)"
        ),
    ] = None
    ef: Annotated[str, typer.Option("--ef", help="HNSW beams to measure besides served, such as 32,64,128")] = ""
    quantization: Annotated[
        list[Quantized] | None,
        typer.Option(
            "--quantization", help="Measure a quantised copy too, with and without rescoring; may be repeated"
        ),
    ] = None
    folds: Annotated[
        int | None,
        typer.Option("--folds", min=0, help="Average over this many folds (default: 5 if there are 5,000 images)"),
    ] = None
    resamples: Annotated[
        int, typer.Option("--resamples", min=100, help="Number of bootstrap resamples for the intervals")
    ] = 2000
    hubness: Annotated[
        float | None,
        typer.Option(
            "--hubness",
            min=0,
            max=MAX_HUBNESS,
            help="Measure scores corrected by this alpha too (default: the stored one); 0: not at all",
        ),
    ] = None
    evidence: Annotated[
        str | None,
        typer.Option(
            "--evidence",
            metavar="captions[=WEIGHT]",
            help="Measure `search --evidence` too, as a task of its own: each caption is a query for its photo, among "
            "photos with all of their other captions",
        ),
    ] = None

    @property
    def copies(self) -> bool:
        """Whether copies of the galleries are written into the index."""
        return bool(self.ef or self.quantization)

    def plan(self) -> Plan:
        from eval.evaluate import Plan
        from search.cli.flags import evidence_option

        engines = self.engine or [Engine.EXACT, Engine.SERVED]
        if Engine.NONE in engines and set(engines) != {Engine.NONE}:
            raise typer.BadParameter("--engine none cannot be combined with another engine")
        return Plan(
            engines=tuple(f"qdrant-{engine.value}" for engine in engines if engine is not Engine.NONE),
            efs=beams(self.ef),
            quantizations=tuple(quantization.value for quantization in self.quantization or ()),
            folds=self.folds,
            resamples=self.resamples,
            hubness=self.hubness,
            evidence=None if self.evidence is None else evidence_option(self.evidence),
        )


@dataclass(frozen=True)
class Output:
    """Where the results go."""

    PANEL: ClassVar = OUTPUT

    out: Annotated[
        Path | None,
        typer.Option("--out", help="Write metrics.json, ranks.jsonl, report.html and TREC files into this folder"),
    ] = None
    force: Annotated[bool, typer.Option("--force", help="Overwrite another run in the folder of --out")] = False
    images: ImagesOption = None
    trec_depth: Annotated[
        int, typer.Option("--trec-depth", min=0, help="Hits of each query in the TREC runs of --out, 0 for all")
    ] = 100
    format: FormatOption = None
    json: JsonOption = False


@dataclass(frozen=True)
class Source:
    """Which index is read."""

    PANEL: ClassVar = INDEX

    path: PathOption = None
    url: UrlOption = None
    dataset: DatasetOption = None

    def open(self) -> ReadIndex:
        from search.index import open_index

        return open_index(load_settings(self.path, self.url))

    def open_for_writing(self) -> Index:
        from search.index import open_for_writing

        return open_for_writing(load_settings(self.path, self.url))


def one_format(style: str | None, as_json: bool) -> None:
    """Raise typer.BadParameter if two formats are requested."""
    if style and as_json:
        raise typer.BadParameter(f"--json and --format {style}: choose one of them")


def beams(text: str) -> tuple[int, ...]:
    """Return the beam widths of a text such as `32,64,128`, ascending.

    Raises:
        typer.BadParameter: one is not a whole number, or is smaller than the number of hits that are fetched.
    """
    from eval.runs import TOP

    try:
        widths = tuple(sorted({int(width) for width in text.split(",") if width.strip()}))
    except ValueError:
        raise typer.BadParameter(f"--ef {text!r}: give whole numbers separated by commas: 32,64,128") from None
    if widths and widths[0] < TOP:
        raise typer.BadParameter(f"--ef {widths[0]}: Qdrant's beam is never narrower than the {TOP} hits it returns")
    return widths
