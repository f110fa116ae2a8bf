"""The training of the tiny CLIP: it learns, and a run that was stopped ends like one that was not."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ingest.demo.scenes.drawing import paint
from ingest.demo.scenes.world import stream
from ingest.demo.training.corpus import Corpus, describe, shrink
from ingest.demo.training.towers import END, PAD, SIDE, START, TOKENS
from ingest.demo.training.train import Settings, Trainer

if TYPE_CHECKING:
    from transformers import CLIPModel

SETTINGS = Settings(steps=6, scenes=48, batch=16, warmup=2, every=3)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Batches this small are done sooner by one thread, above all beside other work."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train towers that are smaller still: what is tested is how they are trained."""

    def towers(words_known: int) -> CLIPModel:
        from transformers import CLIPConfig, CLIPModel

        shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
        marks = {"pad_token_id": PAD, "bos_token_id": START, "eos_token_id": END}
        text = {**shape, **marks, "vocab_size": words_known, "max_position_embeddings": TOKENS}
        vision = {**shape, "image_size": SIDE, "patch_size": 16}
        return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=32))

    monkeypatch.setattr("ingest.demo.training.train.towers", towers)


@pytest.fixture(scope="module")
def few() -> Corpus:
    scenes = list(islice(stream(1, {"train": SETTINGS.scenes}), SETTINGS.scenes))
    pixels = np.stack([np.asarray(shrink(paint(scene, 1), SIDE)) for scene in scenes])
    return describe(scenes, pixels)


def weights(trainer: Trainer) -> np.ndarray:
    import torch

    vector: np.ndarray = torch.cat([p.detach().reshape(-1) for p in trainer.model.parameters()]).numpy()
    return vector


def test_a_stopped_run_ends_like_one_that_was_not(few: Corpus, tmp_path: Path) -> None:
    whole = Trainer(SETTINGS, few, few, tmp_path / "whole.pt")
    whole.run()
    first = Trainer(SETTINGS, few, few, tmp_path / "parts.pt")
    for _ in range(3):
        first.step()
    first.save_checkpoint()
    second = Trainer(SETTINGS, few, few, tmp_path / "parts.pt")
    second.resume()
    second.run()
    np.testing.assert_allclose(weights(second), weights(whole), atol=1e-5)
    assert [point["step"] for point in whole.progress.curve] == [3, 6]


def test_the_loss_falls(few: Corpus, tmp_path: Path) -> None:
    trainer = Trainer(Settings(steps=30, scenes=48, batch=48, warmup=5), few, few, tmp_path / "checkpoint.pt")
    losses = [trainer.step() for _ in range(15)]
    assert losses[-1] < losses[0] - 0.8


def test_a_checkpoint_of_other_settings_is_refused(few: Corpus, tmp_path: Path) -> None:
    Trainer(SETTINGS, few, few, tmp_path / "checkpoint.pt").save_checkpoint()
    with pytest.raises(ValueError, match="other settings"):
        Trainer(Settings(steps=7), few, few, tmp_path / "checkpoint.pt").resume()
