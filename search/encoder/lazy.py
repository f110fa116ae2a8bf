"""Encode queries, loading the whole model only for what its prepared text tower cannot do."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cached_property, partial
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from search.encoder import Truncation
from search.encoder.text_tower import TextTower, describe, write
from search.encoder.texts import encode_each, is_valid, wrap
from search.errors import CocoSearchError, EncoderError
from search.processes import processors

if TYPE_CHECKING:
    from PIL import Image

    from search.encoder import Encoder
    from search.encoder.ahead import Encoded, TextsAhead
    from search.encoder.clip import ClipEncoder
    from search.encoder.images import Pixels, Preparation
    from search.index import CollectionSpec
    from search.records import Vectors

BATCH = 8
QUICK = 0.002  # seconds that a text may take in a batch; the whole model takes hardly less
PATIENCE = 10.0  # seconds; the whole model takes about as long to load
SOON = 500  # texts in batches before a child process is started, which takes as long as to encode these
SAME = 0.99999  # the lowest cosine of a text's vectors by both routes
PROBES = ["a dog", "A RED BUS, seen from above", "", " ", "\n", "déjà vu", "猫", "🐶", "1 2 3", "don't"]
PROBES += ["<|endoftext|> and more", "word " * 30, "word " * 300, "antidisestablishmentarianism" * 20]


class LazyEncoder:
    """The encoder of the queries of a collection: an `Encoder`.

    Args:
        spec: the specification of the collection.
        load: loads the whole model on a device; not called if only texts are encoded and the model's text tower has
            been prepared.
        device: the device of the whole model, such as "auto" or "cpu". The text tower uses the CPU.
        patience: seconds of processor time that the text tower may take longer than `QUICK` for the texts of batches
            (`BATCH` or more), after which the whole model encodes them.
        served: returns the same model in another process, if it is ready; this process then loads none.
    """

    def __init__(
        self,
        spec: CollectionSpec,
        load: Callable[[str], ClipEncoder],
        device: str,
        patience: float = PATIENCE,
        served: Callable[[], Encoder | None] | None = None,
    ) -> None:
        self.name = spec.model
        self.dim = spec.dim
        self._prompt, self._weights = spec.prompt, spec.weights
        self._load, self._device, self._find_served = load, device, served
        self._loading, self._preparing = Lock(), Lock()
        self._tower = TextTower.open(spec.weights)
        self._tried = False
        self._lost, self._patience = 0.0, patience
        self._encoded = 0  # texts, in batches
        self._ahead: TextsAhead | None = None
        self._may_start = processors() > 1
        self._received: dict[str, Encoded] = {}
        self._loads: bool | None = None

    @cached_property
    def _model(self) -> ClipEncoder:
        return self._load(self._device)

    @property
    def model(self) -> ClipEncoder:
        """The whole model, loaded at the first use."""
        with self._loading:
            return self._model

    @cached_property
    def _served(self) -> Encoder | None:
        return self._find_served() if self._find_served else None

    @property
    def preparation(self) -> Preparation | None:
        return (self._served or self.model).preparation

    def encode_images(self, images: Pixels | Sequence[Image.Image]) -> Vectors:
        return (self._served or self.model).encode_images(images)

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        tower = self._ready_tower()
        if tower is None or (len(texts) >= BATCH and self._lost > self._patience and self._can_load()):
            self._ahead = None
            return (self._served or self.model).encode_texts(texts)
        return encode_each(wrap(texts, self._prompt), partial(self._encode, tower), self.dim)

    def expect_texts(self, texts: Sequence[str]) -> None:
        """Begin to encode the texts of the next call of `encode_texts`, in a child process.

        It does nothing before `SOON` texts have been encoded, if the text tower is slow, or on a single core.
        """
        if self._tower and self._encoded > SOON and not self._lost and self._may_start:
            from search.encoder.ahead import TextsAhead  # not above: a single query needs none of what it imports

            self._may_start = False
            with suppress(OSError, RuntimeError):  # without it, this process encodes all texts
                self._ahead = TextsAhead(self._weights)
        if self._ahead:
            self._ahead.send([text for text in dict.fromkeys(wrap(texts, self._prompt)) if is_valid(text)])

    def _encode(self, tower: TextTower, texts: Sequence[str]) -> Vectors:
        """Return the vectors of valid Unicode texts, each of them once, float32 (n, dim) of unit length."""
        start = time.thread_time()
        ahead = self._ahead.receive() if self._ahead else None
        self._received = ahead.encoded if ahead else {}
        vectors = {text: each.vector for text, each in self._received.items()}
        rest = [text for text in texts if text not in vectors]
        vectors |= zip(rest, tower.encode(rest), strict=True)
        if len(texts) >= BATCH:
            seconds = time.thread_time() - start + (ahead.seconds if ahead else 0.0)
            self._encoded += len(texts)
            self._lost = max(0.0, self._lost + seconds - QUICK * len(texts))
        return np.stack([vectors[text] for text in texts])

    def truncations(self, texts: Sequence[str]) -> list[Truncation | None]:
        """Return for each text how much of it, within the prompt, the model reads; None if that is all of it."""
        tower = self._ready_tower()
        if tower is None:
            return (self._served or self.model).truncations(texts)
        received = self._received
        return [
            received[text].truncation if text in received else tower.truncation(text) if is_valid(text) else None
            for text in wrap(texts, self._prompt)
        ]

    def _can_load(self) -> bool:
        """Return whether the whole model can be loaded; it may have moved, which the text tower does not need."""
        if self._loads is None:
            try:
                self._loads = (self._served or self.model) is not None
            except CocoSearchError:
                self._loads = False
        return self._loads

    def _ready_tower(self) -> TextTower | None:
        with self._preparing:
            if self._tower is None and not self._tried and self._served is None:
                exact = self.model if self.model.dtype == "float32" else self._load("cpu")
                self._tower = cache_text_tower(exact)
                self._tried = True
            return self._tower


def cache_text_tower(encoder: ClipEncoder) -> TextTower | None:
    """Write the text tower of a model into the user's cache, so that the next query need not load the model.

    Return None if the layout of the model is not CLIP's, if a text model, a role or the model's own code has a part in
    the vectors of texts, if the model is in half precision, which rounds the weights, or, after a warning, if the tower
    cannot be written or differs from the model.
    """
    if not encoder.has_plain_texts or encoder.dtype != "float32":
        return None

    def verify(tower: TextTower) -> None:
        wrapped = wrap(PROBES, encoder.prompt)
        cosines = np.sum(encoder.encode_texts(PROBES) * tower.encode(wrapped), axis=1)
        if not (cosines >= SAME).all() or list(map(tower.truncation, wrapped)) != encoder.truncations(PROBES):
            raise EncoderError(f"the vectors of the text tower differ (lowest cosine {cosines.min():.6f})")

    existing = TextTower.open(encoder.weights)
    if existing and existing.header == describe(encoder.model, encoder.weights, encoder.limit):
        return existing
    try:
        written = write(encoder.model, encoder.weights, encoder.limit, verify)
    except (EncoderError, OSError) as error:
        import logging  # not above: most queries find a tower

        logging.getLogger(__name__).warning(
            "warning: every query has to load %s, since its text tower is not cached: %s", encoder.name, error
        )
        return None
    return TextTower.open(encoder.weights) if written else None
