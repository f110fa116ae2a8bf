"""Sound pixels with whatever metadata give the same pixels as without, and are turned exactly once."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL.PngImagePlugin import PngInfo
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from search.errors import PhotoError
from search.photos import open_image

Make = Callable[[bytes], bytes]
JUNK = np.random.default_rng(0).bytes(200)
BIG = zlib.compress(b"x" * 2_000_000)


def picture() -> PIL.Image.Image:
    noise = np.random.default_rng(1).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return PIL.Image.fromarray(noise).resize((64, 48))


def saved(form: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image = picture().quantize(32) if form == "GIF" else picture()
    exact: dict[str, dict[str, object]] = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95}}
    image.save(stream, form, **exact.get(form, {}), **options)
    return stream.getvalue()


def opened(content: bytes) -> PIL.Image.Image:
    return open_image(io.BytesIO(content))


def turned(upright: PIL.Image.Image, orientation: int) -> bytes:
    """Apply an EXIF orientation by hand: transpose, then mirror columns, then rows."""
    pixels = np.asarray(upright)
    pixels = pixels.transpose(1, 0, 2) if orientation in (5, 6, 7, 8) else pixels
    pixels = pixels[:, ::-1] if orientation in (2, 3, 6, 7) else pixels
    return (pixels[::-1] if orientation in (3, 4, 7, 8) else pixels).tobytes()


TIFF_KINDS: list[dict[str, object]] = [
    {},
    {"compression": "tiff_lzw"},
    {"compression": "jpeg"},
    {"big_tiff": True},
    {"save_all": True, "append_images": [PIL.Image.new("RGB", (30, 90))]},
]


@pytest.mark.parametrize(
    ("form", "options"), [("PNG", {}), ("JPEG", {}), ("WEBP", {}), *(("TIFF", each) for each in TIFF_KINDS)]
)
def test_every_orientation_is_applied_once(form: str, options: dict[str, object]) -> None:
    upright = opened(saved(form, **options))
    for orientation in range(1, 9):
        exif = PIL.Image.Exif()
        exif[0x0112] = orientation
        assert opened(saved(form, exif=exif, **options)).tobytes() == turned(upright, orientation), orientation
        xmp = f'<rdf:Description tiff:Orientation="{orientation}"/>'
        text, tags = PngInfo(), ImageFileDirectory_v2()
        text.add_itxt("XML:com.adobe.xmp", xmp, zip=True)
        tags[700], tags.tagtype[700] = xmp.encode(), 1
        of_form: dict[str, dict[str, object]] = {"PNG": {"pnginfo": text}, "TIFF": {"tiffinfo": tags}}
        with_xmp = saved(form, **of_form.get(form, {"xmp": xmp.encode()}), **options)
        assert opened(with_xmp).tobytes() == turned(upright, orientation), orientation


def test_the_raw_profile_of_imagemagick() -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    text = PngInfo()
    text.add_text("Raw profile type exif", f"\nexif\n{len(exif.tobytes()):8}\n{exif.tobytes().hex()}\n", zip=True)
    assert opened(saved("PNG", pnginfo=text)).size == (48, 64)


def chunk(name: bytes, body: bytes, damage: int = 0) -> bytes:
    return struct.pack(">L", len(body)) + name + body + struct.pack(">L", zlib.crc32(name + body) ^ damage)


def segment(marker: int, body: bytes, length: int | None = None) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2 if length is None else length) + body


def in_png(*chunks: bytes) -> list[bytes]:
    """Put chunks before the pixels, and after them."""
    plain = saved("PNG")
    return [plain[:33] + b"".join(chunks) + plain[33:], plain[:-12] + b"".join(chunks) + plain[-12:]]


def in_jpeg(*segments: bytes) -> list[bytes]:
    """Put segments before JFIF's, and after it."""
    plain = saved("JPEG")
    return [plain[:at] + b"".join(segments) + plain[at:] for at in (2, 20)]


def in_webp(before: bytes = b"", after: bytes = b"", flags: int = 0x2C) -> list[bytes]:
    size = (63).to_bytes(3, "little") + (47).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<LBBBB", 10, flags, 0, 0, 0) + size + before + saved("WEBP")[12:] + after
    return [b"RIFF" + struct.pack("<L", length) + body for length in (len(body), len(body) + 999)]


