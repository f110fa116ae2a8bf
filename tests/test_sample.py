"""Real COCO photos, a real model, and the scores that an independent float64 computation got with them."""

from __future__ import annotations

import json

import pytest
from conftest import PHOTO_TEXT_MODEL, SAMPLE, Call, ingest_options, needs

pytestmark = [needs(SAMPLE), needs(PHOTO_TEXT_MODEL)]


@pytest.mark.parametrize("splits", [["test"], pytest.param(["test", "all"], marks=pytest.mark.slow)], ids=len)
def test_scores_of_the_sample(call: Call, place: list[str], splits: list[str]) -> None:
    options = ingest_options(SAMPLE, PHOTO_TEXT_MODEL, place)
    code, out, _ = call("ingest", *options, *([] if "all" in splits else ["--split", "test"]))
    assert code == 0
    expected = json.loads((SAMPLE / "EXPECTED.json").read_text())
    assert f"{expected[splits[-1]]['images']} points" in out
    for split in splits:
        _, out, _ = call("eval", "run", "--split", split, "--captions", "all", "--engine", "exact", "--json", *place)
        found = json.loads(out)
        assert (found["images"], found["captions"]) == (expected[split]["images"], expected[split]["captions"])
        assert all(count["differ_unexplained"] == 0 for count in found["agreement"].values())
        for direction, queries in (("image-to-text", found["images"]), ("text-to-image", found["captions"])):
            for scores in (found[direction], found["oracle"][direction]):
                for k in (1, 5, 10):
                    one_query = 100 / queries
                    wanted = expected[split][direction][f"recall@{k}"]
                    assert scores[f"recall@{k}"] == pytest.approx(wanted, abs=one_query + 0.001)
                assert scores["median_rank"] == expected[split][direction]["median_rank"]
                assert scores["mean_rank"] == pytest.approx(expected[split][direction]["mean_rank"], abs=0.1)

    if "all" in splits:  # there are not enough zebras otherwise
        _, out, _ = call("search", "text", "zebras on the grass", "-k", 3, "--json", *place)
        for line in out.splitlines():
            assert any("zebra" in text.lower() for text in json.loads(line)["captions"])
