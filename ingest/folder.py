"""Check the photo folder of a run, and explain why not one of its photos can be used."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ingest.failures import NO_VECTOR, Failure, count_of
from search.errors import AnnotationError, PhotoError
from search.photos import LINK_LEADS_OUT, NO_FILE, find_photo
from search.records import Image


def check_photo_folder(folder: Path) -> None:
    """Raise AnnotationError unless the folder exists."""
    if not os.path.isdir(folder):  # noqa: PTH112 - unlike Path.is_dir, it raises nothing
        raise AnnotationError(f"there is no photo folder {folder}: check --images")


def unreachable_photos(folder: Path, images: Sequence[Image], *, follow_links: bool) -> list[Failure]:
    """Return a failure for every photo if none of them is in the folder, and an empty list as soon as one is.

    Raises:
        AnnotationError: the folder does not exist.
    """
    check_photo_folder(folder)
    failures = []
    for image in images:
        try:
            find_photo(folder, image.file, follow_links=follow_links)
            return []
        except PhotoError as error:
            failures.append(Failure(image.file, image.id, "open", str(error)))
    return failures


def all_refused(folder: Path, reasons: Sequence[str]) -> str:
    """Return the message for a run all of whose photos failed, with what to do."""
    is_same = len(set(reasons)) == 1
    # What Pillow adds in parentheses, such as numbers of bytes, differs from file to file.
    counts = Counter(reason if is_same else reason.partition(" (")[0] for reason in reasons).most_common()
    listed = "; ".join(f"{reason} ({count_of(count, 'time')})" for reason, count in counts[:3])
    cause = reasons[0] if is_same else listed
    remedies = {
        NO_FILE: "check --images",
        LINK_LEADS_OUT: "add --follow-links to follow these links",
        NO_VECTOR: "use another --dtype or --model",
    }
    one, all_of_them = ("does not exist", "exists") if cause == NO_FILE else ("cannot be used", "can be used")
    verdict = f"the only photo {one}" if len(reasons) == 1 else f"none of the {len(reasons):,} photos {all_of_them}"
    remedy = remedies.get(counts[0][0], "check these files and --images")
    return f"{verdict} (looked in {folder}: {cause}): {remedy}"