def in_gif(extension: bytes) -> list[bytes]:
    plain = saved("GIF")
    palette = 13 + (3 << (plain[10] & 7) + 1)
    return [plain[:palette] + extension + plain[palette:]]


def in_tiff(*entries: tuple[int, int, int, bytes]) -> list[bytes]:
    """Move the directory to the end, with more entries."""
    found = []
    for options in ({}, {"compression": "tiff_lzw"}):
        plain = saved("TIFF", **options)
        (at,) = struct.unpack_from("<L", plain, 4)
        (count,) = struct.unpack_from("<H", plain, at)
        all_entries = [plain[at + 2 + 12 * n : at + 14 + 12 * n] for n in range(count)]
        all_entries = sorted(
            all_entries + [struct.pack("<HHL4s", *entry) for entry in entries], key=lambda each: each[1::-1]
        )
        directory = struct.pack("<H", len(all_entries)) + b"".join(all_entries) + bytes(4)
        found.append(plain[:4] + struct.pack("<L", len(plain)) + plain[8:] + directory)
    return found


PNG_CHUNKS = (
    b"eXIf",
    b"gAMA",
    b"cHRM",
    b"sRGB",
    b"pHYs",
    b"tEXt",
    b"zTXt",
    b"iTXt",
    b"iCCP",
    b"tIME",
    b"bKGD",
    b"acTL",
)
ODD: dict[str, tuple[str, list[bytes]]] = {
    "a long compressed text": ("PNG", in_png(chunk(b"zTXt", b"workflow\0\0" + BIG))),
    "a long compressed international text": ("PNG", in_png(chunk(b"iTXt", b"workflow\0\1\0\0\0" + BIG))),
    "100 MB of texts": ("PNG", in_png(*[chunk(b"zTXt", b"%d\0\0" % n + BIG) for n in range(50)])),
    "a text that expands to 200 MB": (
        "PNG",
        in_png(chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(bytes(200_000_000), 1))),
    ),
    "a large colour profile": ("PNG", in_png(chunk(b"iCCP", b"name\0\0" + zlib.compress(os.urandom(2_000_000), 1)))),
    "an unknown compression": ("PNG", in_png(chunk(b"iCCP", b"name\0\7" + JUNK), chunk(b"zTXt", b"name\0\7" + JUNK))),
    "empty chunks": ("PNG", in_png(*[chunk(name, b"") for name in PNG_CHUNKS])),
    "chunks of one byte": ("PNG", in_png(*[chunk(name, b"\xff") for name in PNG_CHUNKS])),
    "chunks of junk": ("PNG", in_png(*[chunk(name, JUNK) for name in PNG_CHUNKS])),
    "wrong checksums": ("PNG", in_png(*[chunk(name, b"text\0text", damage=1) for name in PNG_CHUNKS])),
    "an orientation with a wrong checksum": (
        "PNG",
        in_png(chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0", damage=1)),
    ),
    "short Adobe segments": ("JPEG", in_jpeg(*[segment(0xEE, b"Adobe\0dabcdef"[:n]) for n in range(12)])),
    "short JFIF segments": ("JPEG", in_jpeg(*[segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1"[:n]) for n in range(12)])),
    "EXIF that is too short": ("JPEG", in_jpeg(segment(0xE1, b"Exif\0\0II+\0\x08\0\0\0"))),
    "segments of junk": ("JPEG", in_jpeg(*[segment(n, JUNK) for n in (*range(0xE0, 0xF0), 0xFE)])),
    "segments without a length": ("JPEG", in_jpeg(*[segment(n, b"", 0) for n in (*range(0xE0, 0xF0), 0xFE)])),
    "broken EXIF": (
        "JPEG",
        in_jpeg(segment(0xE1, b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + JUNK), segment(0xE1, b"Exif\0\0II")),
    ),
    "broken MPO": ("JPEG", in_jpeg(segment(0xE2, b"MPF\0"), segment(0xE2, b"MPF\0MM\0*\0\0\0\x08\xff\xff" + JUNK))),
    "a colour profile in bad order": (
        "JPEG",
        in_jpeg(segment(0xE2, b"ICC_PROFILE\0"), segment(0xE2, b"ICC_PROFILE\0\7\3x")),
    ),
    "broken IPTC": (
        "JPEG",
        in_jpeg(segment(0xED, b"Photoshop 3.0\0008BIM"), segment(0xED, b"Photoshop 3.0\0008BIM\4\4\xff")),
    ),
    "a broken XMP": ("JPEG", in_jpeg(segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + JUNK))),
    "announced and absent": ("WEBP", in_webp()),
    "junk in WebP": (
        "WEBP",
        in_webp(b"ICCP\7\0\0\0" + JUNK[:8], b"EXIF\7\0\0\0" + JUNK[:8] + b"XMP \0\0\0\0" + b"what\2\0\0\0ab"),
    ),
    "EXIF that ends too early": ("WEBP", in_webp(after=b"EXIF\xff\xff\0\0abc")),
    "extensions of GIF": ("GIF", in_gif(b"!\xfe\3abc\0!\xfe\0!\xff\0!\xff\x0bNETSCAPE2.0\1\1\0!\xf9\1\1\0!\7\2ab\0")),
    "TIFF tags that lead nowhere": (
        "TIFF",
        in_tiff(
            (700, 1, 10**9, b"abcd"),
            (34675, 7, 10**9, b"abcd"),
            (34665, 4, 1, b"\xff\xff\xff\x7f"),
            (330, 4, 1, b"abcd"),
        ),
    ),
    "TIFF tags of wrong types": (
        "TIFF",
        in_tiff((274, 2, 3, b"ab\0\0"), (282, 2, 3, b"ab\0\0"), (296, 99, 1, b"abcd"), (0xBC01, 1, 1, b"abcd")),
    ),
    "an orientation of many numbers": ("TIFF", in_tiff((274, 3, 900, b"\6\0\6\0"))),
    "an unknown orientation": ("TIFF", in_tiff((274, 3, 1, b"\x63\0\0\0"))),
}


@pytest.mark.parametrize("case", ODD)
def test_odd_metadata_changes_no_pixel(case: str) -> None:
    form, contents = ODD[case]
    plain = opened(saved(form)).tobytes()
    for content in contents:
        assert opened(content).tobytes() == plain


def test_any_metadata_changes_no_pixel() -> None:
    """Except an Adobe segment of full length, which defines how colours are stored."""
    png, jpeg = opened(saved("PNG")).tobytes(), opened(saved("JPEG")).tobytes()
    starts = (b"", b"Exif\0\0MM\0*\0\0\0\x08", b"Adobe", b"MPF\0", b"ICC_PROFILE\0", b"a\0\0", b"MM\0*")

    @settings(max_examples=60)
    @given(
        names=st.lists(st.sampled_from((*PNG_CHUNKS, b"prVt")), max_size=3),
        markers=st.lists(st.sampled_from((*range(0xE1, 0xF0), 0xFE)), max_size=3),
        body=st.sampled_from(starts).flatmap(lambda start: st.binary(max_size=60).map(start.__add__)),
    )
    def check(names: list[bytes], markers: list[int], body: bytes) -> None:
        for content in in_png(*[chunk(name, body) for name in names]):
            assert opened(content).tobytes() == png
        if not body.startswith(b"Adobe") or len(body) < 12:
            for content in in_jpeg(*[segment(marker, body) for marker in markers]):
                assert opened(content).tobytes() == jpeg

    check()


def test_damaged_pixels_are_refused() -> None:
    png = bytearray(saved("PNG"))
    at = png.index(b"IDAT")
    png[at + 4 + int.from_bytes(png[at - 4 : at])] ^= 1  # the checksum alone
    with pytest.raises(PhotoError, match="wrong checksum of pixel data"):
        opened(bytes(png))
    for form in ("PNG", "JPEG", "WEBP", "GIF", "TIFF"):
        with pytest.raises(PhotoError):
            opened(saved(form)[: len(saved(form)) // 2])
