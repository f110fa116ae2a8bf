"""The command `hubness`: measure how near each image is to captions in general, and store that number with it.

Some images, called hubs, are near nearly every caption, and take the first places from the image that a caption
describes. Nearest-Neighbour Normalization (Chowdhury et al., EMNLP 2024, arXiv 2410.24114) subtracts from each score
alpha times the mean cosine of the image's k nearest reference captions. The mean is computed here; `search` and `eval`
subtract it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from search.cli.command import Exit, JsonOption, expanded, note, print_json
from search.cli.flags import SourceFlags
from search.errors import IndexFailure, QueryError
from search.records import HUBNESS, MAX_HUBNESS
from search.settings import load_settings

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ingest.references import References
    from search.encoder import Encoder
    from search.index import HubnessSpec, Index, ReadIndex
    from search.records import Vectors

    Floats = npt.NDArray[np.float64]

MOST_REFERENCES = 100_000
MEASURING = ("--k", "--count", "--seed", "--model", "--text-model", "--trust-remote-code", "--device")
NEEDS = dict.fromkeys(MEASURING, ("--references",))
DIGITS = 9  # of a stored number
CELLS = 1 << 22  # cosines in memory at a time, 32 MiB of float64
POINTS_PER_WRITE = 1000


@dataclass(frozen=True, slots=True)
class Numbers:
    """The number of each image: `ids` and `values` are in the order of the index, `k` is the number of references of
    which each is the mean."""

    ids: list[int]
    values: list[float]
    k: int


def hubness(
    source: SourceFlags,
    references: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|SPLIT",
            help="Captions to measure with: train and restval of an annotation file, a text file with one a line, or "
            "those of a stored split. Captions of val and test are never used",
        ),
    ] = None,
    k: Annotated[int, typer.Option("--k", min=1, help="Number of nearest references of each image")] = 128,
    count: Annotated[int, typer.Option(min=1, max=MOST_REFERENCES, help="Number of references to draw")] = 5000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draw")] = 0,
    alpha: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=MAX_HUBNESS,
            help="Correct every search by this many times the number; 0 stops it. See `eval tune`",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Store with each image how near it is to captions in general, to keep hubs out of the first places."""
    from search.index import collection_name, only_dataset, open_for_writing

    if references is None and alpha is None:
        raise typer.BadParameter("give --references, to measure the images, or --alpha, to store how to use the result")
    try:
        with closing(open_for_writing(load_settings(source.path, source.url))) as index:
            dataset = source.dataset or only_dataset(index)
            collection = collection_name(dataset, "images")
            if references is not None:
                _measure(index, dataset, source, references, k, count, seed)
            stored = _with_alpha(index, collection, alpha)
    except KeyboardInterrupt:
        note("\ninterrupted: run the same command again; until then, corrected searches may be refused")
        raise typer.Exit(Exit.INTERRUPTED) from None
    if as_json:
        print_json(_as_json(collection, stored), indent=1)
    else:
        typer.echo(_describe(collection, stored))


def _measure(index: Index, dataset: str, source: SourceFlags, references: str, k: int, count: int, seed: int) -> None:
    from ingest.references import Sample, read_references
    from search.index import collection_name

    collection = collection_name(dataset, "images")
    spec = index.spec(collection)

    def encoder() -> Encoder:
        if spec.imported:
            raise QueryError(
                f"{dataset} holds imported vectors of {spec.model}, a model that is not known here, so the references "
                "cannot be encoded: name a stored split with --references SPLIT"
            )
        return source.encoder(spec)

    read = read_references(index, dataset, references, Sample(count, seed), encoder)
    store(index, collection, read, measure(index, collection, read.vectors, k))


