"""From photos and sentences to vectors of one space: any sentence-transformers model that takes both."""

from __future__ import annotations

import hashlib
import logging
import urllib.error
import urllib.request
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from search.errors import EncoderError
from search.index import Vectors
from search.pixels import Preparation
from search.tensors import PendingVectors, PixelPath, enough_memory, find_pixel_path
from search.text import shown

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

DEFAULT_MODEL = "clip-ViT-B-32"
HUB_SECONDS = 10  # how long to wait for the model hub's first answer


class Encoder(Protocol):
    """What ingestion and search need of a model. Vectors are float32 (n, dim) of unit length."""

    @property
    def name(self) -> str: ...
    @property
    def dim(self) -> int: ...
    def encode_images(self, images: Sequence[Image.Image]) -> Vectors: ...
    def encode_texts(self, texts: Sequence[str]) -> Vectors: ...


class ClipEncoder:
    """A sentence-transformers model that embeds images and texts into one space.

    Args:
        model: a folder, or a name on the Hugging Face hub (no organisation means `sentence-transformers/`).
        device: "auto" (cuda, else mps, else cpu) or a torch device such as "cuda:1".
        batch_size: inputs per forward pass; None takes 128 on a GPU and 16 on a CPU (where a larger one is not faster,
            and Ctrl-C would wait for it).
        dtype: "auto" (float16 on CUDA, else float32), "float32", "float16" or "bfloat16": weights and inputs.
        prompt: wraps every text, with `{}` for the text itself, such as "a photo of {}".
        dim: the number of dimensions, where the model is known to be a usable one; otherwise it is tried out, which
            takes a second.

    Raises:
        EncoderError: there is no such model, the hub cannot be reached, or it does not take both images and texts.
    """

    def __init__(
        self,
        model: str = DEFAULT_MODEL,
        *,
        device: str = "auto",
        batch_size: int | None = None,
        dtype: str = "auto",
        prompt: str | None = None,
        dim: int | None = None,
    ) -> None:
        if prompt is not None and prompt.count("{}") != 1:
            raise EncoderError(f"the prompt {prompt!r} needs exactly one {{}}, the place of the text")
        source = locate(model)
        self.name = source.name
        self.revision = source.revision
        self.prompt = prompt
        self._model = _load(source, choose_device(device))
        self.weights = weights_hash(self._model)
        self._model.to(choose_dtype(dtype, self._model.device))
        self.dtype = str(self._model.dtype).removeprefix("torch.")
        self.device = str(self._model.device)
        self.batch_size = batch_size or (16 if self._model.device.type == "cpu" else 128)
        self.dim = dim or self._dimension()

    @cached_property
    def _pixels(self) -> PixelPath | None:
        return find_pixel_path(self._model)

    @property
    def texts_at_once(self) -> int:
        """How many texts go into one forward pass: more than photos, since they are lighter."""
        return 4 * self.batch_size

    @property
    def preparation(self) -> Preparation | None:
        """What `start` takes as done to arrays of pixels; None where only the model's own processor can do it."""
        return self._pixels.preparation if self._pixels else None

    def start(self, photos: npt.NDArray[np.uint8] | Sequence[Image.Image]) -> PendingVectors:
        """Begins to encode photos; on a GPU this returns before it is done.

        `photos`: RGB images, or, where there is a `preparation`, what it made of them, uint8 (n, height, width, 3),
        which may be written again as soon as this returns. The vectors are the same.
        """
        if self._pixels is not None and isinstance(photos, np.ndarray):
            return self._pixels.start(photos, self.batch_size)
        return PendingVectors([self._embed_images(list(photos))])

    def encode_images(self, images: Sequence[Image.Image]) -> Vectors:
        """Vectors float32 (n, dim) of unit length of RGB images."""
        return self.start(images).vectors()

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Vectors float32 (n, dim) of unit length; the same text twice gives the same vector twice.

        Texts that are too long lose their ends: `too_long` says which.
        """
        wrapped = self._wrap(texts)
        once = list(dict.fromkeys(wrapped))
        row = {text: number for number, text in enumerate(once)}
        vectors = PendingVectors([self._embed_texts(once)]).vectors()
        return vectors[[row[text] for text in wrapped]]

    def too_long(self, texts: Sequence[str]) -> list[bool]:
        """Which texts, in their prompt, are longer than the model reads."""
        limit, wrapped = self._model.max_seq_length, self._wrap(texts)
        too_long = [False] * len(wrapped)
        # A token is at least one byte, so only longer texts can be cut: the others need not be tokenised twice.
        suspects = [row for row, text in enumerate(wrapped) if limit and len(text.encode()) + 2 > limit]
        if suspects and limit:
            lengths = {"text": {"max_length": limit + 1}}
            tokens = self._model.preprocess([wrapped[row] for row in suspects], processing_kwargs=lengths)
            for row, length in zip(suspects, tokens["attention_mask"].sum(dim=1).tolist(), strict=True):
                too_long[row] = length > limit
        return too_long

    def _wrap(self, texts: Sequence[str]) -> list[str]:
        return [self.prompt.replace("{}", text) if self.prompt else text for text in texts]

    def _embed_texts(self, texts: list[str]) -> torch.Tensor:
        """float32 (n, dim) of unit length, on the model's device."""
        import torch

        if not texts:
            return torch.empty(0, self.dim)
        with enough_memory():
            vectors = self._model.encode(
                texts, batch_size=self.texts_at_once, show_progress_bar=False, convert_to_tensor=True
            )
        return torch.nn.functional.normalize(vectors.float(), dim=1)

    def _embed_images(self, images: list[Image.Image]) -> torch.Tensor:
        """float32 (n, dim) of unit length, on the model's device; by the model's own processor."""
        import torch

        if not images:
            return torch.empty(0, self.dim)
        parts = []
        with enough_memory(), torch.inference_mode():
            for start in range(0, len(images), self.batch_size):
                features = self._model.preprocess(images[start : start + self.batch_size])
                # sentence-transformers leaves float32 inputs beside weights in half precision.
                for name, value in features.items():
                    if isinstance(value, torch.Tensor):
                        to_float = self._model.dtype if value.is_floating_point() else value.dtype
                        features[name] = value.to(self._model.device, to_float)
                parts.append(self._model(features)["sentence_embedding"].float())
        return torch.nn.functional.normalize(torch.cat(parts), dim=1)

    def _dimension(self) -> int:
        grey = Image.new("RGB", (64, 64), "grey")
        try:
            image, text = self._embed_images([grey])[0], self._embed_texts(["grey"])[0]
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise EncoderError(
                f"{self.name} does not embed both images and texts ({_first_line(error)}): "
                "use a CLIP-like sentence-transformers model"
            ) from error
        if image.shape != text.shape:
            raise EncoderError(
                f"{self.name} embeds images in {len(image)} dimensions and texts in {len(text)}: not one space"
            )
        return int(image.shape[0])


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where a model is loaded from: a hub name with its revision, or an absolute folder."""

    name: str
    revision: str | None
    cached: bool


def locate(model: str) -> ModelSource:
    """Finds a model without loading it.

    Raises:
        EncoderError: no such folder, no such name, or the hub is out of reach and the model is not in the cache.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        if not (folder / "modules.json").exists() and not (folder / "config.json").exists():
            raise EncoderError(f"{model} holds no sentence-transformers model (no modules.json): check --model")
        place = str(folder.resolve())
        if shown(place) != place:  # the libraries that read weights take no other names
            raise EncoderError(f"the name of the model folder {model} is not valid UTF-8: rename it")
        return ModelSource(place, None, cached=True)
    if folder.is_absolute() or model.startswith((".", "~")) or model.count("/") > 1:
        raise EncoderError(f"no model folder {model}: check --model")
    return _locate_on_hub(model if "/" in model else f"sentence-transformers/{model}")


