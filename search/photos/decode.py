"""Decode a photo as upright 8-bit RGB, within limits of size and memory."""

from __future__ import annotations

import stat
import struct
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, ParamSpec, TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile

from search.errors import PhotoError
from search.photos import heif
from search.photos.files import MAX_BYTES, NO_FILE
from search.photos.metadata import without_metadata

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")  # for Pillow to recognise; `heif` recognises the others
READABLE = "JPEG, PNG, WebP, GIF, BMP, TIFF, HEIC or AVIF"
MAX_PIXELS = 100_000_000
MAX_ASPECT = 100  # processors scale the short side up: one row of 30,000 pixels would become gigabytes
MAX_MEMORY = 700_000_000  # bytes, while one photo is decoded
HALVED_FROM = 50_000_000  # pixels; larger photos are decoded at half their width and height
BAND = 2_000_000  # pixels that are converted to RGB at a time

_EIGHT_BITS = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
_SIGNED = 2  # a value of TIFF's tag SampleFormat
_BITS, _PHOTOMETRIC, _SAMPLES, _ROWS_PER_STRIP = 258, 262, 277, 278  # TIFF tags
_TILE_WIDTH, _TILE_HEIGHT, _SAMPLE_FORMAT = 322, 323, 339

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")
_one_thread = ThreadPoolExecutor(1, thread_name_prefix="pictures")

# What Pillow's decoders, and that of HEIC, raise for broken files.
_BROKEN = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    TypeError,
    LookupError,
    AttributeError,
    MemoryError,
    RuntimeError,
    struct.error,
)

