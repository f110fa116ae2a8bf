"""Test the page in a real browser: everything that a user does with it, once."""

from __future__ import annotations

import json
import re
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from browsing import SHOWN, address, expect_address, photo_of, search_for, searching, shown
from running_web import HOSTILE, LARGE_ID, Web

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
from playwright.sync_api import Browser, Page, expect


def test_words_find_photos(page: Page, web: Web) -> None:
    search_for(page, "Photo 7 in words")
    [vector] = web.encoder.encode_texts(["Photo 7 in words"])
    assert shown(page) == web.nearest_images(vector)[:36]
    expect(page.locator("#status")).to_have_text("36 of 60 photos for “Photo 7 in words”")
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
    with searching(page, 36):
        example.click()
    expect(page.locator("#text")).to_have_value(text)


def test_a_photo_is_searched_from(page: Page, web: Web) -> None:
    search_for(page, "noise")
    chosen = shown(page)[2]
    page.locator("#text").fill("not sent yet")
    item = page.locator("#results li").nth(2)
    item.hover()
    with searching(page, 36):
        item.locator("[data-do=from]").click()
    expect(page.locator("#chips .what")).to_have_text(f"image {chosen}")
    assert shown(page) == web.nearest_images(web.images[chosen], without=(chosen,))[:36]
    expect_address(page, {"image_id": [str(chosen)]})
    expect(page.locator("#text")).to_have_value("not sent yet")
    page.reload()
    expect(page.locator("#text")).to_have_value("not sent yet")
    expect(page.locator("#status")).to_have_text(f"36 of 59 photos for image {chosen}")


def test_a_large_id_is_not_rounded(page: Page, web: Web) -> None:
    search_for(page, "noise")
    page.locator("#more").click()
    expect(page.locator("#results li")).to_have_count(60)
    item = page.locator("#results li").nth(shown(page).index(LARGE_ID))
    item.hover()
    with searching(page, 36):
        item.locator("[data-do=from]").click()
    nearest = web.nearest_images(web.images[LARGE_ID], without=(LARGE_ID,))[:36]
    for _ in ("at once", "after a reload"):
        expect(page.locator("#chips .what")).to_have_text(f"image {LARGE_ID}")
        expect(page.locator("#results[aria-busy=false] li")).to_have_count(36)
        assert shown(page) == nearest
        expect_address(page, {"image_id": [str(LARGE_ID)]})
        assert page.locator("#chips img").evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
        page.reload()
    page.goto(f"/?image_id={2**63}")
    expect(page.locator("#error")).to_contain_text("image_id")


def test_parts_are_added_weighted_inverted_and_removed(page: Page) -> None:
    search_for(page, "noise")
    first, second = shown(page)[:2]
    item = page.locator("#results li").first
    item.hover()
    with searching(page, 36):
        item.locator("[data-do=add]").click()
    expect(page.locator("#chips li")).to_have_count(1)
    assert first not in shown(page)
    page.locator("#text").fill("snow")
    page.locator("#subtract-text").click()
    expect(page.locator("#chips li")).to_have_count(2)
    expect_address(page, {"image_id": [str(first)], "text": ["snow"], "w": ["1,-1"]})
    page.locator("#chips select").first.select_option("2")
    expect(page).to_have_url(re.compile("w=2%2C-1"))
    page.locator("#chips .sign").nth(1).click()
    expect(page).to_have_url(re.compile("w=2%2C1"))
    page.locator("#chips .remove").nth(1).click()
    expect(page.locator("#chips li")).to_have_count(1)
    assert second != first


def test_a_picture_is_chosen_and_not_shared(page: Page, web: Web) -> None:
    with searching(page, 36):
        page.locator("#file").set_input_files(photo_of(web, 115))
    expect(page.locator("#chips .what")).to_have_text("your picture")
    assert shown(page)[0] == 115
    assert urlsplit(page.url).query == ""
    expect(page.locator("#status")).to_contain_text("does not share it")
    page.locator("#chips img").evaluate("image => image.decode()")


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_a_picture_is_dropped_or_pasted(page: Page, web: Web, way: str) -> None:
    content = list(photo_of(web, 116).read_bytes())
    with searching(page, 36):
        page.evaluate(
            """([way, content]) => {
                const files = new DataTransfer();
                files.items.add(new File([new Uint8Array(content)], "photo.jpg", { type: "image/jpeg" }));
                const how = { bubbles: true, cancelable: true };
                const clipboardData = files;
                if (way === "paste") document.dispatchEvent(new ClipboardEvent("paste", { ...how, clipboardData }));
                else for (const kind of ["dragenter", "dragover", "drop"])
                    document.body.dispatchEvent(new DragEvent(kind, { ...how, dataTransfer: files }));
            }""",
            [way, content],
        )
    assert shown(page)[0] == 116
    expect(page.locator("#drop")).to_be_hidden()


def test_a_file_that_is_not_a_picture(page: Page, tmp_path: Path) -> None:
    (tmp_path / "fake.jpg").write_text("no picture")
    page.locator("#file").set_input_files(tmp_path / "fake.jpg")
    expect(page.locator("#error")).to_contain_text("fake.jpg (JPG): not a picture")
    (tmp_path / "IMG_1.MOV").write_text("no picture")
    page.locator("#file").set_input_files(tmp_path / "IMG_1.MOV")
    expect(page.locator("#error")).to_contain_text("IMG_1.MOV (MOV): not a picture that can be read (JPEG")


