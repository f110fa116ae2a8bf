from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import PIL.Image
import pytest
from clip_factory import save_random_clip
from conftest import PHOTO_TEXT_MODEL, SAMPLE, needs

from search.encoder import Truncation
from search.encoder.clip import ClipEncoder
from search.errors import EncoderError
from search.photos import open_image

TEXTS = ["A dog on a beach.", "two", "A very long sentence about nothing. " * 20, "ünïcödé 🐶", "A dog on a beach."]


def pictures() -> list[PIL.Image.Image]:
    rng = np.random.default_rng(0)
    sizes = [(60, 40), (40, 60), (33, 90), (300, 200), (8, 8)]
    return [PIL.Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)) for width, height in sizes]


def cosines(left: npt.NDArray[np.float32], right: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return np.asarray(np.einsum("ij,ij->i", left, right) / lengths, dtype=np.float32)


def agrees(model: Path, images: list[PIL.Image.Image]) -> ClipEncoder:
    from sentence_transformers import SentenceTransformer

    plain = SentenceTransformer(str(model), device="cpu", processor_kwargs={"backend": "pil"})
    encoder = ClipEncoder(str(model), device="cpu", batch_size=2)
    for ours, theirs in (
        (encoder.encode_images(images), plain.encode(images)),
        (encoder.encode_texts(TEXTS), plain.encode(TEXTS)),
    ):
        assert ours.dtype == np.float32
        assert ours.shape == (len(theirs), encoder.dim)
        np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-5)
        np.testing.assert_allclose(ours, theirs / np.linalg.norm(theirs, axis=1, keepdims=True), atol=5e-7)
    return encoder


def test_agreement_with_sentence_transformers_for_the_published_layout(clip_folder: Path) -> None:
    encoder = agrees(clip_folder, pictures())
    assert sum(map(bool, encoder.truncations(TEXTS))) == 1
    assert encoder.dtype == "float32"


def test_agreement_with_sentence_transformers_for_the_demo() -> None:
    agrees(Path(__file__).parent.parent / "ingest/demo/model", pictures())


@needs(PHOTO_TEXT_MODEL)
@needs(SAMPLE)
def test_agreement_with_sentence_transformers_for_another_layout() -> None:
    photos = sorted((SAMPLE / "images/val2014").glob("*.jpg"))[:6]
    agrees(PHOTO_TEXT_MODEL, [open_image(photo) for photo in photos])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_close(clip_folder: Path, dtype: str) -> None:
    whole, half = ClipEncoder(str(clip_folder), device="cpu"), ClipEncoder(str(clip_folder), device="cpu", dtype=dtype)
    assert half.dtype == dtype
    assert half.weights == whole.weights
    assert half.preparation is not None
    prepared = np.stack([half.preparation.apply(picture) for picture in pictures()])
    for ours, theirs in (
        (half.encode_images(pictures()), whole.encode_images(pictures())),
        (half.start(prepared).vectors(), whole.encode_images(pictures())),
        (half.encode_texts(TEXTS), whole.encode_texts(TEXTS)),
    ):
        assert ours.dtype == np.float32
        assert cosines(ours, theirs).min() > 0.99
    with pytest.raises(EncoderError, match="unknown dtype 'float8'"):
        ClipEncoder(str(clip_folder), dtype="float8")


def test_an_overflow_in_half_precision_is_retried_in_float32(clip_folder: Path) -> None:
    import torch

    half = ClipEncoder(str(clip_folder), device="cpu", dtype="float16")
    whole = ClipEncoder(str(clip_folder), device="cpu", dtype="float32")
    for encoder in (half, whole):  # the largest weights that float16 has, so that their products overflow
        for name, weight in encoder.model.named_parameters():
            if name.endswith("_projection.weight"):
                weight.data = (weight.float() * (60_000 / weight.abs().max().float())).to(weight.dtype)
    assert np.isnan(half.start(pictures()).vectors()).any()
    assert half._embed_texts(TEXTS).isnan().any()
    assert half.preparation is not None
    prepared = np.stack([half.preparation.apply(picture) for picture in pictures()])
    for ours, theirs in (
        (half.encode_images(pictures()), whole.encode_images(pictures())),
        (half.encode_images(prepared), whole.encode_images(prepared)),
        (half.encode_texts([*TEXTS, "\0"]), whole.encode_texts([*TEXTS, "\0"])),
    ):
        assert cosines(ours[:5], theirs[:5]).min() > 0.99
    assert np.isnan(half.encode_texts(["\0"])).all()
    assert half.model.dtype == torch.float16


