"""A run on disk: `metrics.json` and `ranks.jsonl` in one folder, written by `run --out` and read by `compare`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    SerializerFunctionWrapHandler,
    TypeAdapter,
    ValidationError,
    model_serializer,
    model_validator,
)

from eval.fingerprint import differences
from eval.protocol import DIRECTIONS
from search.errors import EvaluationError, TextError
from search.index import MAX_ID
from search.text import decode_text, parse_json, to_json
from search.validation import first_problem

METRICS_FILE, RANKS_FILE, PAGE_FILE = "metrics.json", "ranks.jsonl", "report.html"
CHANGES_FILE = "changes.html"
TOP = 10  # hits kept of each query
PERCENTILES = {"p50": 50, "p95": 95, "p99": 99}  # of latencies, by their names in metrics.json
MTEB_DIFFERS = (
    "Captions that are the same sentence are merged, and recall is the share of a query's positives that are found, "
    "while papers keep every caption and count the queries with any positive found."
)


Scores = dict[str, int | float | None]
"""Metric -> score; None if it is unknown."""


class _Scored(BaseModel):
    """An object of metrics.json with scores by direction: keys of their own in the file, `scores` here.

    A field that the file of an older version lacks, or holds as null, has its default. `pessimistic` are the scores
    with every tie lost, of the directions in which that makes a difference.
    """

    _if_any: ClassVar[frozenset[str]] = frozenset({"pessimistic"})
    """Fields that are left out of the file if they are empty: older versions did not write them."""

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, fields: Any) -> Any:
        if not isinstance(fields, dict):
            return fields
        present = {name: value for name, value in fields.items() if value is not None}
        gathered = {way: present.pop(way) for way in DIRECTIONS if way in present}
        return {"scores": gathered, **present}

    @model_serializer(mode="wrap")
    def _spread(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = _spread(serialize(self), "scores")
        return {name: value for name, value in fields.items() if value or name not in self._if_any}


class RankerMetrics(_Scored):
    """One ranker, an item of `columns`: all but the name, `about` and `bytes_per_vector` are by direction.

    `latency_ms` is the median, `latency_percentiles_ms` has p50, p95 and p99. `same_ranks_as` names the first ranker
    that ranks every query of both directions the same, if there is one before this.
    """

    _if_any: ClassVar[frozenset[str]] = frozenset(
        {"pessimistic", "overlap_at_10", "latency_percentiles_ms", "same_ranks_as"}
    )

    name: str
    about: str = ""
    same_ranks_as: str = ""
    scores: dict[str, Scores] = {}
    pessimistic: dict[str, Scores] = {}
    queries_per_second: dict[str, float] | None = None
    latency_ms: dict[str, float] | None = None
    latency_percentiles_ms: dict[str, dict[str, float]] | None = None
    overlap_at_10: dict[str, float] | None = None
    bytes_per_vector: int | float | None = None
    used: Mapping[str, str] | None = None


class FoldMetrics(_Scored):
    """The average over `count` parts of `images` images each."""

    count: int
    images: int
    scores: dict[str, Scores] = {}
    pessimistic: dict[str, Scores] = {}


class MtebMetrics(_Scored):
    """The scores of MTEB's tasks: captions merged to `sentences`, which make `pairs` with the images."""

    sentences: int
    pairs: int
    scores: dict[str, Scores] = {}
    pessimistic: dict[str, Scores] = {}


class LengthMetrics(BaseModel):
    """text-to-image recall of captions of `shortest` to `longest` words: `queries`, of so many `images`."""

    shortest: int
    longest: int
    queries: int
    images: int
    scores: Scores = {}
    intervals: dict[str, tuple[float, float]] = {}


class PublishedMetrics(_Scored):
    """A published row; if it is of the same model, the verdict has a line for each figure."""

    name: str
    source: str = ""
    scores: dict[str, Scores] = {}
    same_model: bool = False
    verdict: list[str] = []


class LossMetrics(BaseModel):
    """A loss, with its 95% interval, p-value, and the p-value adjusted for all losses of the run."""

    difference: float
    interval: tuple[float, float]
    p: float
    p_holm: float


