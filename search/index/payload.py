"""The fields of payloads that engines index, for filters. Each engine has its own types for the kinds of an index.

The numbers `hubness` of images are indexed too, but only while they are complete (`CollectionSpec.is_numbered`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

FieldIndex = Literal["keyword", "integer", "words"]
"""`words`: split by the multilingual tokenizer, without case and accents."""

INDEXED_FIELDS: Mapping[str, FieldIndex] = {
    "split": "keyword",
    "image_id": "integer",
    "position": "integer",
    "text": "words",
    "captions": "words",
}
