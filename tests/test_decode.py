from __future__ import annotations

import io
import struct
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import numpy.typing as npt
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.errors import PhotoError
from search.photos import current_mark, find_photo, open_image, open_photo, read_photo

ROOT = Path(__file__).resolve().parents[1]
ORANGE = (240, 120, 20)


def near(image: PIL.Image.Image, colour: tuple[int, int, int], tolerance: int = 6) -> bool:
    return bool(np.all(np.abs(np.asarray(image, dtype=int) - colour) <= tolerance))


def saved(folder: Path, image: PIL.Image.Image, name: str, **options: object) -> Path:
    image.save(folder / name, **options)  # type: ignore[arg-type]
    return folder / name


def stored(image: PIL.Image.Image, form: str, **options: object) -> bytes:
    stream = io.BytesIO()
    if form == "BMP" and image.mode not in ("L", "P", "RGB", "RGBA"):
        image = image.convert("RGB")
    if form == "PNG" and image.mode in ("CMYK", "YCbCr"):
        form = "TIFF"
    image.save(stream, form, **options)
    return stream.getvalue()


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


def tiff(
    pixels: npt.NDArray[np.generic], bits: int, photometric: int, sample_format: int, *, extra: int | None = None
) -> bytes:
    """An uncompressed TIFF of 16 x 16 pixels, in kinds that Pillow does not write; 12 bits are packed."""
    order = ">" if pixels.dtype.byteorder == ">" else "<"
    samples = pixels.shape[2] if pixels.ndim == 3 else 1
    content = pixels.tobytes()
    if bits == 12:
        pairs = pixels.reshape(-1, 2).astype(np.uint32)
        content = b"".join(int(high << 12 | low).to_bytes(3) for high, low in pairs)
    tags = {
        256: 16,
        257: 16,
        258: bits,
        259: 1,
        262: photometric,
        273: 0,
        277: samples,
        278: 16,
        279: len(content),
        339: sample_format,
    }
    tags |= {} if extra is None else {338: extra}
    tags[273] = 8 + 2 + 12 * len(tags) + 4
    entries = [struct.pack(f"{order}HHLHH", tag, 3, 1, tags[tag], 0) for tag in sorted(tags)]
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HL", 42, 8)
    return head + struct.pack(f"{order}H", len(entries)) + b"".join(entries) + bytes(4) + content


GRADIENT = np.arange(256, dtype=np.uint8).reshape(16, 16)
DEEP = GRADIENT.astype(np.uint16) * 257
OPAQUE = np.full_like(GRADIENT, 255)
IN_MODES = [
    (PIL.Image.fromarray(GRADIENT).convert(mode), mode) for mode in ("L", "P", "LA", "RGB", "RGBA", "CMYK", "YCbCr")
]


@pytest.mark.parametrize(
    "content",
    [
        *[
            pytest.param(stored(image, form), id=f"{mode} {form}")
            for image, mode in IN_MODES
            for form in ("PNG", "TIFF", "BMP")
        ],
        pytest.param(stored(PIL.Image.fromarray(DEEP), "PNG"), id="16-bit PNG"),
        pytest.param(tiff(DEEP.astype("<u2"), 16, 1, 1), id="16 bits"),
        pytest.param(tiff(DEEP.astype(">u2"), 16, 1, 1), id="16 bits, big-endian"),
        pytest.param(tiff(65535 - DEEP, 16, 0, 1), id="16 bits, white is zero"),
        pytest.param(tiff(DEEP >> 4, 12, 1, 1), id="12 bits"),
        pytest.param(tiff(np.stack([DEEP] * 3, -1), 16, 2, 1), id="16-bit RGB"),
        pytest.param(tiff(np.stack([GRADIENT, OPAQUE], -1), 8, 1, 1, extra=1), id="premultiplied grey"),
        pytest.param(tiff(np.stack([GRADIENT] * 3 + [OPAQUE], -1), 8, 2, 1, extra=1), id="premultiplied RGB"),
        pytest.param(tiff(np.stack([GRADIENT] * 3 + [0 * OPAQUE], -1), 8, 2, 1, extra=0), id="RGB and padding"),
    ],
)
def test_a_gradient_keeps_its_full_range(content: bytes) -> None:
    opened = np.asarray(open_image(io.BytesIO(content)), dtype=int)
    assert np.abs(opened - GRADIENT[..., np.newaxis]).max() <= 1


