"""Read a table with a photo and a caption in each line: CSV, TSV, or JSON lines.

The names of the columns are those that such files usually have. Lines are read one by one, so that a file of any size
takes no more memory than its records.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path, PurePath
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError
from tqdm.auto import tqdm

from ingest.annotations.fields import Id, PhotoPath, SplitName, check_caption
from ingest.annotations.lines import Line, Lines
from ingest.annotations.listing import picture_suffixes
from ingest.annotations.photos import Photo, records_of
from ingest.annotations.records import Annotations, Unusable
from ingest.annotations.source import Source
from search.errors import AnnotationError
from search.text import parse_json, shown
from search.validation import first_problem

NAME = "table"
COLUMNS = {  # the names of each column, of which the first that exists is used
    "file": (
        *("filepath", "file_path", "image_path", "path", "file", "file_name", "filename"),
        *("image_file", "image_filename", "image_name", "image", "img", "photo", "picture"),
    ),
    "captions": ("caption", "captions", "text", "texts", "title", "sentence", "sentences", "description", "comment"),
    "split": ("split",),
    "image_id": ("image_id", "photo_id", "id"),
    "caption_id": ("caption_id", "sentid"),
}
DELIMITERS = ",\t;|"
OF_DOCUMENTS = ("annotations", "dataset", "images")  # fields of the JSON documents that are no tables
SHOWN_FROM = 20_000_000  # bytes; smaller files are read in seconds
LINES_TRIED = 10  # for one that is not broken
LINES_PER_RECORD = 1000  # a quote that is not closed within so many lines is a fault of its line

Fields = Mapping[str, object]


_unless_empty = BeforeValidator(lambda value: None if value == "" else value)


class _Row(BaseModel):
    """One line of a table without its captions."""

    model_config = ConfigDict(extra="ignore", str_strip_whitespace=True)

    file: PhotoPath
    split: Annotated[SplitName | None, _unless_empty] = None
    image_id: Annotated[Id | None, _unless_empty] = None
    caption_id: Annotated[Id | None, _unless_empty] = None


def fits(start: bytes) -> bool:
    """Return whether a file that starts like this is not JSON, or is JSON lines or a JSON array."""
    if not start.startswith(b"{"):
        return True
    lines = list(islice((line.strip() for line in start.split(b"\n") if line.strip()), LINES_TRIED))
    is_one_document = lines[0].endswith((b"{", b"[", b","))  # that continues in the next line
    return not is_one_document and any(map(_is_line_of_a_table, lines))


def _is_line_of_a_table(line: bytes) -> bool:
    try:
        fields = parse_json(line.decode())
    except (ValueError, RecursionError):
        return False
    return isinstance(fields, dict) and ("file" in _columns(list(fields)) or fields.keys().isdisjoint(OF_DOCUMENTS))


def read(source: Source) -> Annotations:
    """Read a table. A line that is broken is skipped, and so is a caption that is; both are listed in `unusable`.

    Raises:
        AnnotationError: the file is a JSON array, the first line names no column for the photo, no line can be used, or
            an id belongs to two photos or captions.
    """
    if source.start().startswith(b"["):
        raise AnnotationError(
            f"{source.file}: it is a JSON array: write one object a line, without commas between them"
        )
    lines, table = Lines(source.stream), _Table(source)
    parse = _json_fields if source.start().startswith(b"{") else _delimited(source.file, lines)
    size = os.fstat(source.stream.fileno()).st_size
    with tqdm(total=size, unit="B", unit_scale=True, desc=source.file.name, disable=size < SHOWN_FROM) as bar:
        for line in lines:
            bar.update(lines.position - bar.n)
            if line.text is not None and not line.text.strip():
                continue
            try:
                table.add(line.number, parse(line))
            except ValueError as error:
                table.skip(line.number, str(error))
    return table.annotations(lines.sha256())


class _Table:
    """The photos of a table, by path, and the lines that could not be used."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._folders = tuple({f"{source.photos.absolute()}/", f"{source.photos.resolve()}/"})
        self._photos: dict[str, Photo] = {}
        self._orders: dict[str, int] = {}
        self._unusable: list[Unusable] = []

    def add(self, number: int, fields: Fields) -> None:
        """Add the photo and the captions of a line.

        Raises:
            ValueError: the photo cannot be used.
            AnnotationError: the photo has another id in an earlier line.
        """
        row, texts = self._row(fields), _texts(fields.get("captions"))
        if row.caption_id is not None and len(texts) > 1:
            raise ValueError("one caption_id for several captions: give each caption a line of its own")
        photo = self._photos.get(row.file)
        if photo is None:
            photo = self._photos[row.file] = Photo(row.file, "", row.image_id)
            self._orders[row.file] = len(self._orders)
        if None not in (row.image_id, photo.id) and row.image_id != photo.id:
            raise AnnotationError(
                f"{self._source.file}: line {number}: {photo.file} has the id {row.image_id} here and "
                f"{photo.id} before: if the ids are those of captions, call their column caption_id"
            )
        photo.id = row.image_id if photo.id is None else photo.id
        if row.split is not None and photo.split not in ("", row.split):
            raise ValueError(f"{photo.file} is in split {row.split} here, and in {photo.split} before")
        photo.split = row.split or photo.split
        for text in texts:
            try:
                photo.captions.append((row.caption_id, check_caption(text)))
            except ValueError as error:
                self.skip(number, str(error), photo)

    def skip(self, number: int, reason: str, photo: Photo | None = None) -> None:
        """List a line, or only its caption if its photo can be used."""
        order = self._orders[photo.file] if photo else len(self._orders)
        entry = Unusable(order, "images", "", None, None, None, f"line {number:,}: {reason}")
        if photo:
            split = photo.split or self._source.name
            entry = replace(entry, kind="captions", file=photo.file, image_id=photo.id, split=split)
        self._unusable.append(entry)

    def annotations(self, sha256: str) -> Annotations:
        """Return the records.

        Raises:
            AnnotationError: there are none, or an id occurs twice.
        """
        file, name = self._source.file, self._source.name
        if not self._photos:
            reason = self._unusable[0].reason if self._unusable else "there is none below the names of the columns"
            raise AnnotationError(f"{file}: it has no usable line: {reason}")
        for photo in self._photos.values():
            photo.split = photo.split or name
        images, captions = records_of(file, self._photos.values())
        return Annotations(file, NAME, name, sha256, images, captions, tuple(self._unusable))

    def _row(self, fields: Fields) -> _Row:
        if "file" not in fields:
            raise ValueError("it names no photo: no field is called file, filepath, image or the like")
        if isinstance(file := fields["file"], str):
            fields = {**fields, "file": self._relative(file)}
        try:
            return _Row.model_validate(fields)
        except ValidationError as error:
            problem = first_problem(error)
            raise ValueError(f"{problem.place}: {problem.message}") from None

    def _relative(self, path: str) -> str:
        """Return the path below the photo folder, without `.` and double slashes."""
        path = path.strip()
        for folder in self._folders:
            path = path.removeprefix(folder)
        parts = [part for part in path.split("/") if part not in ("", ".")]
        if not parts:
            raise ValueError("it names no file")
        return "/" * path.startswith("/") + "/".join(parts)


