"""The settings of an embedded shard, as it is created."""

from __future__ import annotations

import qdrant_edge as qdrant

from search.index.tuning import LOWEST_INDEXING_THRESHOLD, QUANTILE, Tuning

M, EF_CONSTRUCT = 16, 100  # the engine's defaults, which must be repeated to change another setting of HNSW
FULL_SCAN_THRESHOLD = 0  # KB of vectors below which the engine scans instead, with `index_everything`

_QUANTIZATION: dict[str, qdrant.QuantizationConfigType | None] = {
    "none": None,
    "int8": qdrant.ScalarQuantizationConfig(qdrant.ScalarType.Int8, quantile=QUANTILE, always_ram=True),
    "binary": qdrant.BinaryQuantizationConfig(always_ram=True),
}


def config_of(dim: int, tuning: Tuning) -> qdrant.EdgeConfig:
    """Return the settings of a shard with vectors of `dim` dimensions."""
    vectors = qdrant.EdgeVectorParams(size=dim, distance=qdrant.Distance.Cosine, on_disk=tuning.on_disk or None)
    hnsw = optimizers = None
    if tuning.index_everything:
        hnsw = qdrant.HnswIndexConfig(M, EF_CONSTRUCT, FULL_SCAN_THRESHOLD)
        optimizers = qdrant.EdgeOptimizersConfig(indexing_threshold=LOWEST_INDEXING_THRESHOLD)
    return qdrant.EdgeConfig(
        vectors=vectors,
        hnsw_config=hnsw,
        optimizers=optimizers,
        quantization_config=_QUANTIZATION[tuning.quantization],
    )
