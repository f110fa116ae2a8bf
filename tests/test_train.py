"""The training of the tiny CLIP: it learns, and a run that was stopped ends like one that was not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ingest.demo.scenes.drawing import paint
from ingest.demo.scenes.world import Dice, stream
from ingest.demo.training import train
from ingest.demo.training.corpus import Corpus, describe, shrink
from ingest.demo.training.losses import contrastive, ranking
from ingest.demo.training.phrases import OBJECTS, PHRASES, Phrase, precision, shown, wordings
from ingest.demo.training.towers import END, GRID, PAD, START, TOKENS, as_input, embed, for_side
from ingest.demo.training.towers import towers as full_towers
from ingest.demo.training.train import Settings, Trainer

if TYPE_CHECKING:
    from transformers import CLIPModel

SETTINGS = Settings(steps=6, scenes=48, batch=16, warmup=2, cooldown=4, harder=3, every=3)
WITH_PHRASES = replace(SETTINGS, side=96, cooldown=2, harder=0, phrases=True)


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

    def towers(words_known: int, side: int) -> CLIPModel:
        from transformers import CLIPConfig, CLIPModel

        shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
        marks = {"pad_token_id": PAD, "bos_token_id": START, "eos_token_id": END}
        text = {**shape, **marks, "vocab_size": words_known, "max_position_embeddings": TOKENS}
        vision = {**shape, "image_size": side, "patch_size": side // GRID}
        return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=32))

    monkeypatch.setattr("ingest.demo.training.train.towers", towers)


def drawn(side: int) -> Corpus:
    scenes = list(islice(stream(1, {"train": SETTINGS.scenes}), SETTINGS.scenes))
    return describe(scenes, np.stack([np.asarray(shrink(paint(scene, 1), side)) for scene in scenes]))


@pytest.fixture(scope="module")
def few() -> Corpus:
    return drawn(64)


@pytest.fixture(scope="module")
def larger() -> Corpus:
    return drawn(96)


def weights(trainer: Trainer) -> np.ndarray:
    import torch

    vector: np.ndarray = torch.cat([p.detach().reshape(-1) for p in trainer.model.parameters()]).numpy()
    return vector


@pytest.mark.parametrize("settings", [SETTINGS, WITH_PHRASES], ids=["captions", "phrases"])
def test_a_stopped_run_ends_like_one_that_was_not(
    settings: Settings, few: Corpus, larger: Corpus, tmp_path: Path
) -> None:
    scenes = larger if settings.phrases else few
    whole = Trainer(settings, scenes, scenes, tmp_path / "whole.pt")
    whole.run()
    first = Trainer(settings, scenes, scenes, tmp_path / "parts.pt")
    for _ in range(3):
        first.step()
    first.save_checkpoint()
    second = Trainer(settings, scenes, scenes, tmp_path / "parts.pt")
    second.resume()
    second.run()
    np.testing.assert_allclose(weights(second), weights(whole), atol=1e-5)
    assert [point["step"] for point in whole.progress.curve] == [3, 6]


@pytest.mark.parametrize("phrases", [False, True])
def test_the_loss_falls(phrases: bool, few: Corpus, tmp_path: Path) -> None:
    settings = Settings(steps=30, scenes=48, batch=48, warmup=5, cooldown=25, phrases=phrases)
    trainer = Trainer(settings, few, few, tmp_path / "checkpoint.pt")
    losses = [trainer.step() for _ in range(15)]
    assert losses[-1] < losses[0] - 0.8


def test_a_checkpoint_of_other_settings_is_refused(few: Corpus, tmp_path: Path) -> None:
    Trainer(SETTINGS, few, few, tmp_path / "checkpoint.pt").save_checkpoint()
    with pytest.raises(ValueError, match="other settings"):
        Trainer(Settings(steps=7), few, few, tmp_path / "checkpoint.pt").resume()


def test_the_rate_rises_stays_and_falls_to_zero(few: Corpus, tmp_path: Path) -> None:
    settings = Settings(steps=100, warmup=10, cooldown=50, rate=1.0, scenes=48)
    trainer = Trainer(settings, few, few, tmp_path / "checkpoint.pt")
    assert [round(trainer.rate(step), 3) for step in (0, 9, 30, 50, 75, 100)] == [0.1, 1, 1, 1, 0.5, 0]


def test_larger_pictures_start_with_what_small_ones_taught() -> None:
    import torch

    torch.manual_seed(0)
    small, large = full_towers(10, 64).train(False), full_towers(10, 96).train(False)
    large.load_state_dict(for_side(small.state_dict(), 96))
    pictures = [paint(scene, 1) for scene in stream(0, {"test": 4})]
    with torch.inference_mode():
        before, after = (
            embed(model, as_input(np.stack([np.asarray(shrink(picture, side)) for picture in pictures])), None)
            for model, side in ((small, 64), (large, 96))
        )
    assert (before * after).sum(dim=1).min() > 0.99


def test_phrases_fit_the_scenes_that_show_them(few: Corpus) -> None:
    batch = shown(few.scenes)
    for row, phrase in enumerate(PHRASES):
        for column, scene in enumerate(few.scenes):
            fitting = [
                thing for thing in scene.things if thing.kind == phrase.kind and phrase.colour in (None, thing.colour)
            ]
            assert batch.fits[row, column] == bool(fitting)
    texts, fits = wordings(batch, few.scenes, Dice(1))
    assert len(texts) == len(PHRASES)
    assert not (fits & ~batch.fits).any()  # a place or the weather only narrows a phrase
    narrowed = [texts[row] for row in np.flatnonzero((fits != batch.fits).any(axis=1))]
    assert any(" in the snow" in text or " on the beach" in text for text in narrowed)
    assert fits.any(axis=1).sum() == batch.fits.any(axis=1).sum()  # and never to nothing


def test_the_losses_are_zero_only_if_every_positive_is_first() -> None:
    import torch

    scale = torch.tensor(100.0)
    images = torch.eye(4)
    assert contrastive(images, [images], scale) < 1e-6
    assert contrastive(images, [images.roll(1, 0)], scale) > 50
    fits = torch.tensor([[True, True, False], [False, False, False], [False, True, False]])
    assert ranking(torch.where(fits, 50.0, -50.0), fits) < 1e-6
    # The second phrase fits nothing, so its row has no loss; the first is worth softplus(-1 - 1) for one image and
    # softplus(-1 - 3) for the other, the third softplus(log(e^0 + e^0) - 2): worked by hand, by rows.
    scores = torch.tensor([[1.0, 3.0, -1.0], [-100.0, -100.0, -100.0], [0.0, 2.0, 0.0]])
    rows = ((np.log1p(np.exp(-2)) + np.log1p(np.exp(-4))) / 2 + np.log1p(np.exp(np.log(2) - 2))) / 2
    # By columns: the first image fits one phrase, the second two, of which neither is compared with the other.
    columns = (np.log1p(np.exp(0.0 - 1.0)) + 0.0) / 2
    assert ranking(scores, fits).item() == pytest.approx((rows + columns) / 2, abs=1e-5)


def test_precision_by_hand() -> None:
    images = np.eye(3, dtype=np.float32)
    fits = np.zeros((len(PHRASES), 3), dtype=np.bool_)
    texts = np.zeros((len(PHRASES), 3), dtype=np.float32)
    car, red = PHRASES.index(Phrase("car")), PHRASES.index(Phrase("car", "red"))
    fits[car], texts[car] = [True, True, False], [0.9, 0.8, 0.7]  # both first hits fit
    fits[red], texts[red] = [False, True, True], [0.9, 0.8, 0.7]  # the first does not, the second does
    fits[0, 0] = True  # fits one image only: not counted at 2
    assert car < len(OBJECTS) <= red
    assert precision(images, texts, fits, cutoff=2) == {
        "object precision@2": 100.0,
        "object first hit": 100.0,
        "colour and object precision@2": 50.0,
        "colour and object first hit": 0.0,
    }


@pytest.mark.slow
def test_the_command_trains_in_two_stages_and_resumes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(train, "FIRST", SETTINGS)
    monkeypatch.setattr(train, "SECOND", WITH_PHRASES)
    monkeypatch.setattr(train, "VALIDATION_SCENES", 20)
    monkeypatch.setattr(train, "TEST_SCENES", 20)
    # It depends on the time of a step, so two trainings could differ.
    monkeypatch.setattr(Trainer, "choose_precision", lambda _: None)
    out, work = tmp_path / "model", tmp_path / "work"
    train.main(out, work)
    trained = (out / "0_CLIPModel" / "model.safetensors").read_bytes()
    record = json.loads((out / "training.json").read_text())
    assert [stage["validation"][-1]["step"] for stage in record["stages"]] == [6, 6]
    assert 0 <= record["test"]["text-to-image recall@10"] <= 100
    (work / "stage-2.pt").unlink()  # stopped between the stages
    train.main(out, work, resume=True)
    assert (out / "0_CLIPModel" / "model.safetensors").read_bytes() == trained
