"""Read the lines of a large text file: numbered, decoded one by one, and hashed on the way."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator
from io import BufferedReader
from typing import NamedTuple

MAX_LINE = 1_000_000  # bytes


class Line(NamedTuple):
    """A line with its 1-based number.

    Bytes that are not UTF-8 have become lone surrogates, as in file names. `text` is None if the line is too long.
    """

    number: int
    text: str | None


class Lines:
    """Iterate over the lines of a file, which keep their ends. Memory does not grow with the file."""

    def __init__(self, stream: BufferedReader) -> None:
        self._stream, self._digest = stream, hashlib.sha256()
        self._lines = self._read()
        self._put_back: deque[Line] = deque()
        self.position = 0
        """The number of bytes that have been read."""

    def __iter__(self) -> Iterator[Line]:
        return self

    def __next__(self) -> Line:
        return self._put_back.popleft() if self._put_back else next(self._lines)

    def put_back(self, lines: Iterable[Line]) -> None:
        """Let these lines come next, in this order."""
        self._put_back.extendleft(reversed(list(lines)))

    def sha256(self) -> str:
        """Return the hash of what has been read, which is the whole file after the last line."""
        return self._digest.hexdigest()

    def _take(self, content: bytes) -> None:
        self.position += len(content)
        self._digest.update(content)

    def _read(self) -> Iterator[Line]:
        number = 1
        while line := self._stream.readline(MAX_LINE):
            self._take(line)
            complete = line.endswith(b"\n") or len(line) < MAX_LINE
            while len(line) == MAX_LINE and not line.endswith(b"\n"):  # skip the rest of this line
                line = self._stream.readline(MAX_LINE)
                self._take(line)
            text = line.decode("utf-8-sig" if number == 1 else "utf-8", "surrogateescape") if complete else None
            yield Line(number, text)
            number += 1
