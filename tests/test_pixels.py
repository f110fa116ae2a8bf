from __future__ import annotations

import io
import unicodedata
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.errors import PhotoError
from search.pixels import find_photo, is_same_photo, open_image, open_photo, read_photo

ORANGE = (240, 120, 20)


def near(image: PIL.Image.Image, colour: tuple[int, int, int], tolerance: int = 6) -> bool:
    return bool(np.all(np.abs(np.asarray(image, dtype=int) - colour) <= tolerance))


def saved(folder: Path, image: PIL.Image.Image, name: str, **options: object) -> Path:
    image.save(folder / name, **options)  # type: ignore[arg-type]
    return folder / name


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.gif", "a.bmp", "a.tif"])
def test_ordinary_formats(tmp_path: Path, name: str) -> None:
    opened = open_image(saved(tmp_path, PIL.Image.new("RGB", (64, 48), ORANGE), name))
    assert (opened.mode, opened.size) == ("RGB", (64, 48))
    assert near(opened, ORANGE)


def test_cmyk(tmp_path: Path) -> None:
    cmyk = PIL.Image.new("RGB", (64, 48), ORANGE).convert("CMYK")
    assert near(open_image(saved(tmp_path, cmyk, "a.jpg", quality=95)), ORANGE, 12)


def test_greyscale_of_8_and_16_bits(tmp_path: Path) -> None:
    assert near(open_image(saved(tmp_path, PIL.Image.new("L", (64, 48), 200), "a.jpg")), (200, 200, 200))
    deep = PIL.Image.fromarray(np.full((48, 64), 200 * 256, dtype=np.uint16))
    assert near(open_image(saved(tmp_path, deep, "b.png")), (200, 200, 200))


def test_transparency_is_on_white(tmp_path: Path) -> None:
    clear = PIL.Image.new("RGBA", (64, 48), (*ORANGE, 0))
    assert near(open_image(saved(tmp_path, clear, "a.png")), (255, 255, 255))
    palette = PIL.Image.new("P", (64, 48), 1)
    palette.putpalette([0, 0, 0, *ORANGE])
    assert near(open_image(saved(tmp_path, palette, "b.png", transparency=1)), (255, 255, 255))
    assert near(open_image(saved(tmp_path, palette, "c.png")), ORANGE)


def test_an_animation_gives_its_first_frame(tmp_path: Path) -> None:
    first, second = PIL.Image.new("RGB", (64, 48), ORANGE), PIL.Image.new("RGB", (64, 48), "blue")
    animated = saved(tmp_path, first, "a.gif", save_all=True, append_images=[second])
    assert near(open_image(animated), ORANGE)


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    lying = PIL.Image.new("RGB", (64, 48), "white")
    lying.paste(ORANGE, (0, 0, 32, 48))  # left half
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # turn clockwise to see it upright
    upright = open_image(saved(tmp_path, lying, "a.jpg", exif=exif, quality=95))
    assert upright.size == (48, 64)
    assert near(upright.crop((8, 4, 40, 24)), ORANGE)
    assert near(upright.crop((8, 44, 40, 60)), (255, 255, 255))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_made_upright(tmp_path: Path, orientation: int) -> None:
    picture = PIL.Image.linear_gradient("L").resize((64, 48)).convert("RGB")
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    file = saved(tmp_path, picture, "a.png", exif=exif)
    assert open_image(file).tobytes() == PIL.ImageOps.exif_transpose(PIL.Image.open(file)).convert("RGB").tobytes()


@pytest.mark.filterwarnings("ignore:Tag data larger")
def test_odd_metadata_is_no_reason_to_refuse(tmp_path: Path) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "description"
    content = bytearray(saved(tmp_path, PIL.Image.new("RGB", (64, 48), ORANGE), "a.jpg", exif=exif).read_bytes())
    start = content.index(b"Exif\0\0") + 6
    entry = content.index(b"\x01\x0e\x00\x02", start) if b"\x01\x0e\x00\x02" in content else None
    assert entry is not None
    content[entry + 2 : entry + 4] = b"\x00\x05"  # the description claims to be a fraction
    (tmp_path / "odd.jpg").write_bytes(content)
    assert open_image(tmp_path / "odd.jpg").size == (48, 64)


def test_one_pixel_high(tmp_path: Path) -> None:
    assert open_image(saved(tmp_path, PIL.Image.new("RGB", (64, 1)), "a.jpg")).size == (64, 1)
    with pytest.raises(PhotoError, match="3000 x 1 pixels"):
        open_image(saved(tmp_path, PIL.Image.new("RGB", (3000, 1)), "b.jpg"))


