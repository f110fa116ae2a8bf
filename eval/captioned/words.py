"""Score captions by the words that they share with a query: BM25, to show what the vectors add."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from eval.metrics import Floats
from eval.protocol import Ids
from search.ranking.sentences import words_of

K1, B = 1.2, 0.75  # the usual values (Robertson and Zaragoza, Foundations and Trends in IR 3, 2009)


class WordIndex:
    """The words of all captions, reduced to stems."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._count = len(texts)
        stems = [stems_of(text) for text in texts]
        lengths = np.array([max(len(of), 1) for of in stems], dtype=np.float64)
        postings: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for row, of_text in enumerate(stems):
            for stem, times in Counter(of_text).items():
                postings[stem].append((row, times))
        self._weights: dict[str, tuple[Ids, Floats]] = {}
        norms = K1 * (1 - B + B * lengths / lengths.mean())
        for stem, of_stem in postings.items():
            rows, times = np.array(of_stem, dtype=np.int64).T
            rarity = np.log(1 + (self._count - len(rows) + 0.5) / (len(rows) + 0.5))
            self._weights[stem] = rows, rarity * times * (K1 + 1) / (times + norms[rows])

    def scores(self, queries: Sequence[str]) -> Floats:
        """Return the score of each query with each caption, float64 (queries, captions)."""
        scores = np.zeros((len(queries), self._count))
        for row, query in enumerate(queries):
            for stem in stems_of(query):
                if stem in self._weights:
                    captions, weights = self._weights[stem]
                    scores[row, captions] += weights
        return scores


def stems_of(text: str) -> list[str]:
    """Return the words of a caption without the endings of plurals (Harman's S-stemmer, JASIS 42, 1991)."""
    return [_stem(word) for word in words_of(text).split()]


def _stem(word: str) -> str:
    if word.endswith("ies") and not word.endswith(("eies", "aies")):
        return word[:-3] + "y"
    if word.endswith("es") and not word.endswith(("aes", "ees", "oes")):
        return word[:-1]
    if word.endswith("s") and not word.endswith(("us", "ss")):
        return word[:-1]
    return word
