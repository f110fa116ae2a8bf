"""`python -m eval`: measure the index."""

from __future__ import annotations

if __name__ == "__main__":
    from search.cli.interrupt import end_on_interrupt

    end_on_interrupt()

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from eval.bench import command as bench
from eval.options import FormatOption, ImagesOption, Measured, Output, Queries, Source, one_format
from search.cli import command
from search.cli.application import application
from search.cli.command import JsonOption, expanded
from search.errors import EvaluationError
from search.text import shown

if TYPE_CHECKING:
    from eval.compare import Comparison
    from eval.report.misses import Records
    from eval.report.report import Report
    from eval.runs import RunMetrics
    from search.index import ReadIndex
    from search.records import Caption, Image, Kind
    from search.sheet import OpenPhoto

app = application("Measure retrieval: Recall@1, @5, @10, median and mean rank, in both directions.")
app.add_typer(bench.app, name="bench")


@app.command(
    examples=["", "--out runs/b32", "--format latex > table.tex", "--ef 32,64,128 --quantization int8"],
    needs=dict.fromkeys(["--force", "--images", "--trec-depth"], ("--out",)),
)
@expanded
def run(queries: Queries, measured: Measured, output: Output, source: Source) -> None:
    """Replay a split against the index: scores by the oracle, by Qdrant exactly and as served, with intervals."""
    from eval.evaluate import evaluate
    from eval.fingerprint import fingerprint
    from eval.ground_truth import read_ground_truth
    from eval.report import export
    from eval.report.text import table
    from eval.runs import check_overwrite
    from search.index import collection_name, only_dataset

    one_format(output.format, output.json)
    plan = measured.plan()
    if output.out is not None:
        output.out.mkdir(parents=True, exist_ok=True)  # fail before the work if the folder cannot be created
    copies_in = source.open_for_writing() if measured.copies else None
    with closing(copies_in or source.open()) as index:
        command.warn_of_silent_nodes(index)  # before a request that may need them
        name = source.dataset or only_dataset(index)
        command.warn_of_pending(index, [collection_name(name, "images"), collection_name(name, "captions")])
        evaluation = read_ground_truth(
            index, name, queries.split or ["test"], queries.captions_per_image, allow_missing=queries.allow_missing
        )
        if output.out is not None and not output.force:
            check_overwrite(output.out, fingerprint(evaluation, index))
        report = evaluate(index, evaluation, plan, copies_in)
        metrics = report.metrics()
        if output.out is not None:
            _write_out(output, output.out, report, metrics, index)
    if output.json:
        command.print_json(metrics.as_json(), indent=1)
    elif output.format:
        typer.echo(export.render(export.of_run(metrics), output.format, export.caption(metrics)))
    else:
        typer.echo(table(metrics, report.agreements()))
    if output.out is not None:
        command.note(f"the report is in {output.out.resolve() / 'report.html'}")
    if broken := [name for name, found in report.agreements().items() if len(found.unexplained)]:
        raise EvaluationError(
            f"Qdrant's exact {broken[0]} ranks are not those of its own vectors: was the index written to meanwhile? "
            "Run it again; if this happens again, report it"
        )


def _write_out(output: Output, folder: Path, report: Report, metrics: RunMetrics, index: ReadIndex) -> None:
    """Write metrics.json, ranks.jsonl, report.html and the TREC files."""
    from eval.report.page import report_page
    from eval.runs import PAGE_FILE, write_run
    from eval.trec import write_trec

    results = list(report.results())
    write_run(folder, metrics, results)
    page = report_page(metrics, results, *_lookups(index, report.evaluation.spec.dataset, output.images))
    (folder / PAGE_FILE).write_text(shown(page), encoding="utf-8")
    write_trec(folder, report.evaluation.tasks, output.trec_depth or None)  # last: the largest, if the disk fills up


def _lookups(index: ReadIndex, dataset: str, images: Path | None) -> tuple[Records, OpenPhoto]:
    """Return how a page looks up records and opens photos, which are in the folder `images` now, if they moved."""
    from search.searcher import Searcher

    searcher = Searcher(index, dataset)

    def records(kind: Kind, ids: Sequence[int]) -> dict[int, Image | Caption]:
        return {record.id: record for record in index.retrieve(searcher.collection(kind), ids).records}

    return records, lambda image_id: searcher.photo(image_id, images)


