"""Train the tiny CLIP of the demo from scratch: `python -m ingest.demo.training.train --out model`.

`FIRST` trains with captions of small pictures, `SECOND` continues with larger pictures and with phrases of a few words
("a red car"). Both are written to `--work`, which needs about 3.5 GB; a training that was stopped continues with
`--resume`.

The model only sees scenes of the split `train`: a scene's content decides its split (`world.Scene.split`).
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from ingest.demo.scenes.render import render
from ingest.demo.scenes.world import Dice, stream
from ingest.demo.training.corpus import Corpus, corpus
from ingest.demo.training.losses import contrastive, ranking
from ingest.demo.training.measure import measure, measure_saved
from ingest.demo.training.phrases import shown, wordings
from ingest.demo.training.towers import (
    END,
    PAD,
    START,
    UNKNOWN,
    as_input,
    embed,
    for_side,
    save,
    token_ids,
    towers,
    vocabulary,
)
from search.files import replacing
from search.processes import processors

if TYPE_CHECKING:
    from torch import Tensor


VALIDATION_SCENES = TEST_SCENES = 5000


@dataclass(frozen=True)
class Settings:
    """Everything that determines the outcome of a stage but the weights it starts with and the number type.

    A checkpoint resumes only under the same settings.
    """

    side: int = 64  # of the pictures, in pixels
    steps: int = 2000
    seed: int = 0
    scenes: int = 150_000
    batch: int = 256
    captions: int = 2  # of each image in each step
    rate: float = 1.5e-3
    warmup: int = 150  # steps to the full rate
    cooldown: int = 1850  # steps at the end in which it falls to zero
    decay: float = 0.05
    harder: int = 1000  # the step from which the batches are harder
    kindred: float = 0.5  # share of a harder batch from one setting
    phrases: bool = False  # learn each phrase with every scene that fits it, instead of one glimpse per image
    forget: float = 0.05  # share of words replaced by the unknown token, so that unknown words do little harm
    every: int = 250  # steps between measurements on the validation split


FIRST = Settings()
SECOND = Settings(
    side=96,
    steps=2050,
    scenes=40_000,
    batch=128,
    rate=5e-4,
    warmup=50,
    cooldown=441,
    harder=0,
    phrases=True,
    every=400,
)


@dataclass
class Progress:
    """The progress of a run, reported with the weights."""

    step: int = 0
    seconds: float = 0.0
    curve: list[dict[str, float]] = field(default_factory=list)


class Trainer:
    """One stage of a training run, which can be stopped and resumed. `weights` are those of the stage before it."""

    def __init__(
        self,
        settings: Settings,
        train: Corpus,
        val: Corpus,
        checkpoint: Path,
        weights: dict[str, Tensor] | None = None,
    ) -> None:
        import torch

        torch.manual_seed(settings.seed)
        self.settings, self.checkpoint = settings, checkpoint
        texts = [[*each, glimpse] for each, glimpse in zip(train.texts, train.glimpses, strict=True)]
        # Both stages must have one vocabulary: their first 20,000 scenes are the same, since their seeds are.
        self.words = vocabulary(text for each in texts[:20_000] for text in each)
        self.train, self.ids, self.shown = train, token_ids(texts, self.words), shown(train.scenes)
        self.of_setting = [np.flatnonzero(self.shown.settings == name) for name in np.unique(self.shown.settings)]
        self.val = val
        self.model = towers(len(self.words), settings.side)
        if weights is not None:
            self.model.load_state_dict(for_side(weights, settings.side))
        self.in_bfloat16(False)
        plain = [p for p in self.model.parameters() if p.ndim < 2]
        decayed = [p for p in self.model.parameters() if p.ndim >= 2]
        groups: list[dict[str, Any]] = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=settings.decay)
        self.progress = Progress()

    def in_bfloat16(self, chosen: bool) -> None:
        """Compute the towers in bfloat16, or in float32."""
        self.bfloat16 = chosen
        # Fused attention trains three times slower than plain attention in bfloat16 on a CPU.
        self.model.set_attn_implementation("eager" if chosen else "sdpa")

    def choose_precision(self) -> None:
        """Choose the faster of bfloat16 and float32 by the time of one step; it depends on the processor."""
        seconds = {}
        for chosen in (False, True, False, True):  # the first step of each takes longer; the second counts
            self.in_bfloat16(chosen)
            start = time.monotonic()
            self.loss(0).backward()  # type: ignore[no-untyped-call]
            seconds[chosen] = time.monotonic() - start
            self.optimizer.zero_grad()
        self.in_bfloat16(seconds[True] < seconds[False])
        typer.echo(f"one step: float32 {seconds[False]:.1f} s, bfloat16 {seconds[True]:.1f} s")

    def resume(self) -> None:
        """Resume from the checkpoint; raise ValueError if it was made under other settings."""
        import torch

        saved = torch.load(self.checkpoint, weights_only=True)
        if saved["settings"] != asdict(self.settings):
            raise ValueError(f"{self.checkpoint} was made under other settings: {saved['settings']}")
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.progress = Progress(**saved["progress"])
        self.in_bfloat16(saved["bfloat16"])

    def save_checkpoint(self) -> None:
        """Write the checkpoint atomically."""
        import torch

        state = {
            "settings": asdict(self.settings),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": asdict(self.progress),
            "bfloat16": self.bfloat16,
        }
        with replacing(self.checkpoint, sync=False) as partial:
            torch.save(state, partial)

    def _scenes(self, step: int, dice: np.random.Generator) -> NDArray[np.intp]:
        """Return the indices of the scenes of one step; half of a harder batch is of one setting."""
        settings = self.settings
        alike = self.of_setting[int(dice.integers(len(self.of_setting)))]
        share = settings.kindred if step >= settings.harder else 0.0  # from the start, it would slow the training
        similar = dice.choice(alike, min(len(alike), round(settings.batch * share)), replace=False)
        mixed = dice.choice(len(self.ids), settings.batch, replace=False)
        rest = mixed[~np.isin(mixed, similar)][: settings.batch - len(similar)]
        return np.concatenate([similar, rest])

    def _captions(self, scenes: NDArray[np.intp], step: int, dice: np.random.Generator) -> list[Tensor]:
        """Return the token ids of each caption that one step uses of the scenes.

        Without phrases, one text of an image in a harder batch is its glimpse: a few words are harder than a caption.
        """
        import torch

        settings, glimpse = self.settings, self.ids.shape[1] - 1
        texts = glimpse if settings.phrases else glimpse + 1
        which = np.argsort(dice.random((len(scenes), texts)), axis=1)[:, : settings.captions]
        if step >= settings.harder and not settings.phrases:
            which[:, -1] = glimpse
        ids = self.ids[scenes[:, None], which].astype(np.int64)
        word = ~np.isin(ids, (PAD, START, END))
        ids[word & (dice.random(ids.shape) < settings.forget)] = UNKNOWN
        drawn = torch.from_numpy(ids)
        return [drawn[:, place] for place in range(settings.captions)]

    def loss(self, step: int) -> Tensor:
        """Return the loss of one step in nats."""
        import torch

        dice = np.random.default_rng((self.settings.seed, step))
        scenes = self._scenes(step, dice)
        captions = self._captions(scenes, step, dice)
        pixels = as_input(self.train.pixels[scenes])
        scale = self.model.logit_scale.exp()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16):
            images = embed(self.model, pixels, None)
            texts = embed(self.model, None, torch.cat(captions)).chunk(len(captions))
        loss = contrastive(images, texts, scale)
        if self.settings.phrases:
            written, fits = wordings(
                self.shown.of(scenes), [self.train.scenes[at] for at in scenes], Dice(self.settings.seed, step)
            )
            ids = token_ids([[text] for text in written], self.words)[:, 0]
            with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16):
                phrases = embed(self.model, None, torch.from_numpy(ids))
            loss = loss + ranking(scale * phrases @ images.T, torch.from_numpy(fits))
        return loss

    def rate(self, step: int) -> float:
        """Return the learning rate: a linear warm-up, the full rate, then half a cosine down to zero."""
        settings = self.settings
        if step < settings.warmup:
            return settings.rate * (step + 1) / settings.warmup
        share = max(0.0, 1 - (settings.steps - step) / settings.cooldown)
        return settings.rate * 0.5 * (1 + math.cos(math.pi * share))

    def step(self) -> float:
        """Run one step of the optimizer and return the loss in nats."""
        import torch

        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(self.progress.step)
        loss = self.loss(self.progress.step)
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        with torch.no_grad():
            self.model.logit_scale.clamp_(0.0, math.log(100.0))
        self.progress.step += 1
        return loss.item()

    def report(self) -> dict[str, object]:
        """Return the report of the stage: its settings, and the curve on validation scenes."""
        return {
            "settings": asdict(self.settings),
            "images seen": self.progress.step * self.settings.batch,
            "precision": "bfloat16" if self.bfloat16 else "float32",
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
                point |= {"seconds": self.progress.seconds, **measure(self.model, self.val, self.words)}
                self.progress.curve.append(point)
                typer.echo(json.dumps(point))
                recent = []
                self.save_checkpoint()


def stage(settings: Settings, work: Path, checkpoint: Path, before: Trainer | None) -> Trainer:
    """Run one stage of the training to its last step, from its checkpoint if there is one, and return its trainer.

    `before` is the trainer of the stage before it, whose weights it starts with.

    Raises:
        typer.Exit: the checkpoint was made under other settings.
    """
    workers = processors()
    train = corpus(work, "train", settings.scenes, settings.side, seed=settings.seed + 1, workers=workers)
    val = corpus(work, "val", VALIDATION_SCENES, settings.side, seed=0, workers=workers)
    trainer = Trainer(settings, train, val, checkpoint, before.model.state_dict() if before else None)
    if checkpoint.exists():
        try:
            trainer.resume()
        except ValueError as error:
            typer.echo(f"cannot resume: {error}", err=True)
            raise typer.Exit(1) from error
    else:
        trainer.choose_precision()
    trainer.run()
    return trainer


def main(
    out: Annotated[Path, typer.Option(help="Folder for the trained model.")],
    work: Annotated[Path, typer.Option(help="Folder for the drawn scenes and the checkpoints.")] = Path("training"),
    resume: Annotated[bool, typer.Option(help="Resume from the checkpoints.")] = False,
) -> None:
    """Train the demo's CLIP in two stages, save it, and measure it on unseen test scenes."""
    import torch

    checkpoints = [work / "stage-1.pt", work / "stage-2.pt"]
    if resume and not checkpoints[0].exists():
        typer.echo(f"cannot resume: there is no {checkpoints[0]}", err=True)
        raise typer.Exit(1)
    if not resume:
        for checkpoint in checkpoints:  # otherwise a later --resume could go on from those of an earlier training
            checkpoint.unlink(missing_ok=True)
    stages: list[Trainer] = []
    for settings, checkpoint in zip((FIRST, SECOND), checkpoints, strict=True):
        stages.append(stage(settings, work, checkpoint, stages[-1] if stages else None))
    trained = stages[-1]
    save(trained.model, trained.words, work / "model")
    annotations = render(work / "test", TEST_SCENES, others=0)
    scores = measure_saved(work / "model", annotations, list(stream(0, {"test": TEST_SCENES})))
    report = {
        "parameters": sum(parameter.numel() for parameter in trained.model.parameters()),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "stages": [each.report() for each in stages],
        "test": scores,
    }
    save(trained.model, trained.words, out, report)
    typer.echo(json.dumps(scores, indent=2))


if __name__ == "__main__":
    typer.run(main)