@pytest.mark.parametrize(
    ("content", "mode"),
    [
        (tiff((GRADIENT / 255).astype("<f4"), 32, 1, 3), "F"),
        (tiff((GRADIENT / 255).astype(">f4"), 32, 1, 3), "F"),
        (tiff(GRADIENT.astype("<u4") << 24, 32, 1, 1), "I"),
        (tiff(GRADIENT.astype(">i4") << 23, 32, 1, 2), "I"),
        (tiff(DEEP.astype("<i2"), 16, 1, 2), "I"),
        (tiff(GRADIENT.astype("i1"), 8, 1, 2), "L"),
    ],
)
def test_numbers_of_unknown_range_are_refused(content: bytes, mode: str) -> None:
    with pytest.raises(PhotoError, match=f"pixel values of mode {mode} have no known range"):
        open_image(io.BytesIO(content))


def test_large_photos_are_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same in every mode, with transparency on white before pixels are mixed."""
    clear = PIL.Image.effect_noise((301, 203), 90).convert("RGBA")
    clear.putalpha(PIL.Image.effect_noise((301, 203), 90))
    images = [clear, *[clear.convert(mode) for mode in ("RGB", "P", "L", "LA")]]
    whole = [open_image(io.BytesIO(stored(image, "PNG"))) for image in images]
    monkeypatch.setattr("search.photos.decode.HALVED_FROM", 60_000)
    monkeypatch.setattr("search.photos.decode.BAND", 7_000)
    for image, full in zip(images, whole, strict=True):
        assert open_image(io.BytesIO(stored(image, "PNG"))).tobytes() == full.reduce(2).tobytes()
    jpeg = open_image(io.BytesIO(stored(clear.convert("RGB"), "JPEG")))
    assert jpeg.size == (151, 102)


def test_a_photo_takes_little_more_memory_than_its_pixels(tmp_path: Path) -> None:
    """Runs in its own process, since peak memory is measured."""
    measure = (
        "import io, resource, sys; from search.photos import open_image\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak(); open_image(io.BytesIO(open(sys.argv[1], 'rb').read())); print(peak() - before)"
    )
    file = saved(tmp_path, PIL.Image.new("LA", (7100, 7100), (90, 128)), "a.png", compress_level=1)
    done = subprocess.run([sys.executable, "-c", measure, file], capture_output=True, text=True, check=True, cwd=ROOT)
    assert int(done.stdout) * 1024 < 300_000_000  # of which 202 MB are the pixels; Pillow stores four bytes of each


def test_files_that_would_take_too_much_memory_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    photo = PIL.Image.effect_noise((200, 200), 50).convert("RGB")
    contents = {form: stored(photo, form) for form in ("PNG", "WEBP", "TIFF")}
    contents["progressive"] = stored(photo, "JPEG", progressive=True)
    contents["one strip"] = stored(photo, "TIFF", compression="tiff_lzw", strip_size=2**30)
    monkeypatch.setattr("search.photos.decode.MAX_MEMORY", 5 * 200 * 200)
    for name, content in contents.items():
        if name == "PNG":
            open_image(io.BytesIO(content))
        else:
            with pytest.raises(PhotoError, match="GB to decode"):
                open_image(io.BytesIO(content))


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
    with pytest.raises(PhotoError, match="a folder"):
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


@settings(max_examples=300)
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
    assert current_mark(tmp_path, wanted, mark) == mark
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
