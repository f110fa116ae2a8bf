"""The specification of a collection: how it was made, stored with it, and checked when it is written or searched."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from search.errors import QueryError, SpecMismatch
from search.index.names import collection_name
from search.index.sources import KARPATHY, OF_OLDER_VERSIONS, Source, joined, others
from search.records import Kind
from search.stored import Misfit, parse
from search.text import read_path

Padding = Literal["longest", "max_length"]
"""Texts are padded to the longest of their batch, or to the full length that the model reads."""


def short_model_name(model: str) -> str:
    """Return at most the last two parts of a model's name or path: the folder alone may be called `model`."""
    return "/".join([part for part in re.split(r"[/\\]", model) if part][-2:]) or model


@dataclass(frozen=True, kw_only=True)
class SplitSize:
    """One split: the images and captions that ingestion was to embed, and its images in the annotation file."""

    images: int
    captions: int
    images_in_file: int


@dataclass(frozen=True, kw_only=True)
class ModelId:
    """A model: its folder, or its name on the hub and the commit, and a hash of its tensors.

    A model that was only moved or renamed has the same `weights`.
    """

    model: str
    revision: str | None = None
    weights: str

    def __str__(self) -> str:
        """Return the model as `--model` takes it."""
        return f"{self.model}@{self.revision}" if self.revision else self.model

    @property
    def with_weights(self) -> str:
        return f"{self} (weights {self.weights[:12]})"


@dataclass(frozen=True, kw_only=True)
class HubnessSpec:
    """How the numbers `hubness` of a collection of images were made (`ingest/hubness.py`), and how they are used.

    `alpha` is how many times the number is subtracted from each cosine, None if queries are not corrected by default.
    `points` have a number, the `smallest` of which is given: the mean cosine of the `k` nearest of `count` references,
    whose texts have this `sha256`. `dropped` more were captions of val or test. `sentences` is the set of the
    references' texts (`pack` of `search/ranking/sentence_sets.py`), which an evaluation refuses as queries. `complete`
    is false while the numbers are being written, and after images were added or embedded again.
    """

    alpha: float | None = None
    k: int
    points: int
    smallest: float
    count: int
    dropped: int
    sha256: str
    sentences: str
    complete: bool = True

    def incomplete(self) -> HubnessSpec:
        return replace(self, complete=False)

    def without_sentences(self) -> dict[str, Any]:
        """Return the JSON object without `sentences`, which is long and not readable."""
        return {name: value for name, value in asdict(self).items() if name != "sentences"}


@dataclass(frozen=True, kw_only=True)
class CosineSpec:
    """The mean and the standard deviation of the cosines of captions with points of other photos.

    `search/ranking/cosines.py` measured them on this number of `pairs`, drawn by the `seed`, when the collection had
    this number of `points`.
    """

    mean: float
    std: float
    pairs: int
    seed: int
    points: int

    def __post_init__(self) -> None:
        if not self.std > 0:
            raise Misfit("std")


