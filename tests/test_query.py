from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.errors import QueryError
from search.index import Where
from search.query import Options, Part, combine, describe, image_part, named_images, text_part


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({}, "one of"),
        ({"text": "a dog", "image_id": 3}, "one of"),
        ({"text": " "}, "empty"),
        ({"text": "caf\udce9"}, "not valid UTF-8"),
        ({"text": "a\0b"}, "contains a NUL"),
        ({"text": "a dog", "weight": math.nan}, "weight nan"),
        ({"image_id": -1}, "-1 is not a valid image id"),
        ({"caption_id": 2**63}, "is not a valid caption id"),
    ],
)
def test_parts_that_make_no_sense(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(QueryError, match=message):
        Part(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"k": 0}, "at least one"),
        ({"offset": -1}, "offset is -1"),
        ({"offset": 10**12}, "only the first 100,000"),
        ({"to": "sounds"}, "'sounds' cannot be searched"),
        ({"min_score": 2.0}, "between -1 and 1"),
        ({"cutoff": -0.5}, "between 0 and 1"),
        ({"fold": math.nan}, "between 0 and 1"),
        ({"where": Where(image_ids=(2**63,))}, "not a valid image id"),
    ],
)
def test_options_that_make_no_sense(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(QueryError, match=message):
        Options(**wrong)  # type: ignore[arg-type]


def test_the_sum_of_the_parts() -> None:
    right, up = np.eye(2, dtype=np.float32)
    assert combine(np.stack([right, up]), [3, 4]) == pytest.approx([0.6, 0.8])
    assert combine(np.stack([right, up]), [3, -4]) == pytest.approx([0.6, -0.8])
    assert combine(right[np.newaxis], [0.01]) == pytest.approx([1, 0])
    with pytest.raises(QueryError, match="no part of the query has a weight other than 0"):
        combine(np.stack([right, up]), [0, 0])
    for cancelled in ([1, -1], [1, -1.0000001], [1e9, -1e9]):
        with pytest.raises(QueryError, match="cancel each other out"):
            combine(np.stack([right, right]), cancelled)
    np.testing.assert_allclose(combine(np.stack([right, right]), [1e308, 1e308]), right)


vectors = st.integers(1, 5).flatmap(
    lambda count: st.tuples(
        st.lists(st.lists(st.floats(-1, 1, width=32), min_size=3, max_size=3), min_size=count, max_size=count),
        st.lists(st.floats(-2, 2, width=32), min_size=count, max_size=count),
    )
)


@given(vectors, st.floats(0.125, 8))
def test_a_sum_has_length_one_and_only_the_ratio_of_weights_counts(
    drawn: tuple[list[list[float]], list[float]], factor: float
) -> None:
    rows = np.array(drawn[0], dtype=np.float32) + np.array([2, 0, 0], np.float32)  # none is zero
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    try:
        found = combine(rows, drawn[1])
    except QueryError:
        assert np.linalg.norm(np.array(drawn[1]) @ rows) <= 1e-3 * max(map(abs, drawn[1])) + 1e-6
        return
    assert np.linalg.norm(found) == pytest.approx(1, abs=1e-5)
    assert combine(rows, [factor * weight for weight in drawn[1]]) == pytest.approx(found, abs=1e-3)


def test_how_parts_are_written_on_the_command_line() -> None:
    assert text_part("a beach") == Part(text="a beach")
    assert text_part("snow^0.5") == Part(text="snow", weight=0.5)
    assert text_part("snow^.5", -1) == Part(text="snow", weight=-0.5)
    assert text_part("e = mc^2^1") == Part(text="e = mc^2")
    for plain in ("12:30 on a clock", "2: a list", "x^y", "^", "two^", "a^1e3"):
        assert text_part(plain) == Part(text=plain)
    assert image_part("42") == Part(image_id=42)
    assert image_part("42^2", -1) == Part(image_id=42, weight=-2)
    assert image_part("./42") == Part(image=Path("42"))
    assert image_part("holiday.jpg^3") == Part(image=Path("holiday.jpg"), weight=3)
    assert image_part("٤٢") == Part(image=Path("٤٢"))  # digits elsewhere
    with pytest.raises(QueryError, match="empty"):
        text_part("^2")
    with pytest.raises(QueryError, match="the picture to search for is empty"):
        image_part("")
    with pytest.raises(QueryError, match=r"https://x/y\.jpg: no such file, and pictures on the web are not fetched"):
        image_part("https://x/y.jpg")
    for part in (text_part, image_part):
        with pytest.raises(QueryError, match=r"'snow\^-\.5' ends in a negative weight: subtract with --minus"):
            part("snow^-.5")
    assert text_part("a^-1^1") == Part(text="a^-1")


def test_a_query_in_words() -> None:
    parts = [Part(text="a beach"), Part(image_id=42, weight=0.5), Part(text="people", weight=-1)]
    assert describe(parts) == "a beach + 0.5 image 42 - people"
    assert describe([Part(image=Path("a.jpg"), weight=-2), Part(caption_id=7)]) == "- 2 image a.jpg + caption 7"
    assert describe([Part(image=PIL.Image.new("RGB", (2, 2)))]) == "a picture"
    assert named_images(parts) == (42,)
