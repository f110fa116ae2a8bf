"""Opening one photo safely: what may be opened, how large it may be, and which way up it is."""

from __future__ import annotations

import hashlib
import io
import stat
import struct
import warnings
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError

from search.errors import PhotoError
from search.records import PhotoMark
from search.text import shown

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
MAX_PIXELS = 100_000_000
MAX_BYTES = 200_000_000
NO_FILE = "no such file"
LINK_LEADS_OUT = "a link in the path leads out of the photo folder"
MAX_ASPECT = 100  # processors scale the short side up: one row of 30,000 pixels would become gigabytes

# What Pillow's decoders raise for broken files.
_BROKEN = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    TypeError,
    LookupError,
    AttributeError,
    MemoryError,
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

# Pillow warns, and at twice the size refuses, by a limit of its own; ours is checked before anything is decoded.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", module=r"PIL\.")  # of odd metadata, which does not matter here


def open_image(source: Path | BinaryIO, *, at_least: int | None = None) -> Image.Image:
    """The photo as 8-bit RGB, upright (EXIF orientation applied), fully decoded.

    With `at_least`, a JPEG may come out smaller, scaled by 1/2, 1/4 or 1/8 while it is decoded, but never with a side
    below so many pixels: faster, and not quite the same pixels.

    The first frame of an animation; transparency on white; 16-bit greyscale scaled to 8 bits.

    Raises:
        PhotoError: it is missing, unreadable, broken, of an unknown format, over 100 megapixels, or over 100 times as
            long as wide.
    """
    try:
        with Image.open(source, formats=FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise PhotoError(f"{width} x {height} pixels: the limit is {MAX_PIXELS // 1_000_000} megapixels")
            if max(width, height) > MAX_ASPECT * min(width, height):
                raise PhotoError(f"{width} x {height} pixels: the limit is {MAX_ASPECT} times as long as wide")
            if at_least is not None:
                image.draft("RGB", (at_least, at_least))
            turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
            return as_rgb(image if turn is None else image.transpose(turn))
    except FileNotFoundError:
        raise PhotoError(NO_FILE) from None
    except UnidentifiedImageError:
        raise PhotoError("not a picture (JPEG, PNG, WebP, GIF, BMP or TIFF)") from None
    except Image.DecompressionBombError:
        raise PhotoError(f"too many pixels: the limit is {MAX_PIXELS // 1_000_000} megapixels") from None
    except _BROKEN as error:
        raise PhotoError(getattr(error, "strerror", None) or str(error) or type(error).__name__) from error


@dataclass(frozen=True, slots=True)
class Preparation:
    """What a model's image processor does to a photo before numbers become floats: resize, then crop the centre.

    `size` is (width, height) to scale to, or the length of the short side; `crop` is (width, height) or None.
    """

    size: tuple[int, int] | int
    crop: tuple[int, int] | None
    resample: Image.Resampling

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, 3) of what comes out."""
        width, height = self.crop or (self.size if isinstance(self.size, tuple) else (self.size, self.size))
        return height, width, 3

    def apply(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        """uint8 (height, width, 3) of an RGB image."""
        width, height = image.size
        if isinstance(self.size, tuple):
            size = self.size
        elif width <= height:
            size = self.size, int(self.size * height / width)
        else:
            size = int(self.size * width / height), self.size
        image = image.resize(size, self.resample)
        if self.crop is not None:
            left, top = (size[0] - self.crop[0]) // 2, (size[1] - self.crop[1]) // 2
            image = image.crop((left, top, left + self.crop[0], top + self.crop[1]))
        return np.asarray(image)


def find_photo(folder: Path, file: str, *, follow_links: bool = False) -> Path:
    """Return the path of the photo `file` (a relative path) of `folder`.

    Raises:
        PhotoError: there is no such file, it cannot be reached, or its path leads out of the folder. With
            `follow_links`, links may lead out.
    """
    try:
        path = folder / file
        if PurePath(file).is_absolute() or ".." in PurePath(file).parts:
            raise PhotoError("the path leads out of the photo folder")
        if not follow_links and not path.resolve().is_relative_to(folder.resolve()):
            raise PhotoError(LINK_LEADS_OUT)
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise PhotoError(NO_FILE) from None
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: links in a circle
        raise PhotoError(getattr(error, "strerror", None) or shown(str(error))) from error
    if not stat.S_ISREG(mode):
        raise PhotoError("not a file" if not stat.S_ISDIR(mode) else "a folder, not a file")
    return path


def read_photo(folder: Path, file: str, *, follow_links: bool = False) -> tuple[bytes, PhotoMark]:
    """Return the bytes of the photo `file` of `folder`, found by `find_photo`, and the mark to know them by.

    Raises:
        PhotoError: it cannot be found or read, or is larger than 200 MB.
    """
    path = find_photo(folder, file, follow_links=follow_links)
    try:
        status = path.stat()
        if status.st_size > MAX_BYTES:
            raise PhotoError(f"{status.st_size:,} bytes: the limit is {MAX_BYTES:,}")
        content = path.read_bytes()
    except OSError as error:
        raise PhotoError(error.strerror or str(error)) from error
    digest = hashlib.blake2b(content, digest_size=16).hexdigest()
    return content, PhotoMark(len(content), status.st_mtime_ns, digest)


def current_mark(folder: Path, file: str, mark: PhotoMark, *, follow_links: bool = False) -> PhotoMark | None:
    """Return the mark of the photo as it is now if its content is still that of `mark`, else None.

    Reads the file only if its size is the same and its time is not.
    """
    try:
        status = find_photo(folder, file, follow_links=follow_links).stat()
        if status.st_size != mark.bytes:
            return None
        if status.st_mtime_ns == mark.modified:
            return mark
        now = read_photo(folder, file, follow_links=follow_links)[1]
    except (OSError, PhotoError):
        return None
    return now if now.blake2b == mark.blake2b else None


def open_photo(folder: Path, file: str, *, follow_links: bool = False) -> Image.Image:
    """Return the photo `file` of `folder`, read by `read_photo` and opened by `open_image`, whose errors it raises."""
    return open_image(io.BytesIO(read_photo(folder, file, follow_links=follow_links)[0]))


def as_rgb(image: Image.Image) -> Image.Image:
    """Any opened image as RGB: transparency on white, 16-bit greyscale scaled to 8 bits."""
    if image.mode.startswith("I;16"):
        return image.convert("I").point(lambda value: value / 256).convert("L").convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")
