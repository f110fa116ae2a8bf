"""Correct a collection whose texts were padded differently than its model needs, as older versions did.

`ingest run --force` encodes its captions again. The collection keeps its old specification until all of them are done,
so that a run that is killed leaves a collection that is refused, not one with vectors of both kinds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ingest.specs import count_ids
from ingest.summary import Summary
from search.errors import SpecMismatch
from search.index import CollectionSpec, Index, ReadIndex
from search.index.spec import Padding
from search.records import Caption


def wrongly_padded(
    index: ReadIndex, specs: Sequence[CollectionSpec], captions: Sequence[Caption]
) -> list[CollectionSpec]:
    """Return the stored specifications of collections of the same model whose texts were padded differently.

    Raises:
        SpecMismatch: some of their captions are not among `captions`, which are encoded again.
    """
    existing = index.collections()
    pairs = [(index.spec(spec.collection), spec) for spec in specs if spec.collection in existing]
    wrong = [stored for stored, spec in pairs if stored.weights == spec.weights and not stored.is_padded(spec.padding)]
    ids = [caption.id for caption in captions]
    for stored in _of_captions(wrong):
        if others := index.count(stored.collection) - count_ids(index, stored.collection, ids):
            raise SpecMismatch(
                f"{stored.collection} holds {others:,} captions with wrong vectors that this run would "
                "not encode again: select all splits, without --limit, or delete it with "
                f"`python -m ingest drop --dataset {stored.dataset}`"
            )
    return wrong


def with_padding_of(stored: Sequence[CollectionSpec], spec: CollectionSpec) -> CollectionSpec:
    """Return `spec` with the padding of the same collection among `stored`, if that holds it."""
    padding = {other.collection: other.padding for other in stored}.get(spec.collection, spec.padding)
    return replace(spec, padding=padding)


def correct_padding(index: Index, wrong: Sequence[CollectionSpec], padding: Padding, summary: Summary) -> None:
    """Store this run's padding with the collections that had another, if all of their captions were encoded again."""
    for stored in _of_captions(wrong):
        if left := index.count(stored.collection) - summary.captions.embedded:
            summary.warnings.append(
                f"{left:,} captions of {stored.collection} were not encoded again, so it remains unusable: "
                "run the same command again"
            )
            return
    for stored in wrong:
        current = index.spec(stored.collection)
        index.create(replace(current, padding=padding), replace=True)


def _of_captions(specs: Sequence[CollectionSpec]) -> list[CollectionSpec]:
    return [spec for spec in specs if spec.kind == "captions"]  # photos are not padded
