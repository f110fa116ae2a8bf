from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
from conftest import KARPATHY_TEST, needs
from hypothesis import given
from hypothesis import strategies as st

from eval.extended.lengths import length_groups


@given(st.lists(st.integers(0, 60), min_size=1, max_size=80))
def test_every_caption_is_in_one_group(lengths: list[int]) -> None:
    words = np.array(lengths)
    groups = length_groups(words)
    assert [groups[0][0], groups[-1][1]] == [min(lengths), max(lengths)]
    assert all(longest < shortest for (_, longest), (shortest, _) in pairwise(groups))
    held = [int(((words >= shortest) & (words <= longest)).sum()) for shortest, longest in groups]
    assert sum(held) == len(lengths)
    assert min(held) * 12 >= len(lengths)


@needs(KARPATHY_TEST)
def test_the_groups_of_the_real_captions() -> None:
    images = json.loads(KARPATHY_TEST.read_text())["images"]
    words = [len(sentence["raw"].split()) for image in images for sentence in image["sentences"][:5]]
    assert length_groups(np.array(words)) == [(6, 8), (9, 9), (10, 10), (11, 12), (13, 43)]
