"""Translate between this project's types and Qdrant's: tuning, settings and filters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qdrant_client import models

from search.index.payload import FieldIndex
from search.index.tuning import LOWEST_INDEXING_THRESHOLD, QUANTILE, Tuning
from search.index.where import AtMost, Condition, HasId, HasWords, OneOf, Where
from search.records import Kind

LOWEST_FULL_SCAN_THRESHOLD = 10  # KB; the lowest that a server accepts

Schema = models.PayloadSchemaType | models.TextIndexParams

SCHEMAS: Mapping[FieldIndex, Schema] = {
    "keyword": models.PayloadSchemaType.KEYWORD,
    "id": models.PayloadSchemaType.INTEGER,
    "number": models.PayloadSchemaType.INTEGER,
    "words": models.TextIndexParams(
        type=models.TextIndexType.TEXT, tokenizer=models.TokenizerType.MULTILINGUAL, lowercase=True, ascii_folding=True
    ),
}

_QUANTIZATION: dict[str, models.QuantizationConfig | None] = {
    "none": None,
    "int8": models.ScalarQuantization(
        scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8, quantile=QUANTILE, always_ram=True)
    ),
    "binary": models.BinaryQuantization(binary=models.BinaryQuantizationConfig(always_ram=True)),
}


def is_current(existing: models.PayloadIndexInfo | None, wanted: Schema) -> bool:
    """Return whether the payload index of a field exists and has the parameters in `wanted`."""
    if existing is None:
        return False
    stored = existing.params
    if not isinstance(wanted, models.TextIndexParams):
        return True
    return isinstance(stored, models.TextIndexParams) and (
        (stored.tokenizer, stored.lowercase, stored.ascii_folding)
        == (wanted.tokenizer, wanted.lowercase, wanted.ascii_folding)
    )


def configuration(dim: int, tuning: Tuning) -> dict[str, Any]:
    """Return the arguments of `create_collection` that depend on `dim` and `tuning`."""
    hnsw = optimizers = None
    if tuning.index_everything:
        hnsw = models.HnswConfigDiff(full_scan_threshold=LOWEST_FULL_SCAN_THRESHOLD)
        optimizers = models.OptimizersConfigDiff(indexing_threshold=LOWEST_INDEXING_THRESHOLD)
    return {
        "vectors_config": models.VectorParams(
            size=dim, distance=models.Distance.COSINE, on_disk=tuning.on_disk or None
        ),
        "hnsw_config": hnsw,
        "optimizers_config": optimizers,
        "quantization_config": _QUANTIZATION[tuning.quantization],
        "shard_number": tuning.shards,
        "replication_factor": tuning.replicas,
        "write_consistency_factor": tuning.acknowledgements,
    }


def settings_of(info: models.CollectionInfo) -> dict[str, Any]:
    """Return the settings of CollectionInfo; `replicas` is the configured number, even while some are missing."""
    config, params = info.config, info.config.params
    kinds = {type(None): "none", models.ScalarQuantization: "int8", models.BinaryQuantization: "binary"}
    quantization = type(config.quantization_config)
    return {
        "m": config.hnsw_config.m,
        "ef_construct": config.hnsw_config.ef_construct,
        "full_scan_threshold": config.hnsw_config.full_scan_threshold,
        "indexing_threshold": config.optimizer_config.indexing_threshold,
        "quantization": kinds.get(quantization, quantization.__name__),
        "on_disk": params.vectors.on_disk if isinstance(params.vectors, models.VectorParams) else None,
        "shards": params.shard_number,
        "replicas": params.replication_factor,
        "segments": info.segments_count,
    }


def filter_of(where: Where | None, kind: Kind) -> models.Filter | None:
    """Convert a filter of points of this kind to Qdrant's form."""
    if where is None:
        return None
    must, must_not = ([_condition(each) for each in conditions] for conditions in where.conditions(kind))
    return models.Filter(must=must, must_not=must_not)


def _condition(condition: Condition) -> models.Condition:
    match condition:
        case OneOf(field, values):
            return models.FieldCondition(key=field, match=models.MatchAny(any=values))
        case AtMost(field, limit):
            return models.FieldCondition(key=field, range=models.Range(lte=limit))
        case HasWords(field, text):
            return models.FieldCondition(key=field, match=models.MatchText(text=text))
        case HasId(ids):
            return models.HasIdCondition(has_id=list(ids))
