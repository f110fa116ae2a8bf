"""Separate the pixels of a picture file from its metadata.

Pillow parses all metadata before it decodes a pixel, and refuses an intact picture because of a comment that is too
long or a damaged colour profile. Only the orientation matters here. So Pillow gets each file without its metadata, with
everything that affects the pixels. Nothing is copied except a few headers, and at most 1 MB of a compressed text is
expanded.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, cast

from search.errors import PhotoError
from search.photos import heif

MAX_TEXT = 2**20  # bytes of a compressed text that may hold an orientation
MAX_ENTRIES = 2**16  # of a TIFF directory; BigTIFF allows 2**64
ORIENTATION, XMP = 274, 700  # TIFF tags
# The TIFF tags for where pixels are and how they are stored; from 512 on, for JPEG and YCbCr.
PIXEL_TAGS = {256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324, 325, 332, 338}
PIXEL_TAGS |= {339, 347, 512, 513, 514, 515, 517, 518, 519, 520, 521, 529, 530, 531, 532}

Buffer = bytes | memoryview


def without_metadata(content: bytes) -> tuple[BinaryIO, int]:
    """Return a picture file without its metadata, and its orientation.

    The orientation is that of EXIF, else of XMP, 1 to 8 as in EXIF; 1 if it is missing or cannot be read. A file of an
    unknown format, or too damaged to separate metadata from pixels, is returned unchanged.

    Raises:
        PhotoError: the checksum of pixel data is wrong.
    """
    for magic, separate in _FORMATS:
        if re.match(magic, content, re.DOTALL):
            try:
                separated = separate(content)
            except (IndexError, struct.error):  # it ends too early: Pillow reports where
                break
            return separated.stream(), separated.orientation()
    return io.BytesIO(content), 1


@dataclass(slots=True)
class _Separated:
    """The parts of a file that affect its pixels, in order, and the metadata that may contain an orientation."""

    content: bytes
    parts: list[Buffer] = field(default_factory=list)
    exif: bytes = b""
    xmp: bytes = b""
    _run: tuple[int, int] = (-1, -1)  # the start and end of the last part in `content`

    def keep(self, start: int, end: int | None = None) -> None:
        end = len(self.content) if end is None else end
        if start == self._run[1]:
            start = self._run[0]
            self.parts.pop()
        self._run = start, end
        self.parts.append(memoryview(self.content)[start:end])

    def insert(self, part: bytes) -> None:
        self._run = -1, -1
        self.parts.append(part)

    def stream(self) -> BinaryIO:
        if self._run == (0, len(self.content)):  # nothing was left out
            return io.BytesIO(self.content)
        return cast("BinaryIO", _Joined(self.parts))

    def orientation(self) -> int:
        exif = self.exif.removeprefix(b"Exif\0\0").removeprefix(b"Exif\0\0")  # some writers put it twice
        try:
            orientation = _Directory.of(exif).orientation()
        except struct.error:  # it is too short
            orientation = None
        if orientation is None and (match := re.search(rb"tiff:Orientation(?:=[\"']|>)([1-8])", self.xmp)):
            orientation = int(match[1])
        return orientation or 1


class _Joined(io.RawIOBase):
    """Several buffers as one stream, without copying them."""

    def __init__(self, parts: Sequence[Buffer]) -> None:
        self._parts = [part for part in parts if len(part)]
        self._starts = [0]
        for part in self._parts:
            self._starts.append(self._starts[-1] + len(part))
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._starts[-1]}[whence]
        if base + offset < 0:
            raise ValueError(f"negative seek position {base + offset}")
        self._at = base + offset
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        left = self._starts[-1] - self._at
        left = left if size is None or size < 0 else min(left, size)
        pieces = []
        number = bisect_right(self._starts, self._at) - 1
        while left > 0:
            inside = self._at - self._starts[number]
            piece = self._parts[number][inside : inside + left]
            pieces.append(piece)
            self._at += len(piece)
            left -= len(piece)
            number += 1
        return b"".join(pieces)


def _png(content: bytes) -> _Separated:
    """Keep the critical chunks and transparency. Metadata with a wrong checksum is ignored."""
    separated = _Separated(content)
    profile = b""
    start, at = 0, 8  # `start`: the beginning of the chunks to keep next
    while at + 8 <= len(content):
        (size,), name = struct.unpack_from(">L", content, at), content[at + 4 : at + 8]
        if not name.isalpha():
            break
        end = at + 12 + size
        body = memoryview(content)[at + 8 : end - 4]
        intact = end <= len(content) and zlib.crc32(body, zlib.crc32(name)) == int.from_bytes(content[end - 4 : end])
        if name == b"IDAT" and not intact and end <= len(content):
            raise PhotoError("broken PNG file (wrong checksum of pixel data)")
        if name[0] & 0x20 and name != b"tRNS":
            separated.keep(start, at)
            start = end
            if intact and name == b"eXIf":
                separated.exif = separated.exif or bytes(body)
            elif intact and name == b"iTXt":
                separated.xmp = separated.xmp or _itxt(bytes(body), b"XML:com.adobe.xmp")
            elif intact and name in (b"tEXt", b"zTXt"):
                profile = profile or _text(bytes(body), b"Raw profile type exif", compressed=name == b"zTXt")
        at = end
        if name == b"IEND":
            break
    separated.keep(start)
    separated.exif = separated.exif or _unhexed(profile)
    return separated


def _text(body: bytes, key: bytes, *, compressed: bool) -> bytes:
    """Return the text of a tEXt or zTXt chunk, or nothing if it has another key."""
    if not body.startswith(key + b"\0"):
        return b""
    text = body[len(key) + 1 :]
    return _expanded(text[1:]) if compressed else text[:MAX_TEXT]


def _itxt(body: bytes, key: bytes) -> bytes:
    """Return the text of an iTXt chunk, or nothing if it has another key."""
    if not body.startswith(key + b"\0"):
        return b""
    compressed, text = body[len(key) + 1 : len(key) + 2] == b"\1", body[len(key) + 3 :]
    text = text.split(b"\0", 2)[-1]  # after the language and the translated key
    return _expanded(text) if compressed else text[:MAX_TEXT]


def _expanded(compressed: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(compressed, MAX_TEXT)
    except zlib.error:
        return b""


def _unhexed(profile: bytes) -> bytes:
    """Return the EXIF in ImageMagick's raw profile: an empty line, a name, a length, and hexadecimal digits."""
    try:
        return bytes.fromhex(b"".join(profile.split(b"\n")[3:]).decode("ascii"))
    except ValueError:
        return b""


