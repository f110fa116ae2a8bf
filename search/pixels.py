"""Opening one photo safely: what may be opened, how large it may be, and which way up it is."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import BinaryIO

from PIL import Image, ImageOps, UnidentifiedImageError

from search.errors import PhotoError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
MAX_PIXELS = 100_000_000
MAX_ASPECT = 100  # processors scale the short side up: one row of 30,000 pixels would become gigabytes

# Pillow warns, and at twice the size refuses, by a limit of its own; ours is checked before anything is decoded.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def open_image(source: Path | BinaryIO) -> Image.Image:
    """The photo as 8-bit RGB, upright (EXIF orientation applied), fully decoded.

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
            return _rgb(ImageOps.exif_transpose(image))
    except FileNotFoundError:
        raise PhotoError("no such file") from None
    except UnidentifiedImageError:
        raise PhotoError("not a picture (JPEG, PNG, WebP, GIF, BMP or TIFF)") from None
    except Image.DecompressionBombError:
        raise PhotoError(f"too many pixels: the limit is {MAX_PIXELS // 1_000_000} megapixels") from None
    except (OSError, ValueError, SyntaxError, EOFError, TypeError, IndexError, MemoryError) as error:
        # Pillow's decoders raise all of these for broken files.
        raise PhotoError(getattr(error, "strerror", None) or str(error) or type(error).__name__) from error


def open_photo(folder: Path, file: str) -> Image.Image:
    """The photo `file` (a relative path) of `folder`, by `open_image`.

    Raises:
        PhotoError: as `open_image`, or a link in the path leads out of the folder.
    """
    path = folder / file
    if not path.resolve().is_relative_to(folder.resolve()):
        raise PhotoError("the path leads out of the photo folder")
    return open_image(path)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return image.convert("I").point(lambda value: value / 256).convert("L").convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")
