"""The options of `python -m ingest run` in groups; `copy` shares those for new collections."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal
from urllib.parse import urlsplit

import typer

from search.command import JsonOption, PathOption, TextModelOption, TrustOption, UrlOption

if TYPE_CHECKING:
    from ingest.annotations import Annotations
    from ingest.pipeline import Plan
    from ingest.selection import Chosen
    from ingest.summary import Failure
    from search.encoder.clip import ClipEncoder
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
    """Which entries of the annotation file are embedded."""

    split: Annotated[
        list[str] | None, typer.Option("--split", help="Only this split, such as test, or all; may be repeated")
    ] = None
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Only the first N images")] = None
    shard: Annotated[
        str, typer.Option("--shard", help="This machine's part of the work if several fill one server, such as 2/8")
    ] = "1/1"

    def choose(self, annotations: Annotations) -> Chosen:
        """Return the images and captions of these splits, on all machines together.

        Raises:
            AnnotationError: a split is not in the file.
        """
        return annotations.select(self.split or ["all"], self.limit)

    def failures(self, annotations: Annotations) -> list[Failure]:
        """Return the broken entries that this machine reports.

        Raises:
            SettingsError: `--shard` is not valid.
        """
        from ingest.selection import skipped_of
        from ingest.summary import Failure

        skipped = skipped_of(annotations.skipped(self.split or ["all"], self.limit), self.shard)
        return [
            Failure(entry.file, entry.image_id, "annotations", entry.reason, entry.kind, entry.caption_id)
            for entry in skipped
        ]


@dataclass(frozen=True)
class Embedding:
    """How photos are read, and photos and captions encoded. `stored` is the collection of images, if it exists."""

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

    def encoders(self, stored: CollectionSpec | None) -> list[ClipEncoder]:
        """Load the model once for each device.

        Raises:
            EncoderError: it cannot be loaded.
        """
        from search.encoder.clip import DEFAULT_MODEL, ClipEncoder

        stored_text_model = str(stored.text_model) if stored and stored.text_model else None
        load = partial(
            ClipEncoder,
            self.model or (str(stored.model_id) if stored else DEFAULT_MODEL),
            text_model=self.text_model or stored_text_model,
            trust_remote_code=self.trust_remote_code,
            dtype=self.dtype,
            batch_size=self.batch_size,
            prompt=self.prompt or (stored.prompt if stored else None),
        )
        device, *others = self.devices.split(",")
        first = load(device=device)
        again = partial(load, dim=first.dim, padding=first.padding, roles=first.roles)
        return [first, *(again(device=other) for other in others)]

    def links(self, stored: CollectionSpec | None) -> bool:
        """Return whether links may lead out of the photo folder."""
        return self.follow_links if self.follow_links is not None else bool(stored and stored.follow_links)

    def plan(self, device: str, tuning: Tuning | None) -> Plan:
        """Return the plan of a run whose first model is on `device`."""
        from ingest.pipeline import Plan

        workers = self.workers or os.cpu_count() or 1
        return Plan(workers, "cuda" in device, self.decode == "scaled", self.force, tuning)


@dataclass(frozen=True)
class NewCollections:
    """How collections are built that do not exist yet."""

    quantization: Annotated[
        Literal["none", "int8", "binary"] | None,
        typer.Option("--quantization", help="New collections: search smaller copies of the vectors, kept in memory"),
    ] = None
    on_disk: Annotated[
        bool, typer.Option("--on-disk", help="New collections: leave the full vectors on disk, memory-mapped")
    ] = False
    shards: Annotated[
        int | None,
        typer.Option("--shards", min=1, help="New collections: number of parts that the server divides each into"),
    ] = None
    replicas: Annotated[
        int | None,
        typer.Option("--replicas", min=1, help="New collections: number of copies of each part in a cluster"),
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

    failures: Annotated[
        Path, typer.Option("--failures", help="File that lists photos and captions that could not be read or embedded")
    ] = Path("failures.jsonl")
    path: PathOption = None
    url: UrlOption = None
    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset",
            help="Name of the data set (default: that of Karpathy's file, or the name of the file or folder)",
            show_default=False,
        ),
    ] = None
    add: Annotated[
        bool, typer.Option("--add", help="Add to a data set that was filled from another file or folder")
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
    json: JsonOption = False
