"""Compare runs of the same queries: differences, intervals, p-values, and the queries that changed most.

All runs rank the same queries in the same gallery, so they are compared in pairs, query by query: the interval of a
difference comes from resampling the same images for both, its p-value from swapping the runs image by image
(`eval.stats`). Many scores are compared at once, of which one in twenty would appear to differ by chance: the adjusted
p-values account for that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from eval import fingerprint
from eval.differences import Difference, adjusted, differences
from eval.metrics import METRICS, Ranking, scores
from eval.protocol import DIRECTIONS, IMAGE_TO_TEXT
from eval.runs import QueryResult, Run, Scores, read_run
from eval.stats import RANDOMISATIONS, RESAMPLES
from search.errors import EvaluationError

CHANGED = 5  # most improved, and most worsened, queries shown
TEXT_WIDTH = 72
MOST_RUNS = len(ascii_uppercase)  # each has a letter
SWAPS_PER_COMPARISON = 40  # at least: with fewer than 20, no adjusted p could be under 0.05

SAME = ("split", "captions_per_image", "images", "captions")  # of `metrics`, in both runs


@dataclass(frozen=True, slots=True)
class Change:
    """A query (an image's or a caption's id) whose rank differs between the runs."""

    query: int
    image_id: int
    text: str
    rank_a: int
    rank_b: int

    @property
    def log_ratio(self) -> float:
        """The change of log rank, negative if B is better. Rounded, so that 10 to 1 and 100 to 10 tie exactly."""
        return round(math.log(self.rank_b / self.rank_a), 9)


@dataclass(frozen=True, slots=True)
class Direction:
    """One direction compared. `improved` and `worsened` in B: the largest changes of log rank first, ties by id."""

    name: str
    queries: int
    images: int
    differences: tuple[Difference, ...]
    improved: tuple[Change, ...]
    worsened: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Run B against run A. `settings` are those of their fingerprints that differ: (name, [in A, in B])."""

    a: Run
    b: Run
    directions: tuple[Direction, ...]
    settings: tuple[tuple[str, list[Any]], ...]
    resamples: int
    randomisations: int

    @property
    def comparisons(self) -> int:
        return sum(len(direction.differences) for direction in self.directions)


@dataclass(frozen=True, slots=True)
class Comparisons:
    """Several runs, by the letters A, B, ..., and each pair of them compared.

    Every `p_holm` is adjusted for the comparisons of all pairs. `settings` are those of the runs' fingerprints that
    differ: the name, and the value in each run.
    """

    runs: dict[str, Run]
    pairs: dict[tuple[str, str], Comparison]
    settings: tuple[tuple[str, list[Any]], ...]

    @property
    def comparisons(self) -> int:
        return sum(pair.comparisons for pair in self.pairs.values())

    def scores(self, letter: str) -> dict[str, Scores]:
        """Return the scores of a run by direction, from its ranks.jsonl."""
        of = {way: [result for result in self.runs[letter].results if result.direction == way] for way in DIRECTIONS}
        return {way: scores(_ranking(results)) for way, results in of.items() if results}

    def better_than(self, letter: str) -> dict[str, dict[str, str]]:
        """Return the letters of the runs that a run beats with an adjusted p under 0.05, by direction and metric."""
        letters: dict[str, dict[str, str]] = {way: {} for way in DIRECTIONS}
        for (a, b), pair in self.pairs.items():
            for direction in pair.directions:
                for found in direction.differences:
                    if (found.better, letter) in (("A", a), ("B", b)):
                        so_far = letters[direction.name].get(found.metric.name, "")
                        letters[direction.name][found.metric.name] = so_far + (b if letter == a else a)
        return letters


def compare_all(
    runs: Sequence[Run], *, resamples: int = RESAMPLES, randomisations: int = RANDOMISATIONS, seed: int = 0
) -> Comparisons:
    """Compare every pair of at most 26 runs as `compare` does; the p-values of all of them are adjusted together.

    `randomisations` is raised with the number of comparisons.

    Raises:
        EvaluationError: two runs are not of the same queries and gallery.
        ValueError: there are more than 26 runs.
    """
    if len(runs) > MOST_RUNS:
        raise ValueError(f"{len(runs)} runs; at most {MOST_RUNS} can be compared")
    by_letter = dict(zip(ascii_uppercase, runs, strict=False))
    most = math.comb(len(runs), 2) * len(DIRECTIONS) * len(METRICS)
    randomisations = max(randomisations, SWAPS_PER_COMPARISON * most)
    pairs = {
        (a, b): compare(
            by_letter[a], by_letter[b], changed=0, resamples=resamples, randomisations=randomisations, seed=seed
        )
        for a, b in tqdm(list(combinations(by_letter, 2)), desc="compare", unit=" pairs", disable=len(runs) < 3)
    }
    families = iter(adjusted([direction.differences for pair in pairs.values() for direction in pair.directions]))
    for letters, pair in pairs.items():
        directions = tuple(replace(direction, differences=tuple(next(families))) for direction in pair.directions)
        pairs[letters] = replace(pair, directions=directions)
    return Comparisons(by_letter, pairs, _settings(runs))


def compare_folders(
    a: Path, b: Path, *, changed: int = CHANGED, resamples: int = RESAMPLES, randomisations: int = RANDOMISATIONS
) -> Comparison:
    """Compare two runs on disk.

    Raises:
        EvaluationError: a folder contains no run, or the runs are not of the same queries and gallery.
    """
    return compare(read_run(a), read_run(b), changed=changed, resamples=resamples, randomisations=randomisations)


