"""The scores as MTEB counts them: its counts on the real captions, its scores by a ranking written out."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from conftest import KARPATHY_TEST, needs, plain_spec
from test_oracle import anything

from eval.extended.mteb import as_mteb_counts, merged_tasks, sentence
from eval.protocol import Evaluation, Side, both_tasks
from search.index import Where


def evaluation(captions: list[list[str]], dim: int = 8) -> Evaluation:
    """Images with such captions, and random vectors; equal sentences in one spelling have one vector."""
    rng = np.random.default_rng(0)
    texts = [text for of_image in captions for text in of_image]
    image_of = np.repeat(np.arange(len(captions)), [len(of_image) for of_image in captions])
    vector_of = dict(zip(texts, anything(rng, len(texts), dim), strict=True))
    images = Side("images", np.arange(len(captions)), anything(rng, len(captions), dim), Where())
    gallery = Side("captions", np.arange(len(texts)), np.array([vector_of[text] for text in texts]), Where())
    to_text, to_image = both_tasks(images, gallery, image_of)
    return Evaluation(plain_spec(), ("test",), 5, to_text, to_image, image_of, [], texts, 0, ())


@needs(KARPATHY_TEST)
def test_the_counts_of_the_real_captions() -> None:
    images = json.loads(KARPATHY_TEST.read_text())["images"]
    to_text, to_image = merged_tasks(
        evaluation([[sentence["raw"] for sentence in image["sentences"][:5]] for image in images], dim=2)
    )
    assert (len(to_text.queries.ids), len(to_text.gallery.ids), len(to_text.positives)) == (5000, 24_809, 24_989)
    assert (len(to_image.queries.ids), len(to_image.gallery.ids), len(to_image.positives)) == (24_809, 5000, 24_989)


@needs(KARPATHY_TEST)
def test_the_scores_are_those_of_the_definition() -> None:
    """Over the real captions that others share, where merging matters, and as many that none shares."""
    images = json.loads(KARPATHY_TEST.read_text())["images"]
    captions = [[found["raw"] for found in image["sentences"][:5]] for image in images]
    keys = [sentence(text) for of_image in captions for text in of_image]
    often = {key for key, count in Counter(keys).items() if count > 1}
    shared = [number for number, of_image in enumerate(captions) if any(sentence(text) in often for text in of_image)]
    of = evaluation([captions[number] for number in sorted({*shared[:150], *range(150)})])
    found = as_mteb_counts(of)
    assert found is not None
    assert found.pairs > found.sentences
    relevant: dict[str, set[int]] = {}
    vector_of: dict[str, np.ndarray[tuple[int], np.dtype[np.float32]]] = {}
    for row, (text, image) in enumerate(zip(of.texts, of.image_of.tolist(), strict=True)):
        relevant.setdefault(sentence(text), set()).add(image)
        vector_of.setdefault(sentence(text), of.text_to_image.queries.vectors[row])
    sentences = np.array(list(vector_of.values())).astype(np.float64)
    images_of = list(relevant.values())
    of_images = [{row for row, own in enumerate(images_of) if image in own} for image in range(of.images)]
    scores = sentences @ of.text_to_image.gallery.vectors.T.astype(np.float64)
    for way, qrels, rows in (("text-to-image", images_of, scores), ("image-to-text", of_images, scores.T)):
        ndcg, recalls = [], []
        for own, row in zip(qrels, rows, strict=True):
            first = np.argsort(-row)[:10].tolist()
            gain = sum(1 / math.log2(place + 1) for place, item in enumerate(first, start=1) if item in own)
            ndcg.append(gain / sum(1 / math.log2(place + 1) for place in range(1, min(10, len(own)) + 1)))
            recalls.append([len(own & set(first[:k])) / len(own) for k in (1, 5, 10)])
        expected = [100 * np.mean(ndcg), *(100 * np.mean(recalls, axis=0))]
        assert list(found.scores[way]) == ["ndcg_at_10", "recall_at_1", "recall_at_5", "recall_at_10"]
        assert list(found.scores[way].values()) == pytest.approx(expected, abs=1e-9)
    assert found.pessimistic == {}


def test_by_hand() -> None:
    """Two images share a sentence in two spellings; the second has it twice."""
    of = evaluation([["A dog.", "a red kite"], ["a dog", " A DOG ", "a boat"]], dim=2)
    found = as_mteb_counts(of)
    assert found is not None
    assert (found.sentences, found.pairs) == (3, 4)
    to_text, to_image = merged_tasks(of)
    assert [to_text.positives_of(row).tolist() for row in range(2)] == [[0, 1], [0, 2]]
    assert [to_image.positives_of(row).tolist() for row in range(3)] == [[0, 1], [0], [1]]
    assert to_image.queries.ids.tolist() == [0, 1, 4]
    assert found.scores["text-to-image"]["recall_at_5"] == 100
    assert as_mteb_counts(replace(of, captions_per_image=None)) is None
