from __future__ import annotations

import math

import numpy as np
import pytest

from search.query import HALFWAY
from search.ranking import folding
from search.records import Caption, Hit, Image, Vectors


def photo(image_id: int, score: float) -> Hit:
    return Hit(image_id, score, Image(image_id, "test", 0, f"{image_id}.jpg", None, ()))


def sentence(caption_id: int, image_id: int, score: float, text: str = "a dog") -> Hit:
    return Hit(caption_id, score, Caption(caption_id, image_id, "test", 0, text, None))


def shape(hits: list[Hit]) -> list[tuple[int, list[int]]]:
    return [(hit.id, [other.id for other in hit.also]) for hit in hits]


@pytest.mark.parametrize(
    ("min_score", "cutoff", "expected"),
    [
        (None, None, -math.inf),
        (0.2, None, 0.2),
        (None, HALFWAY, 0.25),  # halfway between 0.1 and 0.4
        (0.35, HALFWAY, 0.35),
        (0.2, HALFWAY, 0.25),
        (None, 0.0, 0.1),
        (None, 1.0, 0.4),
    ],
)
def test_where_the_tail_is_cut_off(min_score: float | None, cutoff: float | None, expected: float) -> None:
    assert folding.least_score(0.4, 0.1, min_score, cutoff) == pytest.approx(expected)


def test_the_best_result_is_never_cut_off_as_a_tail() -> None:
    assert folding.least_score(best=-0.3, typical=0.1, min_score=None, cutoff=0.5) == -0.3


def test_captions_of_one_image_are_one_result() -> None:
    hits = [sentence(11, 1, 0.9), sentence(21, 2, 0.8), sentence(12, 1, 0.7), sentence(13, 1, 0.6)]
    best = folding.best_of_images(hits)
    assert shape(best) == [(11, []), (21, [])]
    assert shape(folding.with_captions(best, hits)) == [(11, [12, 13]), (21, [])]


def test_the_same_words_are_one_result() -> None:
    texts = ["A dog.", "a  DOG", "a dog's", "a dog", "...", "?!"]
    hits = [sentence(number, number, 1 - number / 10, text) for number, text in enumerate(texts)]
    assert shape(folding.fold_same_words(hits)) == [(0, [1, 3]), (2, []), (4, []), (5, [])]


def test_near_duplicates_go_to_the_best_of_them() -> None:
    angles = {1: 0.0, 2: 20.0, 3: 10.0, 4: 90.0, 5: -10.0}

    def vectors(ids: list[int]) -> dict[int, Vectors]:
        directions = {each: np.deg2rad(angles[each]) for each in ids if each in angles}
        return {each: np.array([np.cos(angle), np.sin(angle)], np.float32) for each, angle in directions.items()}

    hits = [photo(number, 1 - number / 10) for number in (1, 2, 3, 4, 5, 6, 7)]
    same = float(np.cos(np.deg2rad(12)))
    # 3 is as near to 2 as to 1, and goes to the better one; 6 and 7 have no photo in the index, and stay.
    assert shape(folding.fold_photos(hits, vectors, same)) == [(1, [3, 5]), (2, []), (4, []), (6, []), (7, [])]
    captions = [sentence(10, 1, 0.9), sentence(30, 3, 0.8), sentence(11, 1, 0.7)]
    folded = folding.fold_photos(folding.best_of_images(captions), vectors, same)
    assert shape(folding.with_captions(folded, captions)) == [(10, [30, 11])]
