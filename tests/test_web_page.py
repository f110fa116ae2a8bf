"""Test the page in a real browser: everything that a user does with it, once."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from running_web import HOSTILE, LARGE_ID, Web

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
from playwright.sync_api import Browser, Page, expect, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def page(browser: Browser, web: Web) -> Iterator[Page]:
    """The empty page; a test fails on errors of its scripts, violations of its policy and requests to other sites."""
    context = browser.new_context(base_url=web.address, viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(20_000)
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if "Content Security" in message.text else None)
    page.on("request", lambda request: problems.append(request.url) if not is_own(request.url, web) else None)
    page.goto("/")
    expect(page.locator("#examples li")).to_have_count(6)
    yield page
    context.close()
    assert problems == []


def is_own(url: str, web: Web) -> bool:
    return url.startswith((web.address, "blob:", "data:"))


def search_for(page: Page, text: str) -> None:
    page.locator("#text").fill(text)
    page.locator("#text").press("Enter")
    expect(page.locator("#results li")).to_have_count(36)


def address(page: Page) -> dict[str, list[str]]:
    return parse_qs(urlsplit(page.url).query)


def shown(page: Page) -> list[int]:
    """Return the ids of the images shown, from the addresses of their photos."""
    sources = page.locator("#results .photo img").evaluate_all("images => images.map((image) => image.src)")
    return [int(re.search(r"/pictures/(\d+)", source)[1]) for source in sources]  # type: ignore[index]


def photo_of(web: Web, number: int) -> Path:
    return web.photos / f"images/val2014/COCO_val2014_{number:012d}.jpg"


def test_words_find_photos(page: Page, web: Web) -> None:
    search_for(page, "Photo 7 in words")
    [vector] = web.encoder.encode_texts(["Photo 7 in words"])
    assert shown(page) == web.nearest_images(vector)[:36]
    expect(page.locator("#status")).to_have_text("The nearest 36 photos")
    expect(page.locator("#welcome")).to_be_hidden()
    first = page.locator("#results li").first
    expect(first.locator("img")).to_have_attribute("alt", first.locator(".caption").inner_text())
    assert first.locator("img").evaluate("image => image.decode().then(() => image.naturalWidth)") > 0


def test_a_text_longer_than_the_model_reads(page: Page) -> None:
    search_for(page, "x" * 100)
    expect(page.locator("#status")).to_contain_text("reads only the first 77 of the 102 tokens of “xxx")
    page.locator("#text").fill("x" * 2500)  # nothing of it is dropped silently
    page.locator("#text").press("Enter")
    expect(page.locator("#error")).to_contain_text("at most 2000 characters")


def test_an_example_is_searched_for(page: Page) -> None:
    example = page.locator("#examples button").first
    text = example.inner_text()
    example.click()
    expect(page.locator("#text")).to_have_value(text)
    expect(page.locator("#results li")).to_have_count(36)


def test_a_click_searches_from_a_photo(page: Page, web: Web) -> None:
    search_for(page, "noise")
    chosen = shown(page)[2]
    page.locator("#results .photo").nth(2).click()
    expect(page.locator("#chips .what")).to_have_text(f"image {chosen}")
    expect(page.locator("#results")).to_have_attribute("aria-busy", "false")
    assert shown(page) == web.nearest_images(web.images[chosen], without=(chosen,))[:36]
    assert address(page) == {"image_id": [str(chosen)]}
    expect(page.locator("#text")).to_have_value("")


def test_a_large_id_is_not_rounded(page: Page, web: Web) -> None:
    search_for(page, "noise")
    page.locator("#more").click()
    expect(page.locator("#results li")).to_have_count(60)
    page.locator("#results .photo").nth(shown(page).index(LARGE_ID)).click()
    nearest = web.nearest_images(web.images[LARGE_ID], without=(LARGE_ID,))[:36]
    for _ in ("at once", "after a reload"):
        expect(page.locator("#chips .what")).to_have_text(f"image {LARGE_ID}")
        expect(page.locator("#results[aria-busy=false] li")).to_have_count(36)
        assert shown(page) == nearest
        assert address(page) == {"image_id": [str(LARGE_ID)]}
        assert page.locator("#chips img").evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
        page.reload()
    page.goto(f"/?image_id={2**63}")
    expect(page.locator("#error")).to_contain_text("image_id")


def test_parts_are_added_weighted_inverted_and_removed(page: Page) -> None:
    search_for(page, "noise")
    first, second = shown(page)[:2]
    item = page.locator("#results li").first
    item.hover()
    item.locator("[data-do=add]").click()
    expect(page.locator("#chips li")).to_have_count(1)
    expect(page.locator("#results[aria-busy=false] li")).to_have_count(36)
    assert first not in shown(page)
    page.locator("#text").fill("snow")
    page.locator("#subtract-text").click()
    expect(page.locator("#chips li")).to_have_count(2)
    assert address(page) == {"image_id": [str(first)], "text": ["snow"], "w": ["1,-1"]}
    page.locator("#chips select").first.select_option("2")
    expect(page).to_have_url(re.compile("w=2%2C-1"))
    page.locator("#chips .sign").nth(1).click()
    expect(page).to_have_url(re.compile("w=2%2C1"))
    page.locator("#chips .remove").nth(1).click()
    expect(page.locator("#chips li")).to_have_count(1)
    assert second != first


def test_a_picture_is_chosen_and_not_shared(page: Page, web: Web) -> None:
    page.locator("#file").set_input_files(photo_of(web, 115))
    expect(page.locator("#chips .what")).to_have_text("your picture")
    expect(page.locator("#results li")).to_have_count(36)
    assert shown(page)[0] == 115
    assert urlsplit(page.url).query == ""
    expect(page.locator("#status")).to_contain_text("does not share it")
    page.locator("#chips img").evaluate("image => image.decode()")


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_a_picture_is_dropped_or_pasted(page: Page, web: Web, way: str) -> None:
    content = list(photo_of(web, 116).read_bytes())
    page.evaluate(
        """([way, content]) => {
            const files = new DataTransfer();
            files.items.add(new File([new Uint8Array(content)], "photo.jpg", { type: "image/jpeg" }));
            const how = { bubbles: true, cancelable: true };
            if (way === "paste") document.dispatchEvent(new ClipboardEvent("paste", { ...how, clipboardData: files }));
            else for (const kind of ["dragenter", "dragover", "drop"])
                document.body.dispatchEvent(new DragEvent(kind, { ...how, dataTransfer: files }));
        }""",
        [way, content],
    )
    expect(page.locator("#results li")).to_have_count(36)
    assert shown(page)[0] == 116
    expect(page.locator("#drop")).to_be_hidden()


def test_a_file_that_is_not_a_picture(page: Page, tmp_path: Path) -> None:
    (tmp_path / "fake.jpg").write_text("no picture")
    page.locator("#file").set_input_files(tmp_path / "fake.jpg")
    expect(page.locator("#error")).to_contain_text("not a picture")


def test_captions_instead_of_photos(page: Page) -> None:
    search_for(page, "Photo 7 in words")
    page.get_by_text("Captions", exact=True).click()
    expect(page.locator("#results.captions li")).to_have_count(36)
    assert address(page) == {"q": ["Photo 7 in words"], "to": ["captions"]}
    expect(page.locator("#status")).to_contain_text("captions")
    text = page.locator("#results .caption").first.inner_text()
    page.locator("#results .photo").first.click()
    expect(page.locator("#text")).to_have_value(text)


def test_filters(page: Page) -> None:
    search_for(page, "noise")
    page.locator("#split").select_option("val")
    expect(page.locator("#results li")).to_have_count(20)
    expect(page.locator("#status")).to_have_text("20 photos")
    page.locator("#contains").fill("Photo 51")
    page.locator("#contains").press("Enter")
    expect(page.locator("#results li")).to_have_count(1)
    page.locator("#contains").fill("nothing has these words")
    page.locator("#contains").press("Enter")
    expect(page.locator("#results li")).to_have_count(0)
    expect(page.locator("#status")).to_have_text("No photos found: try other filters.")


def test_switches(page: Page, web: Web) -> None:
    search_for(page, "noise")
    [vector] = web.encoder.encode_texts(["noise"])
    scores = np.array([stored @ vector for stored in web.images.values()])
    relevant = int((scores >= (scores.mean() + scores.max()) / 2).sum())
    assert 0 < relevant < 36
    page.get_by_label("hide the irrelevant tail").check()
    expect(page.locator("#results li")).to_have_count(relevant)
    assert shown(page) == web.nearest_images(vector)[:relevant]
    assert address(page) == {"q": ["noise"], "cutoff": ["0.5"]}
    page.get_by_label("fold near-duplicates").check()
    expect(page).to_have_url(re.compile("fold=0.95"))
    page.reload()
    expect(page.get_by_label("hide the irrelevant tail")).to_be_checked()
    expect(page.get_by_label("fold near-duplicates")).to_be_checked()
    page.get_by_label("hide the irrelevant tail").uncheck()
    expect(page.locator("#results .score").first).to_contain_text("more")  # a random model finds all noise alike
    assert address(page) == {"q": ["noise"], "fold": ["0.95"]}
    page.keyboard.press("Escape")
    expect(page.get_by_label("fold near-duplicates")).not_to_be_checked()


def test_more(page: Page, web: Web) -> None:
    search_for(page, "noise")
    page.locator("#more").click()
    expect(page.locator("#results li")).to_have_count(60)
    [vector] = web.encoder.encode_texts(["noise"])
    assert shown(page) == web.nearest_images(vector)
    expect(page.locator("#more")).to_be_hidden()
    expect(page.locator("#results .photo").nth(36)).to_be_focused()
    expect(page.locator("#status")).to_have_text("60 photos")


def test_the_keyboard_alone(page: Page) -> None:
    page.locator("body").click()
    page.keyboard.press("/")
    page.keyboard.type("noise")
    page.keyboard.press("Enter")
    expect(page.locator("#results li")).to_have_count(36)
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
    page.keyboard.press("-")
    expect(page.locator("#chips li.minus .what")).to_have_text(f"image {ids[0]}")
    page.keyboard.press("Escape")
    expect(page.locator("#welcome")).to_be_visible()
    expect(page.locator("#chips li")).to_have_count(0)
    expect(page.locator("#text")).to_be_focused()
    expect(page.locator("#text")).to_have_value("")
    page.keyboard.type("noise")
    page.keyboard.press("Enter")
    expect(page.locator("#results li")).to_have_count(36)
    page.keyboard.press("ArrowDown")
    page.keyboard.press("+")
    expect(page.locator("#chips .what")).to_have_text(f"image {ids[0]}")
    expect(page.locator("#results[aria-busy=false] li")).to_have_count(36)
    page.keyboard.press("ArrowDown")
    nearest = shown(page)[0]
    expect(photos.nth(0)).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#chips .what")).to_have_text(f"image {nearest}")
    page.keyboard.press("?")
    expect(page.locator("#help")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#help")).to_be_hidden()
    expect(page.locator("#chips li")).to_have_count(1)


def test_one_photo_in_full(page: Page) -> None:
    search_for(page, "noise")
    ids = shown(page)
    page.keyboard.press("ArrowDown")
    page.keyboard.press("v")
    dialog = page.locator("#view")
    expect(dialog.locator(".facts")).to_contain_text(f"image {ids[0]} ")
    expect(dialog.locator(".captions li")).to_have_count(4)
    page.keyboard.press("ArrowRight")
    expect(dialog.locator(".facts")).to_contain_text(f"image {ids[1]} ")
    dialog.locator("[data-do=from]").click()
    expect(dialog).to_be_hidden()
    expect(page.locator("#chips .what")).to_have_text(f"image {ids[1]}")


def test_an_address_is_the_whole_query(page: Page, browser: Browser, web: Web) -> None:
    page.goto("/?q=noise&image_id=110&text=snow&w=2,-0.5&to=captions&split=val&contains=photo")
    expect(page.locator("#results.captions li")).to_have_count(20)
    expect(page.locator("#text")).to_have_value("noise")
    expect(page.locator("#chips .what")).to_have_text(["image 110", "snow"])
    expect(page.locator("#split")).to_have_value("val")
    expect(page.locator("#contains")).to_have_value("photo")
    before = page.locator("#results .caption").all_inner_texts()
    with browser.new_context(base_url=web.address) as other:
        copy = other.new_page()
        copy.goto(page.url)
        expect(copy.locator("#results li")).to_have_count(20)
        assert copy.locator("#results .caption").all_inner_texts() == before


def test_back_and_forward(page: Page) -> None:
    search_for(page, "first")
    search_for(page, "second")
    page.go_back()
    expect(page.locator("#text")).to_have_value("first")
    expect(page).to_have_title("first · coco-search")
    page.go_back()
    expect(page.locator("#welcome")).to_be_visible()
    page.go_forward()
    expect(page.locator("#results li")).to_have_count(36)


def test_hostile_captions_are_shown_as_text(page: Page) -> None:
    page.locator("#contains").fill("document")
    page.locator("#text").fill(HOSTILE)  # the caption nearest to these words is shown
    page.locator("#text").press("Enter")
    expect(page.locator("#results li")).to_have_count(1)
    expect(page.locator("#results .caption")).to_have_text(HOSTILE)
    expect(page.locator("#results img")).to_have_attribute("alt", HOSTILE)
    page.locator("#results li").hover()
    page.locator("#results [data-do=view]").click()
    expect(page.locator("#view h2")).to_have_text(HOSTILE)
    page.locator("#view [data-do=add]").click()
    page.goto(f"/?text={HOSTILE.replace('&', '%26').replace('%', '%25', 1)}&w=<b>")
    expect(page.locator("#chips .what")).to_contain_text("</script>")
    assert page.locator("img[onerror], #results script, #chips b").count() == 0


def test_a_failed_search_can_be_retried(page: Page) -> None:
    page.route("**/api/search", lambda route: route.abort())
    page.locator("#text").fill("noise")
    page.locator("#text").press("Enter")
    expect(page.locator("#error")).to_contain_text("does not respond")
    page.unroute("**/api/search")
    page.locator("#error button").click()
    expect(page.locator("#results li")).to_have_count(36)
    expect(page.locator("#error")).to_be_hidden()
    page.goto("/?image_id=7")
    expect(page.locator("#error")).to_contain_text("no image 7 in ")


def test_a_picture_that_the_server_dropped_is_uploaded_again(page: Page, web: Web) -> None:
    page.locator("#file").set_input_files(photo_of(web, 117))
    expect(page.locator("#results li")).to_have_count(36)
    dropped = {"status": 404, "content_type": "application/json", "body": json.dumps({"error": "not here"})}
    page.route("**/api/search", lambda route: route.fulfill(**dropped), times=1)
    page.get_by_text("Captions", exact=True).click()
    expect(page.locator("#results.captions li")).to_have_count(36)
    expect(page.locator("#error")).to_be_hidden()


@pytest.mark.parametrize("width", [390, 768])
def test_nothing_is_wider_than_the_screen(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 844})
    search_for(page, "a rather long question about many things that are in one photo")
    page.locator("#add-text").click()
    expect(page.locator("#chips li")).to_have_count(1)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_and_names_of_controls(page: Page, scheme: str) -> None:
    """Contrast of text and its background: at least 4.5 (WCAG AA); every control has a name."""
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    search_for(page, "noise")
    page.locator("#text").fill("snow")
    page.locator("#subtract-text").click()
    expect(page.locator("#chips li")).to_have_count(1)
    expect(page.locator("#results[aria-busy=false] li")).to_have_count(36)
    worst = page.evaluate(CONTRAST)
    assert worst["ratio"] >= 4.5, worst
    nameless = page.evaluate(
        """[...document.querySelectorAll("button, input, select")].filter((each) => each.checkVisibility()
            && !each.getAttribute("aria-label") && !each.title && !each.textContent.trim()
            && !each.labels?.length && !each.querySelector("img[alt]")).map((each) => each.outerHTML)"""
    )
    assert nameless == []


CONTRAST = """() => {
    const parse = (color) => color.match(/[\\d.]+/g).map(Number);
    const luminance = (color) => parse(color).slice(0, 3).map((value) => value / 255)
        .map((value) => value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
        .reduce((sum, value, place) => sum + value * [0.2126, 0.7152, 0.0722][place], 0);
    const background = (element) => {
        for (let each = element; each; each = each.parentElement) {
            const color = getComputedStyle(each).backgroundColor;
            if ((parse(color)[3] ?? 1) > 0.5) return color;
        }
        return "rgb(255, 255, 255)";
    };
    let worst = { ratio: 21 };
    for (const element of document.querySelectorAll("body *")) {
        const words = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
        if (!words || !element.checkVisibility() || element.closest(".others, .unseen, .skip")) continue;
        const [a, b] = [luminance(getComputedStyle(element).color), luminance(background(element))];
        const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (ratio < worst.ratio) worst = { ratio, element: element.outerHTML.slice(0, 120) };
    }
    return worst;
}"""
