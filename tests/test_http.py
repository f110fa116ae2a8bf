"""One file over HTTP, from a server that does everything wrong that servers and networks do."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from web_server import DATE, Answer, Server

from ingest.download.http import LONGEST_WAIT, RESET_AFTER, Remote, Retry, _opener, announced_size, fetch
from search.errors import DownloadError, Unreachable

HURRIED = Retry(attempts=4, first_wait=0.001)
JPEG = b"\xff\xd8\xff"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    with Server.running() as running:
        yield running


@pytest.fixture
def photo(server: Server, tmp_path: Path) -> Remote:
    server.files["/a.jpg"] = JPEG + random.Random(0).randbytes(400_000)
    return Remote(server.url + "/a.jpg", tmp_path / "a.jpg", JPEG)


def arrived(server: Server, photo: Remote) -> bool:
    assert not list(photo.file.parent.glob("*.part*"))
    return photo.file.read_bytes() == server.files["/a.jpg"]


@pytest.mark.parametrize("reset", [False, True])
def test_a_dropped_connection_is_resumed(server: Server, photo: Remote, reset: bool) -> None:
    server.script["/a.jpg"] = [Answer(sent=100_000, reset=reset), Answer(sent=0), Answer(sent=50_000, reset=reset)]
    fetch(photo, retry=HURRIED)
    assert arrived(server, photo)
    asked = server.asked("/a.jpg")
    assert [headers.get("Range") for headers in asked] == [None, "bytes=100000-", "bytes=100000-", "bytes=150000-"]
    assert [headers.get("If-Range") for headers in asked] == [None, '"one"', '"one"', '"one"']


def test_a_server_without_ranges_is_asked_from_the_start(server: Server, photo: Remote) -> None:
    server.script["/a.jpg"] = [Answer(sent=100_000)]
    server.always["/a.jpg"] = Answer(ranges=False)
    fetch(photo, retry=HURRIED)
    assert arrived(server, photo)


@pytest.mark.parametrize(
    ("version", "changed", "if_range"),
    [
        ({"ETag": '"one"', "Last-Modified": DATE}, {"ETag": '"two"', "Last-Modified": formatdate(0)}, '"one"'),
        ({"ETag": 'W/"one"', "Last-Modified": DATE}, {"Last-Modified": formatdate(0)}, DATE),
        ({}, {}, None),
    ],
)
def test_two_versions_are_never_glued_together(
    server: Server, photo: Remote, version: dict[str, str], changed: dict[str, str], if_range: str | None
) -> None:
    server.script["/a.jpg"] = [Answer(sent=100_000, version=version)]
    server.always["/a.jpg"] = Answer(version=changed)

    def change_on_the_server(_: float) -> None:
        server.files["/a.jpg"] = JPEG + random.Random(1).randbytes(410_000)

    fetch(photo, retry=replace(HURRIED, sleep=change_on_the_server))
    assert arrived(server, photo)
    assert server.asked("/a.jpg")[1].get("If-Range") == if_range


@pytest.mark.parametrize(
    "answer",
    [
        Answer(status=503),
        Answer(status=500),
        Answer(status=429, headers={"Retry-After": "0"}),
        Answer(headers={"Content-Length": "900000"}),  # more than comes
        Answer(status=416),
    ],
)
def test_what_passes_is_waited_for(server: Server, photo: Remote, answer: Answer) -> None:
    server.script["/a.jpg"] = [answer]
    fetch(photo, retry=HURRIED)
    assert arrived(server, photo)


def test_a_wrong_range_starts_again(server: Server, photo: Remote) -> None:
    server.script["/a.jpg"] = [Answer(sent=100_000), Answer(headers={"Content-Range": "bytes 7-9/400003"})]
    fetch(photo, retry=HURRIED)
    assert arrived(server, photo)
    assert [headers.get("Range") for headers in server.asked("/a.jpg")] == [None, "bytes=100000-", None]


def test_the_waits_grow_and_end(server: Server, photo: Remote) -> None:
    server.always["/a.jpg"] = Answer(status=503)
    waits: list[float] = []
    with pytest.raises(Unreachable, match=r"HTTP 503 Service Unavailable \(tried 6 times\)"):
        fetch(photo, retry=Retry(sleep=waits.append))
    assert len(server.requests) == 6
    assert all(0.75 * 2**n <= wait <= 1.25 * 2**n for n, wait in enumerate(waits))
    assert len(waits) == 5


def test_the_server_may_ask_for_time(server: Server, photo: Remote) -> None:
    server.script["/a.jpg"] = [
        Answer(status=429, headers={"Retry-After": "77"}),
        Answer(status=503, headers={"Retry-After": formatdate(time.time() + 100, usegmt=True)}),
        Answer(status=503, headers={"Retry-After": "soon"}),
    ]
    waits: list[float] = []
    fetch(photo, retry=replace(HURRIED, sleep=waits.append))
    assert waits[0] == 77
    assert 90 < waits[1] <= 100
    assert waits[2] < 1
    photo.file.unlink()
    server.script["/a.jpg"] = [Answer(status=503, headers={"Retry-After": str(LONGEST_WAIT + 1)})]
    with pytest.raises(Unreachable, match="the server asks to retry in 601 seconds"):
        fetch(photo, retry=HURRIED)


def test_a_long_file_may_be_dropped_often(server: Server, photo: Remote) -> None:
    server.files["/a.jpg"] = JPEG + random.Random(0).randbytes(6 * RESET_AFTER)
    server.always["/a.jpg"] = Answer(sent=RESET_AFTER)
    fetch(photo, retry=replace(HURRIED, attempts=2))
    assert arrived(server, photo)


def not_retried(_: float) -> None:
    pytest.fail("it is retried")


def test_nobody_listens(photo: Remote) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(Unreachable, match=rf"^cannot reach 127.0.0.1:{port}: Connection refused: check the network"):
        fetch(replace(photo, url=f"http://127.0.0.1:{port}/a.jpg"), retry=Retry(sleep=not_retried))


def test_without_a_network_the_host_is_named_at_once(photo: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", fails)
    with pytest.raises(Unreachable, match=r"^cannot reach photos.example.org: Temporary failure in name resolution"):
        fetch(replace(photo, url="http://photos.example.org/a.jpg"), retry=Retry(sleep=not_retried))
    monkeypatch.setenv("http_proxy", "http://proxy.example.org:3128")
    monkeypatch.setenv("no_proxy", "")
    _opener.cache_clear()  # it remembers the proxies
    with pytest.raises(Unreachable, match=r"^cannot reach photos.example.org through the proxy proxy.example.org:3128"):
        fetch(replace(photo, url="http://photos.example.org/a.jpg"), retry=Retry(sleep=not_retried))
    _opener.cache_clear()


def test_a_host_that_has_answered_is_retried(server: Server, photo: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    announced_size(photo.url)
    real, failures = socket.getaddrinfo, [1, 2]

    def fails_twice(*arguments: Any, **options: Any) -> Any:
        if failures:
            raise socket.gaierror(socket.EAI_AGAIN, f"Temporary failure {failures.pop()}")
        return real(*arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", fails_twice)
    fetch(photo, retry=HURRIED)
    assert arrived(server, photo)
    assert failures == []


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://127.0.0.1/a.jpg", "/a.jpg"])
def test_only_the_web_is_asked(server: Server, photo: Remote, url: str) -> None:
    with pytest.raises(DownloadError, match="not an http or https address"):
        fetch(replace(photo, url=url), retry=HURRIED)
    server.script["/a.jpg"] = [Answer(status=302, headers={"Location": url.replace("/a.jpg", "/b.jpg")})]
    with pytest.raises(DownloadError):
        fetch(photo, retry=HURRIED)
    assert not photo.file.exists()


@pytest.mark.parametrize(
    ("body", "reason"),
    [(b"<html>sorry</html>", "not the expected kind"), (b"", "not the expected kind"), (b"GIF89a", "not the expected")],
)
def test_something_else_never_gets_the_name(server: Server, photo: Remote, body: bytes, reason: str) -> None:
    server.files["/a.jpg"] = body
    with pytest.raises(DownloadError, match=reason):
        fetch(photo, retry=HURRIED)
    assert list(photo.file.parent.glob("a.jpg*")) == []


def test_a_known_size_is_compared_before_anything_is_written(photo: Remote) -> None:
    with pytest.raises(DownloadError, match="400,003 bytes on the server, not the known 12"):
        fetch(replace(photo, size=12), retry=HURRIED)
    assert list(photo.file.parent.glob("a.jpg*")) == []
    assert announced_size(photo.url) == 400_003


@pytest.mark.parametrize("memory", ["", "{", "[]", '{"total": 400003}', '{"total": "x", "version": ""}'])
def test_a_part_of_unknown_origin_is_not_trusted(server: Server, photo: Remote, memory: str) -> None:
    photo.file.with_name("a.jpg.part").write_bytes(b"x" * 1000)
    photo.file.with_name("a.jpg.part.json").write_text(memory)
    fetch(photo, retry=HURRIED)
    assert arrived(server, photo)
    assert "Range" not in server.requests[0][2]
