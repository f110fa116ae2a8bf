"""How an index is asked from another process: calls and answers as JSON, vectors in them as base64 of float32.

A request is one object, `{"method": ..., "collection": ..., "arguments": {...}}`. The answer is JSON lines, each
`{"part": ...}` or, as the last one, `{"failure": class name, "message": ...}`; a whole collection is many parts.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from search import errors
from search.index.points import Batch
from search.index.protocol import SearchParams, Where
from search.records import Hit, Vectors, record_of

Json = dict[str, Any]


def pack_vectors(vectors: Vectors) -> Json:
    """float32 (n, dim)"""
    packed = np.ascontiguousarray(vectors, dtype="<f4")
    return {"shape": packed.shape, "float32": base64.b64encode(packed.tobytes()).decode()}


def unpack_vectors(packed: Mapping[str, Any]) -> Vectors:
    flat = np.frombuffer(base64.b64decode(packed["float32"]), dtype="<f4")
    return flat.reshape(packed["shape"]).astype(np.float32)


def pack_where(where: Where | None) -> Json | None:
    return asdict(where) if where else None


def unpack_where(packed: Mapping[str, Any] | None) -> Where | None:
    if packed is None:
        return None
    given: Json = {name: tuple(value) if isinstance(value, list) else value for name, value in packed.items()}
    return Where(**given)


def pack_params(params: SearchParams) -> Json:
    return asdict(params)


def unpack_params(packed: Mapping[str, Any]) -> SearchParams:
    return SearchParams(**{**packed, "where": unpack_where(packed.get("where"))})


def pack_hit(hit: Hit) -> Json:
    return {"id": hit.id, "score": hit.score, "payload": hit.record.payload() if hit.record else None}


def unpack_hit(packed: Mapping[str, Any]) -> Hit:
    return Hit(packed["id"], packed["score"], record_of(packed["payload"]) if packed["payload"] else None)


def pack_batch(batch: Batch) -> Json:
    vectors = None if batch.vectors is None else pack_vectors(batch.vectors)
    return {"payloads": [record.payload() for record in batch.records], "vectors": vectors}


def unpack_batch(packed: Mapping[str, Any]) -> Batch:
    vectors = None if packed["vectors"] is None else unpack_vectors(packed["vectors"])
    return Batch([record_of(payload) for payload in packed["payloads"]], vectors)


def pack_failure(failure: errors.CocoSearchError) -> Json:
    return {"failure": type(failure).__name__, "message": str(failure)}


def unpack_failure(packed: Mapping[str, Any]) -> errors.CocoSearchError:
    """The error as it was raised on the other side."""
    kind = getattr(errors, str(packed["failure"]), errors.IndexFailure)
    return kind(packed["message"]) if issubclass(kind, errors.CocoSearchError) else errors.IndexFailure(str(packed))
