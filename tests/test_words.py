"""The words of a filter, in many scripts, through a real embedded index."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import qdrant_edge as qdrant
from points import caption, image, unit

from search.errors import QueryError
from search.index import CollectionSpec, Points, Where, Words
from search.index.edge import filter
from search.index.edge.index import EdgeIndex
from search.query import Options
from search.searcher import Searcher

TEXTS = {
    1: "A café in Paris, no. 42, at 3.5 m",
    2: unicodedata.normalize("NFD", "un café crème à Noël, 3 people"),
    3: "一只狗在沙滩上奔跑",
    4: "犬が公園で3匹走っています",
    5: "สุนัขวิ่งบนชายหาด",
    6: "강아지가 해변에서 뛰고 있다",
    7: "A well-known T-shirt, the dog's 2nd toy 🐶",
    8: "Straße in München",
    9: "İzmir'de bir köpek",
    10: "\uff26\uff35\uff2c\uff2c width \uff13\uff14",
}


@pytest.fixture(scope="module")
def searcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Searcher]:
    index = EdgeIndex(tmp_path_factory.mktemp("words") / "index")
    plain = {"dataset": "mixed", "dim": 16, "model": "m", "weights": "w", "dtype": "float32", "decode": "full"}
    for kind in ("images", "captions"):
        index.create(CollectionSpec(kind=kind, annotations="a", photos="/p", splits={}, version="0", **plain))  # type: ignore[arg-type]
    records = [caption(number, 0, "test", text) for number, text in TEXTS.items()]
    index.upsert("mixed_captions", Points(records, unit(len(records), 16)))
    with Searcher(index, "mixed") as made:
        yield made


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("cafe", {1, 2}),
        ("CAFÉ", {1, 2}),
        (unicodedata.normalize("NFD", "café"), {1, 2}),
        ("creme noel", {2}),
        ("42", {1}),
        ("café 42", {1}),
        ("café 3", {1, 2}),
        ("4", set()),
        ("34", {10}),
        ("狗", {3}),
        ("沙滩 狗", {3}),
        ("公園", {4}),
        ("犬 3", {4}),
        ("公園・犬", {4}),
        ("สุนัข", {5}),
        ("ชายหาด", {5}),
        ("해변", {6}),
        ("well-known t-shirt", {7}),
        ("dog's", {7}),
        ("2nd", {7}),
        ("2", set()),
        ("dog 🐶", {7}),
        ("strasse", {8}),
        ("STRASSE munchen", {8}),
        ("izmir köpek", {9}),
        ("full width", {10}),
    ],
)
def test_words_are_found(searcher: Searcher, words: str, expected: set[int]) -> None:
    hits = searcher.search_vector(unit(1, 16, seed=1)[0], Options(to="captions", where=Where(contains=words)))
    assert {hit.id for hit in hits} == expected


@pytest.mark.parametrize("words", ["", "  ", "...", "。", "・", "฿", "។", "🐶", "\u0301", "-'-", "dog\0", "dog \ud83d"])
def test_a_filter_without_words_is_refused(words: str) -> None:
    with pytest.raises(QueryError, match="word"):
        Options(where=Where(contains=words))


def test_the_words_may_be_in_different_captions_of_an_image() -> None:
    assert Words.parse("狗 42").match(image(1, captions=("42", "一只狗")))
    assert not Words.parse("狗 43").match(image(1, captions=("42", "一只狗")))


def test_an_older_text_index_is_rebuilt_by_the_next_run(
    tmp_path: Path, make_spec: Callable[..., CollectionSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, where = make_spec(kind="captions"), Where(contains="cafe")
    older = qdrant.TextIndexParams(tokenizer=qdrant.TokenizerType.Word, lowercase=True)
    with monkeypatch.context() as patched:
        patched.setitem(filter._SCHEMAS, "words", older)
        index = EdgeIndex(tmp_path / "index")
        index.create(spec)
        index.upsert(spec.collection, Points([caption(1, 0, "test", "un café")], np.eye(1, 4, dtype=np.float32)))
        index.close()
    reading = EdgeIndex(tmp_path / "index")
    assert reading.count(spec.collection, where=where) == 0  # reading changes nothing
    reading.create(spec)
    assert reading.count(spec.collection, where=where) == 1
    reading.close()
    assert EdgeIndex(tmp_path / "index").count(spec.collection, where=where) == 1
