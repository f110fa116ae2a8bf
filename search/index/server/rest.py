"""Qdrant's REST API, for what gRPC lacks: snapshots, and the state of a cluster."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from search.errors import ServerError
from search.index.server.failures import HTTP_CODES, failure, translate_errors
from search.settings import Settings

Body = Callable[[], Iterator[bytes]]  # called once for each attempt to send it


class Rest:
    """The REST API of one server. Every request uses a new connection, and is not retried."""

    def __init__(self, url: str, settings: Settings) -> None:
        self.url = url
        address = urlsplit(url)
        self._secure = address.scheme == "https"
        self._host = address.hostname or ""
        self._port = address.port or (443 if self._secure else 6333)
        self._prefix = address.path.rstrip("/")
        key = settings.qdrant_api_key
        self._headers = {"api-key": key} if key else {}
        self._seconds = settings.qdrant_timeout

    def result(self, method: str, path: str, collection: str | None = None, **more: Any) -> Any:
        """Return the `result` of an answer; `more` is as for `answer`.

        Raises:
            CollectionMissing: the path is about `collection`, which does not exist.
            ServerError: the server refuses the request, does not answer, or is not Qdrant.
        """
        with self.answer(method, path, collection, **more) as response:
            text = response.read()
        try:
            return json.loads(text)["result"]
        except (ValueError, KeyError, TypeError) as error:
            raise ServerError(f"{method} {self.url}{path}: the answer is not Qdrant's: {text[:100]!r}") from error

    @contextmanager
    def answer(
        self,
        method: str,
        path: str,
        collection: str | None = None,
        *,
        seconds: float | None = None,
        body: Body | None = None,
        headers: dict[str, str] | None = None,
    ) -> Iterator[http.client.HTTPResponse]:
        """Yield the answer to a request if its status is 200 or 206; `seconds` is the timeout of each operation.

        Raises:
            CollectionMissing, ServerError: as for `result`, also if the connection breaks while the answer is read.
        """
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=seconds or self._seconds)
        try:
            with translate_errors(self.url, collection):
                connection.connect()
                try:
                    connection.request(
                        method,
                        self._prefix + path,
                        body=body() if body else None,
                        headers={**self._headers, **(headers or {})},
                    )
                except (BrokenPipeError, ConnectionResetError):
                    if body is None:
                        raise
                    # Otherwise the server may have refused before it had read the body: its answer says why.
                with connection.getresponse() as response:  # it may keep the socket open after `connection.close()`
                    if response.status not in (200, 206):
                        code = HTTP_CODES.get(response.status, str(response.status))
                        raise failure(self.url, collection, code, _error_in(response.read(2000)))
                    yield response
        finally:
            connection.close()


def _error_in(answer: bytes) -> str:
    text = answer.decode(errors="replace")
    try:
        return str(json.loads(text)["status"]["error"])
    except (ValueError, KeyError, TypeError):
        return text[:300]