def _locate_on_hub(name: str) -> ModelSource:
    from huggingface_hub import HfApi, constants, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    elsewhere = "give a model folder with --model PATH"
    absent = f"the model {name} is not in this machine's cache"
    try:
        for file in ("modules.json", "config.json"):
            if isinstance(found := try_to_load_from_cache(name, file), str):
                return ModelSource(name, Path(found).parent.name, cached=True)
        if constants.HF_HUB_OFFLINE:
            raise EncoderError(f"{absent} and HF_HUB_OFFLINE is set: unset it, or {elsewhere}")
        if problem := _unreachable(constants.ENDPOINT):  # the hub's own client would try again for a minute
            raise EncoderError(f"{absent} and the model hub cannot be reached ({problem}): {elsewhere}")
        return ModelSource(name, HfApi().model_info(name, timeout=HUB_SECONDS).sha, cached=False)
    except HFValidationError:
        raise EncoderError(f"no model folder {name}, and no hub has models of such a name: check --model") from None
    except _transport_errors() as error:
        if not isinstance(error, HfHubHTTPError):
            raise EncoderError(f"{absent} and the model hub broke off ({_first_line(error)}): {elsewhere}") from error
        status = error.response.status_code
        raise EncoderError(
            f"the model hub gives no model {name} (HTTP {status}): check the name, or {elsewhere}"
        ) from error


