"""Make randomly initialised models of texts only, models with roles, and models with code of their own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

CODE = """
from sentence_transformers.models import CLIPModel


class TurnedCLIPModel(CLIPModel):
    def forward(self, features, **options):
        features = super().forward(features, **options)
        features["sentence_embedding"] = features["sentence_embedding"].flip(-1)
        return features
"""


def save_random_text_model(folder: Path, dim: int = 24, seed: int = 0) -> Path:
    """A folder in the layout of clip-ViT-B-32-multilingual-v1: a transformer, its mean and a map to `dim`."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Pooling, Transformer
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import DistilBertConfig, DistilBertModel, PreTrainedTokenizerFast

    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocab = {token: number for number, token in enumerate([*marks, *map(chr, range(33, 127)), *"äöüßéж猫"])}
    tokenizer = Tokenizer(models.BPE(vocab, [], unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    fast: Any = PreTrainedTokenizerFast
    words = fast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=64)
    torch.manual_seed(seed)
    small = DistilBertConfig(vocab_size=len(vocab), dim=32, hidden_dim=64, n_layers=2, n_heads=2)
    inner = folder.with_name(f"{folder.name}-inner")
    DistilBertModel(small).save_pretrained(inner)
    words.save_pretrained(inner)
    modules = [
        Transformer(str(inner)),
        Pooling(32),
        Dense(32, dim, bias=False, activation_function=torch.nn.Identity()),
    ]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder), create_model_card=False)
    shutil.rmtree(inner)
    return folder


def with_own_code(clip_folder: Path, folder: Path) -> Path:
    """A copy of a CLIP whose module is defined by a file in the folder: its vectors are those of CLIP backwards."""
    shutil.copytree(clip_folder, folder)
    (folder / "turned.py").write_text(CODE)
    module = {"idx": 0, "name": "0", "path": "0_CLIPModel", "type": "turned.TurnedCLIPModel"}
    (folder / "modules.json").write_text(json.dumps([module]))
    return folder


def with_prompts(clip_folder: Path, folder: Path, **prompts: str) -> Path:
    """A copy of a CLIP with saved prompts, such as `query` and `document`."""
    shutil.copytree(clip_folder, folder)
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": prompts}))
    return folder


def save_router(query: Path, document: Path, folder: Path, *, by_modality: bool = False) -> Path:
    """A model that routes queries and documents to two models; `by_modality`: the first reads texts only."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Router

    def tower(of: Path) -> list[Any]:
        return list(SentenceTransformer(str(of), device="cpu", processor_kwargs={"backend": "pil"}).children())

    router = Router.for_query_document(tower(query), tower(document))
    if by_modality:
        router = Router(
            {"short": tower(query), "long": tower(document), "picture": tower(document)},
            route_mappings={("query", "text"): "short", (None, "text"): "long", (None, "image"): "picture"},
        )
    SentenceTransformer(modules=[router], device="cpu").save(str(folder), create_model_card=False)
    return folder
