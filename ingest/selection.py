"""Divide the chosen images and captions among several machines."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ingest.karpathy import Unusable
from search.errors import SettingsError
from search.records import Caption, Image

Chosen = tuple[Sequence[Image], Sequence[Caption]]
"""The images of a run, and their captions."""


def part_of(chosen: Chosen, shard: str) -> Chosen:
    """The images, and their captions, that fall to one of several machines: "2/8" is the second of eight.

    Raises:
        SettingsError: `shard` is not of that form.
    """
    which, machines = _shard(shard)
    images = [image for image in chosen[0] if image.order % machines == which - 1]
    mine = {image.id for image in images}
    return images, [caption for caption in chosen[1] if caption.image_id in mine]


def skipped_of(unusable: Sequence[Unusable], shard: str) -> list[Unusable]:
    """Return the entries that one of several machines reports as skipped; see `part_of`."""
    which, machines = _shard(shard)
    return [each for each in unusable if each.order % machines == which - 1]


def _shard(shard: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", shard)
    which, machines = map(int, match.groups()) if match else (1, 0)
    if which > machines:
        raise SettingsError(f"--shard {shard!r}: say which of how many machines this is, such as 2/8")
    return which, machines
