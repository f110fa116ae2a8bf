"""Train the tiny CLIP of the demo from scratch: `python -m ingest.demo.training.train --out model`.

The model only sees scenes of the split `train`: a scene's content decides its split (`world.Scene.split`).
"""

from __future__ import annotations

import json
import math
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from ingest.demo.scenes.render import render
from ingest.demo.training.corpus import Corpus, corpus
from ingest.demo.training.measure import measure, measure_saved
from ingest.demo.training.towers import (
    END,
    PAD,
    SIDE,
    START,
    UNKNOWN,
    as_input,
    embed,
    save,
    token_ids,
    towers,
    vocabulary,
)
from search.files import replacing

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Settings:
    """Everything that determines the outcome; a checkpoint resumes only under the same settings."""

    steps: int = 2000
    seed: int = 0
    scenes: int = 150_000
    batch: int = 256
    captions: int = 2  # of each image in each step
    rate: float = 1.5e-3
    warmup: int = 150
    decay: float = 0.05
    kindred: float = 0.5  # share of a batch from one setting, which is harder, in the second half of the run
    forget: float = 0.05  # share of words replaced by the unknown token, so that unknown words do little harm
    every: int = 250  # steps between measurements on the validation split


@dataclass
class Progress:
    """The progress of a run, reported with the weights."""

    step: int = 0
    seconds: float = 0.0
    curve: list[dict[str, float]] = field(default_factory=list)


class Trainer:
    """One training run, which can be stopped and resumed."""

    def __init__(self, settings: Settings, train: Corpus, val: Corpus, checkpoint: Path) -> None:
        import torch

        torch.manual_seed(settings.seed)
        self.settings, self.checkpoint = settings, checkpoint
        texts = [[*each, glimpse] for each, glimpse in zip(train.texts, train.glimpses, strict=True)]
        self.words = vocabulary(text for each in texts[:20_000] for text in each)
        self.pixels, self.ids = train.pixels, token_ids(texts, self.words)
        names = np.asarray(train.settings)
        self.of_setting = [np.flatnonzero(names == name) for name in np.unique(names)]
        self.val = val.pixels, token_ids(val.texts, self.words)
        self.model = towers(len(self.words))
        self.model.set_attn_implementation("eager")  # fused attention trains three times slower in bfloat16 on a CPU
        plain = [p for p in self.model.parameters() if p.ndim < 2]
        decayed = [p for p in self.model.parameters() if p.ndim >= 2]
        groups: list[dict[str, Any]] = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=settings.decay)
        self.progress = Progress()

    def resume(self) -> None:
        """Resume from the checkpoint; raise ValueError if it was made under other settings."""
        import torch

        saved = torch.load(self.checkpoint, weights_only=True)
        if saved["settings"] != asdict(self.settings):
            raise ValueError(f"{self.checkpoint} was made under other settings: {saved['settings']}")
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.progress = Progress(**saved["progress"])

    def save_checkpoint(self) -> None:
        """Write the checkpoint atomically."""
        import torch

        state = {
            "settings": asdict(self.settings),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": asdict(self.progress),
        }
        with replacing(self.checkpoint, sync=False) as partial:
            torch.save(state, partial)

    def batch(self, step: int) -> tuple[Tensor, list[Tensor]]:
        """Return the pixels of one step, and the token ids of each caption that is used of them.

        The second half of the run is harder: much of a batch is of one setting, and one text an image is a glimpse.
        """
        import torch

        settings = self.settings
        dice = np.random.default_rng((settings.seed, step))
        alike = self.of_setting[int(dice.integers(len(self.of_setting)))]
        harder = step >= settings.steps // 2  # from the start, this would slow down the training
        share = settings.kindred if harder else 0.0
        similar = dice.choice(alike, min(len(alike), round(settings.batch * share)), replace=False)
        mixed = dice.choice(len(self.pixels), settings.batch, replace=False)
        rest = mixed[~np.isin(mixed, similar)][: settings.batch - len(similar)]
        chosen = np.concatenate([similar, rest])
        which = np.argsort(dice.random((len(chosen), self.ids.shape[1])), axis=1)[:, : settings.captions]
        if harder:
            which[:, -1] = self.ids.shape[1] - 1  # the glimpse: a few words are harder than a caption
        ids = self.ids[chosen[:, None], which].astype(np.int64)
        word = ~np.isin(ids, (PAD, START, END))
        ids[word & (dice.random(ids.shape) < settings.forget)] = UNKNOWN
        texts = torch.from_numpy(ids)
        return as_input(self.pixels[chosen]), [texts[:, place] for place in range(settings.captions)]

    def rate(self, step: int) -> float:
        """Return the learning rate: a linear warm-up, then half a cosine down to zero."""
        settings = self.settings
        if step < settings.warmup:
            return settings.rate * (step + 1) / settings.warmup
        share = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
        return settings.rate * 0.5 * (1 + math.cos(math.pi * share))

    def step(self) -> float:
        """Run one step of the optimizer and return the loss in nats."""
        import torch
        from torch.nn.functional import cross_entropy

        pixels, captions = self.batch(self.progress.step)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(self.progress.step)
        with torch.autocast("cpu", torch.bfloat16):
            images = embed(self.model, pixels, None)
            texts = embed(self.model, None, torch.cat(captions)).chunk(len(captions))
        scale = self.model.logit_scale.exp()
        target = torch.arange(len(images))
        losses = []
        for each in texts:
            scores = scale * images @ each.T
            losses += [cross_entropy(scores, target), cross_entropy(scores.T, target)]
        loss = torch.stack(losses).mean()
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        with torch.no_grad():
            self.model.logit_scale.clamp_(0.0, math.log(100.0))
        self.progress.step += 1
        return loss.item()

    def report(self) -> dict[str, object]:
        """Return the report of the run: the model's size, and the curve on 1,000 validation scenes."""
        import torch

        return {
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "images seen": self.progress.step * self.settings.batch,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "validation": self.progress.curve,
        }

    def run(self) -> None:
        """Train to the last step, with regular measurements and checkpoints."""
        start, earlier_seconds, recent = time.monotonic(), self.progress.seconds, []
        while self.progress.step < self.settings.steps:
            recent.append(self.step())
            self.progress.seconds = round(earlier_seconds + time.monotonic() - start, 1)
            step = self.progress.step
            if step % 50 == 0:
                typer.echo(f"step {step} loss {np.mean(recent[-50:]):.3f} {self.progress.seconds:.0f} s")
            if step % self.settings.every == 0 or step == self.settings.steps:
                point = {"step": float(step), "loss": round(float(np.mean(recent)), 4)}
                point |= {"seconds": self.progress.seconds, **measure(self.model, *self.val)}
                self.progress.curve.append(point)
                typer.echo(json.dumps(point))
                recent = []
                self.save_checkpoint()


