"""List the inputs that a run could not use in a file, and report them."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from search.cli.command import note
from search.errors import SettingsError
from search.files import replace_file, target_of
from search.records import Kind
from search.text import shown, to_json

NO_VECTOR = "the model gives no usable vector: NaN, infinite or of zero length"
FAILURE_FIELDS = {"file", "image_id", "caption_id", "url", "stage", "reason"}

REASONS_SHOWN = 5
STREAMS = {"/dev/stdout": "stdout", "/dev/stderr": "stderr"}  # which may lead to files


class Listable(Protocol):
    """An input that failed."""

    def as_json(self) -> Mapping[str, Any]:
        """Return the fields that the list has: see `FAILURE_FIELDS`."""
        ...


F = TypeVar("F", bound=Listable)


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


def describe_failures(failures: Sequence[Failure]) -> tuple[str, list[str]]:
    """Return how many inputs of a run failed, and the first reasons."""
    reasons = [": ".join(filter(None, (failure.file, failure.reason))) for failure in failures[:REASONS_SHOWN]]
    return f"{count_failures(failures)} could not be read or embedded", reasons


@contextmanager
def listing(
    file: Path, failures: Sequence[F], describe: Callable[[Sequence[F]], tuple[str, Sequence[str]]]
) -> Iterator[None]:
    """List in `file` what fails in the block, and report it on stderr, however the block ends.

    The folder of `file` is created before the block. If the block ends without an error and nothing failed, the list
    of an earlier run is deleted. A list that cannot be written is a warning: the work is done.

    Args:
        failures: grows while the block runs.
        describe: returns what failed in a few words, and a line for each reason to print.

    Raises:
        SettingsError: the folder cannot be created, or `file` is itself a folder.
    """
    _create_folder_of(file)
    complete = False
    try:
        yield
        complete = True
    finally:
        where = ""
        try:
            if complete or failures:
                where = f": see {_write(file, failures).resolve()}"
        except OSError as error:
            note(f"warning: cannot write {file}: {error.strerror}; name another file with --failures")
        finally:
            if failures:
                what, reasons = describe(failures)
                note(what + where)
                for reason in reasons:
                    note(f"  {shown(reason)}")


def _create_folder_of(file: Path) -> None:
    if file.is_dir():
        raise SettingsError(f"--failures: {file} is a folder: give the name of a file")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = "it is not a folder" if isinstance(error, FileExistsError) else error.strerror
        raise SettingsError(f"--failures: cannot create {file.parent}: {reason}") from None


def _write(file: Path, failures: Sequence[Listable]) -> Path:
    """Write failures to `file`, one JSON object a line, and return the file that lists them.

    Without failures, the list of an earlier run is deleted. A file that is not such a list is neither deleted nor
    overwritten: the failures then go into a file beside it.
    """
    text = "".join(to_json(failure.as_json()) + "\n" for failure in failures)
    if name := STREAMS.get(str(file)):  # opened again, it would have an offset of its own
        print(text, end="", file=getattr(sys, name), flush=True)
        return file
    if file.exists() and not file.is_file():
        if failures:  # opening a named pipe waits for a reader
            file.write_text(text, encoding="utf-8")
        return file
    while file.is_file() and not _is_list_of_failures(file):
        file = file.with_name(f"{file.name}.failures.jsonl")
    if failures:
        replace_file(target_of(file), text)
    elif file.is_file() and file.stat().st_size:
        file.unlink()
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
