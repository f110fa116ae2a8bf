"""Recommend search parameters: the smallest HNSW beam that finds a given share of the exact first ten hits.

overlap@10 is the share of the ten exact hits that are among the ten hits of a search. It grows with `ef`, nearly
without exception, so the smallest `ef` that reaches a target is found with a few probes of the same queries. A
quantised collection has a second parameter: how many of the candidates that HNSW keeps are scored again in float32,
`oversampling` times ten. The smallest `ef` is found with all of them scored again, then the smallest oversampling that
still reaches the target at this `ef`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from eval.metrics import Floats
from eval.protocol import IMAGE_TO_TEXT, TEXT_TO_IMAGE
from eval.ranks.hnsw_check import REASONS, Used, used
from eval.runs import TOP
from eval.stats import Interval, percentile_interval, resample
from search.index import ReadIndex, SearchParams, collection_name
from search.records import Hit, Kind, Vectors

QUERIES = 500  # sampled at most
PROBES = 8  # of each collection at most
PROBES_OF_EF = 5  # of these if the collection is quantised, unless more are needed to reach the target at all
STEP = 5  # factor between beams until one reaches the target
WIDEST = 4096  # a wider beam costs more than it is worth: a scan, or a graph built with a larger `m`, is better
RESAMPLES = 2000
SEED = 0

_NAMES: dict[Kind, str] = {"images": "image", "captions": "text"}


@dataclass(frozen=True, slots=True)
class Probe:
    """One setting measured: overlap@10 from 0 to 1, and its 95 % interval over queries.

    `ef` is None if a scan answers, `oversampling` if the collection is not quantised.
    """

    ef: int | None
    oversampling: float | None
    overlap: float
    interval: Interval
    queries_per_second: float


@dataclass(frozen=True, slots=True)
class Tuned:
    """The curve of one collection, in ascending order of `ef` and oversampling, and the recommended probe.

    `recommended` is None if no probe reached the target, or if a scan answers, whatever the parameters.
    """

    direction: str
    collection: str
    points: int
    indexed_vectors: int
    settings: dict[str, Any]
    queries: int
    used: Used
    recommended: Probe | None
    curve: tuple[Probe, ...]

    @property
    def best(self) -> Probe | None:
        """The probe with the largest overlap, the first of equal ones; None without probes."""
        return max(self.curve, key=lambda probe: probe.overlap, default=None)


def searches(index: ReadIndex, dataset: str, direction: str | None = None) -> list[tuple[Kind, Kind]]:
    """Return the kinds of the queries and of the gallery of each search to tune: one direction, None for both.

    If only images or only captions are stored, they are both, unless a direction is given.
    """
    both: dict[str, tuple[Kind, Kind]] = {
        IMAGE_TO_TEXT: ("images", "captions"),
        TEXT_TO_IMAGE: ("captions", "images"),
    }
    if direction is not None:
        return [both[direction]]
    stored = [kind for kind in both[IMAGE_TO_TEXT] if collection_name(dataset, kind) in index.collections()]
    return [(stored[0], stored[0])] if len(stored) == 1 else list(both.values())


def tune(index: ReadIndex, dataset: str, queries: Kind, gallery: Kind, target: float) -> Tuned:
    """Measure a collection as it is, by a random sample of the points of `queries`; write nothing.

    Exact answers are computed once, the other parameters are probed at most `PROBES` times.

    Raises:
        CollectionMissing: the index does not hold the queries or the gallery.
    """
    collection = collection_name(dataset, gallery)
    info = index.info(collection)
    vectors = _sample(index, collection_name(dataset, queries))
    answered = used(index, collection, vectors)
    quantized = info.settings["quantization"] not in (None, "none")
    prober = _Prober(index, collection, vectors, quantized, answered == "hnsw")
    recommended = None
    if answered == "hnsw" or (quantized and answered != "scan"):
        recommended = _search(prober, target, max(TOP, min(info.points, WIDEST)))
    return Tuned(
        direction=f"{_NAMES[queries]}-to-{_NAMES[gallery]}",
        collection=collection,
        points=info.points,
        indexed_vectors=info.indexed_vectors,
        settings=info.settings,
        queries=len(vectors),
        used=answered,
        recommended=recommended,
        curve=tuple(sorted(prober.probes, key=lambda probe: (probe.ef or 0, probe.oversampling or 0))),
    )


def _sample(index: ReadIndex, collection: str) -> Vectors:
    """Return the vectors of up to `QUERIES` random points, float32 (n, dim), always the same ones."""
    ids = [record.id for batch in index.scan(collection) for record in batch.records]
    chosen = np.random.default_rng(SEED).choice(np.array(ids, dtype=np.int64), min(QUERIES, len(ids)), replace=False)
    vectors = index.retrieve(collection, sorted(chosen.tolist()), vectors=True).vectors
    assert vectors is not None
    return vectors


def overlaps(answers: Sequence[Sequence[Hit]], exact: Sequence[Sequence[Hit]]) -> Floats:
    """Return the share of each query's exact hits that its answer holds, float64 (n,).

    A hit that scores as high as the last exact one counts: which of equal hits come first means nothing.
    """
    shares = []
    for hits, best in zip(answers, exact, strict=True):
        ids = {hit.id for hit in best}
        shares.append(sum(hit.id in ids or hit.score >= best[-1].score for hit in hits) / len(best))
    return np.array(shares, dtype=np.float64)


class _Prober:
    """Measures settings by the same queries, and keeps every probe."""

    def __init__(self, index: ReadIndex, collection: str, vectors: Vectors, quantized: bool, by_hnsw: bool) -> None:
        self._index, self._collection, self._vectors = index, collection, vectors
        self.quantized, self.by_hnsw = quantized, by_hnsw
        self._exact = self._query(SearchParams(exact=True))
        self.probes: list[Probe] = []

    def probe(self, ef: int, rescored: int) -> Probe:
        """Measure a beam of `ef`; in a quantised collection, `rescored` of its candidates are scored again."""
        params = SearchParams(ef=ef) if self.by_hnsw else SearchParams()
        if self.quantized:
            params = replace(params, oversampling=rescored / TOP)
        started = time.perf_counter()
        answers = self._query(params)
        seconds = time.perf_counter() - started
        shares = overlaps(answers, self._exact)
        probe = Probe(
            ef=params.ef,
            oversampling=params.oversampling if self.quantized else None,
            overlap=float(shares.mean()),
            interval=_interval(shares),
            queries_per_second=len(shares) / seconds,
        )
        self.probes.append(probe)
        return probe

    def _query(self, params: SearchParams) -> list[list[Hit]]:
        return self._index.query(self._collection, self._vectors, TOP, replace(params, payload=False))


def _interval(shares: Floats) -> Interval:
    alone = np.arange(len(shares), dtype=np.int64)
    drawn = resample(shares[:, np.newaxis], [], alone, resamples=RESAMPLES, seed=SEED)
    return percentile_interval(drawn.means[:, 0], float(shares.mean()))


_Measured = tuple[int, Probe]  # a beam, or a number of rescored candidates


def _search(prober: _Prober, target: float, widest: int) -> Probe | None:
    """Return the probe with the smallest `ef`, then the smallest oversampling, that reaches the target."""

    def beam(width: int) -> Probe:
        return prober.probe(width, rescored=width)

    low, width = None, TOP  # a beam is never narrower than the hits that are returned
    while (probe := beam(width)).overlap < target:
        if width == widest or len(prober.probes) == PROBES:
            return None
        low, width = (width, probe), min(STEP * width, widest)
    both = prober.quantized and prober.by_hnsw
    high = _narrow(low, (width, probe), beam, target, (PROBES_OF_EF if both else PROBES) - len(prober.probes))
    if not both:
        return high[1]
    ef = high[0]
    left = PROBES - len(prober.probes)
    return _narrow(None, high, lambda rescored: prober.probe(ef, rescored), target, left)[1]


def _narrow(
    low: _Measured | None, high: _Measured, measure: Callable[[int], Probe], target: float, probes: int
) -> _Measured:
    """Return the smallest number that reaches the target, as far as `probes` more probes tell.

    `high` reaches it, `low` does not; None: no smaller number has been measured. The next probe is where a straight
    line through the two nearest ones meets the target. If that leaves more than half of the interval, the next divides
    it near its better end: on simulated curves this left 2 % of `ef` open on average, plain bisection 8 %.
    """
    known = [high] if low is None else [low, high]
    halved = True
    for _ in range(probes):
        below = TOP - 1 if low is None else low[0]
        if high[0] - below <= 1:
            break
        interval = math.log(high[0] / below)
        if low is None:
            middle = round(below * math.exp(interval / 2))
        elif halved:
            middle = _meeting(known, target)
        else:
            low_is_nearer = target - low[1].overlap < high[1].overlap - target
            middle = round(below * math.exp(interval * (1 / 3 if low_is_nearer else 2 / 3)))
        middle = min(max(middle, below + 1), high[0] - 1)
        measured = middle, measure(middle)
        known.append(measured)
        if measured[1].overlap >= target:
            high = measured
        else:
            low = measured
        halved = math.log(high[0] / (low[0] if low else below)) <= interval / 2
    return high


def _meeting(known: Sequence[_Measured], target: float) -> int:
    """Return where the straight line through the two probes nearest to the target meets it.

    The line is drawn in logarithms: that of the missed share falls about evenly with that of `ef`.
    """
    least = 1 / (2 * QUERIES * TOP)
    wanted = math.log(max(1 - target, least))
    descending = sorted(known, key=lambda measured: -measured[0])  # of equal shares the smallest number is kept
    points = {math.log(max(1 - probe.overlap, least)): math.log(number) for number, probe in descending}
    (y0, x0), (y1, x1) = sorted(points.items(), key=lambda point: abs(point[0] - wanted))[:2]
    return round(math.exp(min(x0 + (wanted - y0) * (x1 - x0) / (y1 - y0), math.log(WIDEST))))


def as_json(target: float, results: Sequence[Tuned]) -> dict[str, Any]:
    """Return one JSON object: the target, and by direction the recommended probe and the curve."""
    return {"target": target, **{tuned.direction: {**asdict(tuned), "best": _probe(tuned.best)} for tuned in results}}


def _probe(probe: Probe | None) -> dict[str, Any] | None:
    return None if probe is None else asdict(probe)


def table(target: float, results: Sequence[Tuned]) -> str:
    """Return the curves and the recommendations as text for a terminal."""
    return "\n\n".join("\n".join(_lines(target, tuned)) for tuned in results)


def _lines(target: float, tuned: Tuned) -> Iterator[str]:
    settings = ", ".join(f"{name} {tuned.settings.get(name)}" for name in ("m", "ef_construct", "quantization"))
    yield f"{tuned.direction}: {tuned.queries:,} queries of {tuned.collection}, {tuned.points:,} points ({settings})"
    if tuned.indexed_vectors < tuned.points:
        yield f"{tuned.indexed_vectors:,} vectors are in the HNSW index; the rest is scanned"
    if tuned.curve:
        yield f"{'ef':>6}{'oversampling':>14}{'overlap@10':>12}  {'95% interval':^15}{'queries/s':>11}"
    for probe in tuned.curve:
        ef = "-" if probe.ef is None else f"{probe.ef}"
        oversampling = "-" if probe.oversampling is None else f"{probe.oversampling:.1f}"
        interval = "{:.4f}-{:.4f}".format(*probe.interval)
        yield f"{ef:>6}{oversampling:>14}{probe.overlap:>12.4f}  {interval:^15}{probe.queries_per_second:>11,.0f}"
    if tuned.used != "hnsw":
        yield f"ef has no effect here: {REASONS[tuned.used]}"
    if tuned.recommended:
        yield f"recommended: {_named(tuned.recommended)} finds {tuned.recommended.overlap:.2%} of the exact ten"
    elif tuned.best:
        yield f"{target:.2%} was not reached: the best is {_named(tuned.best)}, with {tuned.best.overlap:.2%}"


def _named(probe: Probe) -> str:
    parts = [f"ef={probe.ef}"] if probe.ef is not None else []
    return ", ".join(parts + ([f"oversampling={probe.oversampling:g}"] if probe.oversampling is not None else []))
