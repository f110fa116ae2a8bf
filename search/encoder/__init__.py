"""Models that embed photos and captions as unit vectors in one space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from PIL import Image

    from search.encoder.images import Pixels, Preparation
    from search.records import Vectors


@dataclass(frozen=True, slots=True)
class Truncation:
    """A text of which the model reads only the first tokens: `read` of `given`.

    Both numbers include the prompt and the marks of start and end that the tokenizer adds.
    """

    read: int
    given: int


class Encoder(Protocol):
    """A model that embeds queries for a `Searcher`; ingestion uses more of `search.encoder.clip.ClipEncoder`.

    Vectors are float32 (n, dim) of unit length. An input without a usable vector, because the model cannot read it or
    its vector is infinite, NaN or zero, gets a row of NaN.
    """

    @property
    def name(self) -> str: ...
    @property
    def dim(self) -> int: ...
    @property
    def preparation(self) -> Preparation | None:
        """How to convert an image to an array for `encode_images`; None if that takes no arrays."""

    def encode_images(self, images: Pixels | Sequence[Image.Image]) -> Vectors: ...
    def encode_texts(self, texts: Sequence[str]) -> Vectors: ...
    def truncations(self, texts: Sequence[str]) -> list[Truncation | None]:
        """Return for each text how much of it the model reads, None if that is all of it."""
