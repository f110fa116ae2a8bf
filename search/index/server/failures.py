"""Translate failures of requests to a Qdrant server into errors of one line that say what to do."""

from __future__ import annotations

import contextlib
import errno
import http.client
import socket
import ssl
from collections.abc import Iterator
from urllib.parse import urlsplit

import grpc
import httpx
from pydantic import ValidationError
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from search.errors import CollectionMissing, IndexFailure, ServerError

CONNECT_SECONDS = 3.0
# Qdrant answers INTERNAL for temporary failures, such as reading from a node that has died
# (CollectionError::is_transient in its source), and a broken connection may end as UNKNOWN or CANCELLED.
TRANSIENT = {
    *("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED", "CANCELLED", "INTERNAL", "UNKNOWN"),
    *("429", "500", "502", "503", "504"),
}
HTTP_CODES = {401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND"}
DISK_FULL = ("no space left on device", "out of disk")
NODE_LOST = ("active replica", "read operations failed", "temporarily unavailable")
OTHER_NAME = {62, 64}  # X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH of OpenSSL
CONNECTION_BROKEN = (httpx.RemoteProtocolError, http.client.BadStatusLine, ConnectionResetError)
# Not OSError, which includes errors of this machine's own, such as a missing file.
NETWORK_ERRORS = (ConnectionError, http.client.HTTPException, ssl.SSLError, socket.gaierror, TimeoutError)
NO_ROUTE = (errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH)  # OSErrors without a class


@contextlib.contextmanager
def translate_errors(url: str, collection: str | None = None) -> Iterator[None]:
    """Raise ServerError or CollectionMissing instead of what qdrant-client or http.client raises."""
    try:
        yield
    except grpc.RpcError as error:
        code = error.code().name if isinstance(error, grpc.Call) else "UNKNOWN"
        detail = (error.details() if isinstance(error, grpc.Call) else None) or str(error)
        raise failure(url, collection, code, detail) from error
    except UnexpectedResponse as error:
        code = HTTP_CODES.get(error.status_code or 0, str(error.status_code))
        raise failure(url, collection, code, error.content.decode(errors="replace")[:300]) from error
    except ResponseHandlingException as error:
        if isinstance(error.source, ValidationError):
            raise not_qdrant(url) from error
        raise unreachable(url, collection, error.source) from error
    except NETWORK_ERRORS as error:
        raise unreachable(url, collection, error) from error
    except OSError as error:
        if error.errno not in NO_ROUTE:
            raise
        raise unreachable(url, collection, error) from error
    except ResourceExhaustedResponse as error:
        raise failure(url, collection, "RESOURCE_EXHAUSTED", str(error), error.retry_after_s) from error
    except ValueError as error:  # the client's local mode raises it for a missing collection
        if collection is None or "not found" not in str(error):
            raise
        raise failure(url, collection, "NOT_FOUND", str(error)) from error


def not_qdrant(url: str) -> ServerError:
    return ServerError(
        f"the server at {url} is not a Qdrant server: give only scheme, host and port, such as http://localhost:6333"
    )


def unreachable(url: str, collection: str | None, error: Exception) -> IndexFailure:
    """Return the exception for a request over HTTP that got no answer."""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _certificate(url, cause.verify_message, other_name=cause.verify_code in OTHER_NAME)
        if isinstance(cause, ssl.SSLError) and cause.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"):
            return ServerError(f"the server at {url} does not use TLS: use http:// instead of https://")
        if isinstance(cause, socket.gaierror):
            host = urlsplit(url).hostname
            if cause.errno == socket.EAI_AGAIN:  # the name server is unavailable or overloaded
                return ServerError(
                    f"the host {host} cannot be resolved at the moment ({cause.strerror})", transient=True
                )
            return ServerError(f"the host {host} does not exist ({cause.strerror}): check --url or QDRANT_URL")
    detail = str(error) or type(error).__name__
    if any(isinstance(cause, httpx.ConnectTimeout) for cause in causes):
        return failure(url, collection, "UNAVAILABLE", "it does not accept the connection in time")
    if any(isinstance(cause, TimeoutError | httpx.TimeoutException) for cause in causes):
        return failure(url, collection, "DEADLINE_EXCEEDED", detail)
    if any(isinstance(cause, CONNECTION_BROKEN) for cause in causes):
        address = urlsplit(url)
        if address.scheme == "http" and _speaks_tls(address.hostname or "", address.port or 6333):
            return ServerError(f"the server at {url} uses TLS: use https:// instead of http://")
    return failure(url, collection, "UNAVAILABLE", detail)


def failure(url: str, collection: str | None, code: str, detail: str, retry_after: float = 0.0) -> IndexFailure:
    """Return the exception for a gRPC or HTTP status code of the server at `url`."""
    detail = " ".join(detail.split())[:300]
    lowered = detail.lower()
    if code == "UNAUTHENTICATED":
        return ServerError(
            f"the Qdrant server at {url} refuses the API key ({detail}): set QDRANT_API_KEY to the server's key"
        )
    if code == "PERMISSION_DENIED":
        return ServerError(
            f"the Qdrant server at {url} refuses the API key for this ({detail}): a read-only key can search but not "
            "write; set QDRANT_API_KEY to the server's full key"
        )
    if any(words in lowered for words in DISK_FULL):
        return ServerError(
            f"the disk of the Qdrant server at {url} is full ({detail}): free some space there, then run the same "
            "command again; acknowledged writes are safe"
        )
    # gRPC reports TLS errors only in this text.
    if "certificate_verify_failed" in lowered or "hostname verification check failed" in lowered:
        return _certificate(f"{url} (its gRPC port)", "", other_name="hostname" in lowered)
    if "wrong_version_number" in lowered:
        return ServerError(f"the gRPC port of {url} does not use TLS: set QDRANT_GRPC_PORT to one that does")
    if code == "NOT_FOUND" and "no point" in lowered:
        return ServerError(f"a point of {collection} at {url} was deleted during this command ({detail}): run it again")
    if code == "NOT_FOUND" and collection is not None:
        return CollectionMissing(
            f"no collection {collection} at {url}: run `python -m ingest run --url {url}`, or name another data set "
            "with --dataset"
        )
    message = f"the Qdrant server at {url} failed with {code}: {detail}"
    if any(words in lowered for words in NODE_LOST):
        message = f"the Qdrant cluster at {url} cannot reach all of its data: a node is unavailable ({detail})"
    elif code == "UNAVAILABLE":
        message = (
            f"no Qdrant server answers at {url} ({detail}): start it with `docker compose up -d`, "
            "or use the embedded index, without --url and QDRANT_URL"
        )
    elif code == "DEADLINE_EXCEEDED":
        message = f"the Qdrant server at {url} took too long: raise QDRANT_TIMEOUT (seconds)"
    return ServerError(message, transient=code in TRANSIENT, retry_after=retry_after)


def _certificate(url: str, reason: str, *, other_name: bool) -> ServerError:
    because = f" ({reason})" if reason else ""
    if other_name:
        return ServerError(
            f"the certificate of {url} was issued for another host name{because}: use that name in --url or QDRANT_URL"
        )
    return ServerError(
        f"the certificate of {url} cannot be verified{because}: set both SSL_CERT_FILE (REST) and "
        "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH (gRPC) to the file with the certificate of its authority"
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the exception and its causes: httpx wraps the errors of the operating system and of OpenSSL."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _speaks_tls(host: str, port: int) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection((host, port), timeout=CONNECT_SECONDS) as raw,
            context.wrap_socket(raw, server_hostname=host),
        ):
            return True
    except OSError:
        return False
