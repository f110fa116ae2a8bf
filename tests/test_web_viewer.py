"""Test the view of one photo, and that the page never loses the user's place, in a real browser."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from browsing import SHOWN, address, expect_address, search_for, searching, shown
from running_web import Web

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
from playwright.sync_api import Page, expect


def test_a_click_opens_a_photo_with_an_address_of_its_own(page: Page, web: Web) -> None:
    search_for(page, "noise")
    ids = shown(page)
    view = page.locator("#view")
    page.locator("#contains").fill("photo")
    with searching(page):
        page.locator("#contains").press("Enter")
    page.locator("#results .photo").nth(1).click()
    expect(view.locator(".id")).to_have_text(str(ids[1]))
    expect(view.locator(".position")).to_have_text("2 of 36 shown")
    expect(view.locator(".captions li")).to_have_count(5)
    expect(view.locator(".captions .nearest")).to_have_count(1)
    expect(view.locator(".captions mark")).to_have_text(["Photo"] * 5)
    expect(view.locator(".source")).to_have_text("images.cocodataset.org")
    assert address(page)["view"] == [str(ids[1])]
    view.locator("[data-do=next]").click()
    expect(view.locator(".id")).to_have_text(str(ids[2]))
    page.keyboard.press("ArrowLeft")
    expect(view.locator(".id")).to_have_text(str(ids[1]))
    image = view.locator(".frame img")
    page.keyboard.press("z")
    expect(view.locator("[data-do=zoom]")).to_have_attribute("aria-pressed", "true")
    assert image.evaluate("image => image.decode().then(() => [image.offsetWidth, image.offsetHeight])") in (
        [160, 120],
        [120, 160],
    )
    image.click()
    expect(view.locator("[data-do=zoom]")).to_have_attribute("aria-pressed", "false")
    swipe(page, 300, 100)
    expect(view.locator(".id")).to_have_text(str(ids[2]))
    with page.expect_download() as download:
        view.locator(".download").click()
    name = f"COCO_val2014_{ids[2]:012d}.jpg"
    assert download.value.suggested_filename == name
    assert Path(download.value.path()).read_bytes() == (web.photos / "images/val2014" / name).read_bytes()
    page.reload()
    expect(view.locator(".id")).to_have_text(str(ids[2]))
    page.go_back()
    expect(view).to_be_hidden()
    expect(page.locator(SHOWN)).to_have_count(36)
    expect_address(page, {"q": ["noise"], "contains": ["photo"]})


def test_the_last_photo_leads_to_the_next_page(page: Page) -> None:
    search_for(page, "noise")
    page.locator("#results .photo").last.click()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#view .position")).to_have_text("37 of 60")
    page.keyboard.press("Escape")
    expect(page.locator("#view")).to_be_hidden()
    expect(page.locator("#results .photo").nth(36)).to_be_focused()
    page.goto(f"/?q=noise&view={shown(page)[40]}")  # not among the first results
    expect(page.locator("#view .position")).to_be_empty()
    page.locator("#view [data-do=close]").click()
    expect_address(page, {"q": ["noise"]})


def test_the_captions_of_one_photo_are_one_photo_in_the_view(page: Page) -> None:
    page.goto("/?q=noise&to=captions")
    expect(page.locator(SHOWN)).to_have_count(36)
    ids = shown(page)
    page.locator("#results .also").first.click()
    expect(page.locator(SHOWN)).to_have_count(40)
    page.locator("#results .photo").first.click()
    for key, index in (("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1), ("ArrowLeft", 0)):
        page.keyboard.press(key)
        expect(page.locator("#view .id")).to_have_text(str(ids[index]))


def test_actions_in_the_view(page: Page) -> None:
    search_for(page, "noise")
    ids = shown(page)
    page.locator("#results .photo").nth(3).click()
    with searching(page, 36):
        page.locator("#view [data-do=from]").click()
    expect(page.locator("#chips .what")).to_have_text(f"image {ids[3]}")
    expect(page.locator("#results .photo").first).to_be_focused()
    with searching(page, 36):
        page.go_back()  # to the photo
    expect(page.locator("#view .id")).to_have_text(str(ids[3]))
    page.go_back()
    expect(page.locator("#view")).to_be_hidden()
    assert shown(page) == ids


def test_the_place_is_kept(page: Page) -> None:
    """Back, reload, + and - keep the number of results and the place."""
    search_for(page, "noise")
    page.locator("#more").click()
    expect(page.locator(SHOWN)).to_have_count(60)
    item = page.locator("#results li").nth(45)
    item.scroll_into_view_if_needed()
    item.hover()
    before = scroll(page)
    assert before > 900
    with searching(page, 59):
        item.locator("[data-do=subtract]").click()
    assert scroll(page) == before
    expect(page.locator("#results .photo").nth(45)).to_be_focused()
    page.evaluate("scrollBy(0, -300)")
    page.wait_for_timeout(250)
    for leave in (page.reload, lambda: page.locator("#results .photo").nth(40).click()):
        leave()
        if page.locator("#view").is_visible():
            page.go_back()
            expect(page.locator("#view")).to_be_hidden()
        expect(page.locator(SHOWN)).to_have_count(59)
        assert scroll(page) == before - 300
    with searching(page, 60):
        page.go_back()
    assert scroll(page) == before
    page.locator("#text").fill("something else")
    with searching(page, 36):
        page.locator("#text").press("Enter")
    assert scroll(page) == 0


def test_results_are_links(page: Page) -> None:
    search_for(page, "noise")
    chosen = shown(page)[2]
    with page.context.expect_page() as opened:
        page.locator("#results .photo").nth(2).click(modifiers=["ControlOrMeta"])
    expect(opened.value.locator("#view .id")).to_have_text(str(chosen))
    with page.context.expect_page() as opened:
        page.locator("#results [data-do=from]").nth(2).click(button="middle", force=True)
    expect(opened.value.locator("#chips .what")).to_have_text(f"image {chosen}")
    expect(page.locator("#view")).to_be_hidden()


def test_back_and_forward(page: Page) -> None:
    search_for(page, "first")
    search_for(page, "second")
    page.locator("#text").fill("third, not sent")
    page.go_back()
    expect(page.locator("#text")).to_have_value("first")
    expect(page).to_have_title("first · coco-search")
    page.go_back()
    expect(page.locator("#welcome")).to_be_visible()
    page.go_forward()
    expect(page.locator("#status")).to_contain_text("“first”")


def test_the_first_page_is_a_random_sample(page: Page) -> None:
    about = re.compile(r"60 photos and 300 captions of coco, embedded by [\w-]+/tiny-clip\.")
    expect(page.locator("#about")).to_contain_text(about)
    expect(page.locator("#status")).to_have_text("36 of 60 photos, at random")
    first, ids = address(page), shown(page)
    page.reload()
    expect(page.locator(SHOWN)).to_have_count(36)
    assert (address(page), shown(page)) == (first, ids)
    page.locator("#more").click()
    expect(page.locator(SHOWN)).to_have_count(60)
    assert len(set(shown(page))) == 60
    page.locator("#shuffle").click()
    expect(page.locator(SHOWN)).to_have_count(36)
    assert address(page) != first
    assert shown(page) != ids
    page.locator("#split").select_option("val")
    expect(page.locator("#status")).to_have_text("20 of 20 photos in val, at random")
    page.locator("#contains").fill("zebra")
    page.locator("#contains").press("Enter")
    expect(page.locator("#status")).to_have_text("No photos in val, with the word “zebra”.")
    page.get_by_text("Without any filter").click()
    expect(page.locator(SHOWN)).to_have_count(36)
    page.locator("#text").fill("id:130")
    page.locator("#text").press("Enter")
    expect(page.locator("#status")).to_have_text("image 130")
    assert shown(page) == [130]


def test_the_query_is_copied(page: Page, web: Web) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto("/?q=it's+a+dog^2&image_id=110&text=-x&w=2,-0.5&to=captions&split=val&contains=a+b&fold=0.95")
    expect(page.locator("#copy-command")).to_be_visible()
    page.locator("#copy-link").click()
    expect(page.locator("#notice")).to_have_text(f"Copied: {page.url}")
    page.locator("#copy-command").click()
    expect(page.locator("#notice")).to_contain_text("python")
    command = page.evaluate("navigator.clipboard.readText()")
    assert shlex.split(command) == [
        *("python", "-m", "search", "text", "it's a dog^2^1", "--to", "captions", "-k", "36"),
        *("--path", str(web.index), "--dataset", "coco", "--plus-image", "110^2", "--minus=-x^0.5"),
        *("--group", "--split", "val", "--contains", "a b", "--fold", "0.95"),
    ]
    page.goto("/?text=%1b]0;x%07%0arm&w=-1")
    expect(page.locator("#copy-command")).to_be_visible()
    page.locator("#copy-command").click()
    expect(page.locator("#notice")).to_contain_text("search batch -")
    assert page.evaluate("navigator.clipboard.readText()").isprintable()


def scroll(page: Page) -> int:
    return int(page.evaluate("scrollY"))


def swipe(page: Page, start: int, end: int) -> None:
    page.locator("#view .frame").evaluate(
        """(frame, [start, end]) => {
            const touch = (clientX) => new Touch({ identifier: 1, target: frame, clientX, clientY: 200 });
            frame.dispatchEvent(new TouchEvent("touchstart", { touches: [touch(start)], bubbles: true }));
            frame.dispatchEvent(new TouchEvent("touchend", { changedTouches: [touch(end)], bubbles: true }));
        }""",
        [start, end],
    )
