"""Download one file over HTTP: resume a partial download, retry temporary errors, and rename the file once complete.

If there is no connection to a host that has not answered before, nothing is retried: the network is likely missing.

A file grows as `<name>.part`. Beside it, `<name>.part.json` holds the length that the server announced and the version
of the file, so that a later attempt, or a later process, never joins parts of two versions.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import random
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import Message
from email.utils import parsedate_to_datetime
from functools import cache
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from search.errors import DownloadError, Unreachable

CHUNK = 256 * 1024  # bytes
TIMEOUT = 30  # seconds without a single byte
FIRST_TIMEOUT = 10  # seconds, of a host that has not answered before
LONGEST_WAIT = 600  # seconds; a longer Retry-After is an error
RESET_AFTER = 1024 * 1024  # bytes received after which failures are counted from zero
TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})  # statuses worth a retry

T = TypeVar("T")
Progress = Callable[[int, int], None]  # bytes on disk, bytes in all

_answered: set[str] = set()  # hosts, with their ports


class _Transient(DownloadError):
    """A failure that a retry may overcome.

    `after` is the wait that the server asks for, in seconds; `restart` discards what was received.
    """

    def __init__(self, reason: str, *, after: float = 0, restart: bool = False) -> None:
        super().__init__(reason)
        self.after = after
        self.restart = restart


@dataclass(frozen=True, slots=True)
class Remote:
    """A file on a server, its target, its first bytes, and its size in bytes and MD5 if they are known."""

    url: str
    file: Path
    magic: bytes
    size: int | None = None
    md5: str | None = None


@dataclass(frozen=True, slots=True)
class Retry:
    """The number of attempts in a row, and the seconds to wait before the second, doubled for each further one."""

    attempts: int = 6
    first_wait: float = 1.0
    sleep: Callable[[float], object] = time.sleep

    def pause(self, failed: int, at_least: float) -> None:
        wait = self.first_wait * 2 ** (failed - 1) * random.uniform(0.75, 1.25)  # jitter: threads do not retry together
        self.sleep(max(wait, at_least))


DEFAULT_RETRY = Retry()


def fetch(
    remote: Remote,
    *,
    retry: Retry = DEFAULT_RETRY,
    claim: Callable[[int], None] | None = None,
    progress: Progress | None = None,
) -> None:
    """Download one file, resuming from its `.part` if there is one.

    `claim` is called with a number of bytes before they are written; it may raise to stop the download.

    Raises:
        DownloadError: the address is not http or https, the server refuses, or the file is not the expected one.
        Unreachable: there is no connection to the host, or `retry.attempts` attempts in a row failed.
        OSError: the disk is full or the folder cannot be written.
    """
    part, claimed = _Part(remote.file), 0

    def announced(total: int) -> None:
        nonlocal claimed
        _check_length(remote, total)
        if claim is not None and total > claimed:  # an attempt that restarts reuses its space
            claim(total - claimed)
            claimed = total

    _with_retries(lambda: _attempt(remote.url, part, announced, progress), retry, part)
    _finish(remote, part)


def announced_size(url: str, retry: Retry = DEFAULT_RETRY) -> int:
    """Return the length of a file in bytes, as its server announces it.

    Raises:
        DownloadError: the address is not http or https, or the server refuses or does not give a length.
        Unreachable: it did not answer.
    """

    def request_length() -> int:
        with _open(url, {}, "HEAD") as response:
            return _length(response.headers)

    return _with_retries(request_length, retry)


class _Part:
    """The partial file, and the length and version of the file that it is part of."""

    def __init__(self, file: Path) -> None:
        self.file = file.with_name(file.name + ".part")
        self.state = file.with_name(file.name + ".part.json")
        self.total, self.version = 0, ""
        # Without a state file, or with one that was cut off, there is nothing to resume.
        with suppress(FileNotFoundError, ValueError, KeyError, TypeError):
            saved = json.loads(self.state.read_text(encoding="utf-8"))
            self.total, self.version = int(saved["total"]), str(saved["version"])

    def size(self) -> int:
        """Return the number of bytes that need not be downloaded again."""
        return self.file.stat().st_size if self.total and self.file.is_file() else 0

    def headers(self) -> dict[str, str]:
        if not self.size():
            return {}
        return {"Range": f"bytes={self.size()}-", **({"If-Range": self.version} if self.version else {})}

    def begin(self, total: int, version: str) -> None:
        self.file.write_bytes(b"")  # before the state: bytes of an older version must never pass for a newer one's
        self.total, self.version = total, version
        self.state.write_text(json.dumps({"total": total, "version": version}), encoding="utf-8")

    def grow(self, response: http.client.HTTPResponse, progress: Progress | None) -> None:
        done = self.size()
        with self.file.open("r+b") as target:
            target.seek(done)  # not append mode: two processes on one file then write the same bytes
            while done < self.total:
                with _network():
                    chunk = response.read1(min(CHUNK, self.total - done))
                if not chunk:
                    raise _Transient(f"the connection ended after {done:,} of {self.total:,} bytes")
                target.write(chunk)
                target.flush()  # so that a thread that Ctrl-C abandons loses nothing
                done += len(chunk)
                if progress is not None:
                    progress(done, self.total)

    def discard(self) -> None:
        self.file.unlink(missing_ok=True)
        self.state.unlink(missing_ok=True)
        self.total, self.version = 0, ""


def _attempt(url: str, part: _Part, announced: Callable[[int], None], progress: Progress | None) -> None:
    size = part.size()
    if size and size == part.total:  # stopped between the last byte and the renaming
        announced(part.total)
        return
    with _open(url, part.headers()) as response:
        if response.status == 206:
            if _range(response.headers) != (size, part.total):
                raise _Transient("the server sent a different range than requested", restart=True)
            announced(part.total)
        else:  # the whole file: the server does not support ranges, or the file has changed
            total = _length(response.headers)
            announced(total)
            part.begin(total, _version(response.headers))
        part.grow(response, progress)


def _with_retries(attempt: Callable[[], T], retry: Retry, part: _Part | None = None) -> T:
    failed, last_size = 0, part.size() if part else 0
    while True:
        try:
            return attempt()
        except _Transient as error:
            if part and error.restart:
                part.discard()
            if part and part.size() >= last_size + RESET_AFTER:  # a long download may be cut off many times
                failed, last_size = 0, part.size()
            failed += 1
            if failed >= retry.attempts:
                raise Unreachable(f"{error} (tried {failed} times)") from error
            if error.after > LONGEST_WAIT:
                raise Unreachable(f"{error}; the server asks to retry in {error.after:.0f} seconds") from error
            retry.pause(failed, error.after)


def _finish(remote: Remote, part: _Part) -> None:
    """Give a complete file its name if its first bytes and its MD5 are right."""
    with part.file.open("rb") as file:
        start = file.read(64)
    if not start.startswith(remote.magic):
        part.discard()
        raise DownloadError(f"not the expected kind of file: it starts with {start[:16]!r}")
    if remote.md5 and (digest := _md5(part.file)) != remote.md5:
        raise DownloadError(
            f"{remote.file.name} has MD5 {digest}, not the known {remote.md5}: "
            f"delete {part.file} to download it again, or accept it with --no-verify"
        )
    part.file.replace(remote.file)
    part.state.unlink(missing_ok=True)


def _md5(file: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with file.open("rb") as opened:
        while chunk := opened.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


@cache
def _opener() -> urllib.request.OpenerDirector:
    """Return an opener for http and https alone, so that no redirection leads to ftp: or file:."""
    opener = urllib.request.OpenerDirector()
    opener.addheaders = [("User-Agent", "coco-search")]
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.UnknownHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    return opener


@contextmanager
def _open(url: str, headers: dict[str, str], method: str = "GET") -> Iterator[http.client.HTTPResponse]:
    if urlsplit(url).scheme not in ("http", "https"):
        raise DownloadError(f"not an http or https address: {url}")
    request = urllib.request.Request(url, headers=headers, method=method)
    with _network(), _first_contact(request):
        response = _opener().open(request, timeout=TIMEOUT if request.host in _answered else FIRST_TIMEOUT)
    with response:
        if response.status not in (200, 206):
            raise DownloadError(f"HTTP {response.status} {response.reason}")
        yield response


@contextmanager
def _first_contact(request: urllib.request.Request) -> Iterator[None]:
    """Raise Unreachable if no connection is made to a host that has not answered before."""
    host = request.host
    try:
        yield
    except urllib.error.URLError as error:
        reason = error.reason
        if not isinstance(reason, OSError) or isinstance(reason, ssl.SSLError) or host in _answered:
            raise
        proxy = request.host if request.host != host else None  # the handler of proxies has changed the request
        way = f" through the proxy {proxy}" if proxy else ""
        raise Unreachable(
            f"cannot reach {host}{way}: {reason.strerror or reason}: check the network connection"
        ) from error
    _answered.add(host)


@contextmanager
def _network() -> Iterator[None]:
    """Turn network errors into our own, so that any other OSError comes from the disk."""
    try:
        yield
    except urllib.error.HTTPError as error:
        error.close()
        reason = f"HTTP {error.code} {error.reason}"
        if error.code == 416:  # the partial file is longer than the whole one
            raise _Transient(reason, restart=True) from None
        if error.code in TRANSIENT:
            raise _Transient(reason, after=_retry_after(error.headers)) from None
        raise DownloadError(reason) from None
    except urllib.error.URLError as error:
        if isinstance(error.reason, str | ssl.SSLCertVerificationError):
            raise DownloadError(str(error.reason)) from error
        raise _Transient(str(error.reason)) from error
    except (OSError, http.client.HTTPException) as error:
        raise _Transient(str(error) or type(error).__name__) from error


def _retry_after(headers: Message) -> float:
    """Return the seconds of a Retry-After header, which holds seconds or a date, or 0."""
    value = (headers.get("Retry-After") or "").strip()
    if value.isdecimal():
        return float(value)
    try:
        date = parsedate_to_datetime(value)
    except (ValueError, TypeError):
        return 0.0
    return max(0.0, (date.astimezone(UTC) - datetime.now(UTC)).total_seconds())


def _length(headers: Message) -> int:
    value = (headers.get("Content-Length") or "").strip()
    if not value.isdecimal():
        raise DownloadError("the server does not send the length of the file")
    return int(value)


def _check_length(remote: Remote, total: int) -> None:
    if remote.size is not None and total != remote.size:
        raise DownloadError(
            f"{remote.file.name} has {total:,} bytes on the server, not the known {remote.size:,}: "
            "if it was replaced there, accept it with --no-verify"
        )


def _range(headers: Message) -> tuple[int, int] | None:
    """Return the first byte of a partial response and the length of the whole file, or None if they are missing."""
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", (headers.get("Content-Range") or "").strip())
    return (int(match[1]), int(match[2])) if match else None


def _version(headers: Message) -> str:
    """Return what identifies a version of a file: a strong ETag, or the date, or an empty string."""
    etag = (headers.get("ETag") or "").strip()
    return etag if etag.startswith('"') else (headers.get("Last-Modified") or "").strip()
