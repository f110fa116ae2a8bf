"""Sets of sentences, which are compared by their words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.ranking.sentence_sets import are_in, pack
from search.ranking.sentences import words_of


@given(st.lists(st.text(max_size=20), max_size=20), st.text(max_size=20))
def test_sentences_of_a_set(texts: list[str], other: str) -> None:
    packed = pack(texts)
    assert are_in(packed, texts).all()
    assert are_in(packed, [other]).tolist() == [words_of(other) in map(words_of, texts)]


VARIANTS = (
    "a dog runs",
    " A  dog, RUNS!!",
    "A\u00a0dog_runs",
    "\uff41 \uff44\uff4f\uff47 runs",
    "a do\u200bg r\u00aduns",
)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_same_words(variant: str) -> None:
    assert words_of(variant) == words_of("A dog runs.")