def _transport_errors() -> tuple[type[Exception], ...]:
    """What the hub's client raises when a connection breaks: the base of its own errors, in whichever HTTP library."""
    from huggingface_hub.errors import HfHubHTTPError

    return tuple(base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError") or (OSError,)


def _unreachable(url: str) -> str | None:
    """Why nothing answers at `url`, or None where something does."""
    try:
        with urllib.request.urlopen(url, timeout=HUB_SECONDS):
            return None
    except urllib.error.HTTPError:
        return None
    except OSError as error:
        return str(getattr(error, "reason", error))


def _load(source: ModelSource, device: torch.device) -> SentenceTransformer:
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.getLogger("sentence_transformers").setLevel(logging.ERROR)
    from sentence_transformers import SentenceTransformer

    # What the model's own code warns of is nothing that a user of this project can change.
    warnings.filterwarnings("ignore", module=r"(torch|transformers|sentence_transformers)\.")
    broken: tuple[type[Exception], ...] = (OSError, ValueError, KeyError, ImportError, RuntimeError)
    broken += _transport_errors()
    try:
        model = SentenceTransformer(
            source.name,
            device=str(device),
            revision=source.revision,
            local_files_only=source.cached,
            processor_kwargs={"backend": "pil"},  # torchvision's resize gives other vectors
        )
    except broken as error:
        if isinstance(error, OSError) and source.cached and source.revision:
            return _load(replace(source, cached=False), device)  # an interrupted download: fetch the rest
        raise EncoderError(f"cannot load the model {source.name}: {_first_line(error)}") from error
    return model.eval()


def weights_hash(model: SentenceTransformer) -> str:
    """SHA-256 over the names, types, shapes and bytes of all tensors: the model's identity wherever it lies."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def choose_device(name: str) -> torch.device:
    """The device of a name; "auto" is cuda, else mps, else cpu. Raises EncoderError where there is none."""
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise EncoderError(f"no device {name!r} here ({_first_line(error)}): use --device auto or cpu") from error
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The number type of a name; "auto" is float16 on CUDA, else float32. Raises EncoderError for any other."""
    import torch

    if name == "auto":
        name = "float16" if device.type == "cuda" else "float32"  # half precision is slow or coarse elsewhere
    known = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    if name not in known:
        raise EncoderError(f"no dtype {name!r}: use auto, {', '.join(known)}")
    return known[name]


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
