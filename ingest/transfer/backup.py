"""Back up an index into one file, and restore it: folders of the embedded index, or snapshots of a server.

A backup can only be restored into an index of the kind that it came from; `copy` converts between the kinds.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Literal, Never

from tqdm.auto import tqdm

from ingest.transfer.archive import Bundle, Manifest, read_manifest, unpack
from ingest.transfer.copy import chosen_collections
from search.errors import CollectionMissing, IndexFailure
from search.index import ReadIndex, collection_name, open_for_writing, open_index
from search.index.server.snapshots import Snapshot, Snapshots
from search.settings import Settings

SPARE_SPACE = 128 * 2**20  # bytes
STAGE = ".restore"  # inside the index folder, so that a rename moves it into place
TEMPORARY = "temp_segments"


@dataclass(frozen=True, slots=True)
class Saved:
    """The result of a backup or restoration: points by collection, bytes of the file, and warnings."""

    file: Path
    place: str
    points: dict[str, int]
    bytes: int
    warnings: list[str] = field(default_factory=list)


def back_up(settings: Settings, file: Path, datasets: Sequence[str], *, force: bool = False) -> Saved:
    """Write the collections of these data sets, or all, into `file`.

    Raises:
        IndexBusy: another process has the embedded index open.
        IndexFailure: `file` exists and `force` is not given, the collections are being written to, the server is one
            of several nodes, or there is nothing to back up.
        OSError: `file` cannot be written.
    """
    if file.exists() and not force:
        raise IndexFailure(f"{file} exists: choose another name, or replace it with --force")
    if settings.qdrant_url:
        return _back_up_server(settings, file, datasets)
    return _back_up_folder(settings.index_path, file, datasets, settings)


def restore(settings: Settings, file: Path, datasets: Sequence[str], *, force: bool = False) -> Saved:
    """Restore the collections of these data sets, or all that `file` holds, into the index.

    Everything is unpacked and verified before any collection changes.

    Raises:
        IndexBusy: another process has the embedded index open.
        IndexFailure: `file` is damaged or of another kind, a collection exists and holds points (`force` replaces it),
            or the number of restored points is not the number that was backed up.
        OSError: `file` cannot be read, or the disk is too small.
    """
    manifest = read_manifest(file)
    kind = "snapshots" if settings.qdrant_url else "folders"
    if manifest.kind != kind:
        held = {"folders": "an embedded index (--path)", "snapshots": "a Qdrant server (--url)"}
        raise IndexFailure(
            f"{file} is a backup of {held[manifest.kind]} and cannot go into {held[kind]}: restore it into "
            "an index of its own kind, then use `python -m ingest copy --from ... --to ...`"
        )
    names = _chosen_names(file, manifest, datasets)
    if settings.qdrant_url:
        warnings = _restore_server(settings, file, manifest, names, force)
        place = settings.qdrant_url
    else:
        warnings = _restore_folder(settings.index_path, file, manifest, names, force)
        place = str(settings.index_path)
    return Saved(file, place, {name: manifest.points[name] for name in names}, file.stat().st_size, warnings)


def _back_up_folder(path: Path, file: Path, datasets: Sequence[str], settings: Settings) -> Saved:
    from search.index.edge.locks import flush_and_lock

    with closing(open_index(settings)) as index:
        names = chosen_collections(index, datasets)
        engine = index.engine
    with flush_and_lock(path, names) as infos:
        members = [member for name in names for member in (Path(f"{name}.json"), *_shard_files(path, name))]
        stats = [(path / member).stat() for member in members]
        points = {info.name: info.points for info in infos}
        room = sum(stat.st_blocks * 512 for stat in stats)
        manifest = _manifest("folders", engine, points, sum(stat.st_size for stat in stats), room)
        with (
            _bar(f"writing {file.name}", manifest.bytes) as bar,
            Bundle.writing(file, manifest, bar.update) as bundle,
        ):
            for member, stat in zip(members, stats, strict=True):
                with (path / member).open("rb") as source:
                    bundle.add(member.as_posix(), source, stat.st_size)
    return Saved(file, str(path), points, file.stat().st_size)


def _shard_files(path: Path, collection: str) -> Iterator[Path]:
    for file in sorted((path / collection).rglob("*")):
        member = file.relative_to(path)
        if file.is_file() and member.parts[1] != TEMPORARY:
            yield member


def _back_up_server(settings: Settings, file: Path, datasets: Sequence[str]) -> Saved:
    server = Snapshots(settings)
    warnings: list[str] = []
    with closing(open_index(settings)) as index, ExitStack() as clean:
        server.refuse_cluster()
        names = chosen_collections(index, datasets)
        points = {name: index.count(name) for name in names}
        snapshots = []
        for name in tqdm(names, desc="creating snapshots", unit=" collections", file=sys.stderr):
            snapshot = server.create(name)
            snapshots.append(snapshot)
            clean.callback(_delete, server, snapshot, warnings)
            if index.count(name) != points[name]:
                raise IndexFailure(f"{name} at {index.place} is being written to: run the command again later")
        size = sum(snapshot.size for snapshot in snapshots)
        manifest = _manifest("snapshots", index.engine, points, size, size)
        with _bar(f"writing {file.name}", size) as bar, Bundle.writing(file, manifest, bar.update) as bundle:
            for snapshot in snapshots:
                with server.reading(snapshot) as stream:
                    digest = bundle.add(f"{snapshot.collection}.snapshot", stream, snapshot.size)
                if snapshot.sha256 not in (None, digest):
                    raise IndexFailure(
                        f"the snapshot of {snapshot.collection} was damaged in transfer: run the command again"
                    )
    return Saved(file, server.url, points, file.stat().st_size, warnings)


def _delete(server: Snapshots, snapshot: Snapshot, warnings: list[str]) -> None:
    try:
        server.delete(snapshot)
    except IndexFailure as error:  # the backup itself is complete
        warnings.append(f"the snapshot {snapshot.name} stays on the server: {error}")


def _restore_folder(path: Path, file: Path, manifest: Manifest, names: Sequence[str], force: bool) -> list[str]:
    from search.index.edge.index import EdgeIndex
    from search.index.edge.locks import lock_shards

    with closing(EdgeIndex(path)) as index:
        if not force:
            _refuse_overwriting(index, names, file)
        warnings = _version_warnings(file, manifest, index.engine)
    with _stage(path) as new:
        _check_space(path, manifest)
        wanted = {*names, *(f"{name}.json" for name in names)}
        with _bar(f"unpacking {file.name}", manifest.bytes) as bar:
            unpack(file, new, lambda member: Path(member).parts[0] in wanted, bar.update)
        with closing(EdgeIndex(new)) as unpacked:
            _check_points(unpacked, manifest, names, file)
        with lock_shards(path, names):
            for name in names:
                _put_in_place(new, path, name)
    return warnings


@contextmanager
def _stage(path: Path) -> Iterator[Path]:
    """Yield a new folder inside the index folder; delete it afterwards, and the index folder if that is empty."""
    from search.index.edge.locks import lock_folder

    stage = path / STAGE
    stage.mkdir(parents=True, exist_ok=True)
    with lock_folder(stage):
        try:
            for leftover in stage.iterdir():  # of a restore that was killed
                shutil.rmtree(leftover)
            new = stage / "new"
            new.mkdir()
            yield new
        finally:
            shutil.rmtree(stage)
            if not any(path.iterdir()):
                path.rmdir()


def _put_in_place(new: Path, path: Path, name: str) -> None:
    """Move a collection into place by two renames.

    A process killed between them leaves no collection of that name, and the old one set aside.
    """
    from search.index.edge.building import set_built

    aside = path / f".{name}.replaced"
    set_built(path / name, False)
    if (path / name).exists():
        shutil.rmtree(aside, ignore_errors=True)
        (path / name).rename(aside)
    (new / f"{name}.json").replace(path / f"{name}.json")
    (new / name).rename(path / name)
    shutil.rmtree(aside, ignore_errors=True)


def _restore_server(settings: Settings, file: Path, manifest: Manifest, names: Sequence[str], force: bool) -> list[str]:
    server = Snapshots(settings)
    with closing(open_for_writing(settings)) as index:
        server.refuse_cluster()
        if not force:
            _refuse_overwriting(index, names, file)
        warnings = _version_warnings(file, manifest, index.engine)
        with tempfile.TemporaryDirectory(prefix=f".{file.name}.", dir=file.absolute().parent) as folder:
            _check_space(Path(folder), manifest)
            wanted = {f"{name}.snapshot" for name in names}
            with _bar(f"unpacking {file.name}", manifest.bytes) as bar:
                sums = unpack(file, Path(folder), wanted.__contains__, bar.update)
            for name in tqdm(names, desc="recovering snapshots", unit=" collections", file=sys.stderr):
                server.recover(name, Path(folder) / f"{name}.snapshot", sums[f"{name}.snapshot"])
                index.optimize(name)
        _check_points(index, manifest, names, file)
    return warnings


def _manifest(
    kind: Literal["folders", "snapshots"], engine: str, points: dict[str, int], size: int, room: int
) -> Manifest:
    made = datetime.now(UTC).isoformat(timespec="seconds")
    return Manifest(
        kind=kind, version=version("coco-search"), engine=engine, made=made, points=points, bytes=size, room=room
    )


def _chosen_names(file: Path, manifest: Manifest, datasets: Sequence[str]) -> list[str]:
    names = list(manifest.points)
    for dataset in datasets:
        if not {collection_name(dataset, "images"), collection_name(dataset, "captions")} & manifest.points.keys():
            raise CollectionMissing(f"{file} holds no data set {dataset}, only {', '.join(names)}")
    return [name for name in names if not datasets or name.rpartition("_")[0] in datasets]


def _refuse_overwriting(index: ReadIndex, names: Sequence[str], file: Path) -> None:
    existing = index.collections()
    for name in names:
        if name in existing and (points := index.count(name)):
            raise IndexFailure(
                f"{name} in {index.place} holds {points:,} points: --force replaces it with that of {file}"
            )


def _check_points(index: ReadIndex, manifest: Manifest, names: Sequence[str], file: Path) -> None:
    for name in names:
        if (points := index.count(name)) != manifest.points[name]:
            raise IndexFailure(f"{name} of {file} has {points:,} points, but {manifest.points[name]:,} were backed up")


def _check_space(folder: Path, manifest: Manifest) -> None:
    if shutil.disk_usage(folder).free < manifest.room + SPARE_SPACE:
        raise IndexFailure(
            f"{manifest.room / 2**20:,.0f} MiB are needed on the disk of {folder}, which has less free space"
        )


def _version_warnings(file: Path, manifest: Manifest, engine: str) -> list[str]:
    """Warn of another version: Qdrant restores snapshots of its own and of the previous minor version only."""
    then, now = manifest.engine.partition(",")[0], engine.partition(",")[0]
    return [f"{file} was made by {then}, this is {now}: they may not be compatible"] if then != now else []


def _bar(doing: str, size: int) -> tqdm[Never]:
    return tqdm(desc=doing, total=size, unit="B", unit_scale=True, file=sys.stderr, dynamic_ncols=True)