def test_a_huge_picture_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    huge = saved(tmp_path, PIL.Image.new("1", (30_000, 30_000)), "a.png")
    assert huge.stat().st_size < 1_000_000
    with pytest.raises(PhotoError, match="megapixels"):
        open_image(huge)


def test_broken_files(tmp_path: Path) -> None:
    whole = saved(tmp_path, PIL.Image.effect_noise((200, 200), 50), "whole.jpg").read_bytes()
    for name, content, reason in (
        ("truncated.jpg", whole[: len(whole) // 2], "truncated"),
        ("empty.jpg", b"", "not a picture"),
        ("text.jpg", b"this is no picture at all", "not a picture"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(PhotoError, match=reason):
            open_image(tmp_path / name)
    with pytest.raises(PhotoError, match="no such file"):
        open_image(tmp_path / "absent.jpg")
    with pytest.raises(PhotoError, match="directory"):
        open_image(tmp_path)


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    saved(tmp_path, PIL.Image.new("RGB", (64, 48)), "secret.jpg")
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    saved(photos, PIL.Image.new("RGB", (64, 48)), "real.jpg")
    (photos / "inner.jpg").symlink_to(photos / "real.jpg")
    with pytest.raises(PhotoError, match="out of the photo folder"):
        open_photo(photos, "link.jpg")
    assert open_photo(photos, "inner.jpg").size == (64, 48)


def test_a_photo_folder_that_is_itself_a_link(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir()
    saved(real, PIL.Image.new("RGB", (64, 48)), "a.jpg")
    (tmp_path / "photos").symlink_to(real)
    assert open_photo(tmp_path / "photos", "a.jpg").size == (64, 48)


def _example(format_name: str) -> bytes:
    stream = io.BytesIO()
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a description"
    exif[0x011A] = 72.5
    options = {"exif": exif} if format_name in ("JPEG", "PNG", "WEBP", "TIFF") else {}
    PIL.Image.effect_noise((40, 30), 60).convert("RGB").save(stream, format_name, **options)
    return stream.getvalue()


_EXAMPLES = [_example(name) for name in ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP")]


@settings(max_examples=300, deadline=None)
@given(
    content=st.sampled_from(_EXAMPLES),
    damage=st.lists(st.tuples(st.integers(0, 2000), st.binary(min_size=1, max_size=8)), max_size=6),
    keep=st.integers(0, 4000),
)
@pytest.mark.filterwarnings("ignore")  # Pillow warns of corrupt metadata
def test_any_bytes_are_a_picture_or_a_photo_error(content: bytes, damage: list[tuple[int, bytes]], keep: int) -> None:
    changed = bytearray(content[:keep])
    for place, patch in damage:
        changed[place : place + len(patch)] = patch
    try:
        opened = open_image(io.BytesIO(bytes(changed)))
    except PhotoError as refusal:
        assert str(refusal)
    else:
        assert opened.mode == "RGB"
        assert opened.tobytes()


@pytest.mark.parametrize(("on_disk", "asked"), [("NFD", "NFC"), ("NFC", "NFD"), ("NFD", "NFD")])
def test_a_name_in_the_other_normal_form_is_found(tmp_path: Path, on_disk: str, asked: str) -> None:
    name = unicodedata.normalize(on_disk, "été/Ångström 2.png")  # type: ignore[arg-type]
    wanted = unicodedata.normalize(asked, "été/Ångström 2.png")  # type: ignore[arg-type]
    (tmp_path / name).parent.mkdir()
    saved(tmp_path, PIL.Image.new("RGB", (64, 48), ORANGE), name)
    content, mark = read_photo(tmp_path, wanted)
    assert content == (tmp_path / name).read_bytes()
    assert is_same_photo(tmp_path, wanted, mark)
    (tmp_path / name).rename(tmp_path / "aside")
    with pytest.raises(PhotoError, match="no such file"):
        read_photo(tmp_path, wanted)
    (tmp_path / "aside").rename(tmp_path / name)
    assert find_photo(tmp_path, wanted).exists()  # no listing is remembered too long


def test_the_exact_name_comes_first_and_a_link_out_is_not_followed(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "\u00e9.png") for form in ("NFC", "NFD"))
    (tmp_path / "photos").mkdir()
    for name in (composed, decomposed):
        (tmp_path / "photos" / name).write_text(name)
        assert read_photo(tmp_path / "photos", name)[0].decode() == name
    (tmp_path / "photos" / composed).unlink()
    (tmp_path / "photos" / decomposed).unlink()
    (tmp_path / "secret.png").write_text("secret")
    (tmp_path / "photos" / decomposed).symlink_to(tmp_path / "secret.png")
    with pytest.raises(PhotoError, match="out of the photo folder"):
        read_photo(tmp_path / "photos", composed)