class CorrectedMetrics(BaseModel):
    """text-to-image with `alpha` times the hubness of each image subtracted from its score.

    `columns` are the rankers, each compared with its own plain ranking in `significance`. The numbers are means over
    `k` of `references` captions. `answers` says of how many first tens the images are a part, `plain` and `corrected`,
    as (fewest, most, images); `skewness` is that of the same counts, 0 without hubs.
    """

    alpha: float
    k: int
    references: int
    references_sha256: str
    columns: list[RankerMetrics] = []
    significance: dict[str, dict[str, LossMetrics]] = {}
    skewness: dict[str, float] = {}
    answers: dict[str, list[tuple[int, int, int]]] = {}


class CaptionedMetrics(BaseModel):
    """The task "captioned gallery, leave one out": text-to-image, with the other captions of the photos as evidence.

    A query's own caption, and captions that are the same sentence, are no evidence. `weight` is that of captions in the
    row "both"; `significance` holds the differences of two rows, named "row - other row".
    """

    weight: float
    columns: list[RankerMetrics] = []
    significance: dict[str, dict[str, LossMetrics]] = {}


class AgreementMetrics(BaseModel):
    """How many of the ranks by Qdrant's exact search differ from the oracle's."""

    queries: int
    differ_by_rounding: int
    differ_unexplained: int


class RunMetrics(_Scored):
    """The object of metrics.json, in the order of the file; docs/evaluation.md explains each key.

    `scores`, `intervals` and `pessimistic` are those of the ranker named `engine`: the oracle, in runs of older
    versions Qdrant's exact search if it was measured. `rsum` is the sum of recall@1, @5 and @10 of both directions.
    `oracle`, `loss` and `significance` of each ranker, `intervals`, `pessimistic`, `proportion`, `agreement` and
    `extended` of each judge are by direction. `date` is when the run ended, in ISO 8601 and UTC.
    """

    _if_any: ClassVar[frozenset[str]] = frozenset(
        {"date", "rsum", "significance", "mteb", "caption_lengths", "corrected", "captioned"}
    )

    scores: dict[str, Scores] = {}
    rsum: float | None = None
    engine: str = ""
    engine_version: str = ""
    oracle: dict[str, Scores] = {}
    columns: list[RankerMetrics] = []
    loss: dict[str, dict[str, Scores]] = {}
    significance: dict[str, dict[str, dict[str, LossMetrics]]] = {}
    intervals: dict[str, dict[str, tuple[float, float]]] = {}
    pessimistic: dict[str, Scores] = {}
    proportion: dict[str, Scores] = {}
    folds: FoldMetrics | None = None
    extended: dict[str, dict[str, Scores]] | None = None
    mteb: MtebMetrics | None = None
    caption_lengths: list[LengthMetrics] = []
    corrected: CorrectedMetrics | None = None
    captioned: CaptionedMetrics | None = None
    published: list[PublishedMetrics] = []
    agreement: dict[str, AgreementMetrics] = {}
    images: int | None = None
    captions: int | None = None
    captions_per_image: int | Literal["all"] | None = None
    split: str = ""
    dataset: str = ""
    model: str = ""
    date: str = ""
    fingerprint: dict[str, Any] = {}
    notes: list[str] = []

    def as_json(self) -> dict[str, Any]:
        """Return the object of `metrics.json`."""
        return self.model_dump(mode="json")

    def _repr_html_(self) -> str:
        """Return the table of scores, for a notebook."""
        from eval.report import export

        return export.as_html(export.of_run(self), export.caption(self))


@dataclass(frozen=True, slots=True)
class TopHit:
    """One of the first hits of a query: the gallery item's id, its cosine similarity, whether it is a positive."""

    id: int
    score: float
    positive: bool


@dataclass(frozen=True, slots=True)
class QueryResult:
    """One line of `ranks.jsonl`: the result of one query.

    `query` is the image's or caption's id, `image_id` the image it is or belongs to, `text` the caption, or the image's
    file. `rank` (1-based), `pessimistic_rank` (with every tie lost) and `score` (cosine) are the oracle's, of the best
    positive, whose id is `positive`. `exact_rank` and `exact_pessimistic_rank` are those of Qdrant's exact search by
    its own float32 scores, None if it was not measured. `recorded` are the values of the metrics that need the ranks of
    all positives, before scaling, by `Metric.recorded`; in the file they are fields of the line, such as
    `average_precision` (0 to 1). `served_rank` is the rank in the answer of the index as served, None if no positive
    was among its first ten, or it was not measured; `ranks` are the same for the rankers of `--ef` and
    `--quantization`, by name. `top` are the first ten hits by the oracle. `corrected_rank` is the oracle's rank by
    corrected scores, None if it was not measured.
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
    exact_rank: int | None = None
    exact_pessimistic_rank: int | None = None
    corrected_rank: int | None = None
    ranks: dict[str, int | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run: its metrics, and every query's result in the order of the file."""

    folder: Path
    metrics: RunMetrics
    results: list[QueryResult]


