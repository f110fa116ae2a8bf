"""Everything on which a score depends, so that two runs can be told apart."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from eval.protocol import Evaluation
from search.index import ReadIndex
from search.index.names import kind_of

PACKAGES = (
    "coco-search",
    "numpy",
    "pillow",
    "qdrant-client",
    "qdrant-edge-py",
    "sentence-transformers",
    "torch",
    "transformers",
)
TIE_RULE = "1 + items that score strictly higher, in exact arithmetic; pessimistic: 1 + negatives at least as high"


def fingerprint(evaluation: Evaluation, index: ReadIndex | None) -> dict[str, Any]:
    """Return how the vectors were made, what was evaluated, the engine and its settings, and software versions."""
    spec = evaluation.spec
    return {
        "model": spec.model,
        "revision": spec.revision,
        "weights": spec.weights,
        "text_model": str(spec.text_model) if spec.text_model else None,
        "text_weights": spec.text_model.weights if spec.text_model else None,
        "trust_remote_code": spec.trust_remote_code,
        "dtype": spec.dtype,
        "dim": spec.dim,
        "prompt": spec.prompt,
        "decode": spec.decode,
        "embedded_by": f"coco-search {spec.version}",
        "dataset": spec.dataset,
        "annotations": spec.annotations,
        "split": "+".join(evaluation.splits),
        "images": evaluation.images,
        "captions": evaluation.captions,
        "captions_per_image": evaluation.captions_per_image or "all",
        "truncated_captions": evaluation.truncated,
        "tie_rule": TIE_RULE,
        "engine": engine_of(index) if index else "none: the vectors were given as arrays",
        "collections": {
            side.collection: index.info(side.collection).settings
            for side in (evaluation.image_to_text.queries, evaluation.text_to_image.queries)
            if index
        },
        "software": {"python": platform.python_version(), **_versions()},
    }


def engine_of(index: ReadIndex) -> str:
    """Return the engine and its version, without the `search serve` through which it may be queried."""
    return index.engine.partition(", through ")[0]


def _versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return versions


def differences(fingerprints: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, list[Any]]]:
    """Yield settings that differ: the name, nested ones joined by dots, and the value in each, None if it has none."""
    settings = [dict(_flat(_without_dataset(each))) for each in fingerprints]
    for name in dict.fromkeys(name for each in settings for name in each):
        values = [each.get(name) for each in settings]
        if any(value != values[0] for value in values):
            yield name, values


def _without_dataset(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """Return a fingerprint with its collections named "images" and "captions", to compare those of two data sets."""
    collections = fingerprint.get("collections")
    if not isinstance(collections, Mapping):
        return dict(fingerprint)
    return {**fingerprint, "collections": {kind_of(name): settings for name, settings in collections.items()}}


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