def _jpeg(content: bytes) -> _Separated:
    """Keep all segments except comments and application segments that libjpeg does not need to decode pixels."""
    separated = _Separated(content)
    separated.keep(0, 2)
    at = 2
    while (at := content.find(b"\xff", at)) >= 0:
        while content[at + 1] == 0xFF:  # padding
            at += 1
        marker = content[at + 1]
        if marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD8:  # these have no length
            at += 2
            continue
        end = at + 2 + max(2, *struct.unpack_from(">H", content, at + 2)) if marker not in (0xD9, 0xDA) else 0
        if not end or end > len(content):  # pixels follow, or the file ends
            break
        if marker == 0xFE or 0xE0 <= marker <= 0xEF:
            body = content[at + 4 : end]
            if marker == 0xE1 and body.startswith(b"Exif\0\0"):
                separated.exif += body if not separated.exif else body[6:]
            elif marker == 0xE1 and body.startswith(b"http://ns.adobe.com/xap/1.0/\0"):
                separated.xmp += body
            if (marker, body[:5]) in ((0xE0, b"JFIF\0"), (0xEE, b"Adobe")) and len(body) >= 12:
                separated.keep(at, end)  # they define the colours of the components
        else:
            separated.keep(at, end)
        at = end
    if at >= 0:
        separated.keep(at)
    return separated


