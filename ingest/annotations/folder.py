"""Take every picture below a folder, with the captions in the text files beside them.

`dog.txt` holds the captions of `dog.jpg`, one in each line: the layout of clip-retrieval and img2dataset.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from ingest.annotations.fields import check_caption
from ingest.annotations.listing import list_folder, picture_suffixes
from ingest.annotations.photos import Photo, records_of
from ingest.annotations.records import Annotations, Unusable
from ingest.annotations.source import name_of
from search.errors import AnnotationError, PhotoError, TextError
from search.photos import find_photo
from search.text import decode_text, read_path, spell_path

NAME = "folder"
MAX_TEXT = 1_000_000  # bytes


def read_folder(photos: Path, texts: Path | None = None, *, follow_links: bool = False) -> Annotations:
    """Return the pictures below `photos`, in the order of their paths, and the captions in `texts`, or beside them.

    A folder that cannot be read, and a caption or a text file that is broken, is listed in `unusable`.

    Raises:
        AnnotationError: there is no picture, or no text for any of them in `texts`, or two have the same id.
    """
    for folder in filter(None, (photos, texts)):
        if not os.path.isdir(folder):  # noqa: PTH112 - unlike Path.is_dir, it raises nothing
            raise AnnotationError(f"there is no folder {folder}: check --images")
    listing = list_folder(photos, follow_links=follow_links)
    text_files = list_folder(texts, follow_links=follow_links).texts if texts else listing.texts
    name = name_of(texts or photos)
    unusable = [Unusable(0, "images", path, None, None, None, reason) for path, reason in listing.failures]
    if not listing.pictures:
        reason = f"{unusable[0].file or 'it'}: {unusable[0].reason}" if unusable else _looked_for()
        raise AnnotationError(f"there is no picture in {photos} ({reason}): check --images")
    read: list[Photo] = []
    for order, file in enumerate(listing.pictures):
        photo = Photo(file, name)
        read.append(photo)
        if (text_file := text_files.get(_without_suffix(file))) is not None:
            for caption in _captions(texts or photos, text_file, follow_links=follow_links):
                if isinstance(caption, str):
                    photo.captions.append((None, caption))
                else:
                    unusable.append(Unusable(order, "captions", file, None, name, None, f"{text_file}: {caption}"))
    if texts and not any(photo.captions for photo in read):
        raise AnnotationError(f"no text file in {texts} has the name of a picture in {photos}, such as NAME.txt")
    images, captions = records_of(photos, read)
    digest = hashlib.sha256("\0".join("\n".join((image.file, *image.captions)) for image in images).encode())
    return Annotations(texts or photos, NAME, name, digest.hexdigest(), images, captions, tuple(unusable))


def _captions(folder: Path, file: str, *, follow_links: bool) -> Iterator[str | TextError]:
    """Yield the captions in a text file; each fault as a TextError."""
    try:
        path = find_photo(folder, file, follow_links=follow_links)
        with path.open("rb") as stream:
            content = stream.read(MAX_TEXT + 1)
        if len(content) > MAX_TEXT:
            raise TextError(f"a text file for captions has at most {MAX_TEXT:,} bytes")
        lines = [line for line in decode_text(content).replace("\r", "\n").split("\n") if line.strip()]
    except (OSError, PhotoError, TextError) as error:
        yield TextError(getattr(error, "strerror", None) or str(error))
        return
    if not lines:
        yield TextError("it holds no caption")
    for line in lines:
        yield check_caption(line)


def _without_suffix(file: str) -> str:
    return spell_path(PurePosixPath(read_path(file)).with_suffix(""))


def _looked_for() -> str:
    return "looked for " + " ".join(sorted(picture_suffixes()))
