"""The options of `python -m ingest run` in groups; `copy` shares those for new collections."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal
from urllib.parse import urlsplit

import typer

from search.cli.command import INDEX, OUTPUT, JsonOption, PathOption, TextModelOption, TrustOption, UrlOption, note
from search.errors import SettingsError

if TYPE_CHECKING:
    from ingest.annotations import Annotations, Chosen
    from ingest.failures import Failure
    from ingest.stages.run import RunOptions
    from search.index import CollectionSpec, Tuning


def _check_photo_url(base: str | None) -> str | None:
    """Return the address with a slash at its end; an empty one stays empty."""
    if not base:
        return base
    if not base.isascii() or not base.isprintable() or " " in base:
        raise typer.BadParameter(f"{base!r} contains characters that must be percent-encoded")
    try:
        parts = urlsplit(base)
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        valid = False
    if not valid or parts.query or parts.fragment:
        raise typer.BadParameter(f"{base!r} is not an address such as http://localhost:8080/photos")
    return base.removesuffix("/") + "/"


def _check_prompt(prompt: str | None) -> str | None:
    if prompt is not None and prompt.count("{}") != 1:
        raise typer.BadParameter(f"{prompt!r} must contain {{}} exactly once, in place of the caption")
    return prompt


@dataclass(frozen=True)
class Selection:
    """Which entries are embedded, and whether those that are no longer listed are removed."""

    PANEL: ClassVar = "Selection"

    split: Annotated[
        list[str] | None, typer.Option("--split", help="Only this split, such as test, or all; may be repeated")
    ] = None
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Only the first N images")] = None
    shard: Annotated[
        str, typer.Option("--shard", help="This machine's part of the work if several fill one server, such as 2/8")
    ] = "1/1"
    prune: Annotated[
        bool,
        typer.Option("--prune", help="Remove photos and captions of these splits that the source no longer lists"),
    ] = False
    yes: Annotated[bool, typer.Option("--yes", help="With --prune: remove them without asking")] = False

    def __post_init__(self) -> None:
        if self.prune and not self.is_whole:
            raise typer.BadParameter("--prune compares all photos with the index: leave out --limit and --shard")

    @property
    def splits(self) -> list[str]:
        return self.split or ["all"]

    @property
    def is_whole(self) -> bool:
        """Whether this run alone embeds all of its splits."""
        return self.limit is None and self.shard == "1/1"

    def confirm_pruning(self, what: str) -> None:
        """State what is gone and, with `--prune`, ask whether to remove it.

        Raises:
            SettingsError: there is no terminal to ask at, and no `--yes`.
        """
        if not self.prune:
            note(f"{what}: add --prune to remove them")
        elif self.yes:
            note(f"{what}: removing them")
        elif sys.stdin.isatty():
            typer.confirm(f"{what}: remove them?", abort=True, err=True)
        else:
            raise SettingsError(f"{what}: add --yes to let --prune remove them without asking")

    def choose(self, annotations: Annotations) -> Chosen:
        """Return the images and captions of these splits, on all machines together.

        Raises:
            AnnotationError: a split is not in the file.
        """
        return annotations.select(self.splits, self.limit)

    def failures(self, annotations: Annotations) -> list[Failure]:
        """Return the broken entries that this machine reports.

        Raises:
            SettingsError: `--shard` is not valid.
        """
        from ingest.failures import Failure
        from ingest.selection import skipped_of

        skipped = skipped_of(annotations.skipped(self.splits, self.limit), self.shard)
        return [
            Failure(entry.file, entry.image_id, "annotations", entry.reason, entry.kind, entry.caption_id)
            for entry in skipped
        ]


@dataclass(frozen=True)
class Embedding:
    """How photos are read, and photos and captions encoded; `ingest/models.py` loads the model."""

    PANEL: ClassVar = "Model and photos"

    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="NAME[@REVISION]|DIR",
            help="A sentence-transformers model (default: the stored one, or clip-ViT-B-32)",
        ),
    ] = None
    text_model: TextModelOption = None
    trust_remote_code: TrustOption = False
    prompt: Annotated[
        str | None,
        typer.Option("--prompt", help='Text around every caption, such as "a photo of {}"', callback=_check_prompt),
    ] = None
    force: Annotated[bool, typer.Option("--force", help="Encode everything again, even what has not changed")] = False
    devices: Annotated[str, typer.Option("--devices", "--device", help="auto, cpu or cuda:0,cuda:1")] = "auto"
    dtype: Annotated[
        Literal["auto", "float32", "float16", "bfloat16"],
        typer.Option("--dtype", help="Number type of weights and inputs; auto: float16 on CUDA, otherwise float32"),
    ] = "auto"
    batch_size: Annotated[int | None, typer.Option("--batch-size", min=1, help="Photos per forward pass")] = None
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Number of photo readers (default: one per processor)")
    ] = None
    decode: Annotated[
        Literal["full", "scaled"],
        typer.Option("--decode", help="scaled: scale JPEG while decoding; faster, slightly less exact"),
    ] = "full"
    follow_links: Annotated[
        bool | None,
        typer.Option(
            "--follow-links/--no-follow-links",
            help="Whether links may lead out of the photo folder (default: as before, or no)",
            show_default=False,
        ),
    ] = None

    def links(self, stored: CollectionSpec | None) -> bool:
        """Return whether links may lead out of the photo folder; `stored` specifies the images, if there are any."""
        return self.follow_links if self.follow_links is not None else bool(stored and stored.follow_links)

    def run_options(self, tuning: Tuning | None, *, prune: bool) -> RunOptions:
        """Return the options of a run, which may `prune` the collections."""
        from ingest.stages.run import RunOptions
        from search.processes import processors

        return RunOptions(self.workers or processors(), self.decode == "scaled", self.force, tuning, prune)


@dataclass(frozen=True)
class NewCollections:
    """How collections are built that do not exist yet."""

    PANEL: ClassVar = "New collections"

    quantization: Annotated[
        Literal["none", "int8", "binary"] | None,
        typer.Option("--quantization", help="Search smaller copies of the vectors, kept in memory"),
    ] = None
    on_disk: Annotated[bool, typer.Option("--on-disk", help="Leave the full vectors on disk, memory-mapped")] = False
    shards: Annotated[
        int | None,
        typer.Option("--shards", min=1, help="Number of parts that the server divides each into"),
    ] = None
    replicas: Annotated[
        int | None,
        typer.Option("--replicas", min=1, help="Number of copies of each part in a cluster"),
    ] = None

    def tuning(self) -> Tuning | None:
        """Return these options as a Tuning, or None if none of them is set."""
        from search.index import Tuning

        if not (self.quantization or self.on_disk or self.shards or self.replicas):
            return None
        return Tuning(self.quantization or "none", self.on_disk, self.shards, self.replicas)


@dataclass(frozen=True)
class Output:
    """Where points and failures are written, and what is reported."""

    PANEL: ClassVar = OUTPUT

    failures: Annotated[
        Path, typer.Option("--failures", help="File that lists photos and captions that could not be read or embedded")
    ] = Path("failures.jsonl")
    path: PathOption = None
    url: UrlOption = None
    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset",
            metavar="NAME",
            help="Name of the data set (default: that of Karpathy's file, or the name of the file or folder)",
            show_default=False,
            rich_help_panel=INDEX,
        ),
    ] = None
    add: Annotated[
        bool,
        typer.Option(
            "--add", help="Add to a data set that was filled from another file or folder", rich_help_panel=INDEX
        ),
    ] = False
    photo_url: Annotated[
        str | None,
        typer.Option(
            "--photo-url",
            metavar="BASE",
            help="Address of the photo folder, which Qdrant's dashboard shows photos from (default: as before)",
            callback=_check_photo_url,
            show_default=False,
        ),
    ] = None
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Print how long each stage took")] = False
    json: JsonOption = False

    def photo_url_of(self, stored: CollectionSpec | None) -> str | None:
        """Return the address of the photo folder; `stored` describes the collection of images, if it exists."""
        return self.photo_url if self.photo_url is not None or stored is None else stored.photo_url
