"""The commands `export` and `import`: files that other software reads, or wrote."""

from __future__ import annotations

from collections import Counter
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from ingest.options import NewCollections, Selection
from ingest.transfer.commands import DatasetsOption, describe
from search.cli.command import Exit, JsonOption, PathOption, UrlOption, note, print_json
from search.errors import IndexFailure
from search.settings import load_settings
from search.text import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ingest.failures import Failure
    from ingest.transfer.load import PointFile
    from search.index import ReadIndex


ABOUT_VECTORS = ("--annotations", "--model-name", "--images", "--split", "--add", "--failures")
NEEDS = dict.fromkeys(ABOUT_VECTORS, ("--image-vectors", "--caption-vectors"))


def export(
    out: Annotated[Path, typer.Option("--out", help="Folder for the files, one for each collection")],
    dataset: DatasetsOption = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that exist")] = False,
    path: PathOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write vectors and payloads into Parquet files, one for each collection, which other software can read."""
    from ingest.transfer.copy import chosen_collections
    from ingest.transfer.parquet import export_collection
    from search.index import open_index

    written: list[dict[str, str | int]] = []
    try:
        with closing(open_index(load_settings(path, url))) as index:
            files = {name: out / f"{name}.parquet" for name in chosen_collections(index, dataset or [])}
            if existing := [file for file in files.values() if file.exists() and not force]:
                raise IndexFailure(f"{existing[0]} exists: choose another --out, or replace it with --force")
            out.mkdir(parents=True, exist_ok=True)
            for name, file in files.items():
                points = export_collection(index, name, file)
                written.append({"collection": name, "points": points, "file": str(file), "bytes": file.stat().st_size})
    except KeyboardInterrupt:
        note("\ninterrupted: only complete files are left; run the same command again with --force")
        raise typer.Exit(Exit.INTERRUPTED) from None
    if as_json:
        print_json(written, indent=1)
        return
    for each in written:
        size = int(each["bytes"]) / 2**20
        typer.echo(
            shown(f"{each['collection']}: {each['points']:,} points written to {each['file']} ({size:,.1f} MiB)")
        )


@dataclass(frozen=True)
class ExternalVectors:
    """Vectors that were computed elsewhere, and the annotations that describe them."""

    PANEL: ClassVar = "Vectors from elsewhere"

    image_vectors: Annotated[
        list[Path] | None,
        typer.Option(
            "--image-vectors", help="Vectors of photos by any model, with ids: .npz or Parquet; may be repeated"
        ),
    ] = None
    caption_vectors: Annotated[
        list[Path] | None, typer.Option("--caption-vectors", help="Vectors of captions, likewise; may be repeated")
    ] = None
    model_name: Annotated[
        str | None, typer.Option("--model-name", help="The model that computed the vectors; any name")
    ] = None
    annotations: Annotated[
        Path | None, typer.Option("--annotations", help="The annotation file that has these ids: dataset_coco.json")
    ] = None
    images: Annotated[
        Path | None,
        typer.Option("--images", help="The photo folder, for showing photos (default: that of the annotation file)"),
    ] = None
    split: Annotated[
        list[str] | None, typer.Option("--split", help="Only this split of the annotation file; may be repeated")
    ] = None

    add: Annotated[bool, typer.Option("--add", help="Add to a data set that was filled from other annotations")] = False

    def sources(self, index: ReadIndex, dataset: str | None, failures: list[Failure]) -> list[PointFile]:
        """Open the files of a complete command line, to be imported into `index`.

        `failures` gets what cannot be imported.

        Raises:
            AnnotationError: the annotation file cannot be read, or lacks the split, or the photo folder does not exist.
            SpecMismatch: the data set was filled from other annotations, without `--add`.
        """
        from ingest.annotations import read_annotations
        from ingest.folder import check_photo_folder
        from ingest.specs import check_source
        from ingest.transfer.load import annotated

        assert self.annotations
        assert self.model_name
        if self.images is not None:
            check_photo_folder(self.images)
        photos = self.images or self.annotations.parent
        read, selection = read_annotations(self.annotations, photos), Selection(split=self.split)
        if not self.add:
            check_source(index, dataset or read.dataset, read)
        failures += selection.failures(read)
        return annotated(
            read,
            selection.choose(read),
            {"images": self.image_vectors or [], "captions": self.caption_vectors or []},
            dataset or read.dataset,
            self.model_name,
            photos,
            failures,
        )


def import_(
    external: ExternalVectors,
    new: NewCollections,
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FILE", help="Parquet files that `export` wrote", show_default=False),
    ] = None,
    failures: Annotated[
        Path, typer.Option("--failures", help="File that lists photos, captions and ids without a usable vector")
    ] = Path("failures.jsonl"),
    path: PathOption = None,
    url: UrlOption = None,
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="Name of the data set (default: as in the file)")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Import files that `export` wrote, or vectors that any model computed elsewhere. A second run resumes."""
    from ingest.failures import listing
    from ingest.transfer.load import exported, load
    from search.index import open_for_writing
    from search.ranking.cosines import store_cosines

    if bool(files) == bool(external.image_vectors or external.caption_vectors):
        raise typer.BadParameter("give either files that `export` wrote, or --image-vectors and --caption-vectors")
    if not files and not (external.annotations and external.model_name):
        raise typer.BadParameter("vectors need the options --annotations FILE and --model-name NAME")
    failed: list[Failure] = []
    with nullcontext() if files else listing(failures, failed, _describe_failures):
        try:
            with closing(open_for_writing(load_settings(path, url))) as index:
                sources = exported(files, dataset) if files else external.sources(index, dataset, failed)
                warnings, loaded = load(index, sources, new.tuning())
                for warning in warnings:
                    note(f"warning: {warning}")
                done = list(loaded)
                for name in dict.fromkeys(source.spec.dataset for source in sources):
                    store_cosines(index, name, changed=any(copied.written for copied in done))
        except KeyboardInterrupt:
            note("\ninterrupted: imported points are stored; run the same command again to resume")
            raise typer.Exit(Exit.INTERRUPTED) from None
    if as_json:
        collections = [copied.as_json() for copied in done]
        print_json({"collections": collections, "failures": [failure.as_json() for failure in failed]}, indent=1)
    else:
        for copied in done:
            typer.echo(describe(copied, "imported"))
    if failed:
        raise typer.Exit(Exit.PARTLY)


def _describe_failures(failures: Sequence[Failure]) -> tuple[str, list[str]]:
    """Return how many there are, and a line for each reason."""
    from ingest.failures import count_failures, count_of

    reasons = Counter(
        (failure.kind, failure.reason if failure.stage == "vectors" else "broken in the annotations")
        for failure in failures
    )
    lines = [f"{count_of(count, kind.removesuffix('s'))}: {reason}" for (kind, reason), count in reasons.items()]
    return f"{count_failures(failures)} could not be imported", lines
