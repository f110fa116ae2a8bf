"""Describe a validation error of pydantic in one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol


class Invalid(Protocol):
    """A validation error of pydantic or FastAPI."""

    def errors(self) -> Sequence[Any]: ...


class Problem(NamedTuple):
    """One problem: the path of fields and positions to the value, and the message."""

    steps: tuple[int | str, ...]
    message: str

    @property
    def place(self) -> str:
        """The path with dots, such as "parts.0.text"; empty if the problem is the whole input."""
        return ".".join(map(str, self.steps))


def first_problem(error: Invalid) -> Problem:
    """Return the first problem that a validation error lists."""
    return problem_of(error.errors()[0])


def problem_of(details: Mapping[str, Any]) -> Problem:
    """Convert one entry of `errors()`, without the prefix that pydantic adds, and without the names of our classes."""
    message = "Input should be an object" if details["type"] == "model_type" else details["msg"]
    return Problem(tuple(details["loc"]), message.removeprefix("Value error, "))
