"""Choose the encoder of the queries to a collection: the model that made it, loaded at once or when it is needed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING

from search.encoder import Encoder
from search.encoder.lazy import PATIENCE, LazyEncoder
from search.index import CollectionSpec, ReadIndex

if TYPE_CHECKING:
    from search.encoder.clip import ClipEncoder


def encoder_for(
    spec: CollectionSpec,
    model: str | None = None,
    device: str = "auto",
    *,
    text_model: str | None = None,
    trust_remote_code: bool = False,
    patience: float = PATIENCE,
    index: ReadIndex | None = None,
    loading: Callable[[str], AbstractContextManager[object]] = nullcontext,
) -> Encoder:
    """Return the encoder of queries for a collection: the model that made it, or `model`, if its weights are the same.

    The remembered model is loaded only when it is needed: see `search.encoder.lazy`, which also defines `patience`.

    Args:
        text_model: embeds texts; the remembered one by default. If the collection remembers none, any model in the
            space of the photos can search these; the captions were embedded by another.
        trust_remote_code: allows code that comes with the models to run; only for a collection made with it.
        index: the index of the collection; if a running `search serve` has it open, that encodes what needs the model,
            unless `model` or `device` is given.
        loading: returns a context for the name of the model, in which it is loaded.

    Raises:
        EncoderError: a model cannot be loaded.
        SpecMismatch: it is another model, or the texts of the collection were not padded as it needs.
    """
    spec.check_trust(trust_remote_code)
    load = partial(_load, spec, model, text_model, trust_remote_code, loading)
    if not may_be_lazy(spec, model, device, text_model):
        return load(device)
    served = index.served_model if index and model is None and device == "auto" else None
    return LazyEncoder(spec, load, device, patience, served)


def may_be_lazy(spec: CollectionSpec, model: str | None, device: str, text_model: str | None) -> bool:
    """Return whether the encoder may do without loading the model for texts.

    It may if the text tower of the model that made the collection embeds the texts, which it can do alone on the CPU,
    and neither another model nor a GPU was requested.
    """
    is_remembered = text_model is None and model in (None, spec.model, str(spec.model_id))
    return spec.has_plain_texts and is_remembered and device in ("auto", "cpu")


def _load(
    spec: CollectionSpec,
    model: str | None,
    text_model: str | None,
    trust_remote_code: bool,
    loading: Callable[[str], AbstractContextManager[object]],
    device: str,
) -> ClipEncoder:
    """Load the model, and refuse one that did not make the collection."""
    from search.encoder.clip import ClipEncoder

    name = model or str(spec.model_id)
    own_texts = text_model is None or spec.text_model is not None  # not those of a model that made no captions
    with loading(name):
        encoder = ClipEncoder(
            name,
            text_model=text_model or (str(spec.text_model) if spec.text_model else None),
            trust_remote_code=trust_remote_code,
            device=device,
            prompt=spec.prompt,
            role="query",
            dim=spec.dim,
            padding=spec.padding if own_texts else None,
            roles=spec.roles if own_texts else None,
        )
    spec.check_model(encoder.model_id)
    if own_texts:
        spec.check_text_model(encoder.text_model_id)
        spec.check_padding(encoder.padding)
    return encoder
