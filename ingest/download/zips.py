"""Unpack the official zip archives safely, atomically and resumably, and compute the disk space that they need."""

from __future__ import annotations

import errno
import shutil
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from tqdm.auto import tqdm

from search.errors import DownloadError
from search.files import replacing

BLOCK = 4096  # bytes


@dataclass(frozen=True, slots=True)
class Archive:
    """A zip file: its size in bytes, its MD5 if known, and the size of its contents as a multiple of its own."""

    url: str
    size: int
    md5: str | None
    contents: float

    @property
    def name(self) -> str:
        return PurePosixPath(urlsplit(self.url).path).name

    @property
    def space(self) -> int:
        """The most disk space that the unpacked contents take, in bytes."""
        return int(self.size * self.contents)

    def left(self, out: Path) -> int:
        """Return how many of its bytes are not in `out` yet."""
        existing = (file for file in (out / self.name, out / f"{self.name}.part") if file.is_file())
        return max(0, self.size - sum(file.stat().st_size for file in existing))


def on_disk(size: int) -> int:
    """Return the bytes that a file of `size` bytes takes on a disk with the usual blocks."""
    return -(-size // BLOCK) * BLOCK


def space_needed(archives: Sequence[Archive], out: Path, keep: bool) -> int:
    """Return the most disk space, in bytes, that the archives take in turn, beyond what they take already."""
    held = most = 0
    for archive in archives:
        unpacked = sum(file.stat().st_size for file in (out / PurePosixPath(archive.name).stem).glob("*.jpg"))
        contents = max(0, archive.space - unpacked)
        most = max(most, held + archive.left(out) + contents)
        held += archive.left(out) + contents - (0 if keep else archive.size)
    return most


def unpack(archive: Path, place: Callable[[str], Path | None], space: int) -> None:
    """Unpack the members for which `place` returns a file into that file; skip those that exist in full size.

    Args:
        space: bytes of disk that the contents may take.

    Raises:
        DownloadError: the archive is damaged, holds nothing of use, or more than `space` bytes.
        OSError: the disk is full or a folder cannot be written.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            members = [(member, file) for member in opened.infolist() if (file := place(member.filename))]
            if not members:
                raise DownloadError(f"{archive} lacks the expected files: delete it and run the command again")
            if (size := sum(on_disk(member.file_size) for member, _ in members)) > space:
                raise DownloadError(f"{archive} unpacks to {size:,} bytes, more than the expected {space:,}")
            for member, file in tqdm(members, unit=" files", desc=f"unpacking {archive.name}", dynamic_ncols=True):
                if not file.is_file() or file.stat().st_size != member.file_size:
                    _unpack_one(opened, member, file)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, OSError) as error:  # RuntimeError: encrypted
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # EINVAL: an offset outside of the file
            raise
        raise DownloadError(f"{archive} is damaged ({error}): delete it and run the command again") from error


def _unpack_one(opened: zipfile.ZipFile, member: zipfile.ZipInfo, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file, sync=False) as partial, opened.open(member) as source, partial.open("wb") as target:
        shutil.copyfileobj(source, target)  # reading to the end verifies the member's checksum
