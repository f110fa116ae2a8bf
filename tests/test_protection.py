"""Which hosts and which pages the server answers, with and without a public URL."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import httpx
import pytest
from conftest import Call, one_line_error
from starlette.types import Receive, Scope, Send

from search.errors import SettingsError
from search.web.origins import read_origin, read_public_url
from search.web.protection import Protection

SITE = "https://photos.example.org"


async def application(_: Scope, __: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body"})


def statuses(public: Sequence[str], requests: Sequence[dict[str, str]], host: str = "127.0.0.1") -> list[int]:
    """Return the status of each request, which is given as its headers."""
    origins = {read_public_url(each).origin for each in public}
    transport = httpx.ASGITransport(Protection(application, host, {}, public=origins))

    async def ask() -> list[int]:
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
            return [(await client.post("/", headers=headers)).status_code for headers in requests]

    return asyncio.run(ask())


def at(host: str, origin: str | None = None, **more: str) -> dict[str, str]:
    named = {"Host": host, **more}
    return named if origin is None else {**named, "Origin": origin}


@pytest.mark.parametrize(
    ("public", "origin", "host"),
    [
        (SITE, SITE, "photos.example.org"),
        ("https://Photos.Example.org/", SITE, "PHOTOS.example.ORG"),
        (f"{SITE}:443", SITE, "photos.example.org:443"),
        (SITE, f"{SITE}:443", "photos.example.org"),
        (f"{SITE}:8443", f"{SITE}:8443", "photos.example.org:8443"),
        (f"{SITE}:8443", f"{SITE}:8443", "photos.example.org"),  # nginx's $host has no port
        ("http://photos.lan:80", "http://photos.lan", "photos.lan"),
        (f"{SITE}/below/a/path/", SITE, "photos.example.org"),
        (f"{SITE}.", SITE, "photos.example.org"),
        (SITE, f"{SITE}.", "photos.example.org."),
        ("https://BÜCHER.example", "https://xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("https://faß.example", "https://xn--fa-hia.example", "xn--fa-hia.example"),
        ("https://xn--bcher-kva.example", "https://xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("https://192.0.2.7", "https://192.0.2.7", "192.0.2.7"),
        ("https://[2001:DB8:0::1]:8443", "https://[2001:db8::1]:8443", "[2001:db8::1]:8443"),
    ],
)
def test_the_page_behind_a_proxy_is_known(public: str, origin: str, host: str) -> None:
    kept, rewritten = at(host, origin), at("127.0.0.1:8000", origin)
    assert statuses([public], [kept, rewritten, at(host)]) == [200, 200, 200]
    assert statuses(["https://other.example", public], [kept, rewritten]) == [200, 200]
    assert statuses([], [kept, rewritten, at(host)]) == [403, 403, 403]


@pytest.mark.parametrize(
    "origin",
    [
        "http://photos.example.org",
        "http://photos.example.org:443",
        "https://photos.example.org:8443",
        "https://photos.example.org.evil.example",
        "https://evil.example",
        "https://photos.example.org@evil.example",
        "https://evil.example#photos.example.org",
        "https://photos.example.org/",
        "https://photos.example.org https://evil.example",
        "wss://photos.example.org",
        "photos.example.org",
        "null",
        "",
        "https://",
        "https://[",
        "http://localhost:8000",
    ],
)
def test_other_pages_are_refused(origin: str) -> None:
    assert read_origin(origin) != read_origin(SITE)
    for host in ("photos.example.org", "127.0.0.1:8000"):
        assert statuses([SITE], [at(host, origin)]) == [403], host


def test_a_public_url_lets_in_nothing_else() -> None:
    forwarded = {"X-Forwarded-Host": "photos.example.org", "X-Forwarded-Proto": "https", "Forwarded": f"host={SITE}"}
    refused = [
        at("evil.example"),
        at("evil.example", SITE),
        at("evil.example", SITE, **forwarded),
        at("127.0.0.1:8000", "http://evil.example", **forwarded),
        at("photos.example.org.evil.example"),
        at("photos.example.org@evil.example"),
        at("localhost."),
        at(""),
        at("["),
        at("203.0.113.5"),
        at("photos.example.org", "http://127.0.0.1:8000"),
        at("127.0.0.1:8000", "https://127.0.0.1:8000"),
    ]
    assert statuses([SITE], refused) == [403] * len(refused)
    direct = [at("127.0.0.1:8000", "http://127.0.0.1:8000"), at("localhost:9000"), at("[::1]:80", "http://[::1]")]
    assert statuses([SITE], direct) == statuses([], direct) == [200] * len(direct)


def test_a_machine_with_the_public_name_is_asked_by_its_public_page_alone() -> None:
    requests = [at("gateway", "https://gateway"), at("gateway", "http://gateway")]
    assert statuses(["https://gateway"], requests, host="gateway") == [200, 403]
    assert statuses([], requests, host="gateway") == [403, 200]


@pytest.mark.parametrize(
    "text",
    [
        "", "photos.example.org", "//photos.example.org", "ftp://photos.example.org", "https://", "https:///x",
        "https://*.example.org", "https://a b.example", "https://a.example\n", "https://me:pw@a.example",
        "https://a.example:port", "https://a.example:0", "https://a.example:70000", "https://a.example?q=1",
        "https://a.example/#x", "https://a.example/../x", "https://a.example//x", "https://[::1", "https://[x]",
        "https://a..example", "https://\u2024.example/ä", "null", "*", "https://a.example\\x", "https://a%2eexample",
    ],
)  # fmt: skip
def test_malformed_public_urls(text: str) -> None:
    with pytest.raises(SettingsError, match="--public-url"):
        read_public_url(text)


def test_a_malformed_public_url_is_said_before_anything_is_loaded(call: Call) -> None:
    error = one_line_error(call("search", "serve", "--path", "nothing", "--public-url", "photos.example.org"))
    assert "--public-url 'photos.example.org'" in error
