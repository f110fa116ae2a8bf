"""Payload indexes, filters and queries of the embedded engine."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import qdrant_edge as qdrant

from search.index.payload import INDEXED_FIELDS, FieldIndex
from search.index.protocol import SearchParams
from search.index.spec import CollectionSpec
from search.index.where import AtMost, Condition, HasId, HasWords, OneOf, Where
from search.records import HUBNESS, Kind, Vectors

POINTS_PER_SCAN = 1000
NUMBER = qdrant.PayloadSelector.Include([HUBNESS])
# On disk: indexes in memory are read whenever a shard is opened, which would take most of a command's time.
_SCHEMAS: dict[FieldIndex, qdrant.PayloadSchemaParams] = {
    "keyword": qdrant.KeywordIndexParams(on_disk=True),
    "id": qdrant.IntegerIndexParams(lookup=True, range=False, on_disk=True),
    "number": qdrant.IntegerIndexParams(lookup=False, range=True, on_disk=True),
    "words": qdrant.TextIndexParams(
        tokenizer=qdrant.TokenizerType.Multilingual, lowercase=True, ascii_folding=True, on_disk=True
    ),
}
_OF_HUBNESS = qdrant.FloatIndexParams(on_disk=True)
_PARAMETERS = ("on_disk", "lookup", "range", "tokenizer", "lowercase", "ascii_folding")


def index_payload(shard: qdrant.EdgeShard, spec: CollectionSpec, *, missing_only: bool = False) -> None:
    """Create the payload indexes that are missing or, unless `missing_only`, were built with other parameters.

    The index of the numbers `hubness` exists only while they are complete: with it, writing them would be slow.
    """
    existing = shard.info().payload_schema
    if spec.is_numbered and HUBNESS not in existing:
        shard.update(qdrant.UpdateOperation.create_field_index(HUBNESS, _OF_HUBNESS))
    elif HUBNESS in existing and not spec.is_numbered:
        shard.update(qdrant.UpdateOperation.delete_field_index(HUBNESS))
    for field, index in INDEXED_FIELDS[spec.kind].items():
        wanted = _SCHEMAS[index]
        if field not in existing or not (missing_only or _is_current(existing[field].params, wanted)):
            shard.update(qdrant.UpdateOperation.create_field_index(field, wanted))


def _is_current(stored: qdrant.PayloadSchemaParams | None, wanted: qdrant.PayloadSchemaParams) -> bool:
    return type(stored) is type(wanted) and all(
        getattr(stored, name, None) == getattr(wanted, name, None) for name in _PARAMETERS
    )


def filter_of(where: Where | None, kind: Kind) -> qdrant.Filter | None:
    """Convert a filter of points of this kind to the engine's form; None if it has no conditions."""
    if where is None:
        return None
    must, must_not = ([_condition(each) for each in conditions] for conditions in where.conditions(kind))
    return qdrant.Filter(must=must or None, must_not=must_not or None) if must or must_not else None


def _condition(condition: Condition) -> qdrant.ConditionType:
    match condition:
        case OneOf(field, values):
            return qdrant.FieldCondition(field, match=qdrant.MatchAny(values))
        case AtMost(field, limit):
            return qdrant.FieldCondition(field, range=qdrant.RangeFloat(lte=limit))
        case HasWords(field, text):
            return qdrant.FieldCondition(field, match=qdrant.MatchText(text))
        case HasId(ids):
            return qdrant.HasIdCondition(set(ids))


def requests_of(vectors: Vectors, limit: int, params: SearchParams, kind: Kind) -> list[qdrant.QueryRequest]:
    """Return a query for points of this kind for each row of `vectors`, float32 (n, dim); hits have no payloads."""
    quantization = qdrant.QuantizationSearchParams(
        ignore=not params.quantized, rescore=params.rescore, oversampling=params.oversampling
    )
    filters = params.filters(len(vectors), partial(filter_of, kind=kind))
    engine_params = qdrant.SearchParams(exact=params.exact, hnsw_ef=params.ef, quantization=quantization)
    return [
        qdrant.QueryRequest(
            limit=limit,
            offset=params.offset,
            query=qdrant.Query.Nearest(vector),
            filter=conditions,
            params=engine_params,
            with_payload=False,
        )
        for vector, conditions in zip(vectors.tolist(), filters, strict=True)
    ]


def scroll(
    shard: qdrant.EdgeShard,
    conditions: qdrant.Filter | None = None,
    *,
    payload: qdrant.PayloadSelector | bool = True,
    vectors: bool = False,
) -> Iterator[list[qdrant.Record]]:
    """Yield all points that pass a filter, some at a time, in ascending order of ids."""
    offset: qdrant.PointId | None = None
    while True:
        request = qdrant.ScrollRequest(
            offset=offset, limit=POINTS_PER_SCAN, filter=conditions, with_payload=payload, with_vector=vectors
        )
        points, offset = shard.scroll(request)
        if points:
            yield points
        if offset is None:
            return
