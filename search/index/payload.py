"""The fields of payloads that engines index, for filters. Each engine converts the kinds of index to its own types.

The numbers `hubness` of images are indexed too, but only while they are complete (`CollectionSpec.is_numbered`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from search.records import Kind

FieldIndex = Literal["keyword", "id", "number", "words"]
"""`id`: integers to look up; `number`: integers to compare with a limit; `words`: split by the multilingual tokenizer,
without case and accents."""

WORDS: Mapping[Kind, str] = {"images": "captions", "captions": "text"}
"""The field that `Where.contains` refers to."""

INDEXED_FIELDS: Mapping[Kind, Mapping[str, FieldIndex]] = {
    "images": {"split": "keyword", "image_id": "id", WORDS["images"]: "words"},
    "captions": {"split": "keyword", "image_id": "id", "position": "number", WORDS["captions"]: "words"},
}
