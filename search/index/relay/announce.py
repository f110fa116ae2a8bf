"""Announce the server process that has an embedded index open, in a small file in the index folder.

Only one process can have a shard open, so while `python -m search serve` runs, other commands read the index through it
(`search.index.relay.client`).
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from search.errors import IndexBusy
from search.files import replacing

if TYPE_CHECKING:
    from http.client import HTTPConnection

ROUTE = "/internal/index"
CONNECT_SECONDS = 5.0
COMMAND = "python -m search serve"


def _new_token() -> str:
    import secrets

    return secrets.token_urlsafe(32)


@dataclass(frozen=True, slots=True)
class Running:
    """A server on this machine: its address (`http://127.0.0.1:8000`), its process id, and the token it requires.

    The token is a secret shared by the processes of one user, in a file that only this user can read.
    """

    address: str
    pid: int = field(default_factory=os.getpid)
    token: str = field(default_factory=_new_token, repr=False)

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def connect(self, seconds: float) -> HTTPConnection:
        """Return a connection, which opens at its first use; `seconds` is its timeout."""
        from http.client import HTTPConnection  # not above: most commands find no server, and it imports ssl

        parts = urlsplit(self.address)
        return HTTPConnection(parts.hostname or "", parts.port, timeout=seconds)


@contextlib.contextmanager
def announced(folder: Path, running: Running) -> Iterator[None]:
    """Let `find_running(folder)` return `running` within this block."""
    file = _file(folder)
    with replacing(file, sync=False, mode=0o600) as partial:
        partial.write_text(json.dumps(asdict(running)), encoding="utf-8")
    try:
        yield
    finally:
        if _read(file) == running:
            file.unlink(missing_ok=True)


def find_running(folder: Path) -> Running | None:
    """Return the server that has the index in `folder` open, or None; the file of a dead server is ignored."""
    running = _read(_file(folder))
    return running if running and hello(running).get("pid") == running.pid else None


def busy_error(path: Path, running: Running) -> IndexBusy:
    """Return the exception for a command that needs to write."""
    return IndexBusy(
        f"{path} is open in process {running.pid}: {COMMAND}, at {running.address}: stop it first "
        "(only one process can write; a Qdrant server with --url serves many)"
    )


def _file(folder: Path) -> Path:
    return folder / ".serve.json"


def _read(file: Path) -> Running | None:
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
        return Running(str(fields["address"]), int(fields["pid"]), str(fields["token"]))
    except (OSError, ValueError, LookupError, TypeError):
        return None


def hello(running: Running) -> dict[str, Any]:
    """Return what the announced server reports about itself; nothing if it does not answer.

    It sends its process id, and whether its `model` is ready. Another server on its old port does not know the token.
    """
    from http.client import HTTPException

    try:
        with contextlib.closing(running.connect(CONNECT_SECONDS)) as connection:
            connection.request("GET", ROUTE, headers=running.headers)
            with connection.getresponse() as answer:
                fields = json.loads(answer.read(4096)) if answer.status == 200 else None
    except (OSError, ValueError, HTTPException):
        return {}
    return fields if isinstance(fields, dict) else {}
