"""Pictures of the page: stored photos, scaled down, and what users hand in."""

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

SIZES = (360, 720, 1600)  # pixels, the longer side
CACHE_BYTES = 64 * 2**20
UPLOADS = 256


@dataclass(frozen=True, slots=True)
class Jpeg:
    """A picture ready to send; `tag` changes whenever it does."""

    content: bytes
    tag: str


class Photos:
    """The stored photos as JPEG; the most recently requested ones are kept in memory."""

    def __init__(self, folder: Path, cache_bytes: int = CACHE_BYTES, *, follow_links: bool = False) -> None:
        self._folder, self._follow_links = folder, follow_links
        self._left = cache_bytes
        self._made: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._lock = Lock()

    def jpeg(self, file: str, size: int, known_tag: str | None = None) -> Jpeg:
        """The photo `file` with its longer side at most `size` pixels; no content where its tag is `known_tag`.

        Raises:
            PhotoError: it cannot be opened, or lies outside the photo folder.
        """
        content, mark = read_photo(self._folder, file, follow_links=self._follow_links)
        tag = f'"{mark.blake2b}-{size}"'
        if tag == known_tag:
            return Jpeg(b"", tag)
        key = mark.blake2b, size
        with self._lock:
            if key in self._made:
                self._made.move_to_end(key)
                return Jpeg(self._made[key], tag)
        made = one_at_a_time(_scaled, content, size)
        self._keep(key, made)
        return Jpeg(made, tag)

    def _keep(self, key: tuple[str, int], made: bytes) -> None:
        with self._lock:
            if key not in self._made:
                self._made[key] = made
                self._left -= len(made)
            while self._left < 0:
                self._left += len(self._made.popitem(last=False)[1])


class Uploads:
    """The vectors of the latest `most` pictures that were handed in, by a hash of their content. No picture is kept.

    Args:
        encode: returns the vector float32 (dim,) of a picture file; may be called by many threads at once.
    """

    def __init__(self, encode: Callable[[bytes], Vectors], most: int = UPLOADS) -> None:
        self._encode = encode
        self._most = most
        self._vectors: OrderedDict[str, Vectors] = OrderedDict()
        self._lock = Lock()

    def add(self, content: bytes) -> str:
        """The token of a picture: the same for the same picture.

        Raises:
            PhotoError: it is no picture that can be opened, or has too many pixels.
        """
        token = hashlib.sha256(content).hexdigest()[:32]
        if self.vector(token) is None:
            vector = self._encode(content)
            with self._lock:
                self._vectors[token] = vector
                while len(self._vectors) > self._most:
                    self._vectors.popitem(last=False)
        return token

    def vector(self, token: str) -> Vectors | None:
        """float32 (dim,) of unit length; None where the token is unknown or was forgotten."""
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
