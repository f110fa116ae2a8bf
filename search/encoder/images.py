"""The fast path for photos: send bytes to the device, and scale and normalise them there.

sentence-transformers converts photos to float32 tensors one by one inside its batch loop. Here workers prepare photos
as bytes (a quarter of the size), and only the steps that `Preparation` leaves out, scaling and normalising numbers,
run on the device. `find_pixel_path` chooses it only if the model's own processor computes the same numbers in a test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from search.errors import EncoderError
from search.records import Vectors

if TYPE_CHECKING:
    import torch

Pixels = npt.NDArray[np.uint8]
"""Photos prepared by a `Preparation`: uint8 (height, width, 3), or (n, height, width, 3) for several."""

Model = Any  # a SentenceTransformer, which only search/encoder/clip.py imports

T = TypeVar("T")

UNREADABLE = (TypeError, ValueError, LookupError)  # raised by processors and tokenizers for inputs they cannot read
SHORTEST = 1e-12  # vectors of at most this length have no direction
TOLERANCE = 1e-5  # between our numbers and the processor's, whose magnitude is about 1
PROBES = ((37, 23), (23, 37), (300, 301))  # (width, height) of the pictures for comparing them


@dataclass(frozen=True, slots=True)
class Preparation:
    """The part of a model's image processor that works on bytes: resize a photo, then crop its centre.

    `size` is the (width, height) to resize to, or the length of the short side; `crop` is (width, height) or None.
    """

    size: tuple[int, int] | int
    crop: tuple[int, int] | None
    resample: Image.Resampling

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of the result, (height, width, 3)."""
        width, height = self.crop or (self.size if isinstance(self.size, tuple) else (self.size, self.size))
        return height, width, 3

    def apply(self, image: Image.Image) -> Pixels:
        """Resize and crop an RGB image; return uint8 (height, width, 3)."""
        width, height = image.size
        if isinstance(self.size, tuple):
            size = self.size
        elif width <= height:
            size = self.size, int(self.size * height / width)
        else:
            size = int(self.size * width / height), self.size
        image = image.resize(size, self.resample)
        if self.crop is not None:
            left, top = (size[0] - self.crop[0]) // 2, (size[1] - self.crop[1]) // 2
            image = image.crop((left, top, left + self.crop[0], top + self.crop[1]))
        return np.asarray(image)


@dataclass(frozen=True, slots=True)
class PendingVectors:
    """Vectors that the device may still be computing."""

    parts: list[torch.Tensor]

    def vectors(self) -> Vectors:
        """Wait for the device and return float32 (n, dim) of unit length; NaN for an input without a usable vector.

        Raises:
            EncoderError: the device runs out of memory.
        """
        import torch

        with memory_errors():
            return np.ascontiguousarray(torch.cat(self.parts).cpu().numpy())


def unit(vectors: torch.Tensor) -> torch.Tensor:
    """Scale vectors (n, dim) to unit length; those that are infinite, NaN or zero become rows of NaN."""
    import torch

    lengths = vectors.norm(dim=1, keepdim=True)
    usable = lengths.isfinite() & (lengths > SHORTEST)
    return torch.where(usable, vectors / lengths, torch.nan)


def encode_readable(encode: Callable[[list[T]], torch.Tensor], inputs: list[T], dim: int) -> torch.Tensor:
    """Encode all inputs at once or, if the model cannot read one of them, one by one.

    Returns:
        float32 (n, dim), with a row of NaN for each input that the model cannot read.
    """
    import torch

    try:
        return encode(inputs)
    except UNREADABLE:
        if len(inputs) == 1:
            return torch.full((1, dim), torch.nan)
        return torch.cat([encode_readable(encode, [one], dim).cpu() for one in inputs])


