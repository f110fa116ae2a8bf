"""Recognise HEIC and AVIF pictures, open them with decoders that may not be installed, and find their metadata.

A file of either kind consists of boxes (ISO 14496-12), each with its size, a type of four letters and its content,
which may be boxes again. The first box, `ftyp`, lists the brands that the file complies with. HEIC is decoded by
pillow-heif, which the extra `heic` installs, and AVIF by Pillow itself, unless it was built without.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO, Literal

from PIL import AvifImagePlugin, ExifTags, Image, features

from search.errors import PhotoError

Kind = Literal["AVIF", "HEIC"]

_AVIF = {b"avif", b"avis"}
_HEIC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1", b"mif2", b"mif3"}
_METADATA = (b"Exif", b"mime")  # types of items; XMP is one of the second type


def kind_of(content: bytes) -> Kind | None:
    """Return whether a file is HEIC or AVIF, which its content tells, not its name; None if it is neither."""
    if content[4:8] != b"ftyp":
        return None
    size = min(int.from_bytes(content[:4]), 4096)
    brands = [content[8:12], *(content[at : at + 4] for at in range(16, size - 3, 4))]
    if brands[0] in _AVIF or (not _AVIF.isdisjoint(brands) and brands[0] not in _HEIC - {b"mif1", b"msf1"}):
        return "AVIF"
    return None if _HEIC.isdisjoint(brands) else "HEIC"


def open_heif(kind: Kind, stream: BinaryIO) -> tuple[Image.Image, int]:
    """Return a picture, not decoded yet, and the orientation (as in EXIF) that decoding leaves to the caller.

    The orientation is that of the boxes `irot` and `imir`, which EXIF only repeats.

    Raises:
        PhotoError: its decoder is not installed.
    """
    if kind == "AVIF":
        if not features.check("avif"):
            raise PhotoError(
                "an AVIF picture, which this build of Pillow cannot read: `pip install --force-reinstall pillow`"
            )
        avif = AvifImagePlugin.AvifImageFile(stream)
        return avif, avif.getexif().get(ExifTags.Base.Orientation, 1)
    try:
        from pillow_heif import HeifImageFile
    except ImportError:
        raise PhotoError("a HEIC picture, which needs a decoder: `pip install 'coco-search[heic]'`") from None
    return HeifImageFile(stream), 1  # type: ignore[no-untyped-call] # it is turned while it is decoded


def metadata_types(content: bytes) -> Iterator[int]:
    """Yield where the types of the items that hold EXIF and XMP are in a file.

    Raises:
        struct.error: the file ends too early.
    """
    for meta, meta_end in _boxes(content, b"meta", 0, len(content)):
        for items, items_end in _boxes(content, b"iinf", meta + 4, meta_end):
            width = 4 if content[items] else 2  # of the number of items; the first byte of a box is its version
            for item, _ in _boxes(content, b"infe", items + 4 + width, items_end):
                at = item + 4 + (4 if content[item] > 2 else 2) + 2
                if content[at : at + 4] in _METADATA:
                    yield at


def _boxes(content: bytes, name: bytes, at: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the start and the end of the content of each box with this name between `at` and `end`."""
    while at + 8 <= end:
        size, kind = struct.unpack_from(">L4s", content, at)
        start = at + 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", content, start)
            start += 8
        after = at + size if size else end
        if after < start:
            raise struct.error("a box is shorter than its own head")
        if kind == name:
            yield start, min(after, end)
        at = after
