"""Annotations: which photos there are, their captions and their splits."""

from __future__ import annotations

from pathlib import Path

from ingest.annotations.karpathy import read_karpathy
from ingest.annotations.records import Annotations, Unusable

__all__ = ["Annotations", "Unusable", "read_annotations"]


def read_annotations(file: Path) -> Annotations:
    """Read and validate an annotation file; see `read_karpathy`."""
    return read_karpathy(file)
