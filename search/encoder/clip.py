"""Encode photos and texts as vectors in one space, with any sentence-transformers model that takes both.

sentence-transformers inspects a plain string to decide whether it is a text or the address of a picture, a sound or a
video, which it then opens or downloads. So every text is passed as `{"text": ...}`, which is not interpreted.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from search.encoder import Truncation
from search.encoder.device import choose_device, choose_dtype
from search.encoder.hub import ModelSource, first_line, locate, transport_errors
from search.encoder.images import (
    UNREADABLE,
    PendingVectors,
    PixelPath,
    Pixels,
    Preparation,
    encode_readable,
    find_pixel_path,
    memory_errors,
    unit,
)
from search.encoder.probe import probe
from search.encoder.properties import (
    UNLIMITED,
    Role,
    role_options,
    text_limit,
    text_module,
    text_modules,
    weights_hash,
)
from search.encoder.texts import check_prompt, encode_each, is_valid, wrap
from search.errors import EncoderError
from search.index.spec import ModelId, Padding
from search.records import Vectors

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modality_types import MultimodalInput

DEFAULT_MODEL = "clip-ViT-B-32"
MARKS = 3  # tokens that a tokenizer may add to a text: its start, its end, and a leading space


class ClipEncoder:
    """A sentence-transformers model that embeds images and texts in one space: an `Encoder`, and more for ingestion.

    Not thread-safe.

    Args:
        model: a folder, or a name on the Hugging Face hub (in `sentence-transformers/` if it has no organisation),
            perhaps with the revision to use: `NAME@REVISION`.
        text_model: another model that embeds the texts, in the same space, such as one for other languages.
        trust_remote_code: whether code that comes with the models may run.
        device: "auto" (cuda, else mps, else cpu) or a torch device such as "cuda:1".
        batch_size: inputs per forward pass; None means 128 on a GPU and 16 on a CPU (where more are not faster, and
            Ctrl-C would wait for them).
        dtype: of weights and inputs: "auto" (float16 on CUDA, else float32), "float32", "float16" or "bfloat16".
        prompt: wraps every text, with `{}` for the text itself, such as "a photo of {}".
        role: what inputs are, for a model that encodes queries and documents differently.
        dim, padding, roles: known from an earlier use of the same weights, for example from the specification of a
            collection. If `dim` or `padding` is None, the model is probed, which takes about a second. Texts are padded
            to the longest of their batch or, as SigLIP needs, to the full length. `roles` is whether the role makes a
            difference; if not, inputs are encoded without one.

    Raises:
        EncoderError: a model does not exist, the hub cannot be reached, a model needs code of its own that may not run,
            the models do not take images and texts or differ in dimensions, or the vector of an input depends on the
            other inputs in its batch.
    """

    def __init__(
        self,
        model: str = DEFAULT_MODEL,
        *,
        text_model: str | None = None,
        trust_remote_code: bool = False,
        device: str = "auto",
        batch_size: int | None = None,
        dtype: str = "auto",
        prompt: str | None = None,
        role: Role = "document",
        dim: int | None = None,
        padding: Padding | None = None,
        roles: bool | None = None,
    ) -> None:
        if prompt is not None:
            check_prompt(prompt)
        self.prompt = prompt
        self.trust_remote_code = trust_remote_code
        sources = [locate(each) for each in (model, text_model) if each is not None]  # before either is loaded
        models = [_load(source, choose_device(device), trust_remote_code) for source in sources]
        ids = [
            ModelId(model=source.name, revision=source.revision, weights=weights_hash(loaded))
            for source, loaded in zip(sources, models, strict=True)
        ]
        self._models = models
        self.model, self.model_id = models[0], ids[0]
        self.text_side = models[-1]
        self.text_model_id = ids[1] if text_model is not None else None
        for module in text_modules(self.text_side):
            if limit := text_limit(module):
                module.max_seq_length = limit
        self.batch_size = batch_size or (16 if self.model.device.type == "cpu" else 128)
        final_dtype = choose_dtype(dtype, self.model.device)
        self.padding: Padding = padding or "longest"
        self.dim = dim or 0
        self.role: Role | None = None  # while the model is probed
        self.roles = bool(roles)
        if dim is None or padding is None:
            for each in models:
                each.float()  # half precision is too coarse for a comparison
            probe(self, partial(self._embed_images, batch_size=2), self._embed_texts, roles)
        if self.roles:
            self.role = role
        for each in models:
            each.to(final_dtype)
        self.dtype = str(self.model.dtype).removeprefix("torch.")
        self.device = str(self.model.device)

    @property
    def name(self) -> str:
        return self.model_id.model

    @property
    def names(self) -> str:
        """The names of the models, for messages."""
        return f"{self.name} with {self.text_model_id.model}" if self.text_model_id else self.name

    @property
    def weights(self) -> str:
        return self.model_id.weights

    @property
    def limit(self) -> int | None:
        """The number of tokens of a text that the model reads; None if there is no limit."""
        return text_limit(text_module(self.text_side, self.role))

    @property
    def has_plain_texts(self) -> bool:
        """Whether texts are embedded by the text tower of the model, without a role or code of the model's own."""
        return not (self.text_model_id or self.trust_remote_code or self.roles)

    @cached_property
    def _pixels(self) -> PixelPath | None:
        return None if self.roles else find_pixel_path(self.model)  # which does not support roles

    @property
    def _image_role(self) -> Role | None:
        """The role of pictures: "document", even in a query, if the model does not take pictures as queries."""
        return "document" if self.role == "query" and not self._takes_pictures_as_queries else self.role

    @cached_property
    def _takes_pictures_as_queries(self) -> bool:
        try:
            self.model.preprocess([Image.new("RGB", (64, 48), "grey")], **role_options(self.model, "query"))
        except UNREADABLE:
            return False
        return True

    @property
    def texts_at_once(self) -> int:
        """The number of texts per forward pass: more than photos, since they take less memory."""
        return 4 * self.batch_size

    @property
    def preparation(self) -> Preparation | None:
        """The preparation of arrays that `start` takes; None if only the model's own processor can prepare photos."""
        return self._pixels.preparation if self._pixels else None

    def start(self, photos: Pixels | Sequence[Image.Image]) -> PendingVectors:
        """Start encoding photos; on a GPU this returns before they are encoded.

        `photos`: RGB images or, if the model has a `preparation`, its results, uint8 (n, height, width, 3), which may
        be overwritten as soon as this returns. The vectors are the same.
        """
        if self._pixels is not None and isinstance(photos, np.ndarray):
            return self._pixels.start(photos, self.batch_size)
        return PendingVectors([encode_readable(self._embed_images, list(photos), self.dim)])

    def encode_images(self, images: Pixels | Sequence[Image.Image]) -> Vectors:
        """Return vectors of RGB images, or of results of `preparation`; NaN for one without a usable vector.

        They are float32 (n, dim) of unit length. In half precision, an image without a usable vector is retried in
        float32.
        """
        return self._with_retry(lambda some: self.start(some).vectors(), images)

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Return vectors of texts, float32 (n, dim) of unit length; NaN for one without a usable vector.

        Equal texts have equal vectors. Texts that are too long are truncated: see `truncations`.
        In half precision, a text without a usable vector is retried in float32.
        """
        return encode_each(wrap(texts, self.prompt), self._encode_once, self.dim)

    def _encode_once(self, texts: list[str]) -> Vectors:
        return self._with_retry(
            lambda some: PendingVectors([encode_readable(self._embed_texts, some, self.dim)]).vectors(), texts
        )

    def truncations(self, texts: Sequence[str]) -> list[Truncation | None]:
        """Return for each text how much of it, within the prompt, the model reads; None if that is all of it."""
        limit, wrapped = self.limit, wrap(texts, self.prompt)
        if limit is None:
            return [None] * len(wrapped)
        # A token is at least one ASCII letter, so most texts need not be tokenised a second time.
        prefix = role_options(self.text_side, self.role)["prompt"] or ""
        suspects = {text for text in wrapped if len(prefix + text) + MARKS > limit or not (prefix + text).isascii()}
        readable = list(filter(is_valid, suspects))
        lengths = dict(zip(readable, self._lengths(readable), strict=True))
        return [Truncation(limit, length) if (length := lengths.get(text, 0)) > limit else None for text in wrapped]

    def _with_retry(self, encode: Callable[[Any], Vectors], inputs: Pixels | Sequence[Any]) -> Vectors:
        """Encode `inputs`; retry those without a usable vector one by one in float32, whose range is wider."""
        vectors = encode(inputs)
        unusable = np.flatnonzero(np.isnan(vectors).any(axis=1)).tolist()
        if unusable and self.dtype != "float32":
            with self._in_float32():
                for row in unusable:
                    vectors[row] = encode(inputs[row : row + 1])[0]
        return vectors

    @contextmanager
    def _in_float32(self) -> Iterator[None]:
        """Compute in float32 within this block."""
        import torch

        dtype = self.model.dtype
        for model in self._models:
            model.to(torch.float32)
        try:
            yield
        finally:
            for model in self._models:
                model.to(dtype)

    def _lengths(self, texts: list[str]) -> list[int]:
        """Return the number of tokens of each text; 0 for one that the tokenizer cannot read."""
        if not texts:
            return []
        whole = {"text": {"padding": False, "max_length": UNLIMITED}, "common": {"return_tensors": None}}
        options = role_options(self.text_side, self.role)
        try:
            tokens = self.text_side.preprocess(as_texts(texts), processing_kwargs=whole, **options)
        except UNREADABLE:
            return [0] if len(texts) == 1 else [self._lengths([text])[0] for text in texts]
        return [len(ids) for ids in tokens["input_ids"]]

    def _embed_texts(self, texts: list[str]) -> torch.Tensor:
        """Return float32 (n, dim) of unit length or NaN, on the model's device. Raises what the model raises."""
        import torch

        if not texts:
            return torch.empty(0, self.dim)
        full: dict[str, Any] = {"processing_kwargs": {"text": {"padding": "max_length"}}}
        with memory_errors():
            vectors = self.text_side.encode(
                as_texts(texts),
                batch_size=self.texts_at_once,
                show_progress_bar=False,
                convert_to_tensor=True,
                **(full if self.padding == "max_length" else {}),
                **role_options(self.text_side, self.role),
            )
        return unit(vectors.float())

    def _embed_images(self, images: list[Image.Image], batch_size: int | None = None) -> torch.Tensor:
        """Return float32 (n, dim) of unit length or NaN, on the model's device, using the model's own processor."""
        import torch

        if not images:
            return torch.empty(0, self.dim)
        size, parts = batch_size or self.batch_size, []
        options = role_options(self.model, self._image_role) if self._image_role else {}
        with memory_errors(), torch.inference_mode():
            for start in range(0, len(images), size):
                features = self.model.preprocess(images[start : start + size], **options)
                # sentence-transformers leaves inputs in float32 even if the weights are in half precision.
                for name, value in features.items():
                    if isinstance(value, torch.Tensor):
                        to_float = self.model.dtype if value.is_floating_point() else value.dtype
                        features[name] = value.to(self.model.device, to_float)
                parts.append(self.model(features)["sentence_embedding"].float())
        return unit(torch.cat(parts))


