"""The tiny CLIP: its architecture, its tokenizer, its processor, and the folder that it is saved in."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ingest.demo.scenes.captions import words

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import CLIPModel, PreTrainedTokenizerFast
    from transformers.models.clip import CLIPImageProcessorPil

GRID = 8  # patches along a side
TOKENS = 40  # longest text, both end marks included
PAD, UNKNOWN, START, END = range(4)
MARKS = ("<|pad|>", "<|unk|>", "<|startoftext|>", "<|endoftext|>")
MEAN = STD = (0.5, 0.5, 0.5)
MODULE = "0_CLIPModel"  # as in sentence-transformers/clip-ViT-B-32


def vocabulary(texts: Iterable[str]) -> list[str]:
    """Return the marks, then every word of the texts in alphabetical order; a plural is its singular and "##s"."""
    known = {word for text in texts for word in words(text)}
    singular = {word for word in known if not (word.endswith("s") and word[:-1] in known)}
    return [*MARKS, "##s", *sorted(singular)]


def tokenizer(vocabulary: list[str]) -> PreTrainedTokenizerFast:
    """Return a tokenizer of whole words in lower case; a word outside the vocabulary becomes one unknown token."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    numbers = {token: number for number, token in enumerate(vocabulary)}
    engine = Tokenizer(models.WordPiece(numbers, unk_token=MARKS[UNKNOWN], max_input_chars_per_word=40))
    engine.normalizer = normalizers.Sequence(
        [
            normalizers.NFD(),
            normalizers.StripAccents(),
            normalizers.Lowercase(),
            normalizers.Replace(Regex(r"[^\p{L}\p{N}]+"), " "),
        ]
    )
    engine.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    engine.post_processor = processors.TemplateProcessing(
        single=f"{MARKS[START]} $A {MARKS[END]}",
        special_tokens=[(MARKS[START], START), (MARKS[END], END)],
    )
    make: Any = PreTrainedTokenizerFast  # its constructor has no type hints
    fast: PreTrainedTokenizerFast = make(
        tokenizer_object=engine,
        pad_token=MARKS[PAD],
        unk_token=MARKS[UNKNOWN],
        bos_token=MARKS[START],
        eos_token=MARKS[END],
        model_max_length=TOKENS,
    )
    return fast


def towers(words_known: int, side: int) -> CLIPModel:
    """Return an untrained `CLIPModel` of 1.4 million parameters for pictures of `side` by `side` pixels."""
    from transformers import CLIPConfig, CLIPModel

    shape = {"hidden_act": "gelu", "projection_dim": 128, "num_attention_heads": 4}
    text = {
        **shape,
        "vocab_size": words_known,
        "hidden_size": 96,
        "intermediate_size": 384,
        "num_hidden_layers": 3,
        "max_position_embeddings": TOKENS,
        "pad_token_id": PAD,
        "bos_token_id": START,
        "eos_token_id": END,
    }
    vision = {
        **shape,
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": 5,
        "image_size": side,
        "patch_size": side // GRID,
    }
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=128))


def for_side(weights: dict[str, Tensor], side: int) -> dict[str, Tensor]:
    """Return the weights of `towers` for pictures of `side` pixels; each patch grows with the picture.

    The filters are resized so that an enlarged patch gives what the patch gave (FlexiViT, Beyer et al. 2023).
    """
    import torch
    from torch.nn.functional import interpolate

    name = next(name for name in weights if name.endswith("patch_embedding.weight"))
    filters = weights[name]  # (hidden, 3, patch, patch)
    before, after = filters.shape[-1], side // GRID
    pixels = torch.eye(before**2).reshape(before**2, 1, before, before)
    enlarge = interpolate(pixels, (after, after), mode="bicubic", align_corners=False).reshape(before**2, after**2)
    resized = filters.reshape(-1, before**2) @ torch.linalg.pinv(enlarge).T
    return {**weights, name: resized.reshape(*filters.shape[:2], after, after)}


def token_ids(texts: list[list[str]], words_known: list[str]) -> NDArray[np.int16]:
    """Return the captions as padded token ids (n, c, TOKENS)."""
    engine = tokenizer(words_known)
    rows = [engine(list(each), padding="max_length", truncation=True, max_length=TOKENS)["input_ids"] for each in texts]
    return np.asarray(rows, dtype=np.int16)


def as_input(pixels: NDArray[np.uint8]) -> Tensor:
    """Return uint8 (n, side, side, 3) as the float32 (n, 3, side, side) that the processor returns, from -1 to 1."""
    import torch

    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


def embed(model: CLIPModel, pixels: Tensor | None, ids: Tensor | None) -> Tensor:
    """Return unit vectors: of the images if `pixels` is not None, otherwise of the texts."""
    from torch.nn.functional import normalize

    if pixels is not None:
        return normalize(model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output).float(), dim=-1)
    assert ids is not None
    longest = int((ids != PAD).sum(dim=1).max())
    ids = ids[:, :longest].long()
    out = model.text_model(input_ids=ids, attention_mask=(ids != PAD).long()).pooler_output
    return normalize(model.text_projection(out).float(), dim=-1)


def load(folder: Path) -> tuple[CLIPModel, CLIPImageProcessorPil, PreTrainedTokenizerFast]:
    """Return a saved model with its image processor and its tokenizer."""
    from transformers import CLIPModel, PreTrainedTokenizerFast
    from transformers.models.clip import CLIPImageProcessorPil

    inner = folder / MODULE
    model = CLIPModel.from_pretrained(inner).train(False)
    return model, CLIPImageProcessorPil.from_pretrained(inner), PreTrainedTokenizerFast.from_pretrained(inner)


def save(model: CLIPModel, vocabulary: list[str], folder: Path, report: dict[str, object] | None = None) -> None:
    """Write the model in the layout of the published CLIP models of sentence-transformers.

    `report` is saved with it as `training.json`. `folder` is replaced once everything is written, so it never holds
    half a model.
    """
    from transformers.models.clip import CLIPImageProcessorPil

    side: int = model.vision_model.embeddings.image_size
    fresh = folder.with_name(f".{folder.name}.{os.getpid()}")
    inner = fresh / MODULE
    inner.mkdir(parents=True)
    model.save_pretrained(inner, safe_serialization=True)
    tokenizer(vocabulary).save_pretrained(inner)
    CLIPImageProcessorPil(
        size={"height": side, "width": side},
        do_center_crop=False,  # a crop could remove what a caption mentions
        image_mean=list(MEAN),
        image_std=list(STD),
    ).save_pretrained(inner)
    module = {"idx": 0, "name": "0", "path": MODULE, "type": "sentence_transformers.models.CLIPModel"}
    (fresh / "modules.json").write_text(json.dumps([module], indent=2) + "\n")
    if report is not None:
        (fresh / "training.json").write_text(json.dumps(report, indent=2) + "\n")
    (inner / "model.safetensors").chmod(0o644)  # safetensors makes it readable by its owner only
    if folder.exists():
        shutil.rmtree(folder)
    fresh.rename(folder)