@dataclass(frozen=True, kw_only=True)
class CollectionSpec:
    """How the vectors of one collection were made.

    `model`, `revision` and `weights` are those of `model_id`; `text_model` embeds the texts if another model embeds the
    photos; `trust_remote_code` allowed both to run code of their own; with `roles`, photos and captions were encoded as
    documents, by a model that encodes queries differently; `annotations` is the SHA-256 of the annotation file;
    `prompt` wraps every text ("a photo of {}"); `padding` is how texts were padded (None in older collections, whose
    texts were padded to the longest without checking that the model allows it); `decode` is how photos were decoded;
    `photos` is the folder that file names are relative to (a `file:` URL if its name is not UTF-8: `photo_folder` reads
    both); with `follow_links`, links may lead out of it; `photo_url` is the address that photos are below, if given;
    `sources` are the annotation files and folders that filled the collection (none in older collections, filled from
    Karpathy's). If `imported`, the vectors were computed elsewhere: `model` is the name that the user gave, and no
    query can be encoded. `version` is that of this software; `hubness` describes the numbers of that name, if images
    have them; `cosines` tells how near captions are to points that they do not describe (None in older collections).
    """

    dataset: str
    kind: Kind
    dim: int
    model: str
    revision: str | None = None
    weights: str
    text_model: ModelId | None = None
    trust_remote_code: bool = False
    roles: bool = False
    dtype: str
    prompt: str | None = None
    padding: Padding | None = None
    decode: str
    annotations: str
    photos: str
    follow_links: bool = False
    photo_url: str | None = None
    sources: tuple[Source, ...] = ()
    imported: bool = False
    splits: dict[str, SplitSize]
    version: str
    hubness: HubnessSpec | None = None
    cosines: CosineSpec | None = None

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise Misfit("dim")
        object.__setattr__(self, "splits", dict(sorted(self.splits.items())))  # a server returns them in any order

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object that `read_spec` parses."""
        return asdict(self)

    @property
    def photo_folder(self) -> Path:
        return read_path(self.photos)

    @property
    def collection(self) -> str:
        return collection_name(self.dataset, self.kind)

    @property
    def model_id(self) -> ModelId:
        """The model that embedded the photos."""
        return ModelId(model=self.model, revision=self.revision, weights=self.weights)

    @property
    def is_numbered(self) -> bool:
        """Whether every image had a number `hubness`, all from the same references, when they were last written."""
        return self.hubness is not None and self.hubness.complete

    @property
    def has_plain_texts(self) -> bool:
        """Whether texts are embedded by the text tower of `model`, without a role or code of the model's own."""
        return not (self.imported or self.text_model or self.trust_remote_code or self.roles)

    def check_queryable(self) -> None:
        """Raise QueryError if texts and pictures cannot be encoded, because the vectors were imported."""
        if self.imported:
            raise QueryError(
                f"{self.dataset} holds imported vectors of {self.model}, a model that is not known here, so neither "
                "texts nor pictures can be encoded: search with the id of a stored image"
            )

    def check_imported(self, *, imported: bool) -> None:
        """Raise SpecMismatch unless the vectors of this collection were imported, or not, like those to be added."""
        if imported != self.imported:
            holds = f"imported vectors of {self.model}, a model that is not known here"
            raise SpecMismatch(
                f"{self.collection} holds {holds if self.imported else f'vectors that {self.model_id} embedded here'}: "
                f"use another --dataset NAME, or delete it with `python -m ingest drop --dataset {self.dataset}`"
            )

    def check_model(self, model: ModelId) -> None:
        """Raise SpecMismatch, with the names of both models, unless the photos were embedded by this model."""
        if model.weights != self.weights:
            option = "--model-name" if self.imported else "--model"
            raise SpecMismatch(
                f"{self.collection} holds vectors of {self.model_id.with_weights} in {self.dim} dimensions, not of "
                f"{model.with_weights}: use {option} {self.model_id}, keep both with another --dataset NAME, or delete "
                f"it with `python -m ingest drop --dataset {self.dataset}`"
            )

    def check_text_model(self, text_model: ModelId | None) -> None:
        """Raise SpecMismatch, with both names, unless this model embedded the captions (None: that of the photos)."""
        stored, other = self.text_model or self.model_id, text_model or self.model_id
        if stored.weights != other.weights:
            remedy = f"use --text-model {self.text_model}" if self.text_model else "leave out --text-model"
            raise SpecMismatch(
                f"the captions of {self.dataset} were embedded by {stored.with_weights}, not by {other.with_weights}: "
                f"{remedy}, or keep both with another --dataset NAME"
            )

    def check_trust(self, trust_remote_code: bool) -> None:
        """Raise SpecMismatch unless the model's own code was allowed to run, or not, when this collection was made."""
        if trust_remote_code and not self.trust_remote_code:
            raise SpecMismatch(
                f"{self.collection} was made without --trust-remote-code: leave it out, or use another --dataset NAME"
            )
        if self.trust_remote_code and not trust_remote_code:
            raise SpecMismatch(
                f"{self.collection} was made with code that comes with {self.model_id}: "
                "add --trust-remote-code if you trust it"
            )

    def is_padded(self, padding: Padding | None) -> bool:
        """Return whether texts of this collection were padded like this (None: to the longest)."""
        return (self.padding or "longest") == (padding or "longest")

    def check_padding(self, padding: Padding | None) -> None:
        """Raise SpecMismatch unless texts of this collection were padded like this (None: to the longest)."""
        if not self.is_padded(padding):
            ways = {"longest": "to the longest of their batch", "max_length": "to full length"}
            stored, needed = ways[self.padding or "longest"], ways[padding or "longest"]
            raise SpecMismatch(
                f"{self.collection} was made with texts padded {stored}, and {self.text_model or self.model_id} needs "
                f"them padded {needed}, so its vectors are wrong: encode everything again with "
                "`python -m ingest run --force`"
            )

    def check_source(self, source: Source) -> None:
        """Raise SpecMismatch unless the collection was filled from this source."""
        stored = self.sources or OF_OLDER_VERSIONS
        if len(others(self.sources, source)) == len(stored):
            raise SpecMismatch(
                f"{self.collection} was filled from {', '.join(map(str, stored))}, and {source} is another source: "
                "use another --dataset NAME, or --add to add it; points with the same ids are then replaced"
            )

    def merged(self, new: CollectionSpec) -> tuple[CollectionSpec, list[str]]:
        """Return this specification after adding points that were made as `new` describes, and warnings.

        Raises:
            SpecMismatch: the vectors of `new` cannot be compared with the stored ones.
        """
        self.check_imported(imported=new.imported)
        self.check_model(new.model_id)
        self.check_text_model(new.text_model)
        self.check_trust(new.trust_remote_code)
        self.check_padding(new.padding)
        for what, old_value, new_value in (
            ("dimension", self.dim, new.dim),
            ("prompt", self.prompt, new.prompt),
        ):
            if old_value != new_value:
                raise SpecMismatch(
                    f"{self.collection} was made with {what} {old_value!r}, not {new_value!r}: "
                    "use the same, or another --dataset NAME"
                )
        if self.roles != new.roles:
            raise SpecMismatch(
                f"{self.collection} was made by an older version, without the roles of queries and documents that "
                f"{new.model_id} distinguishes: use another --dataset NAME, or delete it with "
                f"`python -m ingest drop --dataset {self.dataset}`"
            )
        warnings = [
            f"{self.collection} was made with {what} {old_value}: it will contain vectors of that and of {new_value}"
            for what, old_value, new_value in (
                ("dtype", self.dtype, new.dtype),
                ("decode mode", self.decode, new.decode),
            )
            if old_value != new_value
        ]
        formats = {source.format for source in (*self.sources, *new.sources)}
        if self.annotations != new.annotations and formats <= {KARPATHY}:
            warnings.append(
                f"{self.collection} was filled from another annotation file before: entries that only that file has "
                "stay in it"
            )
        splits = {**self.splits, **new.splits}
        if self.annotations == new.annotations:  # a later run with a smaller --limit does not lower the expected size
            for name in self.splits.keys() & new.splits.keys():
                splits[name] = max(self.splits[name], new.splits[name], key=lambda size: size.images)
        padding = new.padding or self.padding
        kept: dict[str, Any] = {
            "dtype": self.dtype,
            "padding": padding,
            "decode": self.decode,
            "photo_url": self.photo_url if new.photo_url is None else new.photo_url,
            "sources": joined(self.sources, new.sources) if new.sources else self.sources,
            "splits": splits,
            "hubness": new.hubness or self.hubness,
            "cosines": new.cosines or self.cosines,
        }
        return replace(new, **kept), warnings


def read_spec(collection: str, stored: object) -> CollectionSpec:
    """Parse the specification that was stored with a collection.

    Raises:
        SpecMismatch: it is missing, or was not written by this project.
    """
    try:
        return parse(CollectionSpec, stored)
    except Misfit as error:
        raise SpecMismatch(
            f"{collection} has no valid specification ({error}): "
            "it was not written by coco-search; choose another --dataset NAME"
        ) from None
