"""`python -m eval bench`: speed and memory beside the alternatives, in one run, as ratios.

Machines differ and drift, so what counts is the ratio between two things measured in turn on the same inputs. Each
measurement runs in a process of its own, whose peak memory it is.
"""

from __future__ import annotations

import json
import os
from itertools import cycle, islice
from pathlib import Path
from typing import Annotated

import typer

from search import command
from search.command import JsonOption
from search.errors import CocoSearchError

app = command.application("Measure speed and memory beside the alternatives.")

RoundsOption = Annotated[int, typer.Option(min=1, help="How often each is measured, in turn")]
DimOption = Annotated[int, typer.Option(min=2, help="Dimensions of the vectors")]


@app.command("ingest")
def bench_ingest(
    images: Annotated[Path, typer.Option(help="A folder of photos; searched for .jpg files, repeated if need be")],
    model: Annotated[str, typer.Option(help="A sentence-transformers model, name or folder")] = "clip-ViT-B-32",
    count: Annotated[int, typer.Option(min=1, help="How many photos each contestant gets")] = 300,
    rounds: RoundsOption = 3,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda:0 or mps")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, float16 or bfloat16")] = "auto",
    batch_size: Annotated[int | None, typer.Option(min=1, help="Photos per forward pass")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Readers of photos (default: one per processor)")] = None,
    as_json: JsonOption = False,
) -> None:
    """Our pipeline, the plain encode loop, the forward pass alone, decoding alone, and captions, on the same inputs."""
    from eval.bench import ingest

    found = sorted(file.relative_to(images).as_posix() for file in images.rglob("*.jpg"))
    if not found:
        raise CocoSearchError(f"no .jpg files below {images}")
    files = tuple(islice(cycle(found), count))
    job = ingest.Job(str(images), files, model, device, dtype, batch_size, workers or os.cpu_count() or 1)
    measured = ingest.compare(job, rounds)
    typer.echo(json.dumps(ingest.as_json(measured), indent=1) if as_json else ingest.table(job, measured))


@app.command("eval")
def bench_eval(
    images: Annotated[int, typer.Option(min=1, help="How many images")] = 5000,
    captions_per_image: Annotated[int, typer.Option(min=1, help="How many captions each of them has")] = 5,
    dim: DimOption = 512,
    rounds: RoundsOption = 3,
    as_json: JsonOption = False,
) -> None:
    """The ranks of both directions by the oracle, the usual way, and eccv-caption; and the bootstrap intervals."""
    from eval.bench import evaluation

    job = evaluation.Job(images, captions_per_image, dim)
    measured = evaluation.compare(job, rounds)
    typer.echo(json.dumps(evaluation.as_json(measured), indent=1) if as_json else evaluation.table(job, measured))