def _webp(content: bytes) -> _Separated:
    """Keep the chunks of pixels, and rebuild the two headers that count and list chunks."""
    separated = _Separated(content)
    at = 12
    while at + 8 <= len(content):
        name, size = struct.unpack_from("<4sL", content, at)
        end = at + 8 + size + size % 2
        if name == b"VP8X":
            separated.insert(content[at : at + 8] + bytes([content[at + 8] & 0x12]))  # flags: animated, transparent
            separated.keep(at + 9, end)
        elif name in (b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF"):
            separated.keep(at, end)
        elif name == b"EXIF":
            separated.exif = separated.exif or content[at + 8 : at + 8 + size]
        elif name == b"XMP ":
            separated.xmp = separated.xmp or content[at + 8 : at + 8 + size]
        at = end
    separated.parts.insert(0, b"RIFF" + struct.pack("<L", 4 + sum(map(len, separated.parts))) + b"WEBP")
    return separated


def _gif(content: bytes) -> _Separated:
    """Keep the header and, of the extensions before the first frame, its transparency."""
    separated = _Separated(content)
    control = b""
    at = 13 + (3 << (content[10] & 7) + 1 if content[10] & 0x80 else 0)
    separated.keep(0, at)
    while content[at] not in b",;":
        if content[at] != ord("!"):
            at += 1
            continue
        if content[at + 1] == 0xF9 and content[at + 2] >= 4:
            transparent, colour = content[at + 3] & 1, content[at + 6]
            control = bytes([*b"!", 0xF9, 4, transparent, 0, 0, colour, 0])
        at += 2
        while content[at]:
            at += content[at] + 1
        at += 1
    separated.insert(control)
    separated.keep(at)
    return separated


def _tiff(content: bytes) -> _Separated:
    """Keep only the first directory, and of it the tags for where pixels are and how they are stored."""
    separated = _Separated(content, exif=content)
    directory = _Directory.of(content)
    entries = list(directory.entries())
    separated.xmp = next((directory.value(entry) for tag, entry in entries if tag == XMP), b"")
    kept = directory.written([entry for tag, entry in entries if tag in PIXEL_TAGS])
    separated.keep(0, directory.start)
    separated.insert(kept)
    separated.keep(directory.start + len(kept))
    return separated


def _heif(content: bytes) -> _Separated:
    """Give the items of metadata a type that decoders ignore; nothing moves, since offsets count from the start."""
    separated = _Separated(content)
    kept = 0
    for at in heif.metadata_types(content) if heif.kind_of(content) else ():
        separated.keep(kept, at)
        separated.insert(b"none")
        kept = at + 4
    separated.keep(kept)
    return separated


@dataclass(frozen=True, slots=True)
class _Directory:
    """The first directory of a TIFF file; EXIF has the same format.

    An entry is a tag, a type, a count, and the value, or its offset if it has more than 4 bytes (BigTIFF: 8).
    """

    content: bytes
    order: str
    big: bool
    start: int

    @classmethod
    def of(cls, content: bytes) -> _Directory:
        order = "<" if content[:2] == b"II" else ">"
        big = ord("+") in content[2:4]
        (start,) = struct.unpack_from(f"{order}Q" if big else f"{order}L", content, 8 if big else 4)
        return cls(content, order, big, start)

    def entries(self) -> Iterator[tuple[int, bytes]]:
        """Yield the tag and the bytes of each complete entry."""
        if self.start + 8 > len(self.content):
            return
        (count,) = struct.unpack_from(f"{self.order}{self._count}", self.content, self.start)
        at, width = self.start + struct.calcsize(self._count), struct.calcsize(f"<{self._entry}")
        for _ in range(min(count, MAX_ENTRIES, (len(self.content) - at) // width)):
            (tag,) = struct.unpack_from(f"{self.order}H", self.content, at)
            yield tag, self.content[at : at + width]
            at += width

    def written(self, entries: list[bytes]) -> bytes:
        """Return the bytes of a directory of these entries, as the last one of the file."""
        return struct.pack(f"{self.order}{self._count}", len(entries)) + b"".join(entries) + bytes(8 if self.big else 4)

    def value(self, entry: bytes) -> bytes:
        """Return the value of an entry whose type is bytes."""
        _, _, size, value = struct.unpack(f"{self.order}{self._entry}", entry)
        if size <= len(value):
            return bytes(value[:size])
        (at,) = struct.unpack(f"{self.order}{'Q' if self.big else 'L'}", value)
        return self.content[at : at + size]

    def orientation(self) -> int | None:
        for tag, entry in self.entries():
            if tag == ORIENTATION:
                _, kind, count, value = struct.unpack(f"{self.order}{self._entry}", entry)
                form = {1: "B", 3: "H", 4: "L"}.get(kind)
                return int(struct.unpack_from(f"{self.order}{form}", value)[0]) if form and count == 1 else None
        return None

    @property
    def _count(self) -> str:
        return "Q" if self.big else "H"

    @property
    def _entry(self) -> str:
        return "HHQ8s" if self.big else "HHL4s"


_FORMATS: tuple[tuple[bytes, Callable[[bytes], _Separated]], ...] = (
    (rb"\xff\xd8\xff", _jpeg),
    (rb"\x89PNG\r\n\x1a\n", _png),
    (rb"GIF8[79]a", _gif),
    (rb"RIFF....WEBP", _webp),
    (rb"....ftyp", _heif),
    (rb"II[*+]\0|MM\0[*+]|MM\*\0|II\0\*", _tiff),
)