def compare(
    a: Run,
    b: Run,
    *,
    changed: int = CHANGED,
    resamples: int = RESAMPLES,
    randomisations: int = RANDOMISATIONS,
    seed: int = 0,
) -> Comparison:
    """Compare two runs query by query, in whatever order their files are; the same seed gives the same figures.

    The name of the data set may differ, since two models are stored side by side under two names; the queries, and with
    them the galleries, may not. `changed` is how many of the most improved and worsened queries are kept per direction.

    Raises:
        EvaluationError: the runs are not of the same queries and gallery; the message says what differs.
    """
    for key in SAME:
        in_a, in_b = getattr(a.metrics, key), getattr(b.metrics, key)
        if in_a != in_b:
            raise EvaluationError(
                f"these runs cannot be compared: {key} is {brief(in_a)} in {a.folder} and {brief(in_b)} in {b.folder}"
            )
    pairs = {name: _paired(name, a, b) for name in DIRECTIONS}
    if not any(pairs.values()):
        raise EvaluationError(f"these runs cannot be compared: {a.folder} and {b.folder} hold no queries")
    found = {name: _differences(pair, resamples, randomisations, seed) for name, pair in pairs.items() if pair}
    directions = []
    for name, of_direction in zip(found, adjusted(list(found.values())), strict=True):
        improved, worsened = _changes(pairs[name], changed)
        directions.append(
            Direction(
                name=name,
                queries=len(pairs[name]),
                images=len({ours.image_id for ours, _ in pairs[name]}),
                differences=tuple(of_direction),
                improved=improved,
                worsened=worsened,
            )
        )
    return Comparison(a, b, tuple(directions), _settings((a, b)), resamples, randomisations)


def _settings(runs: Sequence[Run]) -> tuple[tuple[str, list[Any]], ...]:
    return tuple(sorted(fingerprint.differences([run.metrics.fingerprint for run in runs])))


def brief(value: object) -> str:
    """Return any value as text on one line of a terminal, shortened."""
    if value is None:
        return "not recorded"
    text = " ".join("".join(char if char.isprintable() else " " for char in str(value)).split())
    return text if len(text) <= TEXT_WIDTH else text[: TEXT_WIDTH - 1] + "…"


Pairs = list[tuple[QueryResult, QueryResult]]


def _paired(direction: str, a: Run, b: Run) -> Pairs:
    """Return the results of each query in both runs, by ascending id."""
    in_a, in_b = _by_query(direction, a), _by_query(direction, b)
    for run, here, there in ((a, in_a, in_b), (b, in_b, in_a)):
        if only := sorted(here.keys() - there.keys()):
            raise EvaluationError(
                f"these runs cannot be compared: {len(only):,} {direction} queries are in {run.folder} alone, "
                f"the first is {only[0]}"
            )
    pairs = [(in_a[query], in_b[query]) for query in sorted(in_a)]
    for ours, theirs in pairs:
        # The text of an image is its file, which may have moved; that of a caption is the query itself.
        fields = ("image_id",) if direction == IMAGE_TO_TEXT else ("image_id", "text")
        for field in fields:
            if getattr(ours, field) != getattr(theirs, field):
                raise EvaluationError(
                    f"these runs cannot be compared: {field} of the {direction} query {ours.query} is "
                    f"{brief(getattr(ours, field))} in {a.folder} and {brief(getattr(theirs, field))} in {b.folder}"
                )
    return pairs


def _by_query(direction: str, run: Run) -> dict[int, QueryResult]:
    results: dict[int, QueryResult] = {}
    for result in run.results:
        if result.direction == direction and results.setdefault(result.query, result) is not result:
            raise EvaluationError(f"{run.folder} ranks the {direction} query {result.query} twice: make it again")
    return results


def _differences(pairs: Pairs, resamples: int, randomisations: int, seed: int) -> list[Difference]:
    """Return the difference of every metric for which both runs have what it needs; `p_holm` is not adjusted yet."""
    a, b = (_ranking(results) for results in zip(*pairs, strict=True))
    image_of = np.array([ours.image_id for ours, _ in pairs], dtype=np.int64)
    return differences(a, b, image_of, resamples=resamples, randomisations=randomisations, seed=seed)


def _ranking(results: Sequence[QueryResult]) -> Ranking:
    ranks = np.array([result.rank for result in results], dtype=np.int64)
    kept = set.intersection(*(set(result.recorded) for result in results))
    recorded = {
        name: np.array([result.recorded[name] for result in results], dtype=np.float64) for name in sorted(kept)
    }
    return Ranking(ranks, recorded=recorded)


def _changes(pairs: Pairs, count: int) -> tuple[tuple[Change, ...], tuple[Change, ...]]:
    """Return the most improved and the most worsened queries."""
    changes = [
        Change(ours.query, ours.image_id, ours.text, ours.rank, theirs.rank)
        for ours, theirs in pairs
        if ours.rank != theirs.rank
    ]
    improved = sorted((change for change in changes if change.log_ratio < 0), key=lambda c: (c.log_ratio, c.query))
    worsened = sorted((change for change in changes if change.log_ratio > 0), key=lambda c: (-c.log_ratio, c.query))
    return tuple(improved[:count]), tuple(worsened[:count])
