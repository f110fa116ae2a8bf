from __future__ import annotations

import base64
import contextlib
import io
import re
import shutil
from datetime import date
from html.parser import HTMLParser
from pathlib import Path

import PIL.Image
from conftest import Call, ingest_options

from search.errors import PhotoError
from search.records import Caption, Hit, Image
from search.sheet import THUMBNAIL, Section, contact_sheet


def photo(image_id: int) -> PIL.Image.Image:
    if image_id == 404:
        raise PhotoError("no such file")
    return PIL.Image.new("RGB", (1000, 500), "orange")


DOG = Image(1, "test", 0, "val2014/a.jpg", None, ("the first one", "a <b>bold</b> dog & cat"))

HITS = [
    Hit(1, 0.5, DOG, caption="a <b>bold</b> dog & cat"),
    Hit(404, 0.4, Image(404, "test", 1, "val2014/b.jpg", None, ("a lost photo",)), caption="a lost photo"),
    Hit(77, 0.3, Caption(77, 1, "test", 0, "<script>alert(1)</script>", None)),
]


class Elements(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "img":
            self.images.append(dict(attrs))


def test_pictures_are_inside_and_small() -> None:
    page = Elements(contact_sheet("dogs", [Section("dogs", HITS)], photo))
    assert len(page.images) == 2
    for image in page.images:
        source = image["src"] or ""
        data = base64.b64decode(source.removeprefix("data:image/jpeg;base64,"))
        assert PIL.Image.open(io.BytesIO(data)).size == (THUMBNAIL, THUMBNAIL // 2)
        assert image["alt"]


def test_captions_are_text_and_nothing_is_fetched() -> None:
    page = contact_sheet('"><script>x</script>', [Section("<i>dogs</i>", HITS)], photo, foot="<u>scores</u>")
    assert not {"script", "i", "b", "u", "link"} & set(Elements(page).tags)
    assert not re.search(r"https?://", page)
    assert "a &lt;b&gt;bold&lt;/b&gt; dog &amp; cat" in page
    assert "the first one" not in page


def test_what_a_result_stands_for_is_in_its_card() -> None:
    other = Hit(78, 0.2, Caption(78, 1, "test", 1, "another <caption>", None))
    twin = Hit(2, 0.1, Image(2, "test", 1, "b.jpg", None, ()))
    page = contact_sheet("dogs", [Section("dogs", [Hit(1, 0.5, HITS[0].record, also=(other, twin))])], photo)
    assert "another &lt;caption&gt;" in page
    assert "image 2" in page
    assert len(Elements(page).images) == 2  # the photo once, and its near-duplicate


def test_a_photo_that_is_gone_is_said() -> None:
    assert "no such file" in contact_sheet("dogs", [Section("dogs", HITS)], photo)


def test_the_command_writes_it(
    call: Call, photo_set: Path, clip_folder: Path, place: list[str], tmp_path: Path
) -> None:
    call("ingest", *ingest_options(photo_set, clip_folder, place))
    options = ["-k", 4, "--split", "test", "--exact"]
    code, out, err = call("search", "text", "noise", *options, "--html", "found.html", *place)
    assert code == 0
    assert len(out.splitlines()) == 5
    assert str(tmp_path / "found.html") in err
    page = Path("found.html").read_text()
    assert len(Elements(page).images) == 4
    today = f"{date.today().day} {date.today():%B %Y}"
    assert re.search(
        rf"<p>data set \S+ · model [\w-]+/tiny-clip · {today} · at most 4 images, split test, exact search</p>", page
    )
    code, _, err = call("search", "text", "noise", "--html", "absent/found.html", *place)
    assert code == 1
    assert "error: " in err
    assert "absent/found.html" in err


def printed_by_the_example_of(page: str) -> list[str]:
    """Run the example with a Searcher in a page of the documentation, and return the lines that it prints."""
    text = (Path(__file__).parents[1] / page).read_text(encoding="utf-8")
    example = next(block for block in re.findall(r"```python\n(.*?)```", text, re.S) if "Searcher" in block)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(example, page, "exec"), {})
    return printed.getvalue().splitlines()


def test_the_library_examples_of_the_documentation_run(call: Call, photo_set: Path, clip_folder: Path) -> None:
    call("ingest", *ingest_options(photo_set, clip_folder, []))
    shutil.copy(next((photo_set / "images/val2014").glob("*.jpg")), "holiday.jpg")
    lines = printed_by_the_example_of("docs/searching.md")
    assert len(lines) == 5 + 3
    assert all(".jpg Photo" in line for line in lines[:5])
    assert all(line.endswith(". 4") for line in lines[5:])
    lines = printed_by_the_example_of("README.md")
    assert len(lines) == 10
    assert all(".jpg Photo" in line for line in lines)
