"""Answer many queries, one a line: read texts and JSON objects, and yield their answers in order."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from search.cli import show
from search.errors import CocoSearchError, PhotoError, QueryError, TextError
from search.outcomes import map_values
from search.query import Options, Part, text_part
from search.request import PartRequest, QueryRequest
from search.searcher import Searcher
from search.text import check_text, decode_text, parse_json, refuse_wide
from search.validation import first_problem

QUERIES_AT_ONCE = 128
HITS_AT_ONCE = 5000  # of all queries that are answered together, to bound the memory
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
    """A line's number (from 1), its content (a text or a JSON object), and the query in it, or its error."""

    number: int
    content: Any
    query: tuple[list[Part], Options] | CocoSearchError


def lines_of(stream: io.BufferedReader) -> Iterator[list[bytes]]:
    """Yield lists of lines: those that have arrived, so that no answer waits for a later query.

    Raises:
        TextError: the stream begins as UTF-16 or UTF-32.
    """
    rest = start = b""
    while chunk := stream.read1(BYTES_AT_ONCE):
        if len(start) < 4:  # a pipe may deliver byte by byte
            start += chunk[:4]
            refuse_wide(start)
        *lines, rest = (rest + chunk).split(b"\n")
        yield lines
    if rest:
        yield [rest]


def answers(searcher: Searcher, arrivals: Iterable[Sequence[bytes]], default: Options) -> Iterator[dict[str, Any]]:
    """Yield `line`, `query` as it was given, and `hits` or a one-line `error`, for each line that is not blank.

    `truncated` lists the parts of which the model reads only the first tokens, if there are any.

    Each list of lines is answered before the next one is read, in groups whose texts are encoded together.
    """
    number = 0
    for arrived in arrivals:
        lines = [read_line(number, line, default) for number, line in enumerate(arrived, number + 1) if _text_of(line)]
        number += len(arrived)
        groups = list(_groups(lines))
        for group, following in zip_longest(groups, groups[1:], fillvalue=()):
            yield from _answered(searcher, group, following)


def _groups(lines: Iterable[Line]) -> Iterator[list[Line]]:
    """Divide lines into groups to answer together: as many lines as both limits allow, and at least one."""
    group: list[Line] = []
    hits = 0
    for line in lines:
        wanted = line.query[1].k * len(line.query[1].kinds) if isinstance(line.query, tuple) else 0
        if group and (len(group) == QUERIES_AT_ONCE or hits + wanted > HITS_AT_ONCE):
            yield group
            group, hits = [], 0
        group.append(line)
        hits += wanted
    if group:
        yield group


def _answered(searcher: Searcher, lines: Sequence[Line], following: Sequence[Line]) -> Iterator[dict[str, Any]]:
    """Yield the answers to `lines`; `following` are the lines to answer next."""
    coming = [line.query[0] for line in following if isinstance(line.query, tuple)]
    results = map_values([line.query for line in lines], partial(searcher.search_many, following=coming))
    answered = [
        line.query[0]
        for line, result in zip(lines, results, strict=True)
        if isinstance(line.query, tuple) and not isinstance(result, CocoSearchError)
    ]
    truncations = iter(searcher.truncations(answered))
    for line, result in zip(lines, results, strict=True):
        answer: dict[str, Any] = {"line": line.number, "query": line.content}
        if isinstance(result, QueryError | PhotoError | TextError):
            yield {**answer, "error": str(result)}
        elif isinstance(result, CocoSearchError):
            raise result
        else:
            answer["hits"] = show.as_json(result)
            if truncated := next(truncations):
                answer["truncated"] = show.truncated_as_json(truncated)
            yield answer


def read_line(number: int, line: bytes, default: Options) -> Line:
    """Read one line: JSON if it begins with `{`, else a text, which may end in a weight."""
    content: Any = _text_of(line)
    try:
        decode_text(line)
        if content.startswith("{"):
            content = _object(content)
            _check_strings(content)
            query = LineQuery.model_validate(content if "parts" in content else _with_parts(content))
            return Line(number, content, ([part.part() for part in query.parts], query.options(default)))
        return Line(number, content, ([text_part(content)], default))
    except ValidationError as error:
        problem = first_problem(error)
        return Line(number, content, QueryError(f"{problem.place}: {problem.message}"))
    except (QueryError, TextError) as error:
        return Line(number, content, error)
    except RecursionError:  # raised by the parser or, from Python 3.13 on, by `_check_strings`
        return Line(number, _text_of(line), QueryError("the JSON object is nested too deeply"))


def _object(text: str) -> dict[str, Any]:
    try:
        value = parse_json(text, unique=True)
    except ValueError as error:
        raise QueryError(f"not a JSON object ({error}); a text cannot begin with a brace") from None
    assert isinstance(value, dict)  # it begins with a brace
    return value


def _with_parts(query: dict[str, Any]) -> dict[str, Any]:
    """Return a query of one part, written without `parts`, with `parts`."""
    part = {name: value for name, value in query.items() if name in LinePart.model_fields}
    return {"parts": [part], **{name: value for name, value in query.items() if name not in part}}


def _check_strings(value: Any) -> None:
    """Raise TextError if a string anywhere in parsed JSON, names of fields included, is not valid Unicode."""
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
