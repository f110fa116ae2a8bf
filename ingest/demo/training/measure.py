"""Measure the recall of the tiny CLIP in both directions, during training or from a saved model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ingest.demo.training.towers import as_input, embed, load

if TYPE_CHECKING:
    from transformers import CLIPModel


def recalls(
    images: NDArray[np.float32], texts: NDArray[np.float32], cutoffs: tuple[int, ...] = (1, 5, 10)
) -> dict[str, float]:
    """Return recall in percent in both directions; `images` is (n, d), `texts` (n, c, d) with c captions an image.

    A query is a hit at k if any of its positives is among the first k.
    """
    count, each, width = texts.shape
    scores = images @ texts.reshape(count * each, width).T
    own = scores.reshape(count, count, each)[np.arange(count), np.arange(count)]  # (n, c): the positives
    image_ranks = 1 + (scores > own.max(axis=1)[:, None]).sum(axis=1)
    text_ranks = 1 + (scores > own.reshape(-1)[None, :]).sum(axis=0)
    recall = {}
    for name, ranks in (("image-to-text", image_ranks), ("text-to-image", text_ranks)):
        for cutoff in cutoffs:
            recall[f"{name} recall@{cutoff}"] = round(float((ranks <= cutoff).mean()) * 100, 2)
    return recall


def measure(model: CLIPModel, pixels: NDArray[np.uint8], ids: NDArray[np.int16]) -> dict[str, float]:
    """Return the recalls of a model in training, computed in float32."""
    import torch

    model.train(False)
    count, each, _ = ids.shape
    with torch.inference_mode():
        images = torch.cat([embed(model, as_input(pixels[at : at + 250]), None) for at in range(0, count, 250)])
        flat = torch.from_numpy(ids.reshape(count * each, -1))
        texts = torch.cat([embed(model, None, flat[at : at + 500]) for at in range(0, len(flat), 500)])
    model.train()
    return recalls(images.numpy(), texts.numpy().reshape(count, each, -1))


def measure_saved(folder: Path, annotations: Path) -> dict[str, float]:
    """Return the recalls of a saved model on the test split of a rendered data set, read from its JPEG files."""
    import torch

    model, processor, engine = load(folder)
    described = json.loads(annotations.read_text())
    test = [image for image in described["images"] if image["split"] == "test"]
    images, texts = [], []
    with torch.inference_mode():
        for image in test:
            with Image.open(annotations.parent / "images" / image["filepath"] / image["filename"]) as opened:
                pixels = processor(opened, return_tensors="pt")["pixel_values"]
            images.append(embed(model, pixels, None))
            captions = [sentence["raw"] for sentence in image["sentences"]]
            ids = engine(captions, padding=True, truncation=True, return_tensors="pt")["input_ids"]
            texts.append(embed(model, None, ids))
    return recalls(torch.cat(images).numpy(), torch.stack(texts).numpy())
