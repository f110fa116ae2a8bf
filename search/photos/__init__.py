"""Open a photo safely: find and read its file, separate its metadata, decode it."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from search.photos.decode import as_rgb, one_at_a_time, open_image
from search.photos.files import LINK_LEADS_OUT, NO_FILE, current_mark, find_photo, read_photo
from search.photos.unchanged import PhotoFolder

__all__ = [
    "LINK_LEADS_OUT",
    "NO_FILE",
    "PhotoFolder",
    "as_rgb",
    "current_mark",
    "find_photo",
    "one_at_a_time",
    "open_image",
    "open_photo",
    "read_photo",
]


def open_photo(folder: Path, file: str, *, follow_links: bool = False) -> Image.Image:
    """Read the photo `file` in `folder` with `read_photo` and open it with `open_image`, which raise PhotoError."""
    return open_image(io.BytesIO(read_photo(folder, file, follow_links=follow_links)[0]))
