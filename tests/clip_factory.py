"""Make randomly initialised CLIP models in the published layout of `sentence-transformers/clip-ViT-B-32`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MARKS = ("<|startoftext|>", "<|endoftext|>")


def save_random_clip(folder: Path, *, seed: int = 0, tiny: bool = True) -> Path:
    """A folder that `SentenceTransformer(folder)` loads: ViT-B/32 in size, or very small, with random weights."""
    import torch
    from transformers import CLIPConfig, CLIPModel, CLIPProcessor, CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    letters = [*map(chr, range(33, 127)), *map(chr, range(161, 173)), *map(chr, range(174, 256))]
    letters += [chr(256 + number) for number in range(256 - len(letters))]  # CLIP's printable stand-ins for bytes
    tokens = [*letters, *(letter + "</w>" for letter in letters), *MARKS]
    marks: dict[str, Any] = {
        "bos_token_id": len(tokens) - 2,
        "eos_token_id": len(tokens) - 1,
        "pad_token_id": len(tokens) - 1,
    }
    side, width, published_vocabulary = 224, 512, 49_408
    text, vision = CLIPTextConfig(vocab_size=published_vocabulary, **marks), CLIPVisionConfig()
    if tiny:
        side, width = 32, 24
        small: dict[str, Any] = {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
        }
        text = CLIPTextConfig(vocab_size=len(tokens), projection_dim=width, **small, **marks)
        vision = CLIPVisionConfig(image_size=side, patch_size=8, projection_dim=width, **small)
    torch.manual_seed(seed)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=width))
    tokenizer = CLIPTokenizer(vocab={token: number for number, token in enumerate(tokens)}, merges=[])
    tokenizer.model_max_length = 77
    pictures = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})

    inner = folder / "0_CLIPModel"
    inner.mkdir(parents=True)
    model.save_pretrained(inner)
    processor = CLIPProcessor(image_processor=pictures, tokenizer=tokenizer)  # type: ignore[no-untyped-call]
    processor.save_pretrained(inner)
    module = {"idx": 0, "name": "0", "path": "0_CLIPModel", "type": "sentence_transformers.models.CLIPModel"}
    (folder / "modules.json").write_text(json.dumps([module]))
    return folder
