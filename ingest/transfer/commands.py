"""The commands `copy`, `backup` and `restore`."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ingest.options import NewCollections
from search.cli.command import Exit, JsonOption, PathOption, UrlOption, note, print_json
from search.errors import SettingsError
from search.settings import Settings, load_settings, settings_of

if TYPE_CHECKING:
    from ingest.transfer.backup import Saved
    from ingest.transfer.copy import Copied


DatasetsOption = Annotated[
    list[str] | None, typer.Option("--dataset", help="Only this data set; may be repeated (default: all)")
]


def copy(
    source: Annotated[str, typer.Option("--from", help="Folder of an embedded index, or URL of a server")],
    target: Annotated[str, typer.Option("--to", help="Folder of an embedded index, or URL of a server")],
    new: NewCollections,
    dataset: DatasetsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Copy collections to another index without embedding again, and verify them. A second run resumes."""
    from ingest.transfer.copy import chosen_collections, copy_collection, prepare
    from search.index import open_for_writing, open_index

    ends = settings_of(source, "FROM"), settings_of(target, "TO")
    if _address(ends[0]) == _address(ends[1]):
        raise SettingsError(f"--from and --to are the same index, {_address(ends[0])}")
    done: list[Copied] = []
    try:
        with closing(open_index(ends[0])) as source_index, closing(open_for_writing(ends[1])) as target_index:
            names = chosen_collections(source_index, dataset or [])
            for warning in prepare(source_index, target_index, names, new.tuning()):
                note(f"warning: {warning}")
            done += (copy_collection(source_index, target_index, name) for name in names)
    except KeyboardInterrupt:
        note("\ninterrupted: copied points are stored; run the same command again to resume")
        raise typer.Exit(Exit.INTERRUPTED) from None
    if as_json:
        print_json([copied.as_json() for copied in done], indent=1)
        return
    for copied in done:
        typer.echo(describe(copied))


def backup(
    file: Annotated[Path, typer.Argument(help="The archive to write, such as coco.tar.gz")],
    dataset: DatasetsOption = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists")] = False,
    path: PathOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Back up the collections into one archive, with checksums."""
    from ingest.transfer.backup import back_up

    try:
        saved = back_up(load_settings(path, url), file, dataset or [], force=force)
    except KeyboardInterrupt:
        note("\ninterrupted: nothing was written")
        raise typer.Exit(Exit.INTERRUPTED) from None
    _report(saved, f"saved in {saved.file} ({saved.bytes / 2**20:,.1f} MiB)", as_json)


def restore(
    file: Annotated[Path, typer.Argument(help="The archive that `backup` wrote")],
    dataset: DatasetsOption = None,
    force: Annotated[bool, typer.Option("--force", help="Replace collections that hold points")] = False,
    path: PathOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Restore the collections of an archive into the index, after verifying all of it."""
    from ingest.transfer.backup import restore as restore_backup

    try:
        saved = restore_backup(load_settings(path, url), file, dataset or [], force=force)
    except KeyboardInterrupt:
        note("\ninterrupted: run the same command again")
        raise typer.Exit(Exit.INTERRUPTED) from None
    _report(saved, f"restored into {saved.place}", as_json)


def _address(settings: Settings) -> str:
    return settings.qdrant_url.rstrip("/") if settings.qdrant_url else str(settings.index_path.resolve())


def describe(copied: Copied, verb: str = "copied") -> str:
    """Return the result of one collection in a few lines; `verb`: what was done to its points."""
    comparison = copied.comparison
    lines = [
        f"{copied.collection}: {comparison.points:,} points ({copied.written:,} {verb} now, "
        f"{copied.already_there:,} were there already), {copied.indexed_vectors:,} vectors indexed"
    ]
    if comparison.inexact:
        lines.append(
            f"  verified: {comparison.inexact:,} vectors differ in their last bits, by at most "
            f"{comparison.largest_difference:.1e}: the target normalised them again"
        )
    else:
        lines.append(f"  verified to the last bit: checksum {comparison.source_checksum:032x} on both sides")
    if comparison.extra:
        lines.append(f"  {comparison.extra:,} points of the target are not in the source; they are kept")
    return "\n".join(lines)


def _report(saved: Saved, what: str, as_json: bool) -> None:
    for warning in saved.warnings:
        note(f"warning: {warning}")
    if as_json:
        print_json(
            {"file": str(saved.file), "place": saved.place, "bytes": saved.bytes, "points": saved.points}, indent=1
        )
        return
    for name, points in saved.points.items():
        typer.echo(f"{name}: {points:,} points {what}")
