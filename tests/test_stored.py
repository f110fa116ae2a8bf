"""Stored specifications: what is read back equals what was written, and the first wrong field is named."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any, get_args

import pytest
from conftest import plain_spec
from hypothesis import given, settings
from hypothesis import strategies as st

from search.errors import SpecMismatch
from search.index import CollectionSpec, CosineSpec, Source, SplitSize
from search.index.spec import ModelId, Padding, read_spec
from search.stored import Misfit, parse
from search.text import to_json

TEXTS, COUNTS, NUMBERS = st.text(max_size=3), st.integers(0), st.floats(allow_nan=False, allow_infinity=False)
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "revision": TEXTS,
        "text_model": st.builds(ModelId, model=TEXTS, revision=st.none() | TEXTS, weights=TEXTS),
        "roles": st.booleans(),
        "padding": st.sampled_from(get_args(Padding)),
        "sources": st.lists(st.builds(Source, format=TEXTS, path=TEXTS), max_size=2).map(tuple),
        "splits": st.dictionaries(TEXTS, st.builds(SplitSize, images=COUNTS, captions=COUNTS, images_in_file=COUNTS)),
        "cosines": st.builds(CosineSpec, mean=NUMBERS, std=st.just(1.5), pairs=COUNTS, seed=COUNTS, points=COUNTS),
    },
)


@given(CHANGES)
@settings(max_examples=50)
def test_what_is_stored_is_read_back(changes: dict[str, Any]) -> None:
    spec = plain_spec(**changes)
    assert read_spec("coco_images", json.loads(to_json(spec.as_json()))) == spec


def test_fields_that_a_newer_version_added_are_ignored() -> None:
    spec = plain_spec()
    assert parse(CollectionSpec, {**asdict(spec), "colour": "red"}) == spec


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"dim": "512"}, "dim"),
        ({"dim": True}, "dim"),
        ({"dim": 0}, "dim"),
        ({"kind": "videos"}, "kind"),
        ({"kind": []}, "kind"),
        ({"roles": 1}, "roles"),
        ({"revision": 7}, "revision"),
        ({"text_model": {"model": "a"}}, "text_model.weights"),
        ({"sources": [{"format": "coco", "path": "a"}, 3]}, "sources.1"),
        ({"splits": {"test": {"images": 1, "captions": None, "images_in_file": 1}}}, "splits.test.captions"),
        ({"cosines": {"mean": 0, "std": 0.0, "pairs": 1, "seed": 0, "points": 1}}, "cosines.std"),
    ],
)
def test_the_wrong_field_is_named(changes: dict[str, Any], place: str) -> None:
    with pytest.raises(SpecMismatch, match=rf"no valid specification \({place} is missing or wrong\)"):
        read_spec("coco_images", {**asdict(plain_spec()), **changes})


def test_a_missing_field_is_named_and_a_whole_number_is_a_float() -> None:
    stored = asdict(plain_spec())
    del stored["weights"]
    with pytest.raises(Misfit, match="weights is missing"):
        parse(CollectionSpec, stored)
    cosines = parse(CosineSpec, {"mean": 0, "std": 1, "pairs": 1, "seed": 0, "points": 1})
    assert (type(cosines.mean), cosines.std) == (float, 1.0)
