"""`python -m eval`: measure the index."""

from __future__ import annotations

if __name__ == "__main__":
    from search.interrupt import end_on_interrupt

    end_on_interrupt()

from collections.abc import Sequence
from contextlib import closing
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eval.bench import command as bench
from search import command
from search.command import DatasetOption, JsonOption, PathOption, UrlOption
from search.errors import EvaluationError
from search.settings import load_settings
from search.text import shown

if TYPE_CHECKING:
    from eval.report.report import Report
    from eval.runs import RunMetrics
    from search.index import Index
    from search.records import Caption, Image, Kind

app = command.application("Measure retrieval: Recall@1, @5, @10, median and mean rank, in both directions.")
app.add_typer(bench.app, name="bench")


class Captions(str, Enum):
    """Which captions of an image take part."""

    FIRST = "first"
    ALL = "all"


class Quantized(str, Enum):
    """How vectors are made smaller."""

    INT8 = "int8"
    BINARY = "binary"


class Engine(str, Enum):
    """How Qdrant is asked."""

    EXACT = "exact"
    SERVED = "served"
    NONE = "none"


@app.command()
def run(
    split: Annotated[
        list[str] | None, typer.Option(help="test, val, ... or all; may be repeated (default: test)")
    ] = None,
    captions: Annotated[Captions, typer.Option(help="The first five of each image, or all")] = Captions.FIRST,
    engine: Annotated[
        list[Engine] | None,
        typer.Option(help="Beside the oracle: exact, served, or none; may be repeated (default: exact and served)"),
    ] = None,
    ef: Annotated[str, typer.Option(help="HNSW beams to measure too, such as 32,64,128")] = "",
    quantization: Annotated[
        list[Quantized] | None,
        typer.Option(help="Measure a quantised copy too, with and without rescoring; may be repeated"),
    ] = None,
    folds: Annotated[
        int | None, typer.Option(min=0, help="Average over so many parts (default: 5 where there are 5,000 images)")
    ] = None,
    resamples: Annotated[int, typer.Option(min=100, help="Of the bootstrap that gives the intervals")] = 2000,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Evaluate what is there where images or captions are missing")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Write metrics.json, ranks.jsonl and report.html into this folder")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Where the photos are now, for report.html (default: the remembered folder)")
    ] = None,
    as_json: JsonOption = False,
    path: PathOption = None,
    url: UrlOption = None,
    dataset: DatasetOption = None,
) -> None:
    """Replay a split against the index: scores by the oracle, by Qdrant exactly and as served, with intervals."""
    from eval.evaluate import Plan, evaluate
    from eval.ground_truth import read_ground_truth
    from eval.protocol import FIRST_CAPTIONS
    from eval.report.text import table
    from search.index import collection_name, open_index
    from search.searcher import only_dataset

    asked = engine or [Engine.EXACT, Engine.SERVED]
    plan = Plan(
        engines=tuple(f"qdrant-{each.value}" for each in asked if each is not Engine.NONE),
        efs=_beams(ef),
        quantizations=tuple(each.value for each in quantization or ()),
        folds=folds,
        resamples=resamples,
    )
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)  # a folder that cannot be made shows before the work, not after it
    with closing(open_index(load_settings(path, url), writing=bool(ef or quantization))) as index:
        keep = FIRST_CAPTIONS if captions is Captions.FIRST else None
        name = dataset or only_dataset(index)
        command.warn_of_pending(index, [collection_name(name, "images"), collection_name(name, "captions")])
        protocol = read_ground_truth(index, name, split or ["test"], keep, allow_missing=allow_missing)
        report = evaluate(index, protocol, plan)
        metrics = report.metrics()
        if out is not None:
            _write_out(out, report, metrics, index, images)
    typer.echo(metrics.as_json() if as_json else table(metrics, report.agreements()))
    if out is not None:
        command.note(f"the report is in {out.resolve() / 'report.html'}")
    if broken := [name for name, found in report.agreements().items() if len(found.unexplained)]:
        raise EvaluationError(
            f"Qdrant's exact {broken[0]} ranks are not those of its own vectors: was the index written to meanwhile? "
            "Run it again, and if it stays, report it"
        )


def _write_out(folder: Path, report: Report, metrics: RunMetrics, index: Index, images: Path | None) -> None:
    """metrics.json, ranks.jsonl and report.html; `images` is where the photos are now."""
    from eval.report.page import report_page
    from eval.runs import PAGE_FILE, write_run
    from search.searcher import Searcher

    results = list(report.results())
    write_run(folder, metrics, results)
    searcher = Searcher(index, report.evaluation.spec.dataset)

    def records(kind: Kind, ids: Sequence[int]) -> dict[int, Image | Caption]:
        return {record.id: record for record in index.retrieve(searcher.collection(kind), ids).records}

    page = report_page(metrics, results, records, lambda image_id: searcher.photo(image_id, images))
    (folder / PAGE_FILE).write_text(shown(page), encoding="utf-8")


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(help="A folder that `run --out` wrote", show_default=False)],
    b: Annotated[Path, typer.Argument(help="Another", show_default=False)],
    changed: Annotated[int, typer.Option(min=0, help="How many of the queries that changed most are shown")] = 5,
    resamples: Annotated[int, typer.Option(min=100, help="Of the bootstrap that gives the intervals")] = 2000,
    as_json: JsonOption = False,
) -> None:
    """Compare two runs over the same queries: differences with intervals and p-values, and what changed most."""
    from eval.compare import compare_folders
    from eval.report import comparison

    found = compare_folders(a, b, resamples=resamples, changed=changed)
    text = json.dumps(comparison.as_json(found), ensure_ascii=False, indent=1) if as_json else comparison.table(found)
    typer.echo(text)


def _beams(given: str) -> tuple[int, ...]:
    from eval.runs import TOP

    try:
        beams = tuple(sorted({int(each) for each in given.split(",") if each.strip()}))
    except ValueError:
        raise typer.BadParameter(f"--ef {given!r}: give whole numbers with commas between them: 32,64,128") from None
    if beams and beams[0] < TOP:
        raise typer.BadParameter(f"--ef {beams[0]}: Qdrant's beam is never below the {TOP} hits that are asked for")
    return beams


def main() -> None:
    command.run(app, "python -m eval")


if __name__ == "__main__":
    main()
