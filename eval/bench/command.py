"""The commands of `python -m eval bench`."""

from __future__ import annotations

from dataclasses import asdict
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eval.options import Quantized
from search.cli import command
from search.cli.application import group
from search.cli.command import JsonOption
from search.errors import CocoSearchError
from search.processes import processors

if TYPE_CHECKING:
    from search.index import Quantization

app = group("Compare speed and memory with the alternatives.")

RoundsOption = Annotated[int, typer.Option(min=1, help="How many times each is measured, in turn")]
DimOption = Annotated[int, typer.Option(min=2, help="Dimensions of the vectors")]


@app.command("ingest")
def bench_ingest(
    images: Annotated[Path, typer.Option(help="A folder with .jpg files, at any depth; they are repeated if too few")],
    model: Annotated[str, typer.Option(help="A sentence-transformers model, name or folder")] = "clip-ViT-B-32",
    count: Annotated[int, typer.Option(min=1, help="Number of photos")] = 300,
    rounds: RoundsOption = 3,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda:0 or mps")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, float16 or bfloat16")] = "auto",
    batch_size: Annotated[int | None, typer.Option(min=1, help="Photos per forward pass")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Readers of photos (default: one per processor)")] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare our pipeline with the plain encode loop, the forward pass alone, decoding alone, and captions."""
    from eval.bench import ingest

    photos = sorted(file.relative_to(images).as_posix() for file in images.rglob("*.jpg"))
    if not photos:
        raise CocoSearchError(f"no .jpg files below {images}")
    files = tuple(islice(cycle(photos), count))
    job = ingest.Job(str(images), files, model, device, dtype, batch_size, workers or processors())
    measured = ingest.compare(job, rounds)
    if as_json:
        command.print_json(ingest.as_json(measured), indent=1)
    else:
        typer.echo(ingest.table(job, measured))


@app.command("eval")
def bench_eval(
    images: Annotated[int, typer.Option(min=1, help="Number of images")] = 5000,
    captions_per_image: Annotated[int, typer.Option(min=1, help="Number of captions of each image")] = 5,
    dim: DimOption = 512,
    rounds: RoundsOption = 3,
    as_json: JsonOption = False,
) -> None:
    """Compare exact ranks by the oracle with the usual method and eccv-caption; measure the bootstrap intervals too."""
    from eval.bench import evaluation

    job = evaluation.Job(images, captions_per_image, dim)
    measured = evaluation.compare(job, rounds)
    if as_json:
        command.print_json(evaluation.as_json(measured), indent=1)
    else:
        typer.echo(evaluation.table(job, measured))


@app.command("search")
def bench_search(
    exact: Annotated[list[int] | None, typer.Option(min=10, help="Numbers of points, exact (default: 5000)")] = None,
    hnsw: Annotated[list[int] | None, typer.Option(min=10, help="Numbers of points, HNSW (default: 123000)")] = None,
    queries: Annotated[int, typer.Option(min=1, help="Number of queries, one at a time")] = 100,
    dim: DimOption = 512,
    rounds: RoundsOption = 1,
    model: Annotated[
        str | None, typer.Option(help="For the command and the page: name or folder (default: the demo's tiny CLIP)")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare the embedded engine with local mode, and the command and the page with their model, query by query."""
    from eval.bench import overhead, search
    from ingest.demo import MODEL

    sizes = [(points, True) for points in exact or [5000]] + [(points, False) for points in hnsw or [123_000]]
    jobs = [search.Job(points, dim, queries, is_exact) for points, is_exact in sizes]
    overheads = overhead.measure_overhead(model or str(MODEL), queries, rounds)
    engines = [(job, search.compare(job, rounds)) for job in jobs]
    if as_json:
        results = {"engines": [search.as_json(job, measured) for job, measured in engines], **asdict(overheads)}
        command.print_json(results, indent=1)
        return
    for job, measured in engines:
        typer.echo(search.table(job, measured) + "\n")
    typer.echo(overhead.table(model or "the demo's tiny CLIP", overheads))


@app.command("serve")
def bench_serve(
    connections: Annotated[
        list[int] | None, typer.Option(min=1, help="Connections at a time; repeat (default: 1, 16, 64 and 256)")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="How long to send each kind of request")] = 5,
    rounds: RoundsOption = 1,
    model: Annotated[
        str | None, typer.Option(help="A sentence-transformers model, name or folder (default: the demo's tiny CLIP)")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure the queries a second of the page and of a batch, beside engine and HTTP alone."""
    from eval.bench import serve
    from ingest.demo import MODEL

    measured = serve.measure_serve(model or str(MODEL), connections or [1, 16, 64, 256], seconds, rounds)
    if as_json:
        command.print_json(serve.as_json(measured), indent=1)
    else:
        typer.echo(serve.table(model or "the demo's tiny CLIP", measured))


@app.command("scale")
def bench_scale(
    points: Annotated[
        list[int] | None, typer.Option(min=100, help="Size to measure; may be repeated (default: 10000, 30000, 100000)")
    ] = None,
    largest: Annotated[int | None, typer.Option(min=100, help="One more size, such as 300000")] = None,
    dim: DimOption = 512,
    queries: Annotated[int, typer.Option(min=1, help="Number of queries at each size, one at a time")] = 200,
    rounds: Annotated[
        int, typer.Option(min=1, help="How many times to measure each size; the shortest times count")
    ] = 1,
    quantization: Annotated[
        list[Quantized] | None, typer.Option(help="Measure this too, with the float32 vectors on disk; may be repeated")
    ] = None,
    node_memory: Annotated[float, typer.Option(min=0.1, help="GiB of memory for the index on one node")] = 64,
    url: Annotated[str | None, typer.Option("--url", help="Measure this Qdrant server too")] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure what an index costs as it grows, and extrapolate to COCO, 10 million and LAION-400M."""
    from eval.bench import cost, scale

    sizes = [*(points or [10_000, 30_000, 100_000]), *([largest] if largest else [])]
    if len(set(sizes)) < cost.FEWEST_SIZES:
        raise typer.BadParameter(
            f"--points needs at least {cost.FEWEST_SIZES} different sizes, since two fit any formula"
        )
    quantizations: list[Quantization] = ["none", *(each.value for each in quantization or ())]
    urls = [None, url] if url else [None]  # the embedded engine first
    jobs = [scale.Job(0, dim, queries, kind, place) for place in urls for kind in quantizations]
    scales = [scale.scale(job, sizes, rounds, node_memory) for job in jobs]
    if as_json:
        command.print_json(scale.as_json(scales), indent=1)
    else:
        typer.echo(scale.table(scales, dim, node_memory))