def test_prepared_pixels_give_the_vectors_of_the_photos(clip_folder: Path) -> None:
    encoder = ClipEncoder(str(clip_folder), device="cpu")
    assert encoder.preparation is not None
    prepared = np.stack([encoder.preparation.apply(picture) for picture in pictures()])
    np.testing.assert_allclose(encoder.start(prepared).vectors(), encoder.encode_images(pictures()), atol=1e-5)


def test_equal_texts_have_equal_bits(clip_folder: Path) -> None:
    vectors = ClipEncoder(str(clip_folder)).encode_texts(TEXTS)
    assert (vectors[0] == vectors[4]).all()
    assert (vectors[0] != vectors[1]).any()


def test_no_inputs_give_no_vectors(clip_folder: Path) -> None:
    encoder = ClipEncoder(str(clip_folder))
    assert encoder.encode_texts([]).shape == encoder.encode_images([]).shape == (0, encoder.dim)


@pytest.mark.parametrize(("length", "given"), [(75, None), (76, 78), (5000, 5002)])
def test_truncation_is_counted_exactly(clip_folder: Path, length: int, given: int | None) -> None:
    """The model reads 77 tokens; here a letter is one, and two mark start and end."""
    encoder = ClipEncoder(str(clip_folder))
    assert encoder.truncations(["short", "x" * length, ""]) == [None, Truncation(77, given) if given else None, None]


def test_multi_byte_characters_are_many_tokens(clip_folder: Path) -> None:
    encoder = ClipEncoder(str(clip_folder))
    assert encoder.truncations(["🐶" * 30]) == [Truncation(77, 122)]  # four bytes, four tokens each


def test_a_prompt_wraps_texts(clip_folder: Path) -> None:
    wrapped = ClipEncoder(str(clip_folder), prompt="a photo of {}").encode_texts(["a {dog}"])
    plain = ClipEncoder(str(clip_folder)).encode_texts(["a photo of a {dog}"])
    np.testing.assert_allclose(wrapped, plain, atol=1e-6)
    with pytest.raises(EncoderError, match=r"exactly one \{\}"):
        ClipEncoder(str(clip_folder), prompt="a photo")


def test_weights_identify_the_model(clip_folder: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(clip_folder, tmp_path / "moved")
    other = save_random_clip(tmp_path / "other", seed=1)
    here, there, different = (ClipEncoder(str(folder)).weights for folder in (clip_folder, moved, other))
    assert here == there != different


def test_missing_models(tmp_path: Path) -> None:
    for name, complaint in (
        ("./absent", "no model folder ./absent: check --model"),
        (str(tmp_path / "absent"), "no model folder"),
        ("a/b/c", "no model folder"),
        ("~no-such-user/clip", "no model folder"),
        (str(tmp_path), "no modules.json"),
        ("clip-ViT-B-32", "not in this machine's cache.*--model PATH"),
        ("no such name!", "check --model"),
    ):
        with pytest.raises(EncoderError, match=complaint):
            ClipEncoder(name)


def test_a_damaged_model(clip_folder: Path, tmp_path: Path) -> None:
    for file, content in (
        ("0_CLIPModel/config.json", "{"),
        ("0_CLIPModel/model.safetensors", ""),  # a copy that ended too early
        ("0_CLIPModel/processor_config.json", "[]"),
        ("modules.json", "[1]"),
    ):
        broken = shutil.copytree(clip_folder, tmp_path / file.replace("/", "-"))
        (broken / file).write_text(content)
        with pytest.raises(EncoderError, match="cannot load the model"):
            ClipEncoder(str(broken))


def test_a_model_of_texts_only(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import BoW

    words = SentenceTransformer(modules=[BoW(["dog", "beach"])])
    words.save(str(tmp_path / "words"))
    with pytest.raises(EncoderError, match="does not embed both images and texts"):
        ClipEncoder(str(tmp_path / "words"))


def test_a_missing_device(clip_folder: Path) -> None:
    with pytest.raises(EncoderError, match="--device auto or cpu"):
        ClipEncoder(str(clip_folder), device="cuda:7")
    with pytest.raises(EncoderError, match="--device auto or cpu"):
        ClipEncoder(str(clip_folder), device="toaster")