@contextmanager
def memory_errors() -> Iterator[None]:
    """Convert torch's out-of-memory error to an EncoderError."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise EncoderError("the device ran out of memory: use a smaller --batch-size") from error


@dataclass(frozen=True, slots=True)
class PixelPath:
    """A model's image tower, with the numbers by which its processor scales: (byte * scale - mean) / deviation."""

    model: Model
    preparation: Preparation
    scale: float
    mean: torch.Tensor
    deviation: torch.Tensor
    template: dict[str, Any]

    def numbers(self, pixels: Pixels) -> torch.Tensor:
        """Return float32 (n, 3, height, width) on the model's device."""
        import torch

        device = self.model.device
        tensor = torch.from_numpy(np.require(pixels, requirements=["C", "W"]))
        if device.type == "cuda":
            tensor = tensor.pin_memory()  # a copy, so that the caller may continue during the transfer
        moved = tensor.to(device, non_blocking=device.type == "cuda").permute(0, 3, 1, 2)
        return moved.float().mul_(self.scale).sub_(self.mean).div_(self.deviation)

    def start(self, pixels: Pixels, batch_size: int) -> PendingVectors:
        import torch

        parts = []
        with memory_errors(), torch.inference_mode():
            for start in range(0, len(pixels), batch_size):
                numbers = self.numbers(pixels[start : start + batch_size]).to(self.model.dtype)
                out = self.model({**self.template, "pixel_values": numbers})
                parts.append(unit(out["sentence_embedding"].float()))
        return PendingVectors(parts)


def find_pixel_path(model: Model) -> PixelPath | None:
    """Return the fast path of a model, or None if its processor computes other numbers."""
    import torch

    processor = _image_processor(model)
    preparation = _preparation(processor)
    if preparation is None or not (processor.do_rescale and processor.do_normalize):
        return None

    def per_channel(values: list[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float32, device=model.device).view(1, 3, 1, 1)

    path = PixelPath(
        model,
        preparation,
        float(processor.rescale_factor),
        per_channel(processor.image_mean),
        per_channel(processor.image_std),
        {},
    )
    noise = np.random.default_rng(0)
    for width, height in PROBES:
        probe = Image.fromarray(noise.integers(0, 256, (height, width, 3), dtype=np.uint8))
        theirs = model.preprocess([probe])
        if [name for name, value in theirs.items() if isinstance(value, torch.Tensor)] != ["pixel_values"]:
            return None
        ours = path.numbers(preparation.apply(probe)[np.newaxis]).cpu()
        if ours.shape != theirs["pixel_values"].shape:
            return None
        if (ours - theirs["pixel_values"]).abs().max() > TOLERANCE:
            return None
        path.template.update({name: value for name, value in theirs.items() if name != "pixel_values"})
    return path


def _image_processor(model: Model) -> Any:
    """Return the image processor of a model; None if it has none, or more than one."""
    processors = {}
    for module in model.modules():  # several modules may share one
        processor = getattr(module, "processor", None)
        processor = getattr(processor, "image_processor", processor)
        if hasattr(processor, "image_mean"):
            processors[id(processor)] = processor
    return next(iter(processors.values())) if len(processors) == 1 else None


def _preparation(processor: Any) -> Preparation | None:
    """Return the resizing and cropping of a CLIP-like processor, or None if it cannot be expressed as a Preparation."""
    if processor is None or not processor.do_resize or getattr(processor, "do_pad", None):
        return None
    size, crop = processor.size, processor.crop_size if processor.do_center_crop else None
    if size is None:
        return None  # it depends on the shape of the photo
    if size.height and size.width:
        scaled: tuple[int, int] | int = (size.width, size.height)
    elif size.shortest_edge and not size.longest_edge:
        scaled = size.shortest_edge
    else:
        return None
    shortest = scaled if isinstance(scaled, int) else min(scaled)
    if crop is None and isinstance(scaled, int):
        return None  # pictures of different shapes do not fit into one batch
    if crop is not None and max(crop.height, crop.width) > shortest:
        return None  # the processor would pad with black
    cropped = None if crop is None else (crop.width, crop.height)
    return Preparation(scaled, cropped, Image.Resampling(processor.resample))
