"""The models that people choose: pinned revisions, text models beside image models, models with code or roles."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from clip_factory import save_random_clip
from conftest import Call, ingest_options, one_line_error
from text_factory import save_random_text_model, save_router, with_own_code, with_prompts

from search.encoder.clip import ClipEncoder
from search.encoder.hub import locate
from search.encoder.properties import ROLE_PROMPTS
from search.errors import EncoderError, SpecMismatch
from search.index import CollectionSpec
from search.index.edge.index import EdgeIndex
from search.index.spec import ModelId
from search.records import Vectors

TEXTS = ["a dog", "ein Hund", "a much longer text, about a dog on a beach", "", "x " * 200]
COMMITS = "a" * 40, "b" * 40


def unit(vectors: Any) -> Vectors:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def library(folder: Path, **options: Any) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu", processor_kwargs={"backend": "pil"}, **options)


PHOTOS = [PIL.Image.effect_noise(size, 90).convert("RGB") for size in ((30, 90), (64, 64))]


def spec_of(place: list[str]) -> CollectionSpec:
    index = EdgeIndex(Path(place[1]))
    spec = index.spec("coco_captions")
    of_images = index.spec("coco_images")
    assert replace(spec, kind="images", cosines=of_images.cosines) == of_images
    index.close()
    return spec


@pytest.fixture
def place(tmp_path: Path) -> list[str]:
    return ["--path", str(tmp_path / "index")]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("some-models")


@pytest.fixture(scope="module")
def text_folder(models: Path) -> Path:
    return save_random_text_model(models / "text")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, clip_folder: Path) -> Path:
    """A cache of the model hub with two revisions of one model, `main` the second, and a tag of the first."""
    folder = tmp_path / "hub/models--some--clip"
    for seed, commit in enumerate(COMMITS):
        if seed:
            save_random_clip(folder / "snapshots" / commit, seed=seed)
        else:
            shutil.copytree(clip_folder, folder / "snapshots" / commit)
    (folder / "refs").mkdir()
    for name, commit in (("main", COMMITS[1]), ("v1", COMMITS[0]), ("work/new", COMMITS[0])):
        (folder / "refs" / name).parent.mkdir(exist_ok=True)
        (folder / "refs" / name).write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return folder


@pytest.mark.usefixtures("hub")
def test_a_revision_is_recorded_and_used_again(call: Call, photo_set: Path, place: list[str]) -> None:
    options = ingest_options(photo_set, Path("some/clip@v1"), place)
    code, _, err = call("ingest", *options)
    assert code == 0, err
    pinned = f"some/clip@{COMMITS[0]}"
    assert f"model {pinned}: 24 dimensions" in err
    assert str(spec_of(place).model_id) == pinned
    assert f"model            {pinned} (24 dimensions, float32)" in call("ingest", "status", *place)[1]

    picture = photo_set / "images/val2014/COCO_val2014_000000000103.jpg"
    for query in (("image", str(picture)), ("text", "Photo 3")):
        assert call("search", *query, *place)[0] == 0
    assert call("ingest", *ingest_options(photo_set, Path("some/clip@v1"), place), "--limit", 3)[0] == 0
    remembered = [option for option in options if option not in ("--model", "some/clip@v1")]
    assert call("ingest", *remembered)[0] == 0  # still that revision, not the newest
    code, out, _ = call("eval", "run", "--json", *place)
    assert code == 0
    assert json.loads(out)["fingerprint"]["revision"] == COMMITS[0]

    newest: list[list[str]] = [
        ["search", "image", str(picture), "--model", "some/clip", *place],
        ["ingest", *ingest_options(photo_set, Path("some/clip"), place)],
    ]
    for command in newest:
        error = one_line_error(call(*command))
        assert f"holds vectors of {pinned} (weights " in error
        assert "in 24 dimensions" in error
        assert f"not of some/clip@{COMMITS[1]} (weights " in error
        assert f"use --model {pinned}" in error


@pytest.mark.usefixtures("hub")
def test_revisions_that_do_not_exist(clip_folder: Path) -> None:
    assert locate("some/clip").revision == locate("some/clip@main").revision == COMMITS[1]
    assert locate("some/clip@work/new").revision == COMMITS[0]
    for name, complaint in (
        ("some/clip@v3", "the model some/clip@v3 is not in this machine's cache"),
        ("some/clip@", "no revision after the @"),
        (f"{clip_folder}@v1", "no model folder"),
    ):
        with pytest.raises(EncoderError, match=complaint):
            locate(name)


def test_a_folder_has_no_revision(clip_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(clip_folder.parent)
    with pytest.raises(EncoderError, match=f"the folder {clip_folder.name} has no revisions"):
        locate(f"{clip_folder.name}@v1")
    (tmp_path / "clip@home").symlink_to(clip_folder)
    assert locate(str(tmp_path / "clip@home")).revision is None


def test_code_of_a_model_runs_only_if_asked_for(
    call: Call, photo_set: Path, clip_folder: Path, place: list[str], tmp_path: Path
) -> None:
    folder = with_own_code(clip_folder, tmp_path / "turned")
    trusted = "--trust-remote-code"
    ran = tmp_path / "ran"
    code = folder / "turned.py"
    code.write_text(f"open({str(ran)!r}, 'w').close()\n{code.read_text()}")
    options = ingest_options(photo_set, folder, place)
    assert "comes with code of its own: add --trust-remote-code" in one_line_error(call("ingest", *options))
    assert not ran.exists()
    assert call("ingest", *options, trusted)[0] == 0
    assert spec_of(place).trust_remote_code
    ran.unlink()

    for command in (
        ("search", "text", "Photo 3", *place),
        ("search", "text", "Photo 3", "--model", clip_folder, *place),
    ):
        assert "add --trust-remote-code if you trust it" in one_line_error(call(*command))
    assert "add --trust-remote-code" in one_line_error(call("ingest", *options))
    assert not ran.exists()
    assert call("search", "text", "Photo 3", trusted, *place)[0] == 0
    assert "text tower" not in call("ingest", "status", *place)[1]
    assert call("search", "image", "103", *place)[0] == 0  # needs no model

    own = ClipEncoder(str(folder), device="cpu", trust_remote_code=True)
    plain = ClipEncoder(str(clip_folder), device="cpu")
    assert own.weights == plain.weights  # so a text tower of these weights would be the wrong one
    for ours, theirs in (
        (own.encode_texts(TEXTS), plain.encode_texts(TEXTS)),
        (own.encode_images(PHOTOS), plain.encode_images(PHOTOS)),
    ):
        np.testing.assert_allclose(ours, theirs[:, ::-1], atol=1e-6)


def test_a_collection_made_without_code_refuses_it(
    call: Call, photo_set: Path, clip_folder: Path, place: list[str]
) -> None:
    options = ingest_options(photo_set, clip_folder, place)
    assert call("ingest", *options)[0] == 0
    for command in (("ingest", *options), ("search", "text", "Photo 3", *place)):
        assert "was made without --trust-remote-code: leave it out" in one_line_error(
            call(*command, "--trust-remote-code")
        )


def test_a_text_model_embeds_captions_and_queries(
    call: Call, photo_set: Path, clip_folder: Path, text_folder: Path, place: list[str], tmp_path: Path
) -> None:
    options = ingest_options(photo_set, clip_folder, place)
    code, _, err = call("ingest", *options, "--text-model", text_folder)
    assert code == 0, err
    spec = spec_of(place)
    assert spec.text_model is not None
    assert spec.text_model.model == str(text_folder)
    assert spec.text_model.weights not in ("", spec.weights)
    status = call("ingest", "status", *place)[1]
    assert f"text model       {text_folder}" in status
    assert "text tower" not in status

    texts, images = library(text_folder), library(clip_folder)
    query = "Photo 3 in words, sentence 1."
    index = EdgeIndex(Path(place[1]))
    [stored] = index.retrieve("coco_captions", [31], vectors=True).vectors  # type: ignore[misc]
    np.testing.assert_allclose(stored, unit(texts.encode([query]))[0], atol=1e-6)
    index.close()
    [first, *_] = call("search", "text", query, "--to", "captions", "--json", *place)[1].splitlines()
    assert json.loads(first)["score"] == pytest.approx(1, abs=1e-5)
    assert call("eval", "run", *place)[0] == 0
    encoder = ClipEncoder(str(clip_folder), text_model=str(text_folder), device="cpu")
    np.testing.assert_allclose(encoder.encode_texts(TEXTS), unit(texts.encode(TEXTS)), atol=1e-6)
    np.testing.assert_allclose(encoder.encode_images(PHOTOS), unit(images.encode(PHOTOS)), atol=1e-6)
    assert list(map(bool, encoder.truncations(["x" * 62, "x" * 63]))) == [False, True]

    moved = shutil.copytree(text_folder, tmp_path / "moved")
    assert call("search", "text", query, "--text-model", moved, *place)[0] == 0
    assert call("ingest", *options)[0] == 0  # the remembered one
    other = save_random_text_model(tmp_path / "other", seed=1)
    for command in (("search", "text", query, *place), ("ingest", *options)):
        error = one_line_error(call(*command, "--text-model", other))
        assert f"were embedded by {text_folder} (weights " in error
        assert f"not by {other} (weights " in error
        assert f"use --text-model {text_folder}" in error


def test_photos_can_be_searched_with_a_text_model(
    call: Call, photo_set: Path, clip_folder: Path, text_folder: Path, place: list[str], tmp_path: Path
) -> None:
    options = ingest_options(photo_set, clip_folder, place)
    assert call("ingest", *options)[0] == 0
    before = call("search", "text", "ein Hund", "--json", *place)
    code, out, err = call("search", "text", "ein Hund", "--json", "--text-model", text_folder, *place)
    assert code == 0
    [warning] = err.splitlines()
    assert f"the captions of coco were embedded by {clip_folder}, not by {text_folder}: " in warning
    index = EdgeIndex(Path(place[1]))
    batches = list(index.scan("coco_images", vectors=True))
    scores = (
        np.concatenate([batch.vectors for batch in batches if batch.vectors is not None])
        @ unit(library(text_folder).encode(["ein Hund"])).T
    )
    index.close()
    assert json.loads(out.splitlines()[0])["score"] == pytest.approx(float(scores.max()), abs=1e-5)
    assert call("search", "text", "ein Hund", "--json", *place) == before

    error = one_line_error(call("ingest", *options, "--text-model", text_folder))
    assert f"were embedded by {clip_folder} (weights " in error
    assert "leave out --text-model" in error
    wide = save_random_text_model(tmp_path / "wide", dim=20)
    for command in (("search", "text", "ein Hund", *place), ("ingest", *options)):
        error = one_line_error(call(*command, "--text-model", wide))
        assert f"{clip_folder} with {wide} embeds images in 24 dimensions and texts in 20" in error


@pytest.mark.parametrize("kind", ["prompts", "one prompt", "router", "text towers"])
def test_stored_items_are_documents_and_searches_ask_queries(
    call: Call, photo_set: Path, clip_folder: Path, text_folder: Path, place: list[str], tmp_path: Path, kind: str
) -> None:
    folder = tmp_path / "roles"
    if kind == "router":
        save_router(save_random_clip(tmp_path / "queries", seed=1), clip_folder, folder)
    elif kind == "text towers":
        save_router(text_folder, clip_folder, folder, by_modality=True)
    else:
        prompts = {"query": "find "} | ({"passage": "photo of "} if kind == "prompts" else {})
        with_prompts(clip_folder, folder, **prompts)
    model = library(folder)
    documents, queries = (ClipEncoder(str(folder), device="cpu", role=role) for role in reversed(ROLE_PROMPTS))
    for ours, theirs in (
        (documents.encode_texts(TEXTS), model.encode_document(TEXTS)),
        (documents.encode_images(PHOTOS), model.encode_document(PHOTOS)),
        (queries.encode_texts(TEXTS), model.encode_query(TEXTS)),
        (queries.encode_images(PHOTOS), model.encode_query(PHOTOS)),
    ):
        np.testing.assert_allclose(ours, unit(theirs), atol=1e-6)
    assert np.abs(documents.encode_texts(TEXTS) - queries.encode_texts(TEXTS)).max() > 0.01
    if kind == "text towers":  # the tower for queries reads 64 tokens, the other 77
        assert [
            list(map(bool, encoder.truncations(["x" * 62, "x" * 63, "x" * 76]))) for encoder in (documents, queries)
        ] == [
            [False, False, True],
            [False, True, True],
        ]
    elif kind != "router":
        assert list(map(bool, queries.truncations(["x" * 71, "x" * 72]))) == [
            False,
            True,
        ]  # "find" is four tokens, and two are marks

    options = ingest_options(photo_set, folder, place)
    assert call("ingest", *options)[0] == 0
    assert spec_of(place).roles
    index = EdgeIndex(Path(place[1]))
    [stored] = index.retrieve("coco_captions", [31], vectors=True).vectors  # type: ignore[misc]
    index.close()
    text = "Photo 3 in words, sentence 1."
    np.testing.assert_allclose(stored, unit(model.encode_document([text]))[0], atol=1e-6)
    hits = map(json.loads, call("search", "text", text, "--to", "captions", "-k", 60, "--json", *place)[1].splitlines())
    [score] = [hit["score"] for hit in hits if hit["caption_id"] == 31]
    assert score == pytest.approx(float(unit(model.encode_query([text]))[0] @ stored), abs=1e-5)
    assert call("ingest", *options)[0] == 0
    assert "encodes queries and documents differently" in one_line_error(call("eval", "run", *place))


def test_a_query_tower_without_pictures_leaves_them_to_the_other(
    clip_folder: Path, text_folder: Path, tmp_path: Path
) -> None:
    folder = save_router(text_folder, clip_folder, tmp_path / "router")
    queries = ClipEncoder(str(folder), device="cpu", role="query")
    np.testing.assert_allclose(queries.encode_images(PHOTOS), unit(library(clip_folder).encode(PHOTOS)), atol=1e-6)
    np.testing.assert_allclose(queries.encode_texts(TEXTS), unit(library(text_folder).encode(TEXTS)), atol=1e-6)


def test_a_clip_as_transformers_saves_it(clip_folder: Path) -> None:
    folder = clip_folder / "0_CLIPModel"  # without modules.json
    encoder, model = ClipEncoder(str(folder), device="cpu"), library(folder)
    assert not encoder.roles
    np.testing.assert_allclose(encoder.encode_texts(TEXTS), unit(model.encode(TEXTS)), atol=1e-6)
    np.testing.assert_allclose(encoder.encode_images(PHOTOS), unit(model.encode(PHOTOS)), atol=1e-6)


def test_old_collections_of_a_model_with_roles_answer_as_before(
    call: Call, photo_set: Path, clip_folder: Path, place: list[str], tmp_path: Path
) -> None:
    folder = with_prompts(clip_folder, tmp_path / "roles", query="find ")
    assert call("ingest", *ingest_options(photo_set, folder, place))[0] == 0
    for kind in ("images", "captions"):  # as an older version wrote it
        file = Path(place[1]) / f"coco_{kind}.json"
        content = json.loads(file.read_text())
        for field in ("roles", "text_model", "trust_remote_code"):
            del content[field]
        file.write_text(json.dumps(content))
    [first, *_] = call("search", "text", "Photo 3 in words, sentence 1.", "--to", "captions", "--json", *place)[
        1
    ].splitlines()
    assert json.loads(first)["score"] == pytest.approx(1, abs=1e-5)
    assert "without the roles" in one_line_error(call("ingest", *ingest_options(photo_set, folder, place)))


def test_a_model_without_roles_is_encoded_without_one(clip_folder: Path, tmp_path: Path) -> None:
    folder = with_prompts(clip_folder, tmp_path / "same", query="a ", document="a ")
    encoder = ClipEncoder(str(folder), device="cpu", role="query")
    assert not encoder.roles
    np.testing.assert_allclose(encoder.encode_texts(TEXTS), unit(library(folder).encode(TEXTS)), atol=1e-6)


def test_specifications_of_different_models_do_not_merge(make_spec: Callable[..., CollectionSpec]) -> None:
    old = make_spec()
    other = ModelId(model="words", weights="c" * 64)
    for change in ({"text_model": other}, {"trust_remote_code": True}, {"roles": True}):
        changed = make_spec(**change)
        assert changed.merged(changed)[0] == changed
        for left, right in ((old, changed), (changed, old)):
            with pytest.raises(SpecMismatch):
                left.merged(right)
