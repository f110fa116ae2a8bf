"""Encode texts with CLIP's text tower in NumPy, from a memory-mapped file of weights.

Importing sentence-transformers takes seconds, too long for one sentence. So the text tower and the tokenizer of a model
are written into the user's cache the first time that it is loaded for a text, compared with the model itself, and used
from then on. Only models of transformers' CLIP layout have such a file; its name and its header hold the hash of the
model's weights, which identifies the model in the specification of a collection.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from search.encoder import Truncation
from search.encoder.cache import cache_folder, tower_file
from search.records import Vectors

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from tokenizers import Encoding, Tokenizer

Ids = npt.NDArray[np.int64]
FORMAT = "coco-search text tower 1"
AT_ONCE = 8  # texts in one forward pass
STALE_SECONDS = 3600  # after which a partial file is taken for that of a killed process


@dataclass(frozen=True, slots=True)
class Header:
    """The settings of a text tower; stored, as strings, in the metadata of its safetensors file.

    `eos`: the id of the token whose state is the text's; 2 is the legacy value, which means the highest id in the text.
    `limit`: the number of tokens that the model reads. `prefix`: precedes every text, before the tokenizer.
    """

    weights: str
    heads: int
    layers: int
    epsilon: float
    activation: str
    eos: int
    limit: int
    prefix: str
    tokenizer: str


class TextTower:
    """A text tower in a file that `write` wrote, for the model with the given weights.

    Raises:
        OSError, ValueError, KeyError: the file is missing, truncated or of another model.
    """

    def __init__(self, file: Path, weights: str) -> None:
        self._tensors, metadata = _map(file)
        if metadata.get("format") != FORMAT or metadata.get("weights") != weights:
            raise ValueError(f"{file} is not the text tower of these weights")
        values = json.loads(metadata["header"])
        self.header = Header(**values)
        self._tokenizer = _read_tokenizer(self.header.tokenizer)
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(self.header.limit)
        self._activation = ACTIVATIONS[self.header.activation]
        self._latest: dict[str, Encoding] = {}

    @classmethod
    def open(cls, weights: str) -> Self | None:
        """Return the tower of the model with these weights from the user's cache; None if there is no valid file."""
        try:
            return cls(tower_file(weights), weights)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):  # missing, damaged or foreign
            return None

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Return the vectors of valid Unicode texts, float32 (n, dim) of unit length."""
        encodings = self._tokenize(texts)
        self._latest = dict(zip(texts, encodings, strict=True))
        tokens = [encoding.ids for encoding in encodings]
        by_length = sorted(range(len(texts)), key=lambda row: len(tokens[row]))  # batches of similar lengths
        vectors = np.empty((len(texts), len(self._tensors["projection"])), dtype=np.float32)
        for start in range(0, len(texts), AT_ONCE):
            rows = by_length[start : start + AT_ONCE]
            vectors[rows] = self._forward([tokens[row] for row in rows])
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))

    def truncation(self, text: str) -> Truncation | None:
        """Return how much of a text the model reads, None if that is all of it; fast for texts encoded last."""
        encoding = self._latest.get(text) or self._tokenize([text])[0]
        if not encoding.overflowing:
            return None
        marks = self._tokenizer.num_special_tokens_to_add(is_pair=False)  # each piece has its own
        return Truncation(
            len(encoding.ids), len(encoding.ids) + sum(len(piece.ids) - marks for piece in encoding.overflowing)
        )

    def _tokenize(self, texts: Sequence[str]) -> list[Encoding]:
        # One by one: for short texts, the threads of `encode_batch` take longer to start than they save.
        return [self._tokenizer.encode(self.header.prefix + text) for text in texts]

    def _forward(self, tokens: Sequence[Sequence[int]]) -> Vectors:
        """Return the projected states of the end tokens, float32 (n, dim).

        Attention is causal, so the padding after an end token does not change its state.
        """
        ids = _padded(tokens)
        ends = (ids if self.header.eos == 2 else ids == self.header.eos).argmax(axis=1)
        ids = ids[:, : ends.max() + 1]
        states = self._tensors["tokens"][ids] + self._tensors["positions"][: ids.shape[1]]
        for layer in range(self.header.layers - 1):
            states = self._layer(states, f"{layer}.", np.arange(ids.shape[1])[np.newaxis])
        states = self._layer(states, f"{self.header.layers - 1}.", ends[:, np.newaxis])
        states = self._norm(states[:, 0], "norm")
        return np.asarray(states @ self._tensors["projection"].T)

    def _layer(self, states: Vectors, name: str, positions: Ids) -> Vectors:
        """Return the states (n, k, width) that a layer computes at these positions, (n, k) or (1, k) for every text."""
        kept = states[np.arange(len(states))[:, np.newaxis], positions]
        kept += self._attention(self._norm(states, name + "norm1"), name, positions)
        hidden = self._activation(self._linear(self._norm(kept, name + "norm2"), name + "fc1"))
        return np.asarray(kept + self._linear(hidden, name + "fc2"))

    def _attention(self, states: Vectors, name: str, positions: Ids) -> Vectors:
        count, length, width = states.shape
        joint = self._linear(states, name + "qkv").reshape(count, length, 3, self.header.heads, -1)
        queries = joint[np.arange(count)[:, np.newaxis], positions, 0].swapaxes(1, 2)  # (count, heads, k, size)
        keys, values = joint[:, :, 1:].transpose(2, 0, 3, 1, 4)  # each (count, heads, length, size)
        scores = queries @ keys.swapaxes(-1, -2) * np.float32(queries.shape[-1] ** -0.5)
        later = np.arange(length) > positions[:, np.newaxis, :, np.newaxis]  # (n or 1, 1, k, length)
        scores += np.where(later, np.float32(-np.inf), np.float32(0))
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        shares /= shares.sum(axis=-1, keepdims=True)
        return self._linear((shares @ values).swapaxes(1, 2).reshape(count, -1, width), name + "out")

    def _linear(self, states: Vectors, name: str) -> Vectors:
        rows = states.reshape(-1, states.shape[-1])  # one matrix product instead of one for each text
        products = rows @ self._tensors[name + ".weight"].T + self._tensors[name + ".bias"]
        return products.reshape(*states.shape[:-1], -1)

    def _norm(self, states: Vectors, name: str) -> Vectors:
        centred = states - states.mean(axis=-1, keepdims=True)
        variance = (centred * centred).mean(axis=-1, keepdims=True)
        scaled = centred / np.sqrt(variance + np.float32(self.header.epsilon))
        return np.asarray(scaled * self._tensors[name + ".weight"] + self._tensors[name + ".bias"])


def _quick_gelu(values: Vectors) -> Vectors:
    with np.errstate(over="ignore"):  # exp of a large number: the quotient is zero, as it should be
        return np.asarray(values / (1 + np.exp(np.float32(-1.702) * values)))


def _gelu(values: Vectors) -> Vectors:
    """Return GELU, with the error function by formula 7.1.26 of Abramowitz and Stegun (error below 1.5e-7)."""
    size = np.abs(values) * np.float32(1 / math.sqrt(2))
    factor = 1 / (1 + np.float32(0.3275911) * size)
    series = np.float32(1.061405429) * factor
    for coefficient in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        series += np.float32(coefficient)
        series *= factor
    series *= np.exp(-size * size)
    return np.asarray(values * (1 + np.copysign(1 - series, values)) * np.float32(0.5))


ACTIVATIONS = {"quick_gelu": _quick_gelu, "gelu": _gelu}


def _read_tokenizer(text: str) -> Tokenizer:
    """Return the tokenizer of a JSON text. Raises ValueError, for example if another version wrote it."""
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_str(text)
    except Exception as error:
        if type(error) is not Exception:  # the package raises bare Exception; subclasses come from elsewhere
            raise
        raise ValueError(str(error)) from error


def _padded(rows: Sequence[Sequence[int]]) -> Ids:
    """Return rows of ids as one array, filled up with zeros, which are lower than any end token."""
    ids = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = row
    return ids


def _map(file: Path) -> tuple[dict[str, Vectors], dict[str, str]]:
    """Return the float32 tensors of a safetensors file, memory-mapped, and its metadata.

    Raises:
        OSError: the file cannot be read.
        ValueError, KeyError: it is truncated or not a safetensors file.
    """
    content = np.memmap(file, dtype=np.uint8, mode="r")
    start = 8 + int.from_bytes(content[:8].tobytes(), "little")
    header: dict[str, Any] = json.loads(content[8:start].tobytes())
    metadata = header.pop("__metadata__")
    tensors = {}
    for name, each in header.items():
        first, end = each["data_offsets"]
        tensors[name] = content[start + first : start + end].view(np.float32).reshape(each["shape"])
    return tensors, metadata


# ---- writing


def write(model: SentenceTransformer, weights: str, limit: int | None, verify: Callable[[TextTower], None]) -> bool:
    """Write the text tower of a model, and keep it unless `verify` raises; return False if its layout is not CLIP's.

    Two processes that write at the same time do not disturb each other: each writes a file of its own, and the last one
    replaces the other's.

    Raises:
        OSError: the file cannot be written.
    """
    header = describe(model, weights, limit)
    if header is None:
        return False
    import tempfile  # not above: reading a tower needs none of these

    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    _delete_stale(folder)
    with tempfile.TemporaryDirectory(prefix="partial-", dir=folder) as partial:
        file = Path(partial) / "tower"
        metadata = {"format": FORMAT, "weights": weights, "header": json.dumps(asdict(header))}
        try:
            save_file(_tensors(model), file, metadata)
        except SafetensorError as error:
            raise OSError(str(error)) from error
        verify(TextTower(file, weights))
        file.replace(tower_file(weights))
    return True


def _delete_stale(folder: Path) -> None:
    """Delete what killed processes left."""
    for partial in folder.glob("partial-*"):
        with suppress(FileNotFoundError):  # another process has deleted it
            if time.time() - partial.stat().st_mtime > STALE_SECONDS:
                shutil.rmtree(partial, ignore_errors=True)


def describe(model: SentenceTransformer, weights: str, limit: int | None) -> Header | None:
    """Return the settings of a model's text tower; None if it has another layout than CLIP's."""
    from transformers import CLIPModel

    clip: Any = getattr(model[0], "model", None)
    tokenizer: Any = getattr(model.tokenizer, "backend_tokenizer", None)
    if not isinstance(clip, CLIPModel) or tokenizer is None or limit is None:
        return None
    config: Any = clip.config.text_config
    if config.hidden_act not in ACTIVATIONS or any(type(module).__name__ != "Normalize" for module in list(model)[1:]):
        return None
    return Header(
        weights=weights,
        heads=config.num_attention_heads,
        layers=config.num_hidden_layers,
        epsilon=config.layer_norm_eps,
        activation=config.hidden_act,
        eos=config.eos_token_id,
        limit=limit,
        prefix=model.prompts.get(model.default_prompt_name or "") or "",
        tokenizer=tokenizer.to_str(),
    )


def _tensors(model: SentenceTransformer) -> dict[str, Vectors]:
    """Return the tensors of the text tower of a model with CLIP's layout, by our names."""
    import torch

    def array(tensor: torch.Tensor) -> Vectors:
        return np.ascontiguousarray(tensor.detach().cpu().float().numpy())

    clip: Any = model[0].model
    tower = clip.text_model
    tensors = {
        "tokens": array(tower.embeddings.token_embedding.weight),
        "positions": array(tower.embeddings.position_embedding.weight),
        "projection": array(clip.text_projection.weight),
        "norm.weight": array(tower.final_layer_norm.weight),
        "norm.bias": array(tower.final_layer_norm.bias),
    }
    for number, layer in enumerate(tower.encoder.layers):
        attention = layer.self_attn
        joint = [attention.q_proj, attention.k_proj, attention.v_proj]
        tensors[f"{number}.qkv.weight"] = array(torch.cat([each.weight for each in joint]))
        tensors[f"{number}.qkv.bias"] = array(torch.cat([each.bias for each in joint]))
        parts = {"out": attention.out_proj, "fc1": layer.mlp.fc1, "fc2": layer.mlp.fc2}
        parts |= {"norm1": layer.layer_norm1, "norm2": layer.layer_norm2}
        for name, part in parts.items():
            tensors[f"{number}.{name}.weight"] = array(part.weight)
            tensors[f"{number}.{name}.bias"] = array(part.bias)
    return tensors