@app.command(
    examples=["runs/b32 runs/l14", "runs/b32 runs/l14 --out changes"],
    needs=dict.fromkeys(["--images", "--path", "--url", "--dataset"], ("--out",)),
)
@expanded
def compare(
    source: Source,
    runs: Annotated[list[Path], typer.Argument(help="Two or more folders that `run --out` wrote")],
    changed: Annotated[
        int | None, typer.Option(min=0, help="With two runs: how many of the most changed queries to show (default: 5)")
    ] = None,
    resamples: Annotated[int, typer.Option(min=100, help="Number of bootstrap resamples for the intervals")] = 2000,
    sort: Annotated[
        str | None,
        typer.Option(
            help="With --format, or more than two runs: sort by the sum of this metric, such as recall@1 (default: "
            "recall_sum)"
        ),
    ] = None,
    style: FormatOption = None,
    out: Annotated[
        Path | None, typer.Option(help="Write changes.html into this folder: what changed most between two runs")
    ] = None,
    images: ImagesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare runs over the same queries: differences with intervals and p-values, and what changed most."""
    from eval.compare import CHANGED, MOST_RUNS, compare_all, compare_folders
    from eval.metrics import METRICS
    from eval.report import comparison, export
    from eval.runs import read_run

    metric = next((metric for metric in METRICS if metric.name == (sort or "recall_sum")), None)
    if metric is None:
        raise typer.BadParameter(f"--sort {sort!r}: choose one of {', '.join(metric.name for metric in METRICS)}")
    if not 2 <= len(runs) <= MOST_RUNS:
        raise typer.BadParameter(f"give the folders of 2 to {MOST_RUNS} runs")
    if out is not None and (len(runs) != 2 or style):
        raise typer.BadParameter("--out shows what changed between two runs, and cannot be combined with --format")
    one_format(style, as_json)
    in_detail = len(runs) == 2 and not style
    if sort is not None and in_detail:
        raise typer.BadParameter("--sort has no effect on two runs without --format")
    if changed is not None and not in_detail:
        raise typer.BadParameter("--changed has no effect with --format or more than two runs")
    if in_detail:
        pair = compare_folders(runs[0], runs[1], resamples=resamples, changed=CHANGED if changed is None else changed)
        if out is not None:
            _write_changes(out, pair, source, images)
        if as_json:
            command.print_json(comparison.as_json(pair), indent=1)
        else:
            typer.echo(comparison.table(pair))
        return
    found = compare_all([read_run(folder) for folder in runs], resamples=resamples)
    if as_json:
        command.print_json(comparison.all_as_json(found, metric), indent=1)
    elif style:
        typer.echo(export.render(comparison.rows(found, metric), style, comparison.caption(found)))
    else:
        typer.echo(comparison.table_of_all(found, metric))


def _write_changes(out: Path, pair: Comparison, source: Source, images: Path | None) -> None:
    """Write changes.html, with captions and photos of the index that run A evaluated."""
    from eval.report.changes import changes_page
    from eval.runs import CHANGES_FILE

    out.mkdir(parents=True, exist_ok=True)
    with closing(source.open()) as index:
        page = changes_page(pair, *_lookups(index, source.dataset or pair.a.metrics.dataset, images))
    (out / CHANGES_FILE).write_text(shown(page), encoding="utf-8")
    command.note(f"what changed most is in {out.resolve() / CHANGES_FILE}")


@app.command(
    examples=["", "--target 0.95 --direction text-to-image"],
    needs={"--split": ["--hubness", "--evidence"]},
    excludes=dict.fromkeys(["--target", "--direction"], ("--hubness", "--evidence")),
)
@expanded
def tune(
    source: Source,
    target: Annotated[float, typer.Option(min=0, max=1, help="Share of the exact first ten hits to find")] = 0.99,
    direction: Annotated[
        Literal["both", "image-to-text", "text-to-image"],
        typer.Option(help="Captions as queries for images (text-to-image), images for captions, or both"),
    ] = "both",
    hubness: Annotated[
        bool, typer.Option("--hubness", help="Recommend the alpha that corrects scores for hubness instead")
    ] = False,
    evidence: Annotated[
        bool, typer.Option("--evidence", help="Print recall by the weight of captions in `search --evidence` instead")
    ] = False,
    split: Annotated[
        str, typer.Option(help="With --hubness or --evidence: the split whose captions are the queries, or all")
    ] = "val",
    as_json: JsonOption = False,
) -> None:
    """Recommend search parameters for the collections as they are; write nothing.

    These are the smallest HNSW beam (`ef`) and oversampling or, with --hubness, the alpha of the correction or, with
    --evidence, the weight of captions.
    """
    if hubness and evidence:
        raise typer.BadParameter("give only one of --hubness and --evidence")
    if hubness or evidence:
        _tune_scores(source, split, as_json, evidence=evidence)
        return
    from eval import tune as tuning
    from search.index import collection_name, only_dataset

    with closing(source.open()) as index:
        command.warn_of_silent_nodes(index)
        name = source.dataset or only_dataset(index)
        pairs = tuning.searches(index, name, None if direction == "both" else direction)
        command.warn_of_pending(index, [collection_name(name, gallery) for _, gallery in pairs])
        results = [tuning.tune(index, name, queries, gallery, target) for queries, gallery in pairs]
    if as_json:
        command.print_json(tuning.as_json(target, results), indent=1)
    else:
        typer.echo(tuning.table(target, results))


def _tune_scores(source: Source, split: str, as_json: bool, *, evidence: bool) -> None:
    from eval.captioned.curve import evidence_table, tune_evidence
    from eval.ground_truth import read_ground_truth
    from eval.hubness.curve import table, tune_hubness
    from eval.progress import query_bar
    from search.index import collection_name, only_dataset
    from search.records import KINDS

    with closing(source.open()) as index:
        command.warn_of_silent_nodes(index)
        name = source.dataset or only_dataset(index)
        command.warn_of_pending(index, [collection_name(name, kind) for kind in KINDS], exact=True)
        evaluation = read_ground_truth(index, name, [split])
        with query_bar("ranking", evaluation.captions) as bar:
            if evidence:
                weights = tune_evidence(index, evaluation, bar.update)
                answer, text = weights.as_json(), evidence_table(weights)
            else:
                alphas = tune_hubness(evaluation, bar.update)
                answer, text = alphas.as_json(), table(alphas)
    if as_json:
        command.print_json(answer, indent=1)
    else:
        typer.echo(text)


def main() -> None:
    command.run(app, "eval")


if __name__ == "__main__":
    main()
