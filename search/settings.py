"""The location of the index, from the environment or the command line."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

from search.errors import SettingsError

D = TypeVar("D")
HIGHEST_PORT = 65535


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings. One that is not given is read from the environment variable of its name, such as `INDEX_PATH`.

    An empty variable counts as unset.

    With a `qdrant_url` the index is on a Qdrant server, otherwise in the folder `index_path`. `qdrant_url` may list
    several nodes of one cluster, separated by commas: the first that answers is used. `qdrant_grpc_port` defaults to
    the port after the one in the URL, as in Qdrant's own defaults (6333 and 6334); `qdrant_timeout` is in seconds.

    Raises:
        SettingsError: a value is not valid.
    """

    index_path: Path = field(default_factory=lambda: Path(os.environ.get("INDEX_PATH") or "index"))
    qdrant_url: str | None = field(default_factory=lambda: os.environ.get("QDRANT_URL"))
    qdrant_api_key: str | None = field(default_factory=lambda: os.environ.get("QDRANT_API_KEY"), repr=False)
    qdrant_grpc_port: int | None = field(default_factory=lambda: _number("QDRANT_GRPC_PORT", None))
    qdrant_timeout: int = field(default_factory=lambda: _number("QDRANT_TIMEOUT", 30))

    def __post_init__(self) -> None:
        object.__setattr__(self, "index_path", Path(self.index_path))  # a string is accepted too
        if not self.qdrant_url and os.path.isfile(self.index_path):  # noqa: PTH113 - unlike Path.is_file, it raises nothing
            raise SettingsError(f"--path or INDEX_PATH: {self.index_path} is a file: give the folder of an index")
        for url in self.qdrant_urls:
            if not _is_address(url):
                raise SettingsError(f"--url or QDRANT_URL: {url!r} is not an address such as http://localhost:6333")
        if self.qdrant_grpc_port is not None and not 1 <= self.qdrant_grpc_port <= HIGHEST_PORT:
            raise SettingsError(f"QDRANT_GRPC_PORT: {self.qdrant_grpc_port} is not a port from 1 to {HIGHEST_PORT}")
        if self.qdrant_timeout < 1:
            raise SettingsError(f"QDRANT_TIMEOUT: {self.qdrant_timeout} is less than one second")

    @property
    def qdrant_urls(self) -> list[str]:
        """The URLs that `qdrant_url` lists."""
        return [url.strip() for url in self.qdrant_url.split(",")] if self.qdrant_url else []


def is_loopback(host: str) -> bool:
    """Return whether traffic to this host, or served at it, stays on this machine."""
    import ipaddress  # not above: few need it

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _number(name: str, default: D) -> int | D:
    """Return the number in an environment variable, or `default` if it is unset or empty. Raises SettingsError."""
    value = os.environ.get(name)
    try:
        return int(value) if value else default
    except ValueError:
        raise SettingsError(f"{name}: {value!r} is not a whole number") from None


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # also raised by brackets around what is not an IPv6 address
        return False


def load_settings(path: Path | None = None, url: str | None = None, **more: Any) -> Settings:
    """Return settings from the environment, overridden by `path`, `url` and `more`.

    `path` also overrides `QDRANT_URL`; `more` are further fields of Settings.

    Raises:
        SettingsError: a value is not valid, or both `path` and `url` were given.
    """
    if path is not None and url is not None:
        raise SettingsError("give --path (embedded index) or --url (Qdrant server), not both")
    location: dict[str, Any] = {}
    if path is not None:
        location = {"index_path": path, "qdrant_url": None}
    if url is not None:
        location = {"qdrant_url": url}
    return Settings(**location, **more)


def settings_of(place: str, side: Literal["FROM", "TO"]) -> Settings:
    """Return settings for one side of a copy; `place` is a folder or the URL of a server.

    `QDRANT_API_KEY_FROM` and `QDRANT_GRPC_PORT_FROM`, or `..._TO`, override the variables without a suffix.

    Raises:
        SettingsError: a value is not valid.
    """
    overrides: dict[str, Any] = {
        "qdrant_api_key": os.environ.get(f"QDRANT_API_KEY_{side}"),
        "qdrant_grpc_port": _number(f"QDRANT_GRPC_PORT_{side}", None),
    }
    overrides = {name: value for name, value in overrides.items() if value not in (None, "")}
    if place.startswith(("http://", "https://")):
        return load_settings(url=place, **overrides)
    return load_settings(path=Path(place), **overrides)