def _texts(value: object) -> list[str]:
    """Return the captions of one line, which JSON may give as a list."""
    texts = []
    for text in value if isinstance(value, list) else [] if value is None else [value]:
        if not isinstance(text, str):
            raise ValueError("the caption is not a text")
        texts.append(text)
    return texts


def _columns(names: Sequence[str]) -> dict[str, int]:
    """Return the place of each column that we know."""
    places = {re.sub(r"[\s-]+", "_", name.strip().lower()): place for place, name in reversed(list(enumerate(names)))}
    return {
        column: next(places[name] for name in known if name in places)
        for column, known in COLUMNS.items()
        if not places.keys().isdisjoint(known)
    }


def _json_fields(line: Line) -> Fields:
    try:
        fields = parse_json(_text(line))
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(fields, dict):
        raise ValueError("not a JSON object")
    values = list(fields.values())
    return {column: values[place] for column, place in _columns(list(fields)).items()}


def _delimited(file: Path, lines: Lines) -> Callable[[Line], Fields]:
    """Read the names of the columns from the first line, and return a function that reads the fields of another."""
    header = next((line for line in lines if line.text is None or line.text.strip()), Line(1, ""))
    for delimiter in DELIMITERS:
        lines.put_back([header])
        try:
            names = _cells(next(lines), lines, delimiter)
        except ValueError:
            continue
        if "file" in (columns := _columns(names)):
            break
    else:
        raise AnnotationError(
            f"{file}: neither JSON nor a table: no column of its first line is called file or "
            f"{COLUMNS['file'][0]}, for example: {shown((header.text or '').strip())[:60]!r}"
        )

    def fields(line: Line) -> Fields:
        cells = _cells(line, lines, delimiter, len(names), columns["file"])
        return {column: cells[place].strip() for column, place in columns.items()}

    return fields


def _cells(line: Line, lines: Lines, delimiter: str, width: int | None = None, file_at: int = 0) -> list[str]:
    """Return the cells of the record that begins with this line; `file_at` is the place of its photo.

    If a quote opens that is not closed in a way that makes sense, only this line is a fault: those after it are read
    again. In a table with tabs, quotes may also be a part of the text; then lines that are rows are not joined.

    Raises:
        ValueError: it is not CSV, or has not as many cells as there are columns.
    """
    text = _text(line)
    plain = text.rstrip("\r\n").split(delimiter)
    if '"' not in text:
        return _checked(plain, width)
    taken: list[Line] = []
    try:
        cells = _checked(next(csv.reader(_taking(line, lines, taken), delimiter=delimiter, strict=True)), width)
        if taken and delimiter == "\t" and sum(_is_row(_text(each), width, file_at) for each in (line, *taken)) > 1:
            raise ValueError("a quote is open above a line that is a row of its own")
        return cells
    except (csv.Error, ValueError) as error:
        lines.put_back(taken)
        if delimiter == "\t":
            return _checked(plain, width)
        raise ValueError(f"not valid CSV: {error}") from None


def _is_row(text: str, width: int | None, file_at: int) -> bool:
    """Return whether a line is a row with tabs by itself: it has as many cells as there are columns, and a photo."""
    cells = text.rstrip("\r\n").split("\t")
    return len(cells) == width and PurePath(cells[file_at].strip()).suffix.lower() in picture_suffixes()


def _taking(line: Line, lines: Lines, taken: list[Line]) -> Iterator[str]:
    """Yield the line and, if the record goes on, those after it, which are added to `taken`."""
    yield _text(line)
    for more in islice(lines, LINES_PER_RECORD):
        taken.append(more)
        if more.text is None:
            return
        yield more.text


def _checked(cells: list[str], width: int | None) -> list[str]:
    if width is not None and len(cells) != width:
        more = ": a text with a delimiter in it needs quotes" if len(cells) > width else ""
        raise ValueError(f"the number of cells is {len(cells)}, not {width}{more}")
    return cells


def _text(line: Line) -> str:
    if line.text is None:
        raise ValueError("the line is too long")
    return line.text
