from __future__ import annotations

import io
import struct
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from conftest import SAMPLE, needs
from PIL import features

from search.errors import PhotoError
from search.photos import open_image
from search.web.pictures import Photos

pillow_heif = pytest.importorskip("pillow_heif")
pillow_heif.register_heif_opener()  # for writing; reading must work without it

FORMS = ["HEIF", "AVIF"]
LEFT, RIGHT = (250, 20, 20), (20, 20, 250)


def picture(size: tuple[int, int] = (200, 120), mode: str = "RGB") -> PIL.Image.Image:
    made = PIL.Image.new("RGB", size, RIGHT)
    made.paste(LEFT, (0, 0, size[0] // 2, size[1] // 3))
    return made.convert(mode)


def stored(image: PIL.Image.Image, form: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def difference(content: bytes, expected: PIL.Image.Image) -> float:
    opened = open_image(io.BytesIO(content))
    assert (opened.mode, opened.size) == ("RGB", expected.size)
    return float(np.abs(np.asarray(opened, int) - np.asarray(expected.convert("RGB"), int)).mean())


@pytest.mark.parametrize("form", FORMS)
def test_a_picture_is_turned_exactly_once(form: str) -> None:
    for orientation in range(1, 9):
        exif = PIL.Image.Exif()
        exif[274] = orientation
        upright = open_image(io.BytesIO(stored(picture(), "PNG", exif=exif.tobytes())))
        assert difference(stored(picture(), form, exif=exif.tobytes()), upright) < 2


@pytest.mark.parametrize("form", FORMS)
def test_modes_and_sequences(form: str) -> None:
    clear = picture(mode="RGBA")
    clear.putalpha(0)
    assert difference(stored(clear, form), PIL.Image.new("RGB", clear.size, "white")) < 2
    assert difference(stored(picture(mode="L"), form), picture(mode="L")) < 2
    sequence = stored(picture(), form, save_all=True, append_images=[PIL.Image.new("RGB", (200, 120), "green")])
    assert difference(sequence, picture()) < 2


def test_tiles_and_10_bits_as_phones_write_them() -> None:
    large = picture((1300, 700))
    assert difference(stored(large, "HEIF", tile_size=512), large) < 2
    stream = io.BytesIO()
    pillow_heif.encode("RGB;16", (64, 48), np.full((48, 64, 3), 40000, np.uint16).tobytes(), stream)
    assert pillow_heif.open_heif(stream).info["bit_depth"] == 10
    assert difference(stream.getvalue(), PIL.Image.new("RGB", (64, 48), (156,) * 3)) < 2


@pytest.mark.parametrize("form", FORMS)
def test_broken_metadata_is_ignored_and_broken_pixels_are_not(form: str) -> None:
    exif = PIL.Image.Exif()
    exif[271] = "a maker's name that can be found"
    content = stored(picture(), form, exif=exif.tobytes())
    header = content.index(b"a maker's name") - 26  # of the TIFF directory in which EXIF is stored
    broken = content[:header] + bytes(20) + content[header + 20 :]
    assert broken != content
    assert difference(broken, picture()) < 2
    content = stored(picture(), form)
    for length in (12, 30, 100, 250, len(content) // 2, len(content) - 1):
        with pytest.raises(PhotoError) as refused:
            open_image(io.BytesIO(content[:length]))
        assert str(refused.value).isprintable()  # one line
    with pytest.raises(PhotoError, match="not a picture"):  # a film
        open_image(io.BytesIO(b"\0\0\0\x18ftypisom\0\0\2\0isommp42" + content[24:]))


@pytest.mark.parametrize("form", FORMS)
def test_limits_apply_before_anything_is_decoded(form: str) -> None:
    content = stored(picture(), form)
    at = content.index(b"ispe") + 8  # the box that announces the size
    with pytest.raises(PhotoError, match=r"20000 x 8000 pixels: the limit is 100 megapixels"):
        open_image(io.BytesIO(content[:at] + struct.pack(">LL", 20000, 8000) + content[at + 8 :]))


def test_a_missing_decoder_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(stored(picture(), "HEIF"))  # the name does not tell
    (tmp_path / "photo.heic").write_bytes(stored(picture(), "AVIF"))
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(PhotoError, match=r"pip install 'coco-search\[heic\]'"):
        open_image(tmp_path / "photo.jpg")
    assert open_image(tmp_path / "photo.heic").size == (200, 120)
    monkeypatch.setattr(features, "check", lambda _: False)
    with pytest.raises(PhotoError, match="AVIF picture, which this build of Pillow cannot read"):
        open_image(tmp_path / "photo.heic")


@needs(SAMPLE)
@pytest.mark.parametrize("form", FORMS)
def test_the_page_shows_a_jpeg(tmp_path: Path, form: str) -> None:
    photo = open_image(min((SAMPLE / "images/val2014").iterdir())).resize((480, 360))
    (tmp_path / "photo").write_bytes(stored(photo, form, quality=90))
    jpeg = PIL.Image.open(io.BytesIO(Photos(tmp_path).jpeg("photo", 360).content))
    assert (jpeg.format, max(jpeg.size)) == ("JPEG", 360)
    expected = photo.resize(jpeg.size)
    assert np.abs(np.asarray(jpeg, int) - np.asarray(expected, int)).mean() < 8
