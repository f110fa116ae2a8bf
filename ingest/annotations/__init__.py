"""Annotations: which photos there are, their captions and their splits, read from a file or a folder.

Each format of a file is a module with `fits` and `read`, which the protocol `Format` (`source.py`) describes, and is
listed in `FORMATS`. `folder.py` reads a folder of photos without a file.
"""

from __future__ import annotations

import os
from pathlib import Path

from ingest.annotations import coco, karpathy, table
from ingest.annotations.folder import read_folder
from ingest.annotations.records import Annotations, Chosen, Unusable
from ingest.annotations.source import Format, name_of, opened

__all__ = ["Annotations", "Chosen", "Unusable", "name_of", "read_annotations"]

FORMATS: tuple[Format, ...] = (table, coco, karpathy)
"""Formats of files; the first that fits reads a file."""


def read_annotations(source: Path | None, photos: Path, *, follow_links: bool = False) -> Annotations:
    """Read and validate an annotation file, whose format is recognised by its content.

    Without a `source`, every picture in the folder `photos` is taken, with the captions in text files beside them; a
    `source` that is a folder holds these text files. With `follow_links`, links may lead out of these folders.

    Raises:
        AnnotationError: the source cannot be read, is in no known format, has nothing that can be used, or uses an id
            twice.
    """
    if source is None or os.path.isdir(source):  # noqa: PTH112 - unlike Path.is_dir, it raises nothing
        return read_folder(photos, source, follow_links=follow_links)
    with opened(source, photos) as content:
        start = content.start()
        return next(format for format in FORMATS if format.fits(start)).read(content)
