"""Test the page for people who use a keyboard, a screen reader, a small screen or their own colours."""

from __future__ import annotations

import pytest
from browsing import SHOWN, search_for, searching, shown

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
from playwright.sync_api import Page, expect

# In the dark, the page differs in its colours alone.
RULES_OF_COLOURS = ["color-contrast", "link-in-text-block"]


def test_axe_finds_nothing(page: Page) -> None:
    """Every state of the page, without a single violation."""

    def check() -> None:
        page.emulate_media(color_scheme="light")
        assert_accessible(page)
        page.emulate_media(color_scheme="dark")
        assert_accessible(page, RULES_OF_COLOURS)

    check()
    search_for(page, "noise")
    page.locator("#text").fill("snow")
    with searching(page, 36):
        page.locator("#subtract-text").click()
    check()
    page.locator("#results .photo").first.click()
    expect(page.locator("#view")).to_be_visible()
    check()
    page.keyboard.press("z")
    check()
    page.keyboard.press("Escape")
    with searching(page, 36):
        page.get_by_text("Captions", exact=True).click()
    page.locator(".also").first.click()
    expect(page.locator(".folded")).to_have_count(4)
    check()
    page.locator("#contains").fill("zebra")
    with searching(page, 0):
        page.locator("#contains").press("Enter")
    check()
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto("/?image_id=7")
    expect(page.locator("#error")).to_be_visible()
    page.locator("#filters-button").click()
    check()
    page.locator("#help-button").click()
    check()


def assert_accessible(page: Page, rules: list[str] | None = None) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    options = {"resultTypes": ["violations"], **({"runOnly": rules} if rules else {})}
    found = axe.Axe().run(page, options=options).response["violations"]
    assert [(each["id"], [node["html"] for node in each["nodes"]]) for each in found] == []


def test_the_keyboard_alone(page: Page) -> None:
    page.locator("body").click()
    page.keyboard.press("/")
    page.keyboard.type("noise")
    with searching(page, 36):
        page.keyboard.press("Enter")
    photos = page.locator("#results .photo")
    ids = shown(page)
    page.keyboard.press("ArrowDown")
    expect(photos.nth(0)).to_be_focused()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    expect(photos.nth(6)).to_be_focused()  # there are five columns
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowUp")
    expect(photos.nth(0)).to_be_focused()
    with searching(page, 36):
        page.keyboard.press("-")
    expect(page.locator("#chips li.minus .what")).to_have_text(f"image {ids[0]}")
    expect(photos.nth(0)).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#welcome")).to_be_visible()
    expect(page.locator("#chips li")).to_have_count(0)
    expect(page.locator("#text")).to_be_focused()
    expect(page.locator("#text")).to_have_value("")
    expect(page.locator(SHOWN)).to_have_count(36)
    page.keyboard.type("noise")
    with searching(page, 36):
        page.keyboard.press("Enter")
    page.keyboard.press("ArrowDown")
    with searching(page, 36):
        page.keyboard.press("+")
    expect(page.locator("#chips .what")).to_have_text(f"image {ids[0]}")
    nearest = shown(page)[0]
    page.keyboard.press("Enter")
    expect(page.locator("#view .id")).to_have_text(str(nearest))
    page.keyboard.press("Escape")
    expect(page.locator("#view")).to_be_hidden()
    expect(photos.nth(0)).to_be_focused()
    with searching(page, 36):
        page.keyboard.press("s")
    expect(page.locator("#chips .what")).to_have_text(f"image {nearest}")
    page.keyboard.press("?")
    expect(page.locator("#help")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#help")).to_be_hidden()
    expect(page.locator("#chips li")).to_have_count(1)


def test_tab_reaches_the_results(page: Page) -> None:
    search_for(page, "noise")
    before = page.url
    for where in ("#status", "main"):
        page.locator(where).click(position={"x": 1, "y": 1})
        for _ in range(4):
            page.keyboard.press("Tab")
        assert page.evaluate("document.querySelector('#results').contains(document.activeElement)"), where
    page.locator("#skip").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#results .photo").first).to_be_focused()
    assert page.url == before


def test_the_focus_is_never_under_the_header(page: Page) -> None:
    for width, height in ((1280, 500), (800, 390)):
        page.set_viewport_size({"width": width, "height": height})
        search_for(page, f"noise {width}")
        page.keyboard.press("ArrowDown")
        keys = ["ArrowDown"] * 4 + ["ArrowUp"] * 4
        for key in keys:
            page.keyboard.press(key)
            top, bottom = page.evaluate(
                """() => {
                    const header = document.querySelector("header").getBoundingClientRect();
                    return [document.activeElement.getBoundingClientRect().top, header.bottom];
                }"""
            )
            assert top >= bottom or bottom <= 0


def test_nothing_is_wider_than_the_screen(page: Page) -> None:
    search_for(page, "a rather long question about many things that are in one photo")
    with searching(page, 36):
        page.locator("#add-text").click()
    for width in (2560, 768, 390, 320):
        page.set_viewport_size({"width": width, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        fit = page.locator("#results img").first.evaluate("image => getComputedStyle(image).objectFit")
        assert fit == "contain"  # nothing of a photo is cut off
        page.locator("#results .photo").first.click()
        expect(page.locator("#view")).to_be_visible()
        assert page.locator("#view").evaluate("view => view.scrollWidth <= view.clientWidth")
        page.keyboard.press("Escape")
        page.wait_for_url(lambda url: "view=" not in url)
        if width < 600:
            expect(page.locator("#split")).to_be_hidden()
            page.locator("#filters-button").click()
            expect(page.locator("#split")).to_be_visible()
            expect(page.locator("#filters-button")).to_have_attribute("aria-expanded", "true")
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            page.locator("#filters-button").click()


def test_forced_colours_show_what_is_selected(page: Page) -> None:
    page.emulate_media(forced_colors="active")
    background = "all => all.map((each) => getComputedStyle(each).backgroundColor)"
    selected, other = page.locator("#to span").evaluate_all(background)
    assert selected != other
