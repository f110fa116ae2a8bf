"""The other side of `search.index.relay.client`: other commands of this user read the index through this server."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterable, Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, HTTPException
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from search.errors import CocoSearchError, IndexFailure
from search.index.protocol import ReadIndex
from search.index.relay.announce import HELLO, Running
from search.index.relay.wire import pack_batch, pack_failure, pack_hit, unpack_params, unpack_vectors, unpack_where


class Call(BaseModel):
    """One call of a method of the index; `arguments` as `search.index.relay.wire` packs them."""

    method: str
    collection: str | None
    arguments: dict[str, Any]


def index_calls(index: ReadIndex, running: Running) -> APIRouter:
    """Routes that answer calls which bring the token of `running`."""

    def check_token(authorization: Annotated[str, Header()] = "") -> None:
        if not secrets.compare_digest(authorization.encode(), running.headers["Authorization"].encode()):
            raise HTTPException(401, "this address is for this software's own commands")

    router = APIRouter(prefix=HELLO, include_in_schema=False, dependencies=[Depends(check_token)])

    @router.get("")
    def hello() -> dict[str, int]:
        return {"pid": os.getpid()}

    @router.post("")
    def call(call: Call) -> StreamingResponse:
        return StreamingResponse(_lines(_parts(index, call)), media_type="application/x-ndjson")

    return router


def _lines(parts: Iterable[Any]) -> Iterator[str]:
    try:
        for part in parts:
            yield json.dumps({"part": part}) + "\n"
    except CocoSearchError as failure:
        yield json.dumps(pack_failure(failure)) + "\n"


def _parts(index: ReadIndex, call: Call) -> Iterator[Any]:
    """The answer, in as many parts as it takes."""
    name, arguments = call.collection or "", dict(call.arguments)
    match call.method:
        case "engine":
            yield index.engine
        case "collections":
            yield index.collections()
        case "query":
            vectors, limit = unpack_vectors(arguments.pop("vectors")), arguments.pop("limit")
            answer = index.query(name, vectors, limit, unpack_params(arguments))
            yield [[pack_hit(hit) for hit in hits] for hits in answer]
        case "retrieve":
            yield pack_batch(index.retrieve(name, **arguments))
        case "scan":
            yield from map(pack_batch, index.scan(name, where=unpack_where(arguments.pop("where", None)), **arguments))
        case "count":
            yield index.count(name, where=unpack_where(arguments.get("where")))
        case "spec":
            yield index.spec(name).model_dump()
        case "info":
            info = index.info(name)
            counts = {"points": info.points, "indexed_vectors": info.indexed_vectors}
            yield {**counts, "spec": info.spec.model_dump(), "settings": info.settings}
        case "pending":
            yield index.pending(name)
        case "disk_bytes":
            yield index.disk_bytes(name)
        case unknown:
            raise IndexFailure(f"this server is another version: it cannot answer {unknown!r}")
