"""The file of a backup: a gzipped tar with `manifest.json` first and `SHA256SUMS` last.

Without this software: `tar xzf FILE && sha256sum -c SHA256SUMS`. Storage files are mostly holes (half a gigabyte for
eight megabytes of data), so it is compressed, quickly, and holes are made again when it is unpacked.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Literal, cast

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from search.errors import IndexFailure, SettingsError
from search.files import replacing
from search.index.spec import collection_name
from search.validation import first_problem

MANIFEST, SUMS = "manifest.json", "SHA256SUMS"
LEVEL = 1  # vectors hardly shrink, holes vanish at any level
CHUNK = 1024 * 1024
HOLE = 4096  # bytes; a block of zeros is not written
LONGEST_TEXT = 64 * 1024 * 1024  # bytes of manifest.json or SHA256SUMS

Progress = Callable[[int], object]


class Manifest(BaseModel):
    """What a backup holds: `points` by collection; `made` by `engine` with this software's `version`.

    `kind`: folders of the embedded index, or snapshots of a server. `bytes`: the size of all files together; `room`:
    what they take on the disk, which is less where they have holes.
    """

    model_config = ConfigDict(frozen=True)

    format: Literal[1] = 1
    kind: Literal["folders", "snapshots"]
    version: str
    engine: str
    made: str
    bytes: int
    room: int
    points: dict[str, int]

    @field_validator("points")
    @classmethod
    def _names_are_collections(cls, points: dict[str, int]) -> dict[str, int]:
        for name in points:  # they become names of folders
            dataset, _, kind = name.rpartition("_")
            if kind not in ("images", "captions") or not _is_dataset(dataset):
                raise ValueError(f"{name!r} is no name of a collection")
        return points


class Bundle:
    """A backup's file while it is written; `writing` makes one."""

    def __init__(self, tar: tarfile.TarFile, progress: Progress) -> None:
        self._tar, self._progress = tar, progress
        self._sums: list[str] = []

    @classmethod
    @contextmanager
    def writing(cls, file: Path, manifest: Manifest, progress: Progress) -> Iterator[Bundle]:
        """Write a backup; `file` appears once it is complete, and an error leaves nothing behind."""
        with replacing(file) as partial, tarfile.open(partial, mode="w:gz", compresslevel=LEVEL) as tar:
            bundle = cls(tar, progress)
            bundle._text(MANIFEST, manifest.model_dump_json(indent=1))
            yield bundle
            bundle._text(SUMS, "".join(bundle._sums))

    def add(self, name: str, source: BinaryIO, size: int) -> str:
        """Stores `size` bytes of `source`; gives their SHA-256.

        Raises:
            IndexFailure: there are fewer or more.
        """
        member = tarfile.TarInfo(name)
        member.size, member.mode = size, 0o644
        reader = _Hashing(source, self._progress)
        try:
            self._tar.addfile(member, cast("BinaryIO", reader))
        except OSError as error:
            if error.errno is None and reader.count < size:  # tarfile's word for it
                raise IndexFailure(f"{name} ended after {reader.count:,} of {size:,} bytes: try again") from None
            raise
        if source.read(1):
            raise IndexFailure(f"{name} is longer than the {size:,} bytes that it should have: try again")
        self._sums.append(f"{reader.sum.hexdigest()}  {name}\n")
        return reader.sum.hexdigest()

    def _text(self, name: str, text: str) -> None:
        self.add(name, io.BytesIO(text.encode()), len(text.encode()))


def read_manifest(file: Path) -> Manifest:
    """What a backup says of itself.

    Raises:
        IndexFailure: it is no backup, or a damaged one.
    """
    with _reading(file) as tar:
        member = tar.next()
        if member is None or member.name != MANIFEST:
            raise IndexFailure(f"{file} is no backup of this software: it does not begin with {MANIFEST}")
        try:
            return Manifest.model_validate_json(_text_of(tar, member))
        except ValidationError as error:
            what = first_problem(error).place or "everything"
            raise IndexFailure(f"{file}: its {MANIFEST} is wrong ({what}), or of a newer version") from None


