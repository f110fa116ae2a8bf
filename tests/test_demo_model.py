"""The tiny CLIP as shipped: it loads like any published CLIP model, and it really relates words to pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray

from ingest.demo import MODEL
from ingest.demo.scenes.captions import captions
from ingest.demo.scenes.drawing import paint
from ingest.demo.scenes.render import render
from ingest.demo.scenes.world import Scene, stream
from ingest.demo.training.measure import measure_saved, recalls

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

SCENES = 120


@pytest.fixture(scope="module")
def model() -> SentenceTransformer:
    from sentence_transformers import SentenceTransformer

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        return SentenceTransformer(str(MODEL), device="cpu")


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    """Test scenes of a seed that the published scores know nothing of."""
    return list(stream(77, {"test": SCENES}))


def test_is_small_and_holds_no_code() -> None:
    files = [path for path in MODEL.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".json", ".safetensors"}
    assert sum(path.stat().st_size for path in files) <= 6_000_000


def test_has_the_layout_of_the_published_clip_models() -> None:
    modules = json.loads((MODEL / "modules.json").read_text())
    assert [(module["path"], module["type"]) for module in modules] == [
        ("0_CLIPModel", "sentence_transformers.models.CLIPModel")
    ]


@pytest.fixture(scope="module")
def images(model: SentenceTransformer, scenes: list[Scene]) -> NDArray[np.float32]:
    """Unit vectors of the scenes' pictures, (SCENES, 128)."""
    vectors: NDArray[np.float32] = model.encode([paint(scene) for scene in scenes], normalize_embeddings=True)
    return vectors


@pytest.fixture(scope="module")
def texts(model: SentenceTransformer, scenes: list[Scene]) -> NDArray[np.float32]:
    """Unit vectors of the scenes' captions, (SCENES, 5, 128)."""
    written = [text for scene in scenes for text in captions(scene)]
    vectors: NDArray[np.float32] = model.encode(written, normalize_embeddings=True)
    return vectors.reshape(SCENES, 5, 128)


def test_finds_unseen_scenes_in_both_directions(images: NDArray[np.float32], texts: NDArray[np.float32]) -> None:
    assert images.shape == (SCENES, 128)
    assert images.dtype == texts.dtype == np.float32
    found = recalls(images, texts)
    assert found["text-to-image recall@10"] >= 90
    assert found["image-to-text recall@10"] >= 95
    assert found["text-to-image recall@1"] >= 50


def test_wrong_captions_are_not_found(images: NDArray[np.float32], texts: NDArray[np.float32]) -> None:
    wrong = np.roll(texts, 1, axis=0)
    assert recalls(images, wrong)["text-to-image recall@10"] < 25  # chance is 8


@pytest.mark.parametrize(
    ("query", "word"),
    [
        ("a red car", "car"),
        ("a snowman", "snowman"),
        ("a photo of fish", "fish"),
        ("kites in the sky", "kite"),
        ("boats on the sea at night", "boat"),
    ],
)
def test_understands_what_people_type(
    model: SentenceTransformer, scenes: list[Scene], images: NDArray[np.float32], query: str, word: str
) -> None:
    best = int((images @ model.encode([query], normalize_embeddings=True)[0]).argmax())
    assert word in scenes[best].content


@pytest.mark.parametrize("text", ["", "...", "Zwölf Boxkämpfer 🙂 日本語", "xyzzy", "a red car " * 100, "\n\t\x00"])
def test_any_text_gives_a_vector(model: SentenceTransformer, text: str) -> None:
    vector = model.encode([text], normalize_embeddings=True)
    assert vector.shape == (1, 128)
    assert np.isfinite(vector).all()
    assert np.linalg.norm(vector) == pytest.approx(1.0, abs=1e-5)


def test_case_and_punctuation_do_not_matter(model: SentenceTransformer) -> None:
    first, second = model.encode(["A red car, at SUNSET!", "a red car at sunset"], normalize_embeddings=True)
    assert first @ second == pytest.approx(1.0, abs=1e-5)


def test_the_training_measures_as_the_user_does(
    scenes: list[Scene], images: NDArray[np.float32], texts: NDArray[np.float32], tmp_path: Path
) -> None:
    annotations = render(tmp_path, 30, seed=77, others=0)
    found = measure_saved(MODEL, annotations, scenes[:30])
    for name, expected in recalls(images[:30], texts[:30]).items():
        assert found[name] == pytest.approx(expected, abs=7)  # JPEG may move a rank or two among 30


def test_recall_counts_any_positive_and_ranks_from_one() -> None:
    images = np.eye(12, dtype=np.float32)
    texts = np.repeat(images[:, None], 2, axis=1)
    texts[0, 0] = images[1]  # one of two captions of the first image is wrong
    found = recalls(images, texts, cutoffs=(1, 5))
    assert found["image-to-text recall@1"] == 100
    assert found["text-to-image recall@1"] == pytest.approx(100 * 23 / 24, abs=0.01)


def test_the_record_of_the_training_is_there() -> None:
    record = json.loads((MODEL / "training.json").read_text())
    assert record["parameters"] <= 1_450_000
    for stage in record["stages"]:
        assert stage["validation"][-1]["step"] == stage["settings"]["steps"]
    assert record["test"]["text-to-image recall@10"] >= 80
    assert record["test"]["image-to-text recall@10"] >= 95
    assert record["test"]["colour and object precision@10"] >= 50
