"""Parse the origins of web pages (scheme, host and port) into a normal form that can be compared."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import NamedTuple

import idna

from search.errors import SettingsError

DEFAULT_PORTS = {"http": 80, "https": 443}
ORIGIN = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9a-f:.]+\]|[^\s\[\]/?#@:\\%]{1,253})(?::(?P<port>[0-9]{0,5}))?", re.I
)
HOST_NAME = re.compile(r"(?=.{1,253}$)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")
PATH = re.compile(r"(/[\w.~!$&'()*+,;=:@%-]+)*/?", re.ASCII)


class Origin(NamedTuple):
    """The origin of a page, with a lower-case ASCII host and an explicit port."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + ("" if self.port == DEFAULT_PORTS[self.scheme] else f":{self.port}")


@dataclass(frozen=True, slots=True)
class PublicUrl:
    """The address of the page behind a reverse proxy; `path` is empty or like "/photos"."""

    origin: Origin
    path: str = ""

    def __str__(self) -> str:
        return f"{self.origin}{self.path}"


def read_origin(text: str) -> Origin | None:
    """Parse an `Origin` header; return None if it is not an HTTP origin ("null", a path, another scheme)."""
    match = ORIGIN.fullmatch(text)
    host = match and _host(match["host"])
    if not match or not host:
        return None
    scheme = match["scheme"].lower()
    port = int(match["port"] or DEFAULT_PORTS[scheme])
    return Origin(scheme, host, port) if 0 < port < 2**16 else None


def read_public_url(text: str) -> PublicUrl:
    """Parse the value of `--public-url`.

    Raises:
        SettingsError: it is not http:// or https:// followed by a host and optionally a port and a path.
    """
    match = ORIGIN.match(text)
    origin = match and read_origin(match[0])
    path = text[match.end() :] if match else ""
    if not origin or not PATH.fullmatch(path) or {".", ".."} & set(path.split("/")):
        raise SettingsError(
            f"--public-url {text!r} is not a valid page address: give one such as https://photos.example.org "
            "or https://example.org/photos"
        )
    return PublicUrl(origin, path.removesuffix("/"))


def _host(text: str) -> str | None:
    """Return the host as browsers send it: addresses in their shortest form, names in lower case and Punycode."""
    try:
        return str(ipaddress.ip_address(text.strip("[]")))
    except ValueError:
        pass
    try:
        name = text if text.isascii() else idna.encode(text, uts46=True).decode()
    except idna.IDNAError:
        return None
    name = name.lower().removesuffix(".")
    return name if HOST_NAME.fullmatch(name) else None
