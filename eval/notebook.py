"""Measure an index, or vectors of any model, from Python: the metrics of `python -m eval run` as an object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt

from eval.evaluate import Plan, evaluate
from eval.ground_truth import read_ground_truth
from eval.protocol import FIRST_CAPTIONS, Evaluation, Ids, Side, both_tasks
from eval.runs import RunMetrics
from search.errors import EvaluationError
from search.index import CollectionSpec, ReadIndex, Where, only_dataset
from search.records import Vectors
from search.searcher import Searcher


@dataclass(frozen=True, slots=True, eq=False)
class Embeddings:
    """Vectors of images and of their captions, made by any model.

    They need not be of unit length: the score is the cosine.

    Args:
        images: (n, dim), numbers of any type; tensors of torch must be on the CPU.
        captions: (m, dim).
        image_of: (m,), the row in `images` of each caption's image; every image has at least one caption.
        model, dataset: names, which the table shows.
        texts: the m captions, if the scores by their length are wanted.
    """

    images: npt.ArrayLike
    captions: npt.ArrayLike
    image_of: npt.ArrayLike
    model: str = "unnamed model"
    dataset: str = "arrays"
    texts: Sequence[str] = field(default=(), repr=False)


def measure(
    source: Searcher | ReadIndex | Embeddings,
    *,
    split: str | Sequence[str] = "test",
    dataset: str | None = None,
    captions_per_image: int | None = FIRST_CAPTIONS,
    plan: Plan | None = None,
) -> RunMetrics:
    """Return the metrics of `python -m eval run`, which a notebook shows as a table.

    `metrics.scores["text-to-image"]["recall@1"]` is a percentage; `metrics.as_json()` is the object of metrics.json.

    Args:
        source: a searcher, an index, or arrays. Of arrays, all captions are evaluated, by the oracle alone.
        split: of an index: the names of one or several splits, or "all".
        dataset: of an index: the name of the data set; may be left out if it holds a single one.
        captions_per_image: of an index: the first so many captions of each image, None for all.
        plan: what to measure besides the oracle, by default Qdrant's exact search and the index as served.

    Raises:
        CollectionMissing: the index does not hold the data set.
        EvaluationError: a split does not exist, images or captions are missing, or the arrays do not fit together.
    """
    plan = plan or Plan()
    if isinstance(source, Embeddings):
        return evaluate(None, evaluation_of(source), plan).metrics()
    index, name = (source.index, source.dataset) if isinstance(source, Searcher) else (source, None)
    splits = [split] if isinstance(split, str) else list(split)
    evaluation = read_ground_truth(index, dataset or name or only_dataset(index), splits, captions_per_image)
    return evaluate(index, evaluation, plan).metrics()


def evaluation_of(embeddings: Embeddings) -> Evaluation:
    """Return arrays as an evaluation of all of their captions.

    Raises:
        EvaluationError: the arrays do not fit together, a vector is not usable, or an image has no caption.
    """
    images, captions = _unit_vectors("images", embeddings.images), _unit_vectors("captions", embeddings.captions)
    image_of = _array("image_of", embeddings.image_of)
    if images.shape[1] != captions.shape[1]:
        raise EvaluationError(f"images have {images.shape[1]:,} dimensions, captions {captions.shape[1]:,}")
    if image_of.shape != (len(captions),) or not np.issubdtype(image_of.dtype, np.integer):
        raise EvaluationError(
            f"image_of must hold one row number for each of the {len(captions):,} captions, not "
            f"{image_of.dtype} {image_of.shape}"
        )
    if wrong := image_of[(image_of < 0) | (image_of >= len(images))].tolist():
        raise EvaluationError(f"image_of holds {wrong[0]}, and the rows of the images are 0 to {len(images) - 1}")
    if missing := np.setdiff1d(np.arange(len(images)), image_of).tolist():
        raise EvaluationError(f"{len(missing):,} images have no caption, such as row {missing[0]}: leave them out")
    if len(embeddings.texts) not in (0, len(captions)):
        raise EvaluationError(f"there are {len(embeddings.texts):,} texts of {len(captions):,} captions")
    of_captions = image_of.astype(np.int64)
    image_to_text, text_to_image = both_tasks(_side("images", images), _side("captions", captions), of_captions)
    return Evaluation(
        spec=_spec(embeddings, images.shape[1]),
        splits=("all",),
        captions_per_image=None,
        image_to_text=image_to_text,
        text_to_image=text_to_image,
        image_of=of_captions,
        files=[f"row {row}" for row in range(len(images))],
        texts=list(embeddings.texts),
        truncated=0,
        notes=(),
    )


def _unit_vectors(name: str, given: npt.ArrayLike) -> Vectors:
    vectors = _array(name, given, np.float64)
    if vectors.ndim != 2 or not vectors.size:
        raise EvaluationError(f"{name} must have the shape (number, dimensions), not {vectors.shape}")
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if unusable := np.flatnonzero(~np.isfinite(lengths[:, 0]) | (lengths[:, 0] == 0)).tolist():
        raise EvaluationError(f"row {unusable[0]} of the {name} is not a usable vector: NaN, infinite or zero")
    scaled: Vectors = (vectors / lengths).astype(np.float32)
    return scaled


def _array(name: str, given: npt.ArrayLike, dtype: type[np.float64] | None = None) -> npt.NDArray[Any]:
    try:
        return np.asarray(given, dtype=dtype)
    except (ValueError, TypeError, RuntimeError) as error:  # uneven rows, texts, a tensor on a GPU or with gradients
        raise EvaluationError(f"{name} must be an array of numbers: {error}") from None


def _side(name: str, vectors: Vectors) -> Side:
    ids: Ids = np.arange(len(vectors), dtype=np.int64)
    return Side(name, ids, vectors, Where())


def _spec(embeddings: Embeddings, dim: int) -> CollectionSpec:
    return CollectionSpec(
        dataset=embeddings.dataset,
        kind="images",
        dim=dim,
        model=embeddings.model,
        weights="",
        dtype="float32",
        decode="",
        annotations="",
        photos="",
        imported=True,
        splits={},
        version=version("coco-search"),
    )
