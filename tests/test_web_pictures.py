"""Test what the API does with pictures: uploads, and photos in the requested sizes."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import httpx
import PIL.Image
import pytest
from running_web import Web
from web_questions import JPEG, ask, error_of, ids, picture, unit


def png(size: tuple[int, int], mode: str = "1") -> bytes:
    stream = io.BytesIO()
    PIL.Image.new(mode, size).save(stream, "PNG")
    return stream.getvalue()


def test_a_picture_that_is_uploaded(web: Web, client: httpx.Client) -> None:
    first, again = (client.post("/api/pictures", content=picture(105, web), headers=JPEG).json() for _ in range(2))
    assert first == again
    best = ask(client, {"picture": first["picture"]}, k=3)["results"][0]
    assert best["id"] == "105"
    assert best["score"] == pytest.approx(1, abs=1e-4)
    vector = unit(web.images[105] - web.images[106])
    answer = ask(client, {"picture": first["picture"]}, {"image_id": 106, "weight": -1}, k=5)
    assert ids(answer) == web.nearest_images(vector, without=(106,))[:5]
    assert "upload it again" in error_of(client.post("/api/search", json={"parts": [{"picture": "0" * 32}]}), 404)


def test_a_large_upload_is_refused_early_without_using_memory(web: Web, client: httpx.Client) -> None:
    assert "20 MB" in error_of(client.post("/api/pictures", content=b"x" * (21 << 20), headers=JPEG), 413)

    def endless() -> Iterator[bytes]:
        for _ in range(300):
            yield b"x" * (1 << 20)

    before = memory(web)
    answer = client.post("/api/pictures", content=endless(), headers=JPEG)  # in chunks: no Content-Length
    assert "20 MB" in error_of(answer, 413)
    assert memory(web) - before < 100 << 20


def memory(web: Web) -> int:
    """Return the peak memory of the server's process in bytes."""
    status = Path(f"/proc/{web.process.pid}/status")
    if not status.exists():
        pytest.skip("this system has no /proc/PID/status")
    [line] = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) << 10


@pytest.mark.parametrize(
    ("content", "about"),
    [
        (b"", "not a picture"),
        (b"no picture", "not a picture"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>", "not a picture"),
        (png((15_000, 15_000)), "megapixels"),
        (png((30_000, 10)), "aspect ratio"),
        (png((64, 64), "RGB")[:70], "truncated"),
    ],
    ids=["empty", "text", "svg", "bomb", "strip", "truncated"],
)
def test_pictures_that_are_refused(client: httpx.Client, content: bytes, about: str) -> None:
    assert about in error_of(client.post("/api/pictures", content=content, headers=JPEG), 422)


def test_an_upload_needs_an_image_content_type(web: Web, client: httpx.Client) -> None:
    for kind in ("text/plain", "multipart/form-data; boundary=x", "application/json"):
        answer = client.post("/api/pictures", content=picture(105, web), headers={"Content-Type": kind})
        assert "Content-Type" in error_of(answer, 415)


def test_photos_are_sent_in_the_requested_sizes(web: Web, client: httpx.Client) -> None:
    def size(address: str) -> tuple[int, int]:
        answer = client.get(address)
        assert answer.headers["content-type"] == "image/jpeg"
        return PIL.Image.open(io.BytesIO(answer.content)).size

    assert size("/pictures/101") == (160, 120)
    assert size("/pictures/101?size=360") == (160, 120)  # never larger than it is
    error_of(client.get("/pictures/101?size=100000"), 422)
    PIL.Image.new("RGB", (2000, 1000)).save(web.photos / "images/val2014/COCO_val2014_000000000102.jpg")
    assert size("/pictures/102?size=720") == (720, 360)
    assert size("/pictures/102?size=360") == (360, 180)


def test_browsers_can_cache_photos(client: httpx.Client) -> None:
    named = client.get("/api/images/104").json()["picture"]
    first = client.get(f"{named}&size=360")
    assert "immutable" in first.headers["cache-control"]
    plain = client.get("/pictures/104?size=360")
    assert plain.headers["cache-control"] == "no-cache"
    assert plain.headers["etag"] == first.headers["etag"]
    again = client.get("/pictures/104?size=360", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    for path in ("/", "/page.js", "/page.css"):
        tag = client.get(path).headers["etag"]
        assert client.get(path, headers={"If-None-Match": tag}).status_code == 304


def test_the_original_file_can_be_saved(client: httpx.Client, web: Web) -> None:
    answer = client.get("/pictures/105/original")
    name = "COCO_val2014_000000000105.jpg"
    assert answer.content == (web.photos / "images/val2014" / name).read_bytes()
    assert answer.headers["content-disposition"] == f"attachment; filename*=UTF-8''{name}"
    assert answer.headers["content-type"] == "application/octet-stream"  # never a page of this site
    assert "no image 7 in" in error_of(client.get("/pictures/7/original"), 404)