def measure(index: ReadIndex, collection: str, references: Vectors, k: int) -> Numbers:
    """Return the mean cosine of each stored image with the `k` nearest of `references`, float32 (m, dim).

    Cosines are computed and added in float64, in blocks: memory does not grow with the collection.

    Raises:
        IndexFailure: the collection holds no points.
    """
    import numpy as np
    from tqdm.auto import tqdm

    columns, k = references.astype(np.float64).T, min(k, len(references))
    ids, values = list[int](), list[float]()
    with tqdm(total=index.count(collection), desc="measuring", unit=" images", file=sys.stderr) as bar:
        for batch in index.scan(collection, vectors=True):
            assert batch.vectors is not None
            ids += [record.id for record in batch.records]
            for block in _blocks(batch.vectors, max(1, CELLS // len(references))):
                nearest = np.partition(block.astype(np.float64) @ columns, len(references) - k, axis=1)
                values += nearest[:, len(references) - k :].mean(axis=1).round(DIGITS).tolist()
            bar.update(len(batch.records))
    if not ids:
        raise IndexFailure(f"{collection} holds no images: run `python -m ingest run` first")
    return Numbers(ids, values, k)


def _blocks(vectors: Vectors, rows: int) -> Iterator[Vectors]:
    return (vectors[start : start + rows] for start in range(0, len(vectors), rows))


def store(index: Index, collection: str, references: References, numbers: Numbers) -> HubnessSpec:
    """Write the numbers into the payloads, and return what describes them, which is written last.

    The collection is marked as incomplete in between, so that a mixture of old and new numbers is never used. An alpha
    that is stored stays. At the end the HNSW index is built again: writing payloads moves points out of it.

    Raises:
        IndexFailure: the index refuses, or images were added or deleted meanwhile.
    """
    from tqdm.auto import tqdm

    from ingest.building import build_index
    from search.index import HubnessSpec
    from search.ranking.sentence_sets import pack

    made = HubnessSpec(
        k=numbers.k,
        points=len(numbers.ids),
        smallest=min(numbers.values),
        count=len(references.texts),
        dropped=references.dropped,
        sha256=references.sha256,
        sentences=pack(references.texts),
    )
    _describe_numbers(index, collection, made.incomplete())
    fields = {image: {HUBNESS: value} for image, value in zip(numbers.ids, numbers.values, strict=True)}
    with tqdm(total=len(fields), desc="writing", unit=" images", file=sys.stderr) as bar:
        for start in range(0, len(numbers.ids), POINTS_PER_WRITE):
            part = numbers.ids[start : start + POINTS_PER_WRITE]
            index.set_fields(collection, {image: fields[image] for image in part})
            bar.update(len(part))
    if (now := index.count(collection)) != len(numbers.ids):
        raise IndexFailure(
            f"{collection} held {len(numbers.ids):,} images and now holds {now:,}: another process is writing to it; "
            "run the same command again"
        )
    described = _describe_numbers(index, collection, made)
    build_index(index, collection, len(numbers.ids))
    return described


def _describe_numbers(index: Index, collection: str, made: HubnessSpec) -> HubnessSpec:
    """Store `made` with the alpha that is stored now, in the specification as it is now: another run may change it."""
    spec = index.spec(collection)
    described = replace(made, alpha=spec.hubness.alpha if spec.hubness else None)
    index.set_spec(replace(spec, hubness=described))
    return described


def _with_alpha(index: Index, collection: str, alpha: float | None) -> HubnessSpec:
    """Store alpha, if it is given, and return the stored specification."""
    spec = index.spec(collection)
    if spec.hubness is None:
        raise QueryError(
            f"the images of {collection} have no numbers that --alpha could multiply: "
            "run `python -m ingest hubness --references FILE|SPLIT` first"
        )
    if alpha is None:
        return spec.hubness
    stored = replace(spec.hubness, alpha=alpha)
    index.set_spec(replace(spec, hubness=stored))
    return stored


def _as_json(collection: str, stored: HubnessSpec) -> dict[str, Any]:
    return {"collection": collection, **stored.without_sentences()}


def _describe(collection: str, stored: HubnessSpec) -> str:
    if stored.alpha and not stored.complete:
        use = "corrected searches are refused: run `python -m ingest hubness --references FILE|SPLIT` again"
    elif stored.alpha is None:
        use = "searches are not corrected: choose alpha with `python -m eval tune --hubness`, and store it with --alpha"
    else:
        use = f"searches are corrected with alpha {stored.alpha:g}" if stored.alpha else "searches are not corrected"
    dropped = f", {stored.dropped:,} were dropped as captions of val or test" if stored.dropped else ""
    return (
        f"{collection}: {stored.points:,} images have the mean cosine of their {stored.k} nearest references "
        f"(smallest {stored.smallest:.4f})\n{stored.count:,} references{dropped}\n{use}"
    )


command = expanded(hubness)
