"""Choose the device and the number type of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search.encoder.hub import first_line
from search.errors import EncoderError

if TYPE_CHECKING:
    import torch


def choose_device(name: str) -> torch.device:
    """Return the device with this name; "auto" is cuda, else mps, else cpu. Raises EncoderError if it is missing."""
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise EncoderError(
            f"the device {name!r} is not available ({first_line(error)}): use --device auto or cpu"
        ) from error
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the dtype with this name; "auto" is float16 on CUDA, else float32. Raises EncoderError for others."""
    import torch

    if name == "auto":
        name = "float16" if device.type == "cuda" else "float32"  # elsewhere, half precision is slow or coarse
    known = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    if name not in known:
        raise EncoderError(f"unknown dtype {name!r}: use auto, {', '.join(known)}")
    return known[name]
