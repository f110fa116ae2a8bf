"""The page's tables: the numbers of a run as text, side by side. What was not measured is left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from eval.metrics import MEAN_RANK, METRICS, RECALLS, Metric, TableName, in_table, label
from eval.protocol import DIRECTIONS, IMAGE_TO_TEXT
from eval.runs import MTEB_DIFFERS, PERCENTILES, LossMetrics, RankerMetrics, RunMetrics, Scores

ByDirection = Mapping[str, Scores]

COSTS = {"latency_ms": "ms/query", "queries_per_second": "queries/s", "bytes_per_vector": "bytes/vector"}
NOT_RANKED, ABSENT = "not ranked", "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True, slots=True)
class Cell:
    """A number as text, and below it, in small type, an interval or a loss; `kind` is a CSS class.

    `value` is the number in full precision, if the text is a number; `mark` is a superscript.
    """

    text: str
    below: str = ""
    kind: str = ""
    value: float | None = None
    mark: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """A named row: `below` is small text under the name, `strong` marks the headline's row."""

    name: str
    cells: tuple[Cell, ...]
    below: str = ""
    strong: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """A table: `groups` are (title, rows), the title may be ""; `spans` is an upper head: (title, columns).

    The spans may cover fewer columns than there are: those after them have no upper head.
    """

    caption: str
    head: tuple[str, ...]
    groups: tuple[tuple[str, tuple[Row, ...]], ...]
    spans: tuple[tuple[str, int], ...] = ()

    @property
    def censored(self) -> bool:
        return any(cell.text == NOT_RANKED for _, rows in self.groups for row in rows for cell in row.cells)


def number(value: float | None, digits: int = 1) -> str:
    """Return a number with thousands separated, integers without decimals; None as a dash."""
    if value is None:
        return ABSENT
    return f"{value:,}" if isinstance(value, int) else f"{value:,.{digits}f}"


def _cell(value: float | None, digits: int = 1, below: str = "") -> Cell:
    return Cell(number(value, digits), below, value=value)


def cosine(value: float) -> str:
    return f"{value:.3f}".replace("-", MINUS)


def signed(value: float) -> str:
    """Return a difference with its sign, or "same"."""
    return "same" if value == 0 else f"{value:+.2f}".replace("-", MINUS)


def scores(metrics: RunMetrics) -> Table:
    """Return every ranker as a row, by direction: below the headline's scores their interval, below others the loss."""
    return _rankers_table(metrics, "main", "Recall@k in percent; ranks count from 1")


def second_scores(metrics: RunMetrics) -> Table | None:
    """Return the other scores of the rankers that have any, laid out as by `scores`; None if there are none."""
    table = _rankers_table(metrics, "second", "In percent; the recall sum is that of recall@1, @5 and @10")
    return table if table.head else None


def against_exact(metrics: RunMetrics) -> Table | None:
    """Return the rankers that search: hits found, times, and losses with intervals and p-values; None without any."""
    rankers = [ranker for ranker in rankers_of(metrics) if ranker.overlap_at_10 and ranker.latency_percentiles_ms]
    if not rankers:
        return None

    def row(ranker: RankerMetrics, way: str) -> Row:
        latency = (ranker.latency_percentiles_ms or {}).get(way, {})
        losses = metrics.significance.get(ranker.name, {}).get(way, {})
        cells = [_cell((ranker.overlap_at_10 or {}).get(way), 2)]
        cells += [_cost(latency.get(time), way) for time in PERCENTILES]
        cells += [_tested(losses.get(metric.name)) for metric in RECALLS]
        return Row(ranker.name, tuple(cells))

    head = (
        "overlap@10",
        *(f"{time} ms" for time in PERCENTILES),
        *(f"\N{GREEK CAPITAL LETTER DELTA} {metric.label}" for metric in RECALLS),
    )
    groups = tuple((_title(metrics, way), tuple(row(ranker, way) for ranker in rankers)) for way in DIRECTIONS)
    return Table("Against exact search: overlap@10 in percent, times of single queries", head, groups)


def corrected(metrics: RunMetrics) -> Table | None:
    """Return the scores that are corrected for hubness, each with its difference from the plain score of its ranker."""
    if (found := metrics.corrected) is None:
        return None
    shown = (*RECALLS, MEAN_RANK)

    def row(ranker: RankerMetrics, way: str) -> Row:
        tested = found.significance.get(ranker.name, {})
        cells = [_gained(ranker.scores[way].get(metric.name), metric, tested.get(metric.name)) for metric in shown]
        return Row(ranker.name, (*cells, Cell(number((ranker.overlap_at_10 or {}).get(way), 2))))

    groups = tuple(
        (_title(metrics, way), tuple(row(ranker, way) for ranker in found.columns if way in ranker.scores))
        for way in DIRECTIONS
        if any(way in ranker.scores for ranker in found.columns)
    )
    caption = f"Corrected for hubness with alpha {found.alpha:g}, by {number(found.references)} reference captions"
    return Table(caption, (*(metric.label for metric in shown), "overlap@10"), groups)


