"""Models that need their texts padded to full length, such as SigLIP, and what a collection remembers of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import PIL.Image
import pytest
from conftest import Call, ingest_options, one_line_error
from siglip_factory import Kind, save_random_siglip

from search.encoder import clip as encoder_module
from search.encoder.clip import ClipEncoder
from search.encoder.for_collection import encoder_for
from search.errors import EncoderError, QueryError, SpecMismatch
from search.index import CollectionSpec
from search.index.edge.index import EdgeIndex
from search.query import Part
from search.records import Vectors
from search.searcher import Searcher

TEXTS = ["a dog", "a much longer text, about a dog on a beach", "", "x " * 200, "a dog"]


@pytest.fixture(scope="module")
def siglip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_siglip(tmp_path_factory.mktemp("models") / "siglip")


def as_transformers_does(folder: Path, texts: list[str]) -> Vectors:
    import torch
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer(texts, padding="max_length", max_length=64, truncation=True, return_tensors="pt")
    assert list(tokens) == ["input_ids"]
    with torch.inference_mode():
        vectors: Vectors = model.get_text_features(**tokens).pooler_output.numpy()
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


@pytest.mark.parametrize("kind", ["siglip", "siglip2", "naflex"])
def test_vectors_are_those_of_transformers(tmp_path: Path, kind: Kind) -> None:
    folder = save_random_siglip(tmp_path / "model", kind, layout="modules")
    encoder = ClipEncoder(str(folder), device="cpu", batch_size=2)
    vectors = encoder.encode_texts(TEXTS)
    assert (vectors * as_transformers_does(folder, TEXTS)).sum(axis=1).min() >= 0.9999
    for text, vector in zip(TEXTS, vectors, strict=True):
        np.testing.assert_allclose(encoder.encode_texts([text])[0], vector, atol=1e-6)
    marks = 2 if kind == "siglip" else 1  # the first also has a token for the space before a text
    ends = ["x" * (64 - marks), "x" * (65 - marks)]
    assert list(map(bool, encoder.truncations([*ends, *TEXTS]))) == [False, True, False, False, False, True, False]
    photos = [PIL.Image.effect_noise(size, 90).convert("RGB") for size in ((30, 90), (90, 30), (64, 64))]
    together = encoder.encode_images(photos)
    for photo, vector in zip(photos, together, strict=True):
        np.testing.assert_allclose(encoder.encode_images([photo])[0], vector, atol=1e-6)


def test_padding_is_chosen_in_float32(siglip_folder: Path, clip_folder: Path) -> None:
    for folder, padding in ((siglip_folder, "max_length"), (clip_folder, "longest")):
        encoder = ClipEncoder(str(folder), device="cpu", dtype="bfloat16")
        assert (encoder.padding, encoder.dtype) == (padding, "bfloat16")


def test_a_known_model_is_not_probed(
    siglip_folder: Path, clip_folder: Path, make_spec: Callable[..., CollectionSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = [ClipEncoder(str(folder), device="cpu") for folder in (siglip_folder, clip_folder)]
    monkeypatch.setattr("search.encoder.clip.probe", lambda *_: pytest.fail("was probed again"))
    for first in known:
        spec = make_spec(model=first.name, weights=first.weights, dim=first.dim, padding=first.padding)
        again = encoder_for(spec, device="cpu")
        assert again.encode_texts(TEXTS) == pytest.approx(first.encode_texts(TEXTS), abs=1e-6)


def changed(monkeypatch: pytest.MonkeyPatch, change: Callable[[dict[str, Any]], None]) -> None:
    """Make every loaded model change its features at the end."""
    import torch

    class Changed(torch.nn.Module):
        def forward(self, features: dict[str, Any]) -> dict[str, Any]:
            change(features)
            return features

    load = encoder_module._load
    monkeypatch.setattr(encoder_module, "_load", lambda *of: load(*of).append(Changed()))


@pytest.mark.parametrize(("changing", "complaint"), [("input_ids", "a text"), ("pixel_values", "a photo")])
def test_models_whose_vectors_depend_on_the_batch(
    clip_folder: Path, monkeypatch: pytest.MonkeyPatch, changing: str, complaint: str
) -> None:
    def mix(features: dict[str, Any]) -> None:
        if changing in features:
            features["sentence_embedding"] = features["sentence_embedding"] + features["sentence_embedding"].mean(dim=0)

    changed(monkeypatch, mix)
    with pytest.raises(EncoderError, match=f"embeds {complaint} differently in a batch"):
        ClipEncoder(str(clip_folder), device="cpu")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
def test_an_input_without_a_usable_vector_has_a_row_of_nan(
    clip_folder: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    def spoil(features: dict[str, Any]) -> None:
        if "input_ids" in features:
            rows = (features["input_ids"] == features["input_ids"][0, 1]).sum(dim=1) > 5  # many of the first letter
        else:
            rows = features["pixel_values"].flatten(2).std(dim=2).amax(dim=1) < 1e-6  # of one colour
        features["sentence_embedding"][rows, 3 if value else slice(None)] = value

    whole = ClipEncoder(str(clip_folder), device="cpu")
    changed(monkeypatch, spoil)
    encoder = ClipEncoder(str(clip_folder), device="cpu", dim=whole.dim, padding="longest")
    texts = ["zzzzzzz", "fine"]
    vectors = encoder.encode_texts(texts)
    assert np.isnan(vectors).all(axis=1).tolist() == [True, False]
    np.testing.assert_allclose(vectors[1], whole.encode_texts(texts)[1], atol=1e-6)
    grey, noise = PIL.Image.new("L", (32, 32), 9).convert("RGB"), PIL.Image.effect_noise((32, 32), 90).convert("RGB")
    for photos in ([grey, noise], np.stack([np.asarray(grey), np.asarray(noise)])):
        assert np.isnan(encoder.start(photos).vectors()).all(axis=1).tolist() == [True, False]


def test_an_unreadable_input_does_not_spoil_its_batch(clip_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = ClipEncoder(str(clip_folder), device="cpu")
    real = encoder.model.preprocess

    def strict(inputs: list[Any], **more: Any) -> Any:
        if any(each == {"text": "bad"} or getattr(each, "size", None) == (1, 1) for each in inputs):
            raise ValueError("cannot be read")
        return real(inputs, **more)

    monkeypatch.setattr(encoder.model, "preprocess", strict)
    assert np.isnan(encoder.encode_texts(["good", "bad", "fine"])).all(axis=1).tolist() == [False, True, False]
    assert list(map(bool, encoder.truncations(["x" * 99, "bad", "ü" * 99]))) == [True, False, True]
    photos = [PIL.Image.new("RGB", size, "red") for size in ((9, 9), (1, 1))]
    assert np.isnan(encoder.encode_images(photos)).all(axis=1).tolist() == [False, True]


def test_old_collections_of_a_model_that_needs_full_padding(
    call: Call, photo_set: Path, siglip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = ["--path", str(tmp_path / "index")]
    options = ingest_options(photo_set, siglip_folder, place)
    assert call("ingest", *options)[0] == 0
    right = stored(tmp_path / "index")
    found = call("search", "text", "photo 3", "--json", *place)
    assert found[0] == 0

    forget_padding(tmp_path / "index")  # as written by an older version
    moved = shutil.copytree(siglip_folder, tmp_path / "moved")
    for command in (("search", "text", "photo 3"), ("search", "text", "photo 3", "--model", moved)):
        message = one_line_error(call(*command, *place))
        assert "padded to full length" in message
        assert "`python -m ingest run --force`" in message
    assert call("search", "image", "103", *place)[0] == 0  # needs no model
    assert "--force" in one_line_error(call("ingest", *options))
    assert "select all splits" in one_line_error(call("ingest", *options, "--force", "--split", "test"))
    with monkeypatch.context() as stopping:
        stopping.setattr("ingest.stages.captions._encode_captions", Mock(side_effect=KeyboardInterrupt))
        assert call("ingest", *options, "--force")[0] == 130
    assert specs(tmp_path / "index") == [None, None]

    assert call("ingest", *options, "--force")[0] == 0
    assert specs(tmp_path / "index") == ["max_length", "max_length"]
    assert call("search", "text", "photo 3", "--json", "--model", moved, *place)[1] == found[1]
    assert (stored(tmp_path / "index") == right).all()
    assert call("ingest", *options)[0] == 0


def test_old_collections_of_a_clip(call: Call, photo_set: Path, clip_folder: Path, tmp_path: Path) -> None:
    place = ["--path", str(tmp_path / "index")]
    assert call("ingest", *ingest_options(photo_set, clip_folder, place))[0] == 0
    forget_padding(tmp_path / "index")
    code, _, err = call("search", "text", "photo 3", *place)
    assert (code, "padd" in err) == (0, False)
    code, out, err = call("ingest", *ingest_options(photo_set, clip_folder, place), "--json")
    assert (code, json.loads(out)["captions"]["embedded"], json.loads(out)["warnings"]) == (0, 0, []), err
    assert specs(tmp_path / "index") == ["longest", "longest"]


def test_paddings_that_may_share_a_collection(make_spec: Callable[..., CollectionSpec]) -> None:
    old, plain, full = make_spec(), make_spec(padding="longest"), make_spec(padding="max_length")
    for left, right in ((old, plain), (plain, old), (plain, plain)):
        assert left.merged(right)[0].padding == "longest"
    assert full.merged(full)[0].padding == "max_length"
    for left, right in ((old, full), (full, old), (plain, full), (full, plain)):
        with pytest.raises(SpecMismatch, match="padded"):
            left.merged(right)


def test_a_query_without_a_usable_vector(call: Call, photo_set: Path, clip_folder: Path, tmp_path: Path) -> None:
    call("ingest", *ingest_options(photo_set, clip_folder, ["--path", str(tmp_path / "index")]))

    class Choosy(ClipEncoder):
        def encode_texts(self, texts: Any) -> Vectors:
            vectors = super().encode_texts(texts)
            vectors[["odd" in text for text in texts]] = np.nan
            return vectors

    def load(spec: CollectionSpec) -> ClipEncoder:
        return Choosy(spec.model, device="cpu", dim=spec.dim, padding=spec.padding)

    with Searcher(EdgeIndex(tmp_path / "index"), encoder=load) as searcher:
        odd, mixed, fine = searcher.encode(
            [
                [Part(text="odd\n" + "x" * 500)],
                [Part(text="fine"), Part(image_id=103), Part(text="odd")],
                [Part(text="ok")],
            ]
        )
        assert isinstance(odd, QueryError)
        assert isinstance(mixed, QueryError)
        assert str(mixed) == "the model gives no usable vector for odd"
        assert len(str(odd).splitlines()) == 1
        assert len(str(odd)) < 120
        assert isinstance(fine, np.ndarray)
        np.testing.assert_allclose(fine, searcher.encoder.encode_texts(["ok"])[0], atol=1e-6)


def specs(index: Path) -> list[Any]:
    return [json.loads((index / f"coco_{kind}.json").read_text()).get("padding") for kind in ("images", "captions")]


def forget_padding(index: Path) -> None:
    for kind in ("images", "captions"):
        file = index / f"coco_{kind}.json"
        content = json.loads(file.read_text())
        del content["padding"]
        file.write_text(json.dumps(content))


def stored(index: Path) -> Vectors:
    edge = EdgeIndex(index)
    vectors = [batch.vectors for batch in edge.scan("coco_captions", vectors=True) if batch.vectors is not None]
    edge.close()
    return np.concatenate(vectors)
