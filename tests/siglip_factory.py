"""Make randomly initialised SigLIP and SigLIP 2 models in the layouts that Google publishes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

Kind = Literal["siglip", "siglip2", "naflex"]

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
LETTERS = [*map(chr, range(97, 123)), *"0123456789.,▁"]
POSITIONS = 64


def save_random_siglip(folder: Path, kind: Kind = "siglip", *, layout: Literal["plain", "modules"] = "plain") -> Path:
    """A folder that `SentenceTransformer(folder)` loads.

    `kind`: like google/siglip-base-patch16-224 (its tokenizer pads with the end mark, up to 64),
    siglip2-base-patch16-224 (the same architecture, with a tokenizer that has no limit) or siglip2-base-patch16-naflex
    (pictures in their own shape). No tokenizer gives an attention mask. `layout`: as transformers saves it, or
    sentence-transformers.
    """
    import torch
    import transformers
    from transformers import Siglip2Config, Siglip2Model, SiglipConfig, SiglipModel
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
    from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

    tokenizer: Any = _tokenizer() if kind == "siglip" else _tokenizer_without_limit()
    marks = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    text = {"vocab_size": len(tokenizer), "max_position_embeddings": POSITIONS, **marks, **SMALL}
    torch.manual_seed(0)
    model: Any
    if kind == "naflex":
        model = Siglip2Model(Siglip2Config(text_config=text, vision_config=SMALL))  # the processor insists on its size
        pictures: Any = Siglip2ImageProcessorPil()
        make_processor: Any = transformers.Siglip2Processor
    else:
        model = SiglipModel(SiglipConfig(text_config=text, vision_config={"image_size": 32, "patch_size": 8, **SMALL}))
        pictures = SiglipImageProcessorPil(size={"height": 32, "width": 32})
        make_processor = transformers.SiglipProcessor
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    make_processor(image_processor=pictures, tokenizer=tokenizer).save_pretrained(folder)
    if layout == "modules":
        from sentence_transformers import SentenceTransformer

        saved = SentenceTransformer(str(folder), device="cpu", processor_kwargs={"backend": "pil"})
        folder = folder.with_name(f"{folder.name}-modules")
        saved.save(str(folder), create_model_card=False)
    return folder


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    pieces = [("<unk>", -10.0), ("</s>", 0.0), *((letter, -3.0) for letter in LETTERS)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    fast: Any = PreTrainedTokenizerFast
    return fast(
        tokenizer_object=tokenizer,
        eos_token="</s>",
        pad_token="</s>",
        unk_token="<unk>",
        model_max_length=POSITIONS,
        model_input_names=["input_ids"],
    )


def _tokenizer_without_limit() -> Any:
    from tokenizers import processors
    from transformers import Siglip2Tokenizer

    marks = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    pieces = [*marks, *(f"<0x{byte:02X}>" for byte in range(256)), *LETTERS]
    vocab = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Siglip2Tokenizer(vocab, [], padding_side="right", model_input_names=["input_ids"])
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", 1)]
    )
    return tokenizer
