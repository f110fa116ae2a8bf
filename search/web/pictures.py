"""Scale stored photos down for the page, and keep the vectors of uploaded pictures."""

from __future__ import annotations

import hashlib
import io
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from search.photos import one_at_a_time, open_image, read_photo
from search.records import Vectors

CACHE_BYTES = 64 * 2**20
MAX_UPLOADS = 256


@dataclass(frozen=True, slots=True)
class Jpeg:
    """A picture ready to send; `tag` is its ETag, which changes whenever the picture does."""

    content: bytes
    tag: str


class Photos:
    """The stored photos as JPEG; the most recently requested ones are cached in memory."""

    def __init__(self, folder: Path, cache_bytes: int = CACHE_BYTES, *, follow_links: bool = False) -> None:
        self._folder, self._follow_links = folder, follow_links
        self._free_bytes = cache_bytes
        self._cache: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._lock = Lock()

    def jpeg(self, file: str, size: int, known_tag: str | None = None) -> Jpeg:
        """Return the photo `file`, scaled to at most `size` pixels on its longer side; without content if its tag is
        `known_tag`.

        Raises:
            PhotoError: it cannot be opened, or lies outside the photo folder.
        """
        content, mark = read_photo(self._folder, file, follow_links=self._follow_links)
        tag = f'"{mark.blake2b}-{size}"'
        if tag == known_tag:
            return Jpeg(b"", tag)
        key = mark.blake2b, size
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return Jpeg(self._cache[key], tag)
        jpeg = one_at_a_time(_scaled, content, size)
        self._store(key, jpeg)
        return Jpeg(jpeg, tag)

    def original(self, file: str) -> bytes:
        """Return the content of the photo file. Raises PhotoError if it cannot be read."""
        return read_photo(self._folder, file, follow_links=self._follow_links)[0]

    def _store(self, key: tuple[str, int], jpeg: bytes) -> None:
        with self._lock:
            if key not in self._cache:
                self._cache[key] = jpeg
                self._free_bytes -= len(jpeg)
            while self._free_bytes < 0:
                self._free_bytes += len(self._cache.popitem(last=False)[1])


class Uploads:
    """The vectors of uploaded pictures, by a hash of the content. The pictures themselves are not kept.

    Args:
        encode: returns the vector float32 (dim,) of a picture file; called from many threads.
        capacity: how many vectors are kept; the least recently used are dropped.
    """

    def __init__(self, encode: Callable[[bytes], Vectors], capacity: int = MAX_UPLOADS) -> None:
        self._encode = encode
        self._capacity = capacity
        self._vectors: OrderedDict[str, Vectors] = OrderedDict()
        self._lock = Lock()

    def add(self, content: bytes) -> str:
        """Encode a picture and return its token, which is the same for the same content.

        Raises:
            PhotoError: it cannot be opened as a picture, or has too many pixels.
        """
        token = hashlib.sha256(content).hexdigest()[:32]
        if self.vector(token) is None:
            vector = self._encode(content)
            with self._lock:
                self._vectors[token] = vector
                while len(self._vectors) > self._capacity:
                    self._vectors.popitem(last=False)
        return token

    def vector(self, token: str) -> Vectors | None:
        """Return the unit vector float32 (dim,), or None if the token is unknown or its vector was dropped."""
        with self._lock:
            if token in self._vectors:
                self._vectors.move_to_end(token)
            return self._vectors.get(token)


def _scaled(content: bytes, size: int) -> bytes:
    photo = open_image(io.BytesIO(content), at_least=size)
    photo.thumbnail((size, size))
    stream = io.BytesIO()
    photo.save(stream, "JPEG", quality=82, progressive=True)
    return stream.getvalue()
