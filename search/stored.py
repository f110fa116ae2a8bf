"""Parse dataclasses from the JSON values that this project stores with a collection.

Pydantic, which parses what comes from elsewhere, takes longer to import than a search takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


class Misfit(ValueError):
    """A stored value that is missing or not valid; `place` is its path of fields, such as "splits.test.images"."""

    def __init__(self, place: str) -> None:
        super().__init__(f"{place or 'everything'} is missing or wrong")
        self.place = place


def parse(kind: type[T], value: object) -> T:
    """Return the dataclass that a JSON object describes; fields that are not its own are ignored.

    Its fields may be bool, int, float, str, Literal, `X | None`, `tuple[X, ...]`, `dict[str, X]` and such dataclasses.

    Raises:
        Misfit: a field without a default is missing, or a value is of another type, or is refused by its dataclass.
    """
    result: T = _parse(kind, value, "")
    return result


def _parse(kind: Any, value: Any, place: str) -> Any:
    if is_dataclass(kind):
        return _dataclass(kind, value, place)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return None if value is None else _parse(arguments[0], value, place)
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_parse(arguments[0], each, f"{place}.{number}") for number, each in enumerate(value))
    if origin is dict and isinstance(value, Mapping):
        return {str(name): _parse(arguments[1], each, f"{place}.{name}") for name, each in value.items()}
    if origin is Literal and value in arguments:
        return value
    if kind is float and type(value) is int and value.bit_length() < 1024:  # larger ones do not fit into a float
        return float(value)
    if type(value) is not kind:
        raise Misfit(place)
    return value


def _dataclass(kind: Any, value: Any, place: str) -> Any:
    if not isinstance(value, Mapping):
        raise Misfit(place)
    kinds = get_type_hints(kind)
    values = {}
    for field in fields(kind):
        if field.name in value:
            values[field.name] = _parse(kinds[field.name], value[field.name], _below(place, field.name))
        elif field.default is MISSING:
            raise Misfit(_below(place, field.name))
    try:
        return kind(**values)
    except Misfit as error:
        raise Misfit(_below(place, error.place)) from None


def _below(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name
