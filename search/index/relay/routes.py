"""The server side of `search.index.relay.client`: routes through which this user's other commands read the index."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, HTTPException
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from search.encoder import Encoder
from search.errors import CocoSearchError, IndexFailure
from search.index.points import Batch
from search.index.protocol import ReadIndex
from search.index.relay import wire
from search.index.relay.announce import COMMAND, ROUTE, Running
from search.index.relay.wire import PackedVectors, pack, pack_failure, unpack

ENCODING = ("model", "encode_texts", "truncations", "encode_images")


class Call(BaseModel):
    """One call of a method of the index; `arguments` are packed by `search.index.relay.wire`."""

    method: str
    collection: str | None
    arguments: dict[str, Any]
    version: str = "of an older version"  # older versions do not send it


ReadyModel = Callable[[], Encoder | None]
"""Return the model that made the collections, if it is loaded."""


def index_calls(index: ReadIndex, running: Running, model: ReadyModel = lambda: None) -> APIRouter:
    """Return the routes, which require the token of `running`."""

    def check_token(authorization: Annotated[str, Header()] = "") -> None:
        if not secrets.compare_digest(authorization.encode(), running.headers["Authorization"].encode()):
            raise HTTPException(401, "this address is only for the commands of coco-search")

    router = APIRouter(prefix=ROUTE, include_in_schema=False, dependencies=[Depends(check_token)])

    @router.get("")
    def hello() -> dict[str, Any]:
        return {"pid": os.getpid(), "model": model() is not None}

    @router.post("")
    def call(call: Call) -> StreamingResponse:
        return StreamingResponse(_lines(index, model, call), media_type="application/x-ndjson")

    return router


def _lines(index: ReadIndex, model: ReadyModel, call: Call) -> Iterator[str]:
    try:
        parts = _encoded(model, call.method, call.arguments) if call.method in ENCODING else None
        for part in parts or _parts(index, call.method, call.collection or "", call.arguments):
            yield json.dumps({"part": part}) + "\n"
    except CocoSearchError as failure:
        yield json.dumps(pack_failure(failure)) + "\n"
    except wire.Incompatible as problem:
        mismatch = IndexFailure(
            f"this command is coco-search {call.version}, but {COMMAND} (process {os.getpid()}) is {wire.VERSION} and "
            f"cannot answer {call.method!r} ({problem}): stop that process and start it again"
        )
        yield json.dumps(pack_failure(mismatch)) + "\n"


def _parts(index: ReadIndex, method: str, name: str, arguments: dict[str, Any]) -> Iterator[Any]:
    """Yield the parts of the answer."""
    match method:
        case "engine":
            yield index.engine
        case "collections":
            yield index.collections()
        case "query":
            query = unpack(wire.QUERY, arguments)
            answer = index.query(name, query.vectors.unpack(), query.limit, query.params)
            yield pack(wire.HITS, [list(map(wire.PackedHit.of, hits)) for hits in answer])
        case "retrieve":
            retrieve = unpack(wire.RETRIEVE, arguments)
            yield _batch(index.retrieve(name, retrieve.ids, vectors=retrieve.vectors))
        case "scan":
            scan = unpack(wire.SCAN, arguments)
            yield from map(_batch, index.scan(name, where=scan.where, vectors=scan.vectors))
        case "count":
            yield index.count(name, where=unpack(wire.FILTER, arguments).where)
        case "spec":
            yield pack(wire.SPEC, index.spec(name))
        case "info":
            yield pack(wire.INFO, index.info(name))
        case "pending":
            yield index.pending(name)
        case "disk_bytes":
            yield index.disk_bytes(name)
        case _:
            raise wire.Incompatible("unknown method")


def _encoded(model: ReadyModel, method: str, arguments: dict[str, Any]) -> Iterator[Any]:
    """Yield the answer of the model."""
    encoder = model()
    if encoder is None:
        raise IndexFailure(f"{COMMAND} (process {os.getpid()}) has no model loaded")
    match method:
        case "model":
            preparation = encoder.preparation
            packed = wire.PackedPreparation(**asdict(preparation)) if preparation else None
            yield pack(wire.MODEL, wire.Model(name=encoder.name, dim=encoder.dim, preparation=packed))
        case "encode_texts":
            texts = unpack(wire.TEXTS, arguments).texts
            yield pack(wire.VECTORS, PackedVectors.of(encoder.encode_texts(texts)))
        case "truncations":
            texts = unpack(wire.TEXTS, arguments).texts
            yield pack(wire.TRUNCATIONS, encoder.truncations(texts))
        case _:
            pixels = unpack(wire.PICTURES, arguments).pixels.unpack()
            yield pack(wire.VECTORS, PackedVectors.of(encoder.encode_images(pixels)))


def _batch(batch: Batch) -> Any:
    return pack(wire.BATCH, wire.PackedBatch.of(batch))
