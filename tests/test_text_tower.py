"""The text tower in NumPy against the model that it was taken from, and the file that it is kept in."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from clip_factory import save_random_clip
from conftest import Call, ingest_options
from safetensors import SafetensorError
from siglip_factory import save_random_siglip

from search.encoder import lazy, text_tower
from search.encoder.cache import cache_folder, tower_file
from search.encoder.clip import ClipEncoder
from search.encoder.lazy import LazyEncoder, cache_text_tower
from search.encoder.text_tower import TextTower
from search.index import CollectionSpec

MakeSpec = Callable[..., CollectionSpec]
TEXTS = [
    *(
        "a dog",
        "A DOG",
        "",
        " ",
        "a photo of a dog on a beach",
        "d\u00e9j\u00e0 vu",
        "\u732b",
        "\U0001f436",
        "don't",
        "1 2 3",
    ),
    *("<|endoftext|>", "a <|endoftext|> b", "<|startoftext|>", "tab\tand\nline", "word " * 300, "x" * 1000),
    *("w " * count for count in range(1, 100, 7)),
]


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def encoder(clip_folder: Path) -> ClipEncoder:
    return ClipEncoder(str(clip_folder), device="cpu")


def lazy_encoder(
    encoder: ClipEncoder, make_spec: MakeSpec, loaded: list[str], patience: float = lazy.PATIENCE
) -> LazyEncoder:
    def load(device: str) -> ClipEncoder:
        loaded.append(device)
        return encoder

    spec = make_spec(model=encoder.name, weights=encoder.weights, dim=encoder.dim, prompt=encoder.prompt)
    return LazyEncoder(spec, load, "auto", patience)


@pytest.mark.parametrize("prompt", [None, "a photo of {}"])
def test_the_vectors_are_the_models(clip_folder: Path, prompt: str | None, make_spec: MakeSpec) -> None:
    encoder = ClipEncoder(str(clip_folder), device="cpu", prompt=prompt)
    assert cache_text_tower(encoder) is not None
    loaded: list[str] = []
    fast = lazy_encoder(encoder, make_spec, loaded)
    texts = [*TEXTS, "\ud800", *TEXTS[:3]]
    vectors, expected = fast.encode_texts(texts), encoder.encode_texts(texts)
    assert vectors == pytest.approx(expected, abs=1e-6, nan_ok=True)
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(texts), encoder.dim)
    assert np.isnan(vectors[len(TEXTS)]).all()
    assert (vectors[0] == vectors[len(TEXTS) + 1]).all()
    assert fast.truncations(texts) == encoder.truncations(texts)
    assert fast.encode_texts([]).shape == (0, encoder.dim)
    assert loaded == []


@pytest.mark.parametrize(("activation", "eos"), [("gelu", None), ("quick_gelu", 2)])
def test_both_activations_and_both_ways_to_find_the_end(tmp_path: Path, activation: str, eos: int | None) -> None:
    folder = save_random_clip(tmp_path / "clip")
    file = folder / "0_CLIPModel/config.json"
    config = json.loads(file.read_text())
    config["text_config"]["hidden_act"] = activation
    if eos is not None:
        config["text_config"]["eos_token_id"] = eos
    file.write_text(json.dumps(config))
    encoder = ClipEncoder(str(folder), device="cpu")
    tower = cache_text_tower(encoder)
    assert tower is not None
    assert tower.encode(TEXTS) == pytest.approx(encoder.encode_texts(TEXTS), abs=1e-6)


def test_the_first_query_prepares_the_tower(encoder: ClipEncoder, make_spec: MakeSpec) -> None:
    loaded: list[str] = []
    first = lazy_encoder(encoder, make_spec, loaded).encode_texts(TEXTS)
    assert loaded == ["auto"]
    assert tower_file(encoder.weights).exists()
    again = lazy_encoder(encoder, make_spec, loaded).encode_texts(TEXTS)
    assert loaded == ["auto"]
    assert (again == first).all()


@pytest.mark.parametrize(("quick", "whole"), [(0.0, ["auto"]), (60.0, [])])
def test_only_slow_batches_load_the_whole_model(
    encoder: ClipEncoder, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch, quick: float, whole: list[str]
) -> None:
    assert cache_text_tower(encoder) is not None
    monkeypatch.setattr(lazy, "QUICK", quick)
    loaded: list[str] = []
    fast = lazy_encoder(encoder, make_spec, loaded, patience=0.0)
    for _ in range(2):
        assert loaded == []
        fast.encode_texts(TEXTS)
    assert loaded == whole


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 100)


def cut_header(file: Path) -> None:
    os.truncate(file, 20)


def empty(file: Path) -> None:
    file.write_bytes(b"")


def foreign(file: Path) -> None:
    file.write_bytes(b"not a text tower" * 100)


def unknown_tokenizer(file: Path) -> None:
    content = file.read_bytes()
    old = b'\\\\\\"truncation\\\\\\"'
    assert old in content
    file.write_bytes(content.replace(old, b'\\\\\\"truncatiom\\\\\\"').replace(b"BPE", b"XXX"))


def another_model(file: Path) -> None:
    content = file.read_bytes()
    own = file.name.removeprefix("text-tower-").removesuffix(".safetensors").encode()
    file.write_bytes(content.replace(own, b"0" * len(own)))


@pytest.mark.parametrize("damage", [truncate, cut_header, empty, foreign, unknown_tokenizer, another_model])
def test_a_damaged_file_is_written_again(
    encoder: ClipEncoder, make_spec: MakeSpec, damage: Callable[[Path], None]
) -> None:
    cache_text_tower(encoder)
    file = tower_file(encoder.weights)
    damage(file)
    assert TextTower.open(encoder.weights) is None
    loaded: list[str] = []
    vectors = lazy_encoder(encoder, make_spec, loaded).encode_texts(["a dog"])
    assert vectors == pytest.approx(encoder.encode_texts(["a dog"]), abs=1e-6)
    assert loaded == ["auto"]
    assert TextTower.open(encoder.weights) is not None


def test_a_tower_that_differs_is_not_used(
    encoder: ClipEncoder, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(text_tower.ACTIVATIONS, "quick_gelu", lambda values: values)
    loaded: list[str] = []
    fast = lazy_encoder(encoder, make_spec, loaded)
    for _ in range(2):
        assert fast.encode_texts(["a dog"]) == pytest.approx(encoder.encode_texts(["a dog"]), abs=1e-6)
    assert [record.getMessage().count("differ") for record in caplog.records] == [1]
    assert list(cache_folder().iterdir()) == []


def test_a_cache_that_cannot_be_written(
    encoder: ClipEncoder, make_spec: MakeSpec, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("a file, not a folder")
    fast = lazy_encoder(encoder, make_spec, [])
    assert fast.encode_texts(["a dog"]) == pytest.approx(encoder.encode_texts(["a dog"]), abs=1e-6)
    assert "is not cached" in caplog.text


def test_a_full_disk_is_a_warning(
    encoder: ClipEncoder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise SafetensorError("No space left on device")

    monkeypatch.setattr("safetensors.numpy.save_file", full)
    assert cache_text_tower(encoder) is None
    assert "No space left" in caplog.text


def test_a_user_without_a_home_has_no_tower(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name)

    def unknown(_: int) -> None:
        raise KeyError

    monkeypatch.setattr("pwd.getpwuid", unknown)
    assert TextTower.open("0" * 64) is None


def test_another_tokenizer_has_another_tower(clip_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(clip_folder, tmp_path / "other")
    (folder / "config_sentence_transformers.json").write_text(
        json.dumps({"prompts": {"plain": "a photo of "}, "default_prompt_name": "plain"})
    )
    plain, prompted = ClipEncoder(str(clip_folder), device="cpu"), ClipEncoder(str(folder), device="cpu")
    assert plain.weights == prompted.weights
    for encoder in (plain, prompted, plain):
        tower = cache_text_tower(encoder)
        assert tower is not None
        assert tower.encode(["a dog"]) == pytest.approx(encoder.encode_texts(["a dog"]), abs=1e-6)


def test_other_layouts_have_no_tower(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    encoder = ClipEncoder(str(save_random_siglip(tmp_path / "siglip")), device="cpu")
    assert cache_text_tower(encoder) is None
    assert not [record for record in caplog.records if record.name.startswith("search.")]


def test_half_precision_has_no_tower(clip_folder: Path) -> None:
    assert cache_text_tower(ClipEncoder(str(clip_folder), device="cpu", dtype="bfloat16")) is None


# The tower of another process, written again without its model, which takes seconds to load.
KILLED_WHILE_WRITING = """
import os, sys
from pathlib import Path
from unittest.mock import Mock
from search.encoder import text_tower
tower = text_tower.TextTower(Path(sys.argv[1]), sys.argv[2])
text_tower.describe, text_tower._tensors = Mock(return_value=tower.header), Mock(return_value=dict(tower._tensors))
text_tower.write(Mock(), sys.argv[2], 77, lambda _: os._exit(9))
"""


def test_a_killed_writer_leaves_nothing_that_is_used(
    encoder: ClipEncoder, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert cache_text_tower(encoder) is not None
    whole = tower_file(encoder.weights)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another cache"))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", KILLED_WHILE_WRITING, str(whole), encoder.weights]
    assert subprocess.run(command, env=environment, check=False).returncode == 9
    assert TextTower.open(encoder.weights) is None
    [partial] = cache_folder().iterdir()
    os.utime(partial, (0, 0))
    lazy_encoder(encoder, make_spec, []).encode_texts(["a dog"])
    assert [file.name for file in cache_folder().iterdir()] == [tower_file(encoder.weights).name]


SLOW_TO_IMPORT = ["torch", "transformers", "scipy"]
SLOW_FOR_AN_EMBEDDED_INDEX = ["pydantic", "logging", "importlib.metadata", "tempfile", "hashlib", "http", "rich", "PIL"]


def test_a_text_query_imports_nothing_slow(call: Call, photo_set: Path, clip_folder: Path, place: list[str]) -> None:
    assert call("ingest", *ingest_options(photo_set, clip_folder, place))[0] == 0
    assert "text tower" in call("ingest", "status", *place)[1]
    slow = SLOW_TO_IMPORT + (SLOW_FOR_AN_EMBEDDED_INDEX if "--path" in place else [])
    program = (
        "import sys; from search.__main__ import main\n"
        "try: main()\n"
        f"finally: print([name for name in {slow} if name in sys.modules], file=sys.stderr)"
    )
    options = [sys.executable, "-c", program, "text", "noise", "--json", "-k", "3", *place]
    done = subprocess.run(options, capture_output=True, text=True, check=True)
    assert done.stderr.endswith("[]\n")
    assert len(done.stdout.splitlines()) == 3
