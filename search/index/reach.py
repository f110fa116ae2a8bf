"""Reaching a Qdrant server: whether anything listens, and what its refusals mean in words."""

from __future__ import annotations

import ipaddress
import socket

from search.errors import CollectionMissing, IndexFailure, ServerError

CONNECT_SECONDS = 3.0
TRANSIENT = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED", "429", "502", "503", "504")


def is_loopback(host: str) -> bool:
    """Whether a connection to this host stays on this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listens(host: str, port: int) -> bool:
    """Whether something accepts connections there."""
    try:
        with socket.create_connection((host, port), timeout=CONNECT_SECONDS):
            return True
    except OSError:
        return False


def failure(url: str, collection: str | None, code: str, detail: str) -> IndexFailure:
    """What a gRPC status code of the server at `url` means in words, and what to do about it."""
    detail = " ".join(detail.split())
    if code in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
        return ServerError(
            f"the Qdrant server at {url} refuses the API key ({detail}): set QDRANT_API_KEY to the server's key"
        )
    if code == "NOT_FOUND" and collection is not None:
        return CollectionMissing(f"no collection {collection} at {url}: run `python -m ingest run --url {url}`")
    message = f"the Qdrant server at {url} failed with {code}: {detail}"
    if code == "UNAVAILABLE":
        message = (
            f"no Qdrant server answers at {url} ({detail}): start it with `docker compose up -d`, "
            "or leave out --url and QDRANT_URL for the embedded index"
        )
    if code == "DEADLINE_EXCEEDED":
        message = f"the Qdrant server at {url} took too long: raise QDRANT_TIMEOUT (seconds)"
    return ServerError(message, transient=code in TRANSIENT)
