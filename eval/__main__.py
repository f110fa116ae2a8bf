"""`python -m eval`: measure the index."""

from __future__ import annotations

import json
from contextlib import closing
from enum import Enum
from typing import Annotated

import typer

from eval import bench
from search import command
from search.command import DatasetOption, JsonOption, PathOption, UrlOption
from search.errors import EvaluationError
from search.settings import load_settings

app = command.application("Measure retrieval: Recall@1, @5, @10, median and mean rank, in both directions.")


class Captions(str, Enum):
    """Which captions of an image take part."""

    FIRST = "first"
    ALL = "all"


app.add_typer(bench.app, name="bench")


@app.command()
def run(
    split: Annotated[
        list[str] | None, typer.Option(help="test, val, ... or all; may be repeated (default: test)")
    ] = None,
    captions: Annotated[Captions, typer.Option(help="The first five of each image, or all")] = Captions.FIRST,
    as_json: JsonOption = False,
    path: PathOption = None,
    url: UrlOption = None,
    dataset: DatasetOption = None,
) -> None:
    """Replay a split against the index and print the scores, by the oracle and by Qdrant exactly."""
    from tqdm import tqdm

    from eval.protocol import FIRST_CAPTIONS, read_protocol
    from eval.replay import agreement, oracle_ranks, qdrant_ranks
    from eval.report import EXACT, ORACLE, Report
    from search.index import open_index
    from search.retrieve import only_dataset

    with closing(open_index(load_settings(path, url))) as index:
        keep = FIRST_CAPTIONS if captions is Captions.FIRST else None
        protocol = read_protocol(index, dataset or only_dataset(index), split or ["test"], keep)
        ranks, agreements = {}, {}
        for task in protocol.tasks:
            with tqdm(total=2 * len(task.queries.ids), desc=task.name, unit=" queries", dynamic_ncols=True) as bar:
                oracle = oracle_ranks(task, bar.update)
                exact = qdrant_ranks(index, task, progress=bar.update)
            ranks[task.name] = {ORACLE: oracle.ranks, EXACT: exact}
            agreements[task.name] = agreement(task, oracle, exact)
        report = Report(protocol, index.engine, ranks, agreements)
    typer.echo(json.dumps(report.as_json(), ensure_ascii=False, indent=1) if as_json else report.table())
    if broken := [name for name, found in agreements.items() if len(found.unexplained)]:
        raise EvaluationError(
            f"Qdrant's exact {broken[0]} ranks are not those of its own vectors: was the index written to meanwhile? "
            "Run it again, and if it stays, report it"
        )


def main() -> None:
    command.run(app, "python -m eval")


if __name__ == "__main__":
    main()
