from __future__ import annotations

import random
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from eval.report.misses import choose, margin, shares_table
from eval.runs import QueryResult, TopHit
from eval.stats import share_interval


def result(query: int, rank: int, first: float = 0.5, score: float = 0.25) -> QueryResult:
    """A query of `rank`, whose first hit scores `first`, its best positive `score`."""
    top = (TopHit(900, first if rank > 1 else score, rank == 1), TopHit(901, score / 2, False))
    return QueryResult("text-to-image", query, query, "a dog", rank, rank, score, query, {}, None, top)


def queries(found: Sequence[QueryResult]) -> list[int]:
    return [one.query for one in found]


def test_each_group_is_what_its_name_says() -> None:
    # Twenty misses: a query's rank grows with its id; the margin grows the other way.
    results = [result(0, 1)] + [result(number, number + 1, first=0.9 - number / 100) for number in range(1, 21)]
    chosen = choose(results, per_group=4, sample_size=4)
    assert (chosen.queries, chosen.misses) == (21, 20)
    assert len(chosen.sample) == 4
    assert [one.rank for one in chosen.sample] == sorted(one.rank for one in chosen.sample)
    left = [number for number in range(1, 21) if number not in queries(chosen.sample)]
    assert queries(chosen.confident) == left[:4]
    assert queries(chosen.furthest) == left[:3:-1][:4]
    assert margin(chosen.confident[0]) == max(margin(one) for one in results if one.query in left)


def test_equal_misses_come_in_order_of_their_ids() -> None:
    chosen = choose([result(query, 3) for query in (5, 9, 7, 3, 8, 1, 6, 2, 4)], per_group=3, sample_size=3)
    for group in (chosen.sample, chosen.confident, chosen.furthest):
        assert queries(group) == sorted(queries(group))


def test_another_seed_is_another_sample() -> None:
    results = [result(number, 2) for number in range(200)]
    assert len({tuple(queries(choose(results, seed=seed).sample)) for seed in range(10)}) == 10


def test_every_miss_is_as_likely_in_the_sample() -> None:
    # 2,000 draws of 5 of 10 misses, five of them confident: each is drawn about 1,000 times (standard deviation 22).
    results = [result(number, 2 + number, first=0.3 + (number % 2) / 2) for number in range(10)]
    drawn = [query for seed in range(2000) for query in queries(choose(results, 5, seed, sample_size=5).sample)]
    assert all(850 < drawn.count(number) < 1150 for number in range(10))


def test_a_miss_stays_in_the_sample_when_others_are_mended() -> None:
    before = [result(number, 2) for number in range(50)]
    shown = set(queries(choose(before).sample))
    mended = [result(one.query, 1 if one.query % 3 == 0 and one.query not in shown else 2) for one in before]
    assert set(queries(choose(mended).sample)) == shown


@given(
    st.lists(st.tuples(st.integers(1, 50), st.floats(0.3, 0.9)), max_size=40),
    st.integers(0, 8),
    st.randoms(use_true_random=False),
)
def test_never_a_hit_never_twice_and_always_the_same(
    drawn: list[tuple[int, float]], per_group: int, shuffler: random.Random
) -> None:
    results = [result(number, rank, first) for number, (rank, first) in enumerate(drawn)]
    chosen = choose(results, per_group, sample_size=per_group)
    shown = [*chosen.sample, *chosen.confident, *chosen.furthest]
    misses = [one for one in results if one.rank > 1]
    assert all(one.rank > 1 for one in shown)
    assert len(set(queries(shown))) == len(shown) == min(3 * per_group, len(misses))
    assert max(map(len, (chosen.sample, chosen.confident, chosen.furthest))) <= per_group
    unseen = [one for one in misses if one not in shown]
    assert all(one.rank <= worst.rank for one in unseen for worst in chosen.furthest)
    assert all(margin(one) <= margin(strong) for one in unseen for strong in chosen.confident)
    shuffler.shuffle(results)
    assert choose(results, per_group, sample_size=per_group) == chosen


def test_what_a_count_in_the_sample_stands_for() -> None:
    results = [result(number, 1 + (number < 1000)) for number in range(2000)]
    table = shares_table(choose(results))
    (_, rows), *_ = table.groups
    assert [row.name for row in (rows[0], rows[-1])] == ["0 of 50", "50 of 50"]
    share, recall = rows[3].cells
    low, high = share_interval(3, 50, 1000)
    assert (share.text, share.below) == ("6.0", f"{low:.1f}\N{EN DASH}{high:.1f}")
    assert (recall.text, recall.below) == ("53.0", f"{50 + low / 2:.1f}\N{EN DASH}{50 + high / 2:.1f}")