def captioned(metrics: RunMetrics) -> Table | None:
    """Return the scores with captions as evidence, each with its difference from that of the photo alone."""
    if (found := metrics.captioned) is None:
        return None
    shown = in_table("main")
    photo = found.columns[0].name

    def row(ranker: RankerMetrics, scores: Scores) -> Row:
        tested = found.significance.get(f"{ranker.name} - {photo}", {})
        cells = [_gained(scores.get(metric.name), metric, tested.get(metric.name)) for metric in shown]
        return Row(ranker.name, tuple(cells), ranker.about)

    rows = tuple(row(ranker, scores) for ranker in found.columns for scores in ranker.scores.values())
    caption = f"Captioned gallery, leave one out: captions as evidence, of weight {found.weight:g}"
    return Table(caption, tuple(metric.label for metric in shown), (("", rows),))


def _gained(score: float | None, metric: Metric, tested: LossMetrics | None) -> Cell:
    if score is None:
        return Cell(NOT_RANKED, kind="words")
    gain = _tested(tested)
    below = " ".join(filter(None, (gain.text, f"({gain.below})" if gain.below else ""))) if tested else ""
    return Cell(number(float(score), metric.digits), below)


def _tested(found: LossMetrics | None) -> Cell:
    if found is None:
        return Cell(ABSENT)
    below = ""
    if any(found.interval):
        below = "{:+.2f} to {:+.2f}".format(*found.interval).replace("-", MINUS) + f", p {found.p_holm:.4f}"
    return Cell(signed(found.difference), below, value=found.difference)


def _rankers_table(metrics: RunMetrics, name: TableName, caption: str) -> Table:
    rankers = rankers_of(metrics)
    shown = [metric for metric in in_table(name) if any(_has(ranker.scores, metric.name) for ranker in rankers)]
    if name != "main":
        rankers = [ranker for ranker in rankers if any(_has(ranker.scores, metric.name) for metric in shown)]
    main = name == "main"
    costs = [cost for cost in COSTS if main and any(getattr(ranker, cost) is not None for ranker in rankers)]
    used = main and any(ranker.used for ranker in rankers)

    def row(group: Sequence[RankerMetrics], way: str) -> Row:
        cells = [_known([_score(metrics, ranker, way, metric) for ranker in group]) for metric in shown]
        cells += [_all([_cost(getattr(ranker, cost), way) for ranker in group]) for cost in costs]
        if used:
            cells.append(_all([Cell((ranker.used or {}).get(way, ABSENT), kind="words") for ranker in group]))
        names = ", ".join(ranker.name for ranker in group)
        headline = any(ranker.name == metrics.engine for ranker in group)
        return Row(names, tuple(cells), "the same rank for every query" if group[1:] else "", strong=headline)

    def worst(ranker: RankerMetrics, way: str) -> Row:
        values = ranker.pessimistic[way]
        cells = [_cell(values.get(metric.name), metric.digits) for metric in shown]
        return Row("all ties lost", (*cells, *(Cell(ABSENT),) * (len(head) - len(cells))), ranker.name)

    def rows(way: str) -> Iterator[Row]:
        for group in folded(rankers):
            yield row(group, way)
            if group[0].pessimistic.get(way):
                yield worst(group[0], way)

    head = [*(metric.label for metric in shown), *(COSTS[cost] for cost in costs), *(["answered by"] if used else [])]
    groups = ((_title(metrics, way), tuple(rows(way))) for way in DIRECTIONS)
    return Table(caption, tuple(head), tuple(groups))


def folded(rankers: Sequence[RankerMetrics]) -> list[list[RankerMetrics]]:
    """Return the rankers in groups that rank every query the same, each where its first one stands."""
    groups: dict[str, list[RankerMetrics]] = {}
    for ranker in rankers:
        groups.setdefault(ranker.same_ranks_as or ranker.name, []).append(ranker)
    return list(groups.values())


def _known(cells: Sequence[Cell]) -> Cell:
    """Return the first cell that has a value, of rankers that agree."""
    return next((cell for cell in cells if cell.text != ABSENT), cells[0])


def _all(cells: Sequence[Cell]) -> Cell:
    """Return one cell with the different texts of all."""
    known = list({cell.text: cell for cell in cells if cell.text != ABSENT}.values())
    if len(known) < 2:
        return known[0] if known else cells[0]
    return Cell(" / ".join(cell.text for cell in known), kind=known[0].kind)


def rankers_of(metrics: RunMetrics) -> list[RankerMetrics]:
    """Return the run's rankers, or the headline alone if it has none."""
    return metrics.columns or [RankerMetrics(name=metrics.engine or "this run", scores=metrics.scores)]


