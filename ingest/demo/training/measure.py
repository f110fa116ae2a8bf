"""Measure the tiny CLIP, during training or from a saved model: recall of sentences, and precision of phrases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ingest.demo.scenes.captions import captions
from ingest.demo.scenes.render import picture
from ingest.demo.scenes.world import Scene
from ingest.demo.training.corpus import Corpus
from ingest.demo.training.phrases import PHRASES, precision, shown
from ingest.demo.training.towers import as_input, embed, load, token_ids

if TYPE_CHECKING:
    from transformers import CLIPModel

RECALL_SCENES = 1000


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


def measure(model: CLIPModel, val: Corpus, known: list[str]) -> dict[str, float]:
    """Return the scores of a model in training on a corpus, computed in float32; `known` is its vocabulary."""
    import torch

    def texts(written: list[str]) -> NDArray[np.float32]:
        ids = token_ids([[text] for text in written], known)[:, 0]
        parts = [embed(model, None, torch.from_numpy(ids[at : at + 500])) for at in range(0, len(ids), 500)]
        vectors: NDArray[np.float32] = torch.cat(parts).numpy()
        return vectors

    model.train(False)
    with torch.inference_mode():
        pixels = val.pixels
        parts = [embed(model, as_input(pixels[at : at + 250]), None) for at in range(0, len(pixels), 250)]
        scores = _scores(torch.cat(parts).numpy(), val.scenes, texts)
    model.train()
    return scores


def measure_saved(folder: Path, annotations: Path, scenes: Sequence[Scene]) -> dict[str, float]:
    """Return the scores of a saved model on the test split of a rendered data set, read from its JPEG files.

    `scenes` are those of the test split, in the same order.
    """
    import torch

    model, processor, engine = load(folder)
    images = annotations.parent / "images"

    def texts(written: list[str]) -> NDArray[np.float32]:
        encoded = (engine([text], truncation=True, return_tensors="pt")["input_ids"] for text in written)
        vectors: NDArray[np.float32] = torch.cat([embed(model, None, ids) for ids in encoded]).numpy()
        return vectors

    vectors = []
    with torch.inference_mode():
        for scene in scenes:
            with Image.open(images / picture(scene)) as opened:
                vectors.append(embed(model, processor(opened, return_tensors="pt")["pixel_values"], None))
        return _scores(torch.cat(vectors).numpy(), scenes, texts)


def _scores(
    images: NDArray[np.float32], scenes: Sequence[Scene], embedded: Callable[[list[str]], NDArray[np.float32]]
) -> dict[str, float]:
    """Return recall over at most the first 1,000 scenes, and the precision of phrases over all of them."""
    gallery = scenes[:RECALL_SCENES]
    sentences = embedded([text for scene in gallery for text in captions(scene)])
    found = recalls(images[: len(gallery)], sentences.reshape(len(gallery), -1, images.shape[1]))
    return found | precision(images, embedded([str(phrase) for phrase in PHRASES]), shown(scenes).fits)