def test_captions_instead_of_photos(page: Page) -> None:
    search_for(page, "Photo 7 in words")
    with searching(page, 36):
        page.get_by_text("Captions", exact=True).click()
    expect_address(page, {"q": ["Photo 7 in words"], "to": ["captions"]})
    expect(page.locator("#status")).to_have_text("36 of 300 captions for “Photo 7 in words”, the best of each photo")
    item = page.locator("#results.captions li").first
    expect(item.locator(".also")).to_have_text("and 4 more")
    item.locator(".also").click()
    expect(page.locator("#results li.folded")).to_have_count(4)
    item.locator(".also").click()
    expect(page.locator(SHOWN)).to_have_count(36)
    text = item.locator(".caption").inner_text()
    item.hover()
    item.locator("[data-do=from]").click()
    expect(page.locator("#text")).to_have_value(text)


def test_captions_as_evidence(page: Page) -> None:
    """The photos change places, and the score is explained where a photo is viewed."""
    search_for(page, "noise")
    before = shown(page)
    with searching(page, 36):
        page.locator("#evidence").check()
    after = shown(page)
    assert after != before
    assert address(page)["evidence"] == ["0.75"]
    page.locator("#results .photo").first.click()
    expect(page.locator("#view .score")).to_have_text(re.compile(r"\(similarity of the photo .+, of the caption .+\)"))
    page.keyboard.press("Escape")
    expect(page).not_to_have_url(re.compile("view="))
    page.reload()
    expect(page.locator(SHOWN)).to_have_count(36)
    expect(page.locator("#evidence")).to_be_checked()
    assert shown(page) == after
    with searching(page, 36):
        page.locator("#results [data-do=from]").first.click(force=True)
    expect(page.locator("#evidence")).to_be_disabled()  # captions say nothing about a picture


def test_words_without_spaces_are_marked(page: Page) -> None:
    """Also rare Chinese characters, which are two code units of JavaScript."""
    html = "(await import('./words.js')).marked(text, filter).map((node) => node.outerHTML ?? node.data)"
    script = f"async ([text, filter]) => {html}"
    for text, words in (("我喜欢\U00020bb7\U00020bb7猫", "\U00020bb7猫"), ("Café 猫と犬", "犬")):
        assert f"<mark>{words}</mark>" in page.evaluate(script, [text, words])


def test_filters(page: Page) -> None:
    search_for(page, "noise")
    page.locator("#split").select_option("val")
    expect(page.locator("#results li")).to_have_count(20)
    expect(page.locator("#status")).to_have_text("20 photos for “noise”, in val")
    page.locator("#contains").fill("Photo 51")
    page.locator("#contains").press("Enter")
    expect(page.locator("#results li")).to_have_count(1)
    expect(page.locator("#results mark").first).to_have_text("Photo")
    page.locator("#contains").fill("photo zebra")
    page.locator("#contains").press("Enter")
    expect(page.locator("#results li")).to_have_count(0)
    expect(page.locator("#status")).to_have_text("No photos for “noise”, in val, with the words “photo zebra”.")
    remedies = ["Without the word “photo”", "Without the word “zebra”", "Without all these words", "In all splits"]
    expect(page.locator("#nothing button")).to_have_text([*remedies, "Without any filter"])
    page.get_by_text("Without the word “zebra”").click()
    expect(page.locator("#results li")).to_have_count(20)
    expect(page.locator("#nothing")).to_be_hidden()
    expect_address(page, {"q": ["noise"], "split": ["val"], "contains": ["photo"]})


def test_switches(page: Page, web: Web) -> None:
    search_for(page, "noise")
    [vector] = web.encoder.encode_texts(["noise"])
    scores = np.array([stored @ vector for stored in web.images.values()])
    relevant = int((scores >= (scores.mean() + scores.max()) / 2).sum())
    assert 0 < relevant < 36
    page.get_by_label("hide the irrelevant tail").check()
    expect(page.locator("#results li")).to_have_count(relevant)
    assert shown(page) == web.nearest_images(vector)[:relevant]
    expect_address(page, {"q": ["noise"], "cutoff": ["0.5"]})
    page.get_by_label("fold near-duplicates").check()
    expect(page).to_have_url(re.compile("fold=0.95"))
    page.reload()
    expect(page.get_by_label("hide the irrelevant tail")).to_be_checked()
    expect(page.get_by_label("fold near-duplicates")).to_be_checked()
    page.get_by_label("hide the irrelevant tail").uncheck()
    expect(page.locator("#results .also").first).to_contain_text("more")  # a random model finds all noise alike
    expect_address(page, {"q": ["noise"], "fold": ["0.95"]})
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
    expect(page.locator("#status")).to_have_text("60 photos for “noise”")
    expect_address(page, {"q": ["noise"], "n": ["72"]})


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


def test_hostile_captions_are_shown_as_text(page: Page) -> None:
    page.locator("#contains").fill("document")
    page.locator("#text").fill(HOSTILE)  # the caption nearest to these words is shown
    page.locator("#text").press("Enter")
    expect(page.locator("#results li")).to_have_count(1)
    expect(page.locator("#results .caption")).to_have_text(HOSTILE)
    expect(page.locator("#results img")).to_have_attribute("alt", HOSTILE)
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
    with searching(page, 36):
        page.locator("#error button").click()
    expect(page.locator("#error")).to_be_hidden()
    page.goto("/?image_id=7")
    expect(page.locator("#error")).to_contain_text("no image 7 in ")


def test_a_picture_that_the_server_dropped_is_uploaded_again(page: Page, web: Web) -> None:
    with searching(page, 36):
        page.locator("#file").set_input_files(photo_of(web, 117))
    dropped = {"status": 404, "content_type": "application/json", "body": json.dumps({"error": "not here"})}
    page.route("**/api/search", lambda route: route.fulfill(**dropped), times=1)
    page.get_by_text("Captions", exact=True).click()
    expect(page.locator("#results.captions li")).to_have_count(36)
    expect(page.locator("#error")).to_be_hidden()