def published(metrics: RunMetrics) -> Table | None:
    """Return this run above the published figures, recall@k of both directions in one row."""
    others = metrics.published
    if not others:
        return None
    shown = [
        metric.name
        for metric in METRICS
        if metric.unit == "percent" and any(_has(other.scores, metric.name) for other in others)
    ]

    def row(name: str, figures: ByDirection, below: str, strong: bool = False) -> Row:
        cells = (_cell(figures.get(way, {}).get(metric)) for way in DIRECTIONS for metric in shown)
        return Row(name, tuple(cells), below, strong)

    rows = [row("this run", metrics.scores, metrics.engine, strong=True)]
    for other in others:
        same = "the same model" if other.same_model else ""
        rows.append(row(other.name, other.scores, "; ".join(filter(None, (same, other.source)))))
    spans = tuple((way, len(shown)) for way in DIRECTIONS)
    return Table("Recall@k in percent, as published", tuple(map(label, shown)) * 2, (("", tuple(rows)),), spans)


def other_counts(metrics: RunMetrics) -> list[tuple[Table, str]]:
    """Return tables of other ways to score the same ranks, each with a sentence about it."""
    tables: list[tuple[str, ByDirection, ByDirection, str]] = []
    if folds := metrics.folds:
        title = f"Mean of {folds.count} folds of {number(folds.images)} images"
        about = "Smaller galleries are easier: these figures compare only with other figures on such folds."
        tables.append((title, folds.scores, folds.pessimistic, about))
    judgements: Mapping[str, ByDirection] = metrics.extended or {}
    for judge, title, how in (
        ("cxc", "CxC", "human judgements of similarity (Crisscrossed Captions)"),
        ("eccv", "ECCV Caption", "machine and human verification (ECCV Caption)"),
    ):
        best, worst = judgements.get(judge, {}), judgements.get(f"{judge}_pessimistic", {})
        tables.append((title, best, worst, f"Positives extended by {how}."))
    if mteb := metrics.mteb:
        title = f"As MTEB counts: {number(mteb.sentences)} sentences, {number(mteb.pairs)} pairs"
        tables.append((title, mteb.scores, mteb.pessimistic, MTEB_DIFFERS))
    about = "The literal proportion among the first k; with five captions an image it cannot exceed 20 at k = 1."
    tables.append(("Share of all positives found, in percent", metrics.proportion, {}, about))
    about = (
        "In the other tables an item with the same score does not push the positive down; here it does. "
        "Only directions in which that makes a difference are shown."
    )
    in_tables = {metric.name for metric in METRICS if any(ranker.pessimistic for ranker in metrics.columns)}
    lost = {
        way: {name: value for name, value in scores.items() if name not in in_tables}
        for way, scores in metrics.pessimistic.items()
    }
    tables.append(("Ties counted against the run", lost, {}, about))
    shown = []
    for title, best, worst, about in tables:
        for caption, block in ((title, best), (f"{title}, all ties lost", worst)):
            if table := _by_direction(caption, block):
                shown.append((table, about))
    return shown


def _by_direction(caption: str, block: ByDirection) -> Table | None:
    ways = [way for way in DIRECTIONS if block.get(way)]
    keys = tuple(dict.fromkeys(key for way in ways for key in block[way]))
    rows = tuple(Row(way, tuple(_cell(block[way].get(key)) for key in keys)) for way in ways)
    return Table(caption, tuple(map(label, keys)), (("", rows),)) if rows else None


def _has(figures: ByDirection, metric: str) -> bool:
    return any(metric in scores for scores in figures.values())


def _title(metrics: RunMetrics, way: str) -> str:
    images, captions = number(metrics.images), number(metrics.captions)
    if way == IMAGE_TO_TEXT:
        return f"{way}: {images} photos, each a query for its captions among {captions}"
    return f"{way}: {captions} captions, each a query for its photo among {images}"


def _score(metrics: RunMetrics, ranker: RankerMetrics, way: str, metric: Metric) -> Cell:
    measured = ranker.scores.get(way, {})
    if metric.name not in measured:
        return Cell(ABSENT)
    value = measured[metric.name]
    if value is None:
        return Cell(NOT_RANKED, kind="words")
    text = number(float(value), metric.digits)
    if ranker.name == metrics.engine:
        return Cell(text, interval(metrics, way, metric.name), value=value)
    loss = metrics.loss.get(ranker.name, {}).get(way, {}).get(metric.name)
    return Cell(text, "" if loss is None else signed(loss), value=value)


def interval(metrics: RunMetrics, way: str, metric: str) -> str:
    """Return the headline's 95 % interval as text, "" if there is none."""
    bounds = metrics.intervals.get(way, {}).get(metric)
    return f"{number(bounds[0])}\N{EN DASH}{number(bounds[1])}" if bounds else ""


def _cost(measured: Mapping[str, float] | float | None, way: str) -> Cell:
    value = measured.get(way) if isinstance(measured, Mapping) else measured
    if value is None:
        return Cell(ABSENT)
    return _cell(value, 0 if value >= 100 else 2)
