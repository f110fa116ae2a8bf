from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from points import caption, image
from test_oracle import by_hand, unit

from eval.ground_truth import read_ground_truth
from eval.protocol import Evaluation
from eval.ranks.oracle import oracle_ranks
from eval.ranks.replay import agreement, replay
from search.errors import EvaluationError
from search.index import CollectionSpec, Index, Points, SplitSize

MakeSpec = Callable[..., CollectionSpec]
Matrix = npt.NDArray[np.float32]


def store(index: Index, make_spec: MakeSpec, images: Matrix, captions: Matrix, *, expected: int | None = None) -> None:
    """Images 0..n-1, alternately in test and val, each with as many captions as divide up evenly."""
    each = len(captions) // len(images)
    texts = tuple(f"sentence {position}" for position in range(each))
    sizes = {
        split: SplitSize(
            images=(expected or len(images)) // 2, captions=each * len(images) // 2, images_in_file=len(images) // 2
        )
        for split in ("test", "val")
    }
    spec = make_spec(dim=images.shape[1], splits=sizes)
    index.create(spec)
    splits = ["test" if number % 2 == 0 else "val" for number in range(len(images))]
    index.upsert(
        spec.collection, Points([image(number, splits[number], texts) for number in range(len(images))], images)
    )
    spec = make_spec(dim=images.shape[1], splits=sizes, kind="captions")
    index.create(spec)
    index.upsert(
        spec.collection,
        Points(
            [
                caption(number * 10 + position, position, splits[number], texts[position])
                for number in range(len(images))
                for position in range(each)
            ],
            captions,
        ),
    )


def related(images: int, per_image: int, dim: int, noise: float, seed: int = 0) -> tuple[Matrix, Matrix]:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(images, dim))
    near = np.repeat(centres, per_image, axis=0) + noise * rng.normal(size=(images * per_image, dim))
    return unit(centres), unit(near)


def read(index: Index, dataset: str, splits: list[str], captions: int | None = 5) -> Evaluation:
    return read_ground_truth(index, dataset, splits, captions)


def test_qdrant_exact_agrees_with_the_oracle(
    index: Index, make_spec: MakeSpec, dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eval.ranks.replay.SHALLOW", 4)
    monkeypatch.setattr("eval.ranks.replay.MARGIN", 1)
    store(index, make_spec, *related(40, 6, 16, noise=4.0))
    for splits, keep, images, captions in (
        (["test"], 5, 20, 100),
        (["test"], None, 20, 120),
        (["all"], 5, 40, 200),
        (["val", "test"], None, 40, 240),
    ):
        protocol = read(index, dataset, splits, keep)
        assert (protocol.images, protocol.captions) == (images, captions)
        for of in protocol.tasks:
            oracle = oracle_ranks(of)
            exact = replay(index, of, expected=(oracle.lowest, oracle.highest)).ranks
            wrongs = (np.ones_like(exact), exact + 40) if images == 40 and keep == 5 else ()
            for wrong in wrongs:  # what is expected saves time, and decides nothing
                found_anyway = replay(index, of, expected=(np.ones_like(exact), wrong)).ranks
                assert found_anyway.tolist() == exact.tolist()
            assert oracle.ranks.tolist() == by_hand(of)
            found = agreement(oracle, exact)
            assert not len(found.unexplained), str(found)
            assert np.mean(exact <= 10) == pytest.approx(np.mean(oracle.ranks <= 10), abs=0.01)
            assert oracle.ranks.max() > 10  # so that the first ten were not enough


def test_positives_are_the_images_own_captions(index: Index, make_spec: MakeSpec, dataset: str) -> None:
    store(index, make_spec, *related(6, 4, 8, noise=0.5))
    protocol = read(index, dataset, ["test"], 3)
    to_text, to_image = protocol.tasks
    for row, image_id in enumerate(to_text.queries.ids):
        assert to_text.gallery.ids[to_text.positives_of(row)].tolist() == [image_id * 10 + n for n in range(3)]
    for row, caption_id in enumerate(to_image.queries.ids):
        assert to_image.gallery.ids[to_image.positives_of(row)].tolist() == [caption_id // 10]


def test_a_missing_image_is_an_error(index: Index, make_spec: MakeSpec, dataset: str) -> None:
    store(index, make_spec, *related(10, 5, 8, noise=0.5), expected=14)
    with pytest.raises(EvaluationError, match="split test lacks 2 of 7 images"):
        read(index, dataset, ["test"])


def test_strangers_in_the_gallery_are_an_error(index: Index, make_spec: MakeSpec, dataset: str) -> None:
    images, captions = related(10, 5, 8, noise=0.5)
    store(index, make_spec, images, captions)
    collection = make_spec().collection
    index.upsert(collection, Points([image(100, "test", tuple("abcde"))], images[:1]))
    with pytest.raises(EvaluationError, match="6 images where its annotation file or folder has 5"):
        read(index, dataset, ["test"])


def test_left_over_captions_are_an_error(index: Index, make_spec: MakeSpec, dataset: str) -> None:
    images, captions = related(10, 5, 8, noise=0.5)
    store(index, make_spec, images, captions)
    index.upsert(make_spec().collection, Points([image(0, "test", tuple("abc"))], images[:1]))
    with pytest.raises(EvaluationError, match="2 captions are no longer listed with any image: remove them"):
        read(index, dataset, ["test"])


def test_a_split_that_is_not_there(index: Index, make_spec: MakeSpec, dataset: str) -> None:
    store(index, make_spec, *related(10, 5, 8, noise=0.5))
    with pytest.raises(EvaluationError, match="no split 'train': use --split test, --split val, or --split all"):
        read(index, dataset, ["train"])


def test_missing_captions_are_an_error(index: Index, make_spec: MakeSpec, dataset: str) -> None:
    images, captions = related(10, 5, 8, noise=0.5)
    store(index, make_spec, images, captions)
    extra = make_spec(dim=8)
    index.upsert(extra.collection, Points([image(0, "test", tuple("abcdef"))], images[:1]))
    read(index, dataset, ["test"], 5)
    with pytest.raises(EvaluationError, match="1 of 26 captions are missing"):
        read(index, dataset, ["test"], None)


def test_an_empty_collection(index: Index, make_spec: MakeSpec, dataset: str) -> None:
    for kind in ("images", "captions"):
        index.create(make_spec(kind=kind))
    with pytest.raises(EvaluationError, match="no points"):
        read(index, dataset, ["test"])


def test_what_is_expected_never_hides_a_better_positive(index: Index, make_spec: MakeSpec, dataset: str) -> None:
    """Two captions of an image, far apart in the ranking, and bounds that speak of the worse one alone."""
    images, captions = related(120, 2, 16, noise=6.0)
    store(index, make_spec, images, captions)
    of = read(index, dataset, ["all"]).image_to_text
    oracle = oracle_ranks(of)
    worse = oracle.positive_ranks.reshape(-1, 2)[:, 1]
    assert ((oracle.ranks > 10) & (worse > 2 * oracle.ranks) & (worse > 100)).any()
    assert replay(index, of, expected=(worse, worse)).ranks.tolist() == oracle.ranks.tolist()
