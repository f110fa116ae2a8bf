"""The official zip archives: how much room they need, and unpacking them safely, atomically and resumably."""

from __future__ import annotations

import errno
import shutil
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from tqdm import tqdm

from search.errors import DownloadError
from search.files import replacing

BLOCK = 4096  # bytes


@dataclass(frozen=True, slots=True)
class Archive:
    """A zip file: its size in bytes, its MD5 where one is known, and the room for its contents as a multiple of it."""

    url: str
    size: int
    md5: str | None
    contents: float

    @property
    def name(self) -> str:
        return PurePosixPath(urlsplit(self.url).path).name

    @property
    def room(self) -> int:
        """Bytes on disk that what is taken out of it fills at most."""
        return int(self.size * self.contents)

    def left(self, out: Path) -> int:
        """Bytes of it that are not below `out` yet."""
        here = (file for file in (out / self.name, out / f"{self.name}.part") if file.is_file())
        return max(0, self.size - sum(file.stat().st_size for file in here))


def on_disk(size: int) -> int:
    """Bytes that a file of `size` bytes fills on a disk with the usual blocks."""
    return -(-size // BLOCK) * BLOCK


def room_needed(archives: Sequence[Archive], out: Path, keep: bool) -> int:
    """Bytes of disk that are taken at the worst moment, one archive after the other, beyond what is there already."""
    held = worst = 0
    for archive in archives:
        unpacked = sum(file.stat().st_size for file in (out / PurePosixPath(archive.name).stem).glob("*.jpg"))
        contents = max(0, archive.room - unpacked)
        worst = max(worst, held + archive.left(out) + contents)
        held += archive.left(out) + contents - (0 if keep else archive.size)
    return worst


def unpack(archive: Path, place: Callable[[str], Path | None], room: int) -> None:
    """Unpacks the members that `place` gives a file, into that file; those that are there already are not touched.

    Args:
        room: bytes of disk that the contents may fill.

    Raises:
        DownloadError: the archive is damaged, holds nothing of use, or more than fits into `room`.
        OSError: the disk is full or a folder cannot be written.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            members = [(member, file) for member in opened.infolist() if (file := place(member.filename))]
            if not members:
                raise DownloadError(f"{archive} does not hold what it should")
            if (size := sum(on_disk(member.file_size) for member, _ in members)) > room:
                raise DownloadError(f"{archive} unpacks to {size:,} bytes, more than the {room:,} that were planned")
            for member, file in tqdm(members, unit=" files", desc=f"unpacking {archive.name}", dynamic_ncols=True):
                if not file.is_file() or file.stat().st_size != member.file_size:
                    _unpack_one(opened, member, file)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, OSError) as error:  # RuntimeError: encrypted
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # which is a place outside of the file
            raise
        raise DownloadError(f"{archive} is damaged ({error}): delete it and run this again to fetch it anew") from error


def _unpack_one(opened: zipfile.ZipFile, member: zipfile.ZipInfo, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file, sync=False) as partial, opened.open(member) as source, partial.open("wb") as target:
        shutil.copyfileobj(source, target)  # reading to the end compares the member's checksum
