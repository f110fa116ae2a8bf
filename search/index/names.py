"""The names of collections, which consist of the name of a data set and of what they hold."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from search.errors import SettingsError
from search.records import Kind

if TYPE_CHECKING:
    from search.index.protocol import ReadIndex

TRIAL = ".trial-"
"""Part of the name of a temporary copy of a data set, made by an evaluation; commands ignore it unless it is named."""


def collection_name(dataset: str, kind: Kind) -> str:
    """Return `<dataset>_images` or `<dataset>_captions`.

    Raises:
        SettingsError: the name of the data set contains a character that collection names cannot have.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", dataset):
        raise SettingsError(f"--dataset {dataset!r}: use letters, digits, '.', '_' and '-' only")
    return f"{dataset}_{kind}"


def kind_of(collection: str) -> Kind:
    """Return what a collection holds, by its name, which `collection_name` made."""
    return "images" if collection.endswith("_images") else "captions"


def only_dataset(index: ReadIndex) -> str:
    """Return the name of the only data set of an index, or `coco` if it holds none, or several with `coco` among them.

    Raises:
        SettingsError: it holds several, and none is called `coco`.
    """
    datasets = sorted({name.rpartition("_")[0] for name in index.collections() if TRIAL not in name})
    if len(datasets) == 1:
        return datasets[0]
    if datasets and "coco" not in datasets:
        raise SettingsError(f"{index.place} holds the data sets {', '.join(datasets)}: choose one with --dataset NAME")
    return "coco"
