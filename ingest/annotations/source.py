"""An annotation file that is being read, and the protocol of its formats."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Protocol

from ingest.annotations.records import Annotations
from search.errors import AnnotationError, TextError
from search.index import TRIAL
from search.text import refuse_wide

LOOK_AHEAD = 2**20  # bytes that tell a format
UNNAMED = "photos"


@dataclass(frozen=True, slots=True)
class Source:
    """An annotation file: its path, its content from the first byte, and the photo folder."""

    file: Path
    stream: BufferedReader
    photos: Path

    def start(self) -> bytes:
        """Return up to 1 MiB of the content without consuming it; a byte order mark and white space are left out."""
        return self.stream.peek(LOOK_AHEAD).removeprefix(b"\xef\xbb\xbf").lstrip()

    @property
    def name(self) -> str:
        """The name of the data set, and of its only split, if the file gives none."""
        return name_of(self.file)


class Format(Protocol):
    """A format of annotation files, which a module of this package implements."""

    @property
    def NAME(self) -> str:  # noqa: N802
        """The name of the format, which collections remember."""

    def fits(self, start: bytes) -> bool:
        """Return whether a file that starts like this is in this format."""

    def read(self, source: Source) -> Annotations:
        """Read and validate a file, skipping what is broken.

        Raises:
            AnnotationError: the file has nothing that can be used, or an id twice.
        """


@contextmanager
def opened(file: Path, photos: Path) -> Iterator[Source]:
    """Open an annotation file.

    Raises:
        AnnotationError: it cannot be read, or is Parquet, UTF-16 or UTF-32.
    """
    try:
        with file.open("rb", buffering=LOOK_AHEAD) as stream:
            assert isinstance(stream, BufferedReader)
            if stream.peek(4).startswith(b"PAR1"):
                raise AnnotationError(f"{file} is a Parquet file: save its paths and captions as CSV or JSON lines")
            refuse_wide(stream.peek(4))
            yield Source(file, stream, photos)
    except OSError as error:
        raise AnnotationError(f"cannot read the annotation file {file}: {error.strerror}") from error
    except TextError as error:
        raise AnnotationError(f"{file}: {error}") from None


def name_of(path: Path) -> str:
    """Return the name of a file without its suffix, or of a folder, with characters that collections can have."""
    # Unlike Path.is_dir and Path.resolve, these raise nothing.
    name = Path(os.path.realpath(path)).name if os.path.isdir(path) else path.stem  # noqa: PTH112
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", plain).strip("-._").replace(TRIAL, "-trial-")
    return plain[:100] or UNNAMED
