"""The inputs that a run could not use: list them in a file, and report them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search.cli.command import note
from search.errors import SettingsError
from search.files import replace_file
from search.records import Kind
from search.text import shown, to_json

NO_VECTOR = "the model gives no usable vector: NaN, infinite or of zero length"
FAILURE_FIELDS = {"file", "image_id", "caption_id", "url", "stage", "reason"}


@dataclass(frozen=True, slots=True)
class Failure:
    """One input that could not be read or embedded: a photo or, if `kind` is "captions", a caption.

    `stage`: "annotations", "open", "encode" or, of an import, "vectors". Ids are None if the annotations do not give a
    valid one.
    """

    file: str
    image_id: int | None
    stage: str
    reason: str
    kind: Kind = "images"
    caption_id: int | None = None

    def as_json(self) -> dict[str, Any]:
        caption = {"caption_id": self.caption_id} if self.kind == "captions" else {}
        return {"file": self.file, "image_id": self.image_id, **caption, "stage": self.stage, "reason": self.reason}


def count_failures(failures: Sequence[Failure]) -> str:
    """Return how many inputs failed, such as "3 photos and 1 caption"."""
    counts = Counter("photo" if failure.kind == "images" else "caption" for failure in failures)
    return " and ".join(count_of(counts[kind], kind) for kind in ("photo", "caption") if counts[kind])


def report_failures(what: str, reasons: Sequence[str], listed: Path) -> None:
    """Print to stderr what failed, the file that lists it, and the first five reasons; nothing if there are none."""
    if reasons:
        note(f"{what}: see {listed.resolve()}")
    for reason in reasons[:5]:
        note(f"  {shown(reason)}")


def create_folder_of(file: Path) -> None:
    """Create the folder of a list of failures, before the work whose failures it will list.

    Raises:
        SettingsError: it cannot be created, or `file` is itself a folder.
    """
    if file.is_dir():
        raise SettingsError(f"--failures: {file} is a folder: give the name of a file")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = "it is not a folder" if isinstance(error, FileExistsError) else error.strerror
        raise SettingsError(f"--failures: cannot create {file.parent}: {reason}") from None


def write_failures(file: Path, failures: Sequence[Mapping[str, Any]]) -> Path:
    """Write the failures of this run to `file`, one JSON object a line, and return the file that lists them.

    Without failures, the list of an earlier run is deleted. A file that is not such a list is neither deleted nor
    overwritten: the failures then go into a file beside it.
    """
    if file.is_file() and not _is_list_of_failures(file):
        file = file.with_name(f"{file.name}.failures.jsonl")
    if not failures:
        if file.is_file() and _is_list_of_failures(file):
            file.unlink()
        return file
    text = "".join(to_json(failure) + "\n" for failure in failures)
    if file.exists() and not file.is_file():  # such as /dev/stdout
        file.write_text(text, encoding="utf-8")
    else:
        replace_file(file, text)
    return file


def _is_list_of_failures(file: Path) -> bool:
    try:
        with file.open(encoding="utf-8") as stream:
            for line in stream:
                failure = json.loads(line)
                if not isinstance(failure, dict) or not {"file", "stage", "reason"} <= failure.keys() <= FAILURE_FIELDS:
                    return False
    except (ValueError, RecursionError):
        return False
    return True


def count_of(number: int, what: str) -> str:
    """Return a number and its noun, such as "1 photo" or "1,200 photos"."""
    return f"{number:,} {what}{'s' * (number != 1)}"
