"""Write and read the file of a backup: a gzipped tar with `manifest.json` first and `SHA256SUMS` last.

Without this software, `tar xzf FILE && sha256sum -c SHA256SUMS` unpacks and verifies it. Storage files are mostly holes
(half a gigabyte for eight megabytes of data), so the file is compressed at the fastest level, and unpacking restores
the holes.
"""

from __future__ import annotations

import gzip
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
from search.files import replacing, target_of
from search.index.names import collection_name
from search.validation import first_problem

MANIFEST, SUMS = "manifest.json", "SHA256SUMS"
LEVEL = 1  # vectors hardly compress, and holes vanish at any level
CHUNK = 1024 * 1024
HOLE = 4096  # bytes; a block of zeros is not written
ZEROS = bytes(CHUNK)
LONGEST_TEXT = 64 * 1024 * 1024  # bytes of manifest.json or SHA256SUMS

Progress = Callable[[int], object]


class Manifest(BaseModel):
    """The contents of a backup: `points` by collection, `made` by `engine` with this software's `version`.

    `kind`: folders of the embedded index, or snapshots of a server. `bytes`: the size of all files together; `room`:
    the disk space that they take, which is less if they have holes.
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
        for name in points:  # they become folder names
            dataset, _, kind = name.rpartition("_")
            if kind not in ("images", "captions") or not _is_dataset(dataset):
                raise ValueError(f"{name!r} is not the name of a collection")
        return points


class Bundle:
    """The file of a backup while it is written; create it with `writing`."""

    def __init__(self, tar: tarfile.TarFile, progress: Progress) -> None:
        self._tar, self._progress = tar, progress
        self._sums: list[str] = []

    @classmethod
    @contextmanager
    def writing(cls, file: Path, manifest: Manifest, progress: Progress) -> Iterator[Bundle]:
        """Open a bundle for writing; `file` appears once it is complete, and an error leaves nothing behind."""
        with (
            replacing(target_of(file)) as partial,
            gzip.open(partial, "wb", compresslevel=LEVEL) as stream,
            tarfile.TarFile(fileobj=stream, mode="w", copybufsize=CHUNK) as tar,
        ):
            bundle = cls(tar, progress)
            bundle._add_text(MANIFEST, manifest.model_dump_json(indent=1))
            yield bundle
            bundle._add_text(SUMS, "".join(bundle._sums))

    def add(self, name: str, source: BinaryIO, size: int) -> str:
        """Store `size` bytes of `source`, and return their SHA-256.

        Raises:
            IndexFailure: `source` has fewer or more bytes.
        """
        return self._add(name, source, size, self._progress)

    def _add(self, name: str, source: BinaryIO, size: int, progress: Progress) -> str:
        member = tarfile.TarInfo(name)
        member.size, member.mode = size, 0o644
        reader = _Hashing(source, progress)
        try:
            self._tar.addfile(member, cast("BinaryIO", reader))
        except OSError as error:
            if error.errno is None and reader.count < size:  # tarfile's error for a short file
                raise IndexFailure(
                    f"{name} ended after {reader.count:,} of {size:,} bytes: run the command again"
                ) from None
            raise
        if source.read(1):
            raise IndexFailure(f"{name} is longer than the {size:,} bytes expected: run the command again")
        self._sums.append(f"{reader.sum.hexdigest()}  {name}\n")
        return reader.sum.hexdigest()

    def _add_text(self, name: str, text: str) -> None:
        content = text.encode()
        self._add(name, io.BytesIO(content), len(content), lambda _: None)  # not among the bytes of the manifest


def read_manifest(file: Path) -> Manifest:
    """Return the manifest of a backup.

    Raises:
        IndexFailure: the file is not a backup, or is damaged.
    """
    with _reading(file) as tar:
        member = tar.next()
        if member is None or member.name != MANIFEST:
            raise IndexFailure(f"{file} is not a backup of this software: it does not begin with {MANIFEST}")
        try:
            return Manifest.model_validate_json(_text_of(tar, member))
        except ValidationError as error:
            place = first_problem(error).place or "everything"
            raise IndexFailure(f"{file}: its {MANIFEST} is not valid ({place}), or from a newer version") from None


def unpack(file: Path, folder: Path, selects: Callable[[str], bool], progress: Progress) -> Mapping[str, str]:
    """Unpack the members that `selects` into `folder`, which must be empty; return the SHA-256 of all files by name.

    Only plain files are written, inside `folder`; links, modes and owners are not restored.

    Raises:
        IndexFailure: the file is damaged, cut off, or holds anything else; do not use what was unpacked.
    """
    digests: dict[str, str] = {}
    sums_text: str | None = None
    with _reading(file) as tar:
        for member in tar:
            name = _checked_name(file, member)
            if name in digests or sums_text is not None:
                raise IndexFailure(f"{file} is damaged: it contains {name} twice, or after {SUMS}")
            if name in (MANIFEST, SUMS):
                text = _text_of(tar, member)
                digests[name] = hashlib.sha256(text).hexdigest()
                sums_text = text.decode(errors="replace") if name == SUMS else None
                continue
            source = _Hashing(cast("BinaryIO", tar.extractfile(member)), progress)
            if selects(name):
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                _write_with_holes(source, target)
            while source.read(CHUNK):
                pass
            digests[name] = source.sum.hexdigest()
    digests.pop(SUMS, None)
    if sums_text is None:
        raise IndexFailure(f"{file} is damaged: it ends before {SUMS}")
    sums = {name: digest for digest, _, name in (line.partition("  ") for line in sums_text.splitlines())}
    wrong = sorted(name for name in sums.keys() | digests.keys() if sums.get(name) != digests.get(name))
    if wrong:
        others = f" and {len(wrong) - 1} others" if wrong[1:] else ""
        raise IndexFailure(f"{file} is damaged: missing or with a different SHA-256: {wrong[0]}{others}")
    return digests


@contextmanager
def _reading(file: Path) -> Iterator[tarfile.TarFile]:
    try:
        # Not "r|gz", which copies the rest of the zeros at each read.
        with gzip.open(file) as stream, tarfile.open(fileobj=stream, mode="r|", bufsize=CHUNK) as tar:
            yield tar
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise IndexFailure(f"{file} is damaged or not a backup: {error}") from error


def _is_dataset(name: str) -> bool:
    try:
        return bool(collection_name(name, "images"))
    except SettingsError:
        return False


def _checked_name(file: Path, member: tarfile.TarInfo) -> str:
    path = PurePosixPath(member.name)
    if not (member.isreg() and path.parts) or path.is_absolute() or ".." in path.parts or "\\" in member.name:
        raise IndexFailure(f"{file} contains {member.name!r}, which no backup does: not unpacked")
    return path.as_posix()


def _text_of(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = tar.extractfile(member)
    if stream is None or member.size > LONGEST_TEXT:
        raise IndexFailure(f"{member.name} in the backup is not a text of a plausible size")
    return stream.read()


def _write_with_holes(source: _Hashing, target: Path) -> None:
    with target.open("xb") as stream:
        while chunk := source.read(CHUNK):
            size = CHUNK if _is_zeros(chunk) else HOLE
            for start in range(0, len(chunk), size):
                block = chunk[start : start + size]
                if _is_zeros(block):
                    stream.seek(len(block), os.SEEK_CUR)
                else:
                    stream.write(block)
        stream.truncate()
        stream.flush()
        os.fsync(stream.fileno())


def _is_zeros(data: bytes) -> bool:
    """Return whether `data`, of at most CHUNK bytes, is all zeros; comparing is much faster than stripping."""
    return data == ZEROS[: len(data)]


class _Hashing:
    """A reader that counts and hashes what it reads."""

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