def main(
    out: Annotated[Path, typer.Option(help="Folder for the trained model.")],
    steps: Annotated[int, typer.Option(min=1)] = Settings.steps,
    scenes: Annotated[int, typer.Option(min=1, help="Number of training scenes to draw.")] = Settings.scenes,
    seed: int = Settings.seed,
    work: Annotated[Path, typer.Option(help="Folder for the drawn scenes and the checkpoint.")] = Path("training"),
    resume: Annotated[bool, typer.Option(help="Resume from the checkpoint.")] = False,
) -> None:
    """Train the demo's CLIP, save it, and measure it on 1,000 unseen test scenes."""
    settings = Settings(steps=steps, scenes=scenes, seed=seed)
    workers = os.cpu_count() or 1
    train = corpus(work, "train", settings.scenes, SIDE, seed=settings.seed + 1, workers=workers)
    val = corpus(work, "val", 1000, SIDE, seed=0, workers=workers)
    trainer = Trainer(settings, train, val, work / "checkpoint.pt")
    if resume:
        try:
            trainer.resume()
        except (FileNotFoundError, ValueError) as error:
            typer.echo(f"cannot resume: {error}", err=True)
            raise typer.Exit(1) from error
    trainer.run()
    save(trainer.model, trainer.words, work / "model")
    scores = measure_saved(work / "model", render(work / "test", 1000, others=0))
    report = {"settings": asdict(settings), **trainer.report(), "test": scores}
    save(trainer.model, trainer.words, out, report)
    typer.echo(json.dumps(scores, indent=2))


if __name__ == "__main__":
    typer.run(main)
