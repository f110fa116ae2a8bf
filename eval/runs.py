"""A run on disk: `metrics.json` and `ranks.jsonl` in one folder, written by `run --out`, read by `compare`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from search.errors import EvaluationError, TextError
from search.text import decode_text, parse_json, to_json

METRICS_FILE, RANKS_FILE, PAGE_FILE = "metrics.json", "ranks.jsonl", "report.html"
TOP = 10  # hits kept of each query


@dataclass(frozen=True, slots=True)
class TopHit:
    """One of the first hits of a query: the gallery item's id, its cosine similarity, whether it is a positive."""

    id: int
    score: float
    positive: bool


@dataclass(frozen=True, slots=True)
class QueryResult:
    """One line of `ranks.jsonl`: what became of one query.

    `query` is the image's or caption's id, `image_id` the image it is or belongs to, `text` the caption, or the image's
    file. `rank` (1-based, strict), `pessimistic_rank` and `score` (cosine) are those of the best positive, whose id is
    `positive`. `recorded` are the values of the metrics that need the ranks of all positives, before scaling, by
    `Metric.recorded`; in the file they are fields of the line, such as `average_precision` (0 to 1). `served_rank` is
    the rank in the answer of the index as served, None if no positive was among its first ten, or it was not asked.
    `top` are the first ten hits.
    """

    direction: str
    query: int
    image_id: int
    text: str
    rank: int
    pessimistic_rank: int
    score: float
    positive: int
    recorded: dict[str, float]
    served_rank: int | None
    top: tuple[TopHit, ...]


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run: `metrics` as printed by `run --json`, and every query's result in the order of the file."""

    folder: Path
    metrics: dict[str, Any]
    results: list[QueryResult]


def write_run(folder: Path, metrics: dict[str, Any], results: Iterable[QueryResult]) -> None:
    """Makes the folder where needed and writes both files."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / RANKS_FILE).open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(_as_line(result), ensure_ascii=False) + "\n" for result in results)
    (folder / METRICS_FILE).write_text(json.dumps(metrics, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _as_line(result: QueryResult) -> dict[str, Any]:
    line: dict[str, Any] = {}
    for name, value in asdict(result).items():
        line |= value if name == "recorded" else {name: value}
    return line


def _of_line(line: dict[str, Any]) -> QueryResult:
    own = {field.name for field in fields(QueryResult)}
    known = {name: value for name, value in line.items() if name in own}
    known["top"] = tuple(TopHit(**hit) for hit in line["top"])
    return QueryResult(**known, recorded={name: value for name, value in line.items() if name not in own})


def read_run(folder: Path) -> Run:
    """What `write_run` wrote.

    Raises:
        EvaluationError: the folder holds no run, or a broken one.
    """
    results: list[QueryResult] = []
    try:
        metrics = json.loads((folder / METRICS_FILE).read_text(encoding="utf-8"))
        with (folder / RANKS_FILE).open(encoding="utf-8") as stream:
            results.extend(_of_line(json.loads(line)) for line in stream)
    except FileNotFoundError as error:
        raise EvaluationError(
            f"{folder} holds no run ({Path(error.filename).name} is missing): make one with "
            f"`python -m eval run --out {folder}`"
        ) from error
    except (ValueError, TypeError, KeyError, TextError) as error:
        raise EvaluationError(f"{folder} holds a broken run ({error}): make it again") from error
    return Run(folder, metrics, results)
