"""Read the reference captions of `python -m ingest hubness`: a sample of a file, or of a split of the index.

References resemble what people search for, but are never captions that an evaluation uses as queries: a reference in
the same words as a caption of val or test is dropped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from ingest.annotations import read_annotations
from search.encoder import Encoder
from search.errors import AnnotationError, EncoderError, SettingsError, SpecMismatch, TextError
from search.index import ReadIndex, Where, collection_name, usable
from search.ranking.sentences import words_of
from search.records import Caption, Vectors
from search.text import decode_text

EVALUATED = ("val", "test")  # the names of splits begin like this: val, val2017
FROM_SPLITS = ("train", "restval")
TEXTS_AT_ONCE = 500
POINTS_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class References:
    """Captions and their unit vectors, float32 (n, dim).

    `dropped` is how many of the captions that they were drawn from have the words of a caption of val or test.
    """

    texts: Sequence[str]
    vectors: Vectors
    dropped: int

    @property
    def sha256(self) -> str:
        """The hash of the texts in their order, one a line."""
        return hashlib.sha256("".join(f"{text}\n" for text in self.texts).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Sample:
    """How references are drawn: at most `count`, without replacement, by `seed`, in their original order."""

    count: int
    seed: int

    def rows(self, available: int) -> list[int]:
        rng = np.random.default_rng(self.seed)
        rows: list[int] = np.sort(rng.choice(available, min(self.count, available), replace=False)).tolist()
        return rows


def read_references(
    index: ReadIndex, dataset: str, source: str, sample: Sample, encoder: Callable[[], Encoder]
) -> References:
    """Return references from `source`: the name of a stored split, or a file.

    A file is an annotation file, of which the captions of train and restval are used (their photos need not be stored),
    or a text file with one caption a line. The captions of a split are stored with their vectors; only those of a file
    are encoded.

    Raises:
        SettingsError: `source` is neither.
        AnnotationError: the file cannot be read, or no reference is left.
        SpecMismatch: captions of a split were encoded differently than queries are.
    """
    collection = collection_name(dataset, "captions")
    splits = index.spec(collection).splits if collection in index.collections() else {}
    evaluated_splits = [name for name in splits if name.startswith(EVALUATED)]
    evaluated = {words_of(caption.text) for caption in _captions(index, collection, evaluated_splits)}
    if source in splits:
        return _of_split(index, collection, source, sample, evaluated)
    file = Path(source)
    if not file.is_file():
        stored = ", ".join(splits) or "none"
        what = "it is a folder, and there is" if file.is_dir() else "there is no such file, and"
        raise SettingsError(f"--references {source}: {what} no such split (stored: {stored})")
    texts, of_file = _texts(file)
    return _encoded(source, texts, sample, evaluated | of_file, encoder())


def _of_split(index: ReadIndex, collection: str, split: str, sample: Sample, evaluated: set[str]) -> References:
    if index.spec(collection).roles:
        raise SpecMismatch(
            f"the captions of {collection} were encoded as documents, and references must be encoded as queries are: "
            "use --references FILE"
        )
    ids, dropped = list[int](), 0
    for caption in _captions(index, collection, [split]):
        if words_of(caption.text) in evaluated:
            dropped += 1
        else:
            ids.append(caption.id)
    _check_left(f"split {split}", len(ids), dropped)
    chosen = [ids[row] for row in sample.rows(len(ids))]
    texts, vectors = list[str](), list[Vectors]()
    for start in range(0, len(chosen), POINTS_AT_ONCE):
        batch = index.retrieve(collection, chosen[start : start + POINTS_AT_ONCE], vectors=True)
        texts += [record.text for record in batch.records if isinstance(record, Caption)]
        if batch.vectors is not None:
            vectors.append(batch.vectors)
    return References(texts, np.concatenate(vectors), dropped)


def _encoded(source: str, texts: Sequence[str], sample: Sample, evaluated: set[str], encoder: Encoder) -> References:
    left = [text for text in texts if words_of(text) not in evaluated]
    dropped = len(texts) - len(left)
    _check_left(source, len(left), dropped)
    chosen = [left[row] for row in sample.rows(len(left))]
    vectors = np.empty((len(chosen), encoder.dim), dtype=np.float32)
    with tqdm(total=len(chosen), desc="encoding references", unit=" captions", dynamic_ncols=True) as bar:
        for start in range(0, len(chosen), TEXTS_AT_ONCE):
            part = chosen[start : start + TEXTS_AT_ONCE]
            vectors[start : start + len(part)] = encoder.encode_texts(part)
            bar.update(len(part))
    if not (good := usable(vectors)).all():
        raise EncoderError(f"{encoder.name} has no vector for the reference {chosen[int(np.argmin(good))]!r}")
    return References(chosen, vectors, dropped)


def _texts(file: Path) -> tuple[list[str], set[str]]:
    """Return the captions of a file to draw from, and the words of its captions of val and test."""
    try:
        content = file.read_bytes()
        is_of_annotations = file.suffix.lower() in (".csv", ".tsv", ".json")
        if is_of_annotations or content.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
            return _of_annotations(file)
        lines = decode_text(content).splitlines()
    except OSError as error:
        raise AnnotationError(f"cannot read the references {file}: {error.strerror}") from error
    except TextError as error:
        raise AnnotationError(f"{file}: {error}") from None
    return [line.strip() for line in lines if line.strip()], set()


def _of_annotations(file: Path) -> tuple[list[str], set[str]]:
    annotations = read_annotations(file, file.parent)
    texts = [caption.text for caption in annotations.captions if caption.split.startswith(FROM_SPLITS)]
    if not texts:
        raise AnnotationError(f"{file} has no captions of {' or '.join(FROM_SPLITS)} to use as references")
    return texts, {words_of(caption.text) for caption in annotations.captions if caption.split.startswith(EVALUATED)}


def _captions(index: ReadIndex, collection: str, splits: Sequence[str]) -> Iterator[Caption]:
    if splits:
        for batch in index.scan(collection, where=Where(splits=tuple(splits))):
            yield from _only_captions(batch.records)


def _only_captions(records: Iterable[object]) -> Iterator[Caption]:
    return (record for record in records if isinstance(record, Caption))


def _check_left(source: str, left: int, dropped: int) -> None:
    if not left:
        why = f"all {dropped:,} are captions of val or test" if dropped else "it is empty"
        raise AnnotationError(f"{source} has no captions to use as references: {why}")
