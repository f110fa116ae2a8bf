"""The location of the index, from the environment or the command line."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Any, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator

from search.errors import SettingsError
from search.validation import first_problem


class Settings(BaseModel):
    """Settings from `INDEX_PATH`, `QDRANT_URL`, `QDRANT_API_KEY`, `QDRANT_GRPC_PORT` and `QDRANT_TIMEOUT`.

    With a `qdrant_url` the index is on a Qdrant server, otherwise in the folder `index_path`. `qdrant_url` may list
    several nodes of one cluster, separated by commas: the first that answers is used. `qdrant_grpc_port` defaults to
    the port after the one in the URL, as in Qdrant's own defaults (6333 and 6334); `qdrant_timeout` is in seconds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    index_path: Path = Path("index")
    qdrant_url: str | None = None
    qdrant_api_key: SecretStr | None = None
    qdrant_grpc_port: int | None = Field(default=None, ge=1, le=65535)
    qdrant_timeout: int = Field(default=30, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _read_environment(cls, values: dict[str, object]) -> dict[str, object]:
        """Add the variables of the environment; empty ones are unset. pydantic-settings takes 0.1 s to import."""
        environment = {name: os.environ.get(name.upper(), "") for name in cls.model_fields}
        return {name: value for name, value in {**environment, **values}.items() if value != ""}

    @field_validator("qdrant_url")
    @classmethod
    def _url_has_scheme_and_host(cls, value: str | None) -> str | None:
        for url in _split(value):
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname or not _has_good_port(parts):
                raise ValueError(f"{url!r} is not an address such as http://localhost:6333")
        return value

    @property
    def qdrant_urls(self) -> list[str]:
        """The URLs that `qdrant_url` lists."""
        return _split(self.qdrant_url)


def is_loopback(host: str) -> bool:
    """Return whether traffic to this host, or served at it, stays on this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _split(urls: str | None) -> list[str]:
    return [url.strip() for url in urls.split(",")] if urls else []


def _has_good_port(parts: SplitResult) -> bool:
    try:
        return parts.port != 0
    except ValueError:
        return False


def load_settings(path: Path | None = None, url: str | None = None, **more: object) -> Settings:
    """Return settings from the environment, overridden by `path`, `url` and `more`.

    `path` also overrides `QDRANT_URL`; `more` are further fields of Settings.

    Raises:
        SettingsError: a value is not valid, or both `path` and `url` were given.
    """
    if path is not None and url is not None:
        raise SettingsError("give --path (embedded index) or --url (Qdrant server), not both")
    location: dict[str, object] = {}
    if path is not None:
        location = {"index_path": path, "qdrant_url": None}
    if url is not None:
        location = {"qdrant_url": url}
    try:
        return Settings(**location, **more)  # type: ignore[arg-type]
    except ValidationError as error:
        problem = first_problem(error)
        name = problem.place.upper()
        source = {"QDRANT_URL": "--url or QDRANT_URL", "INDEX_PATH": "--path or INDEX_PATH"}.get(name, name)
        raise SettingsError(f"{source}: {problem.message}") from None


def settings_of(place: str, side: Literal["FROM", "TO"]) -> Settings:
    """Return settings for one side of a copy; `place` is a folder or the URL of a server.

    `QDRANT_API_KEY_FROM` and `QDRANT_GRPC_PORT_FROM`, or `..._TO`, override the variables without a suffix.

    Raises:
        SettingsError: a value is not valid.
    """
    names = ("qdrant_api_key", "qdrant_grpc_port")
    overrides: dict[str, Any] = {name: value for name in names if (value := os.environ.get(f"{name.upper()}_{side}"))}
    if place.startswith(("http://", "https://")):
        return load_settings(url=place, **overrides)
    return load_settings(path=Path(place), **overrides)