def write_run(folder: Path, metrics: RunMetrics, results: Iterable[QueryResult]) -> None:
    """Create the folder if needed and write both files."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / RANKS_FILE).open("w", encoding="utf-8") as stream:
        stream.writelines(to_json(_as_line(result)) + "\n" for result in results)
    (folder / METRICS_FILE).write_text(to_json(metrics.as_json(), indent=1) + "\n", encoding="utf-8")


def _as_line(result: QueryResult) -> dict[str, Any]:
    line = _spread(asdict(result), "recorded")
    for name in ("exact_rank", "exact_pessimistic_rank", "corrected_rank", "ranks"):
        if line[name] in (None, {}):
            del line[name]
    return line


def _spread(fields: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the fields, with the field `name` replaced by the fields that it holds."""
    spread: dict[str, Any] = {}
    for key, value in fields.items():
        spread |= value if key == name else {key: value}
    return spread


@cache
def _query_results() -> TypeAdapter[QueryResult]:
    return TypeAdapter(QueryResult)


def _of_line(line: Any) -> QueryResult:
    if not isinstance(line, dict):
        raise TypeError("a line is not an object")
    own = {known.name for known in fields(QueryResult)}
    known = {name: value for name, value in line.items() if name in own}
    for name in ("rank", "pessimistic_rank"):
        if not 1 <= line[name] < MAX_ID:
            raise ValueError(f"{name} {line[name]!r} is not a valid rank")
    recorded = {name: value for name, value in line.items() if name not in own and value is not None}
    return _query_results().validate_python({**known, "recorded": recorded})


def check_overwrite(folder: Path, fingerprint: Mapping[str, Any]) -> None:
    """Check that a run with this fingerprint may be written into a folder: it holds none, or the same one.

    Raises:
        EvaluationError: the folder holds another run, or one that cannot be read.
    """
    try:
        content = (folder / METRICS_FILE).read_bytes()
    except FileNotFoundError:
        return
    remedy = "choose another folder, or overwrite it with --force"
    try:
        existing = RunMetrics.model_validate(parse_json(decode_text(content))).fingerprint
    except (ValueError, TextError):
        raise EvaluationError(f"{folder / METRICS_FILE} is not of a run that can be read: {remedy}") from None
    if different := list(differences([existing, parse_json(to_json(fingerprint))])):
        name, (there, here) = different[0]
        more = f", and {len(different) - 1} more of its settings differ" if different[1:] else ""
        raise EvaluationError(f"{folder} holds another run: its {name} is {there}, not {here}{more}: {remedy}")


def read_run(folder: Path) -> Run:
    """Read what `write_run` wrote.

    Raises:
        EvaluationError: the folder contains no run, or a broken one.
    """
    results: list[QueryResult] = []
    file = METRICS_FILE
    try:
        metrics = RunMetrics.model_validate(parse_json(decode_text((folder / file).read_bytes())))
        file = RANKS_FILE
        with (folder / file).open("rb") as stream:
            results.extend(_of_line(parse_json(decode_text(line))) for line in stream)
    except FileNotFoundError as error:
        raise EvaluationError(
            f"{folder} holds no run ({Path(error.filename).name} is missing): make one with "
            f"`python -m eval run --out {folder}`"
        ) from error
    except ValidationError as error:
        problem = first_problem(error)
        what = ": ".join(filter(None, (file, problem.place, problem.message)))
        raise EvaluationError(f"{folder} holds a broken run ({what}): make it again") from None
    except (ValueError, TypeError, KeyError, TextError) as error:
        raise EvaluationError(f"{folder} holds a broken run ({file}: {error}): make it again") from error
    if not metrics.split:
        raise EvaluationError(f"{folder} holds a broken run ({METRICS_FILE}: it names no split): make it again")
    return Run(folder, metrics, results)
