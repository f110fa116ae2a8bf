"""Refuse requests from other sites and oversized bodies, and set the security headers of every response.

The server has no passwords, so it must not be reachable through a page of another site: a page at evil.example can
point its own name to 127.0.0.1 (DNS rebinding), or simply send requests here (CSRF). The first has a wrong `Host`, the
second a foreign `Origin`.

A reverse proxy changes both: browsers send the proxy's address as `Origin`, and `Host` is that address or this
server's, depending on the proxy. `--public-url` names that address. `X-Forwarded-Host` and the like are ignored, since
any client can send them.
"""

from __future__ import annotations

import ipaddress
import secrets
import socket
from collections.abc import Collection
from urllib.parse import urlsplit

from fastapi import HTTPException
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from search.settings import is_loopback
from search.web.origins import Origin, read_origin

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
RAW_HEADERS = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
JSON_BYTES = 128 * 1024
PICTURE_BYTES = 20 * 1024 * 1024
INTERNAL_BYTES = 256 * 1024 * 1024
"""The largest body of a query, of a picture, and of a call from another command that has sent its token."""


class Protection:
    """ASGI middleware that refuses foreign hosts, foreign origins and oversized bodies, and sets `HEADERS`.

    Args:
        host: the name or address that the server is bound to.
        limits: the largest body in bytes, by path; `JSON_BYTES` for all other paths.
        token: the Authorization header required for a limit of `INTERNAL_BYTES`; `JSON_BYTES` applies without it.
        public: the origins at which reverse proxies show the page.
    """

    def __init__(
        self, app: ASGIApp, host: str, limits: dict[str, int], token: str = "", public: Collection[Origin] = ()
    ) -> None:
        self._app = app
        self._host = host.lower()
        self._public = frozenset(public)
        self._limits = limits
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_protected(message: Message) -> None:
            if message["type"] == "http.response.start":
                sent = message["headers"] = [*message["headers"], *RAW_HEADERS]
                if not any(name == b"cache-control" for name, _ in sent):
                    sent.append((b"cache-control", b"no-store"))
            await send(message)

        headers = Headers(scope=scope)
        limit = self._limits.get(scope["path"], JSON_BYTES)
        if limit == INTERNAL_BYTES and not self._has_token(headers):
            limit = JSON_BYTES
        refusal = self._refusal(headers, limit)
        if refusal:
            response = JSONResponse({"error": refusal.detail}, refusal.status_code)
            await response(scope, receive, send_protected)
        else:
            await self._app(scope, _limited(receive, limit), send_protected)

    def _refusal(self, headers: Headers, limit: int) -> HTTPException | None:
        host = headers.get("host", "")
        if not self._is_own(host) and not self._is_public(host):
            remedy = "use its own address, or start it with --public-url and the address of the proxy in front of it"
            return HTTPException(403, f"this server is not called {_shown(host)}: {remedy}")
        origin = headers.get("origin")
        if origin is not None and read_origin(origin) not in self._allowed_origins(host):
            remedy = "if it is this page behind a proxy, start the server with --public-url and that address"
            return HTTPException(403, f"this request came from a page of another site, {_shown(origin)}: {remedy}")
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length[:20]) > limit:
            return _too_large(limit)
        return None

    def _has_token(self, headers: Headers) -> bool:
        return secrets.compare_digest(headers.get("authorization", "").encode(), self._token.encode())

    def _is_public(self, host: str) -> bool:
        """Return whether the name is that of a proxy; its port may be missing, or be the one the proxy listens on."""
        requested = read_origin(f"http://{host}")
        return requested is not None and requested.host in {origin.host for origin in self._public}

    def _allowed_origins(self, host: str) -> frozenset[Origin]:
        """Return the origins that the page can have if it was requested with this `Host`."""
        through_proxy = {read_origin(f"{origin.scheme}://{host}") for origin in self._public} & self._public
        direct = read_origin(f"http://{host}")
        if through_proxy or direct is None or not self._is_own(host):
            return self._public
        return self._public | {direct}

    def _is_own(self, host: str) -> bool:
        """Return whether the name is this server's: numeric addresses cannot be rebound, other names must be known."""
        try:
            name = (urlsplit(f"//{host}").hostname or "").lower()
        except ValueError:
            return False
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            known = {"localhost", self._host}
            return name in known or (not is_loopback(self._host) and name == socket.gethostname().lower())
        return address.is_loopback or not is_loopback(self._host)


def _limited(receive: Receive, limit: int) -> Receive:
    """Return `receive`, but raising once a body exceeds `limit` bytes, whatever its Content-Length."""
    received = 0

    async def receive_limited() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > limit:
            raise _too_large(limit)
        return message

    return receive_limited


def _too_large(limit: int) -> HTTPException:
    size = f"{limit // 2**20} MB" if limit >= 2**20 else f"{limit // 2**10} KB"
    return HTTPException(413, f"the request is too large: the limit is {size}")


def _shown(host: str) -> str:
    return repr(host[:100])