def unpack(file: Path, folder: Path, wanted: Callable[[str], bool], progress: Progress) -> Mapping[str, str]:
    """Unpacks the members whose names are `wanted` below `folder`, which must be empty; gives all SHA-256 by name.

    Plain files alone are written, with names that lead nowhere else; no links, modes or owners are taken over.

    Raises:
        IndexFailure: the file is damaged, cut off, or holds anything else; what was unpacked is not to be used.
    """
    found: dict[str, str] = {}
    listed: str | None = None
    with _reading(file) as tar:
        for member in tar:
            name = _safe(file, member)
            if name in found or listed is not None:
                raise IndexFailure(f"{file} is damaged: {name} is in it twice, or after {SUMS}")
            if name in (MANIFEST, SUMS):
                text = _text_of(tar, member)
                found[name] = hashlib.sha256(text).hexdigest()
                listed = text.decode(errors="replace") if name == SUMS else None
                continue
            source = _Hashing(cast("BinaryIO", tar.extractfile(member)), progress)
            if wanted(name):
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                _write_with_holes(source, target)
            while source.read(CHUNK):
                pass
            found[name] = source.sum.hexdigest()
    found.pop(SUMS, None)
    if listed is None:
        raise IndexFailure(f"{file} is damaged: it is cut off before {SUMS}")
    sums = {name: digest for digest, _, name in (line.partition("  ") for line in listed.splitlines())}
    wrong = sorted(name for name in sums.keys() | found.keys() if sums.get(name) != found.get(name))
    if wrong:
        raise IndexFailure(f"{file} is damaged: {len(wrong)} files have another SHA-256 or are missing: {wrong[0]}")
    return found


@contextmanager
def _reading(file: Path) -> Iterator[tarfile.TarFile]:
    try:
        with file.open("rb") as stream, tarfile.open(fileobj=stream, mode="r|gz") as tar:
            yield tar
    except (tarfile.TarError, zlib.error, EOFError) as error:
        raise IndexFailure(f"{file} is damaged or no backup: {error}") from error


def _is_dataset(name: str) -> bool:
    try:
        return bool(collection_name(name, "images"))
    except SettingsError:
        return False


def _safe(file: Path, member: tarfile.TarInfo) -> str:
    path = PurePosixPath(member.name)
    if not member.isreg() or path.is_absolute() or ".." in path.parts or "\\" in member.name:
        raise IndexFailure(f"{file} holds {member.name!r}, which no backup does: not unpacked")
    return path.as_posix()


def _text_of(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = tar.extractfile(member)
    if stream is None or member.size > LONGEST_TEXT:
        raise IndexFailure(f"{member.name} in the backup is no text of a sensible size")
    return stream.read()


def _write_with_holes(source: _Hashing, target: Path) -> None:
    with target.open("xb") as stream:
        while chunk := source.read(CHUNK):
            if not chunk.strip(b"\0"):
                stream.seek(len(chunk), os.SEEK_CUR)
                continue
            for start in range(0, len(chunk), HOLE):
                block = chunk[start : start + HOLE]
                if block.strip(b"\0"):
                    stream.write(block)
                else:
                    stream.seek(len(block), os.SEEK_CUR)
        stream.truncate()
        stream.flush()
        os.fsync(stream.fileno())


class _Hashing:
    """Reads on, counts and hashes."""

    def __init__(self, source: BinaryIO, progress: Progress) -> None:
        self._source, self._progress = source, progress
        self.sum = hashlib.sha256()
        self.count = 0

    def read(self, size: int) -> bytes:
        data = self._source.read(size)
        self.sum.update(data)
        self.count += len(data)
        self._progress(len(data))
        return data
