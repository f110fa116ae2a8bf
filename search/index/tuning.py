"""How a collection is built, and how that compares with the one that is there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Quantization = Literal["none", "int8", "binary"]

LOWEST_INDEXING_THRESHOLD = 1
"""KB of vectors from which on a segment gets an HNSW index; 0 would mean never."""

QUANTILE = 0.99  # int8 spreads over so much of the values, as Qdrant recommends: a few outliers would cost precision


@dataclass(frozen=True, slots=True)
class Tuning:
    """How a collection is to be built; it is fixed when the collection is made.

    `quantization`: smaller copies of the vectors that HNSW is searched with, kept in memory: int8 has a byte for each
    dimension, binary a bit. The float32 vectors stay, for exact search and for rescoring. `on_disk`: those are
    memory-mapped from the disk instead of being kept in memory. `shards` and `replicas`: into how many parts a server
    divides the collection, and how many copies of each part its cluster keeps (None: as the server sees fit).
    `index_everything`: HNSW from the first KB of vectors on and never a full scan in its stead, so that a small gallery
    measures HNSW at all; for evaluation.
    """

    quantization: Quantization = "none"
    on_disk: bool = False
    shards: int | None = None
    replicas: int | None = None
    index_everything: bool = False

    @property
    def acknowledgements(self) -> int | None:
        """How many copies must have taken a write before it counts (None: one). All but one, so that writing goes on
        while a node is away; with three copies, what was acknowledged then outlives any one node."""
        return None if self.replicas is None else max(1, self.replicas - 1)

    def differences(self, collection: str, settings: Mapping[str, Any]) -> list[str]:
        """Warnings where a collection that exists, with `settings` as in CollectionInfo, was built otherwise."""
        asked: dict[str, Any] = {"quantization": self.quantization, "on_disk": self.on_disk}
        asked |= {"shards": self.shards} if self.shards else {}
        asked |= {"replicas": self.replicas} if self.replicas else {}
        asked |= {"indexing_threshold": LOWEST_INDEXING_THRESHOLD} if self.index_everything else {}
        return [
            f"{collection} exists with {name} {settings[name] or 'unset'} and keeps it, though {value} is asked for: "
            "to have it otherwise, drop the data set and ingest it again, or use another --dataset NAME"
            for name, value in asked.items()
            if (settings[name] or False) != value
        ]
