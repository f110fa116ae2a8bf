"""Divide the chosen images and captions among several machines."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from ingest.annotations import Chosen, Unusable
from search.errors import SettingsError
from search.text import percent_encoded, read_path


def with_urls(chosen: Chosen, base: str | None) -> Chosen:
    """Return the images and captions with the addresses of their photos below `base`, unless it is None or empty."""
    if not base:
        return chosen
    urls = {image.id: base + percent_encoded(read_path(image.file)) for image in chosen.images}
    return Chosen(
        [replace(image, url=urls[image.id]) for image in chosen.images],
        [replace(caption, url=urls[caption.image_id]) for caption in chosen.captions],
    )


def part_of(chosen: Chosen, shard: str) -> Chosen:
    """Return the images of one of several machines, and their captions: "2/8" is the second of eight.

    Raises:
        SettingsError: `shard` is not of that form.
    """
    number, machines = _parse_shard(shard)
    images = [image for image in chosen.images if image.order % machines == number - 1]
    image_ids = {image.id for image in images}
    return Chosen(images, [caption for caption in chosen.captions if caption.image_id in image_ids])


def skipped_of(unusable: Sequence[Unusable], shard: str) -> list[Unusable]:
    """Return the skipped entries that one of several machines reports; see `part_of`."""
    number, machines = _parse_shard(shard)
    return [entry for entry in unusable if entry.order % machines == number - 1]


def _parse_shard(shard: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", shard)
    number, machines = map(int, match.groups()) if match else (1, 0)
    if number > machines:
        raise SettingsError(f"--shard {shard!r}: give the number of this machine and of all machines, such as 2/8")
    return number, machines
