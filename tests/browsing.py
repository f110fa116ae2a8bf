"""A browser for the tests of the page, and what they do with it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import pytest
from running_web import Web

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = ["--no-sandbox", "--disable-gpu"]  # without a GPU, its emulation takes a second for each page
SHOWN = "#results[aria-busy=false] li"


@pytest.fixture(scope="module")  # its event loop would be in the way of other tests
def browser() -> Iterator[Browser]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no chromium on PATH")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def context(browser: Browser, web: Web) -> Iterator[BrowserContext]:
    """A window in which each test opens a tab, so that photos come from the browser's cache, as they do for a user."""
    with browser.new_context(base_url=web.address, viewport={"width": 1280, "height": 900}, has_touch=True) as context:
        yield context


@pytest.fixture
def page(context: BrowserContext, web: Web) -> Iterator[Page]:
    """The first page; a test fails on errors of its scripts, violations of its policy and requests to other sites."""
    from playwright.sync_api import expect

    page = context.new_page()
    page.set_default_timeout(20_000)
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if "Content Security" in message.text else None)
    page.on("request", lambda request: problems.append(request.url) if not is_own(request.url, web) else None)
    page.goto("/")
    expect(page.locator("#examples li")).to_have_count(6)
    expect(page.locator(SHOWN)).to_have_count(36)
    yield page
    for each in context.pages:
        each.close()
    context.clear_permissions()
    assert problems == []


def is_own(url: str, web: Web) -> bool:
    return url.startswith((web.address, "blob:", "data:"))


@contextmanager
def searching(page: Page, results: int | None = None) -> Iterator[None]:
    """Do something that searches, and wait for the results."""
    from playwright.sync_api import expect

    with page.expect_response("**/api/search"):
        yield
    if results is None:
        expect(page.locator("#results[aria-busy=false]")).to_be_attached()
    else:
        expect(page.locator(SHOWN)).to_have_count(results)


def search_for(page: Page, text: str, results: int | None = 36) -> None:
    page.locator("#text").fill(text)
    with searching(page, results):
        page.locator("#text").press("Enter")


def address(page: Page) -> dict[str, list[str]]:
    return parse_qs(urlsplit(page.url).query)


def expect_address(page: Page, expected: dict[str, list[str]]) -> None:
    """Wait until the page's address has this query; the browser updates it some time after `history.back()`."""
    page.wait_for_url(lambda url: parse_qs(urlsplit(url).query) == expected)


def shown(page: Page) -> list[int]:
    """Return the ids of the images shown, from the addresses of their photos."""
    sources = page.locator("#results .photo img").evaluate_all("images => images.map((image) => image.src)")
    return [int(re.search(r"/pictures/(\d+)", source)[1]) for source in sources]  # type: ignore[index]


def photo_of(web: Web, number: int) -> Path:
    return web.photos / f"images/val2014/COCO_val2014_{number:012d}.jpg"
