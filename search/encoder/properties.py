"""Read the properties of a loaded sentence-transformers model: its weights, its limit, its prompts for roles."""

from __future__ import annotations

import hashlib
from typing import Any, Literal

Role = Literal["query", "document"]
ROLE_PROMPTS: dict[Role, tuple[str, ...]] = {  # their names, of which the first that exists is used
    "query": ("query",),
    "document": ("document", "passage", "corpus"),
}

Model = Any  # a SentenceTransformer, which only search/encoder/clip.py imports
UNLIMITED = 1_000_000  # tokens; tokenizers without a limit report 1e30


def weights_hash(model: Model) -> str:
    """Return the SHA-256 of the names, types, shapes and bytes of all tensors, which identifies the model anywhere."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def text_modules(model: Model) -> list[Model]:
    """Return the modules that read the inputs: one, or that of each route of a router."""
    routes = getattr(model[0], "sub_modules", None)
    return [model[0]] if routes is None else [modules[0] for modules in routes.values()]


def text_module(model: Model, role: Role | None) -> Model:
    """Return the module that reads texts in this role."""
    router = model[0]
    if not hasattr(router, "sub_modules"):
        return router
    return router.sub_modules[router._resolve_route(task=role, modality="text")][0]


def text_limit(module: Model) -> int | None:
    """Return how many tokens of a text a module reads, including start and end marks; None if there is no limit.

    A tokenizer may allow more tokens than its text tower has positions: that of SigLIP 2 has no limit at all.
    """
    limits = [getattr(module, "max_seq_length", None)]
    for inner in module.modules():
        config: Any = getattr(inner, "config", None)
        if getattr(inner, "tokenizer", None) is not None and hasattr(config, "get_text_config"):
            limits.append(getattr(config.get_text_config(), "max_position_embeddings", None))
            limits.append(getattr(inner, "processing_kwargs", {}).get("text", {}).get("max_length"))
    return min((int(limit) for limit in limits if limit and 0 < limit < UNLIMITED), default=None)


def role_options(model: Model, role: Role | None) -> dict[str, Any]:
    """Return the options of `preprocess` and `encode` for a role, as `encode_query` and `encode_document` set them."""
    if role is None:
        return {"prompt": model.prompts.get(model.default_prompt_name or "")}
    saved = [model.prompts[name] for name in ROLE_PROMPTS[role] if name in model.prompts]
    return {"prompt": saved[0] if saved else None, "task": role}
