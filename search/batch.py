"""Many queries, one a line, answered in order; what a line may hold, and what an answer says."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from search import show
from search.errors import CocoSearchError, PhotoError, QueryError, TextError
from search.query import Options, Part, named_images, text_part
from search.request import PartRequest, QueryRequest
from search.searcher import Searcher
from search.text import check_text, decode_text, parse_json, refuse_wide
from search.validation import first_problem

QUERIES_AT_ONCE = 32
BYTES_AT_ONCE = 2**16


class LinePart(PartRequest):
    """One ingredient of a query in a line; `image` is the path of a file."""

    image: str | None = None

    def part(self) -> Part:
        return super().part() if self.image is None else Part(image=Path(self.image), weight=self.weight)


class LineQuery(QueryRequest[LinePart]):
    """A query as a JSON object in a line."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line's number (from 1), what it says (a text or a JSON object), and the query, or why it is none."""

    number: int
    said: Any
    query: tuple[list[Part], Options] | CocoSearchError


def lines_of(stream: io.BufferedReader) -> Iterator[list[bytes]]:
    """Yield lines in lists of at most 32: those that have arrived, so that no answer waits for a later query.

    Raises:
        TextError: the stream begins as UTF-16 or UTF-32.
    """
    rest, begun = b"", False
    while chunk := stream.read1(BYTES_AT_ONCE):
        if not begun:
            refuse_wide(chunk)
            begun = True
        *lines, rest = (rest + chunk).split(b"\n")
        for start in range(0, len(lines), QUERIES_AT_ONCE):
            yield lines[start : start + QUERIES_AT_ONCE]
    if rest:
        yield [rest]


def answers(searcher: Searcher, batches: Iterable[Sequence[bytes]], default: Options) -> Iterator[dict[str, Any]]:
    """For each line that is not blank `line`, `query` as it was given, and `hits`, or the `error` in one line.

    Each list of lines is encoded at once and answered before the next is asked for.
    """
    number = 0
    for batch in batches:
        lines = [read_line(number, line, default) for number, line in enumerate(batch, number + 1) if _text_of(line)]
        number += len(batch)
        asked = [line.query[0] for line in lines if isinstance(line.query, tuple)]
        directions = iter(searcher.encode(asked))
        for line in lines:
            answer = {"line": line.number, "query": line.said}
            try:
                if isinstance(line.query, CocoSearchError):
                    raise line.query
                direction = next(directions)
                if isinstance(direction, CocoSearchError):
                    raise direction
                parts, options = line.query
                hits = searcher.search_vector(direction, options, leave_out=named_images(parts))
            except (QueryError, PhotoError, TextError) as error:
                yield {**answer, "error": str(error)}
            else:
                yield {**answer, "hits": show.as_json(hits, options.offset)}


def read_line(number: int, line: bytes, default: Options) -> Line:
    """Read one line: JSON if it begins with `{`, else a text, which may end in a weight."""
    said: Any = _text_of(line)
    try:
        decode_text(line)
        if said.startswith("{"):
            said = _object(said)
            _check_strings(said)
            asked = LineQuery.model_validate(said if "parts" in said else _with_parts(said))
            return Line(number, said, ([part.part() for part in asked.parts], asked.options(default)))
        return Line(number, said, ([text_part(said)], default))
    except ValidationError as error:
        problem = first_problem(error)
        return Line(number, said, QueryError(f"{problem.place}: {problem.message}"))
    except (QueryError, TextError) as error:
        return Line(number, said, error)


def _object(text: str) -> dict[str, Any]:
    try:
        found = parse_json(text)
    except (ValueError, RecursionError) as error:
        raise QueryError(f"not a JSON object ({error}); a text cannot begin with a brace") from None
    assert isinstance(found, dict)  # it begins with a brace
    return found


def _with_parts(asked: dict[str, Any]) -> dict[str, Any]:
    """A query of one part may be written without `parts`."""
    part = {name: value for name, value in asked.items() if name in LinePart.model_fields}
    return {"parts": [part], **{name: value for name, value in asked.items() if name not in part}}


def _check_strings(value: Any) -> None:
    """Raises TextError if a string anywhere in parsed JSON, names of fields included, is not text."""
    if isinstance(value, str):
        check_text(value)
    elif isinstance(value, dict):
        for name, inner in value.items():
            check_text(name)
            _check_strings(inner)
    elif isinstance(value, list):
        for inner in value:
            _check_strings(inner)


def _text_of(line: bytes) -> str:
    return line.decode("utf-8-sig", "backslashreplace").strip()
