"""Locate the text towers in the user's cache; deleting the folder is safe."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return the folder: `coco-search` in `$XDG_CACHE_HOME`, by default `~/.cache`."""
    home = os.path.expanduser("~/.cache")  # noqa: PTH111 - unlike Path.expanduser, it never raises
    return Path(os.environ.get("XDG_CACHE_HOME") or home) / "coco-search"


def tower_file(weights: str) -> Path:
    """Return the file of the text tower of the model with these weights."""
    return cache_folder() / f"text-tower-{weights}.safetensors"


def tower_bytes(weights: str) -> int | None:
    """Return the size of the text tower of the model with these weights; None if it has not been prepared."""
    file = tower_file(weights)
    return file.stat().st_size if file.exists() else None
