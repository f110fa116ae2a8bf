"""The tuning of a collection, and its differences from that of an existing one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Quantization = Literal["none", "int8", "binary"]

LOWEST_INDEXING_THRESHOLD = 1
"""KB of vectors above which a segment gets an HNSW index; 0 would mean never."""

QUANTILE = 0.99  # share of the values that int8 covers, as Qdrant recommends: outliers would cost precision


@dataclass(frozen=True, slots=True)
class Tuning:
    """How to build a collection; fixed when the collection is created.

    `quantization`: HNSW searches smaller copies of the vectors, kept in memory; int8 takes a byte for each dimension,
    binary a bit. The float32 vectors stay, for exact search and for rescoring. `on_disk`: the float32 vectors are
    memory-mapped instead of being kept in memory. `shards` and `replicas`: the number of parts that a server divides
    the collection into, and the number of copies of each part in its cluster (None: the server's default).
    `index_everything`, for evaluations: use HNSW from the first KB of vectors, never a full scan, so that even a small
    gallery measures HNSW.
    """

    quantization: Quantization = "none"
    on_disk: bool = False
    shards: int | None = None
    replicas: int | None = None
    index_everything: bool = False

    @property
    def acknowledgements(self) -> int | None:
        """The number of copies that must acknowledge a write (None: one).

        All but one, so that writing continues while a node is unavailable; with three copies, acknowledged writes then
        survive the loss of any one node.
        """
        return None if self.replicas is None else max(1, self.replicas - 1)

    def differences(self, collection: str, settings: Mapping[str, Any]) -> list[str]:
        """Return warnings of all differences from an existing collection with these `settings`."""
        requested: dict[str, Any] = {"quantization": self.quantization, "on_disk": self.on_disk}
        requested |= {"shards": self.shards} if self.shards else {}
        requested |= {"replicas": self.replicas} if self.replicas else {}
        requested |= {"indexing_threshold": LOWEST_INDEXING_THRESHOLD} if self.index_everything else {}
        return [
            f"{collection} exists with {name} {settings[name] or 'unset'} and keeps it, not {value} as requested: "
            "to change it, drop the data set and ingest it again, or use another --dataset NAME"
            for name, value in requested.items()
            if (settings[name] or False) != value
        ]