_TURNS = {  # by EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Pillow warns above a limit of its own, and refuses twice that size; ours is checked before anything is decoded.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", module=r"PIL\.")  # about odd metadata, which does not matter here


def open_image(source: Path | BinaryIO, *, at_least: int | None = None) -> Image.Image:
    """Return a photo as 8-bit RGB, upright (EXIF orientation applied), fully decoded.

    Of an animation, the first frame is returned; transparency becomes white, and 16-bit greyscale is scaled to 8 bits.
    Metadata that cannot be read is ignored. A photo of more than 50 megapixels is returned at half its width and
    height, so that no photo takes more than 0.7 GB of memory.

    With `at_least`, a JPEG may be scaled by 1/2, 1/4 or 1/8 while it is decoded, but no side becomes shorter than so
    many pixels. This is faster, and the pixels differ slightly.

    Raises:
        PhotoError: the photo is missing, unreadable, broken, in an unknown format or a mode that has no 8-bit
            equivalent (such as F), over 200 MB or 100 megapixels, over 100 times as long as wide, or would take more
            than 0.7 GB of memory.
    """
    with _photo_errors():
        content = _content(source)
        stream, orientation = without_metadata(content)
        if kind := heif.kind_of(content):
            opened, orientation = heif.open_heif(kind, stream)
        else:
            opened = Image.open(stream, formats=FORMATS)
        with opened:
            photo = _decoded(opened, at_least)
        turn = _TURNS.get(orientation)
        return photo if turn is None else photo.transpose(turn)


@contextmanager
def _photo_errors() -> Iterator[None]:
    """Convert Pillow's errors to PhotoError."""
    try:
        yield
    except FileNotFoundError:
        raise PhotoError(NO_FILE) from None
    except UnidentifiedImageError:
        raise PhotoError(f"not a picture that can be read ({READABLE})") from None
    except Image.DecompressionBombError:
        raise PhotoError(f"too many pixels: the limit is {MAX_PIXELS // 1_000_000} megapixels") from None
    except _BROKEN as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise PhotoError(reason or type(error).__name__) from error


def one_at_a_time(
    call: Callable[_Arguments, _Result], *arguments: _Arguments.args, **named: _Arguments.kwargs
) -> _Result:
    """Return the result of a call, made in the one thread that decodes photos for searches and for the page.

    So at most one photo is decoded at a time. A lock is not enough: freed memory stays with its thread, so every thread
    of a server would keep that of the largest photo it has decoded.
    """
    return _one_thread.submit(call, *arguments, **named).result()


def _decoded(image: Image.Image, at_least: int | None) -> Image.Image:
    _check_size(image)
    if image.format == "JPEG":
        if image.width * image.height > HALVED_FROM:
            half = min(image.size) // 2  # halved while it is decoded: less memory than afterwards
            at_least = half if at_least is None else min(half, at_least)
        if at_least is not None:
            image.draft("RGB", (at_least, at_least))
    return as_rgb(image)


def _content(source: Path | BinaryIO) -> bytes:
    if not isinstance(source, Path):
        return source.read()
    if not stat.S_ISREG(mode := source.stat().st_mode):  # reading a pipe would block
        raise PhotoError("a folder, not a file" if stat.S_ISDIR(mode) else "not a file")
    with source.open("rb") as stream:
        content = stream.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise PhotoError(f"more than {MAX_BYTES:,} bytes")
    return content


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise PhotoError(f"{width} x {height} pixels: the limit is {MAX_PIXELS // 1_000_000} megapixels")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise PhotoError(f"{width} x {height} pixels: the limit is an aspect ratio of {MAX_ASPECT} to 1")
    if (memory := _memory(image)) > MAX_MEMORY:
        raise PhotoError(f"it would take {memory / 1e9:.1f} GB to decode: save it smaller, or as a PNG")


def _memory(image: Image.Image) -> int:
    """Return the most bytes that Pillow takes to decode a photo."""
    pixels = image.width * image.height
    if image.format == "WEBP":
        return 16 * pixels  # four copies of the canvas
    if image.format in ("AVIF", "HEIF"):
        return (22 if image.mode == "RGBA" else 13) * pixels  # as measured
    if image.format == "JPEG":
        decoded = pixels if pixels > HALVED_FROM else 4 * pixels
        return decoded + ("progressive" in image.info) * 2 * len(image.getbands()) * pixels  # all coefficients
    return 4 * pixels + _tiff_block(image)


def _tiff_block(image: Image.Image) -> int:
    """Return the size of a strip or tile of a TIFF file in bytes, which Pillow expands as a whole."""
    if (tags := _tiff_tags(image)) is None:
        return 0
    width, height = tags.get(_TILE_WIDTH, image.width), tags.get(_TILE_HEIGHT)
    rows = min(tags.get(_ROWS_PER_STRIP, image.height), image.height) if height is None else height
    return int(width * rows * max(tags.get(_BITS, (1,))) * tags.get(_SAMPLES, 1)) // 8


def _check_samples(image: Image.Image) -> None:
    """Refuse numbers of unknown range, which Pillow would convert to black or white."""
    tags = _tiff_tags(image)
    signed = tags is not None and _SIGNED in tags.get(_SAMPLE_FORMAT, ())
    sixteen_bits = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")
    if signed or (image.mode not in _EIGHT_BITS and not sixteen_bits):
        kind = "signed pixel values" if signed else "pixel values"
        raise PhotoError(f"{kind} of mode {image.mode} have no known range: save it with 8 or 16 bits, unsigned")


def _tiff_tags(image: Image.Image) -> ImageFileDirectory_v2 | None:
    return image.tag_v2 if isinstance(image, TiffImageFile) else None


def _full_range(image: Image.Image) -> Image.Image:
    """Load an image; return 16-bit greyscale as mode I;16, black at 0 and white at 65535.

    Pillow ignores that a TIFF file has 12 bits, or that its white is 0. Older versions open a PNG as mode I.
    """
    image.load()
    tags = _tiff_tags(image)
    if image.mode == "I":
        return image.convert("I;16")
    if image.mode == "I;16" and tags is not None and tags.get(_BITS) == (12,):
        return image.point(lambda value: value * 16)
    if image.mode == "I;16" and tags is not None and tags.get(_PHOTOMETRIC) == 0:
        return image.point(lambda value: value * -1 + 65535)
    return image


def as_rgb(image: Image.Image) -> Image.Image:
    """Return an opened image as RGB, with transparency on white and 16-bit greyscale scaled to 8 bits.

    An image of more than 50 megapixels is returned at half its width and height. It is converted in bands, to avoid
    another copy of the whole.

    Raises:
        PhotoError: its mode has no 8-bit equivalent, or it cannot be decoded.
    """
    _check_samples(image)
    with _photo_errors():
        image = _full_range(image)
        width, height = image.size
        if width * height <= BAND:
            return _band_as_rgb(image)
        factor = 2 if width * height > HALVED_FROM else 1
        whole = Image.new("RGB", (-(-width // factor), -(-height // factor)))
        rows = max(1, BAND // width // factor) * factor
        for top in range(0, height, rows):
            band = _band_as_rgb(image.crop((0, top, width, min(top + rows, height))))
            whole.paste(band.reduce(factor) if factor > 1 else band, (0, top // factor))
        return whole


def _band_as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        grey = np.asarray(image)
        clear = image.info.get("transparency")
        if clear is not None:
            grey = np.where(grey == clear, np.uint16(65535), grey)
        return Image.fromarray((grey >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "La":
        image = image.convert("LA")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")