def as_texts(texts: Sequence[str]) -> list[MultimodalInput]:
    """Wrap texts so that sentence-transformers treats them as texts whatever they contain."""
    return [{"text": text} for text in texts]


def _load(source: ModelSource, device: torch.device, trust_remote_code: bool) -> SentenceTransformer:
    from safetensors import SafetensorError
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.getLogger("sentence_transformers").setLevel(logging.ERROR)
    from sentence_transformers import SentenceTransformer

    # Users of this project cannot act on warnings of the model's own code.
    warnings.filterwarnings("ignore", module=r"(torch|transformers|sentence_transformers)\.")
    broken: tuple[type[Exception], ...] = (OSError, ValueError, KeyError, ImportError, RuntimeError)
    broken += (TypeError, AttributeError, SafetensorError, *transport_errors())
    try:
        model = SentenceTransformer(
            source.name,
            device=str(device),
            revision=source.revision,
            local_files_only=source.cached,
            trust_remote_code=trust_remote_code,
            processor_kwargs={"backend": "pil"},  # torchvision's resize gives other vectors
        )
    except broken as error:
        if isinstance(error, OSError) and source.cached and source.revision:
            return _load(replace(source, folder=None), device, trust_remote_code)  # resume an interrupted download
        if "trust_remote_code" in str(error) and not trust_remote_code:
            raise EncoderError(
                f"the model {source.name} comes with code of its own: add --trust-remote-code if you trust it"
            ) from error
        raise EncoderError(f"cannot load the model {source.name}: {first_line(error)}") from error
    return model.eval()
