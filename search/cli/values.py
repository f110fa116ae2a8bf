"""Convert plain values of a command line; leave the others to Typer, which converts or refuses them.

Typer converts every value with Pydantic, even a default. Importing Pydantic takes longer than a search.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

NUMBERS = {int: re.compile(r"-?[0-9]{1,18}"), float: re.compile(r"-?[0-9]{1,18}(\.[0-9]{1,18})?")}


class _NotPlain(Exception):
    """A value that Typer has to convert, or to refuse."""


def with_plain_values(parameters: Sequence[Any]) -> Sequence[Any]:
    """Return the parameters of a Typer command, changed so that Typer converts only values that are not plain."""
    for parameter in parameters:
        replaced = "get_runtime_param" in vars(parameter)
        if not replaced and hasattr(parameter, "get_runtime_param"):  # earlier versions of Typer do not use Pydantic
            conversion = _Conversion(parameter)
            parameter.get_runtime_param = lambda conversion=conversion: conversion
    return parameters


class _Conversion:
    """Converts the values of one parameter, in place of Typer's `RuntimeParam`."""

    def __init__(self, parameter: Any) -> None:
        self._of_typer = parameter.get_runtime_param  # imports Pydantic when it is called
        self._kind, self._info = parameter.type_descriptor.annotation, parameter.type_descriptor.parameter_info

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """Return the value of the parameter's type; None is the value of an option that was not given."""
        try:
            if value is None:
                return () if param.multiple or param.nargs == -1 else None
            if get_origin(self._kind) is list:
                return [_plain(each, get_args(self._kind)[0], self._info) for each in _items(value)]
            return _plain(value, self._kind, self._info)
        except _NotPlain:
            return self._of_typer().coerce(value, param=param, ctx=ctx)


def _items(value: Any) -> Sequence[Any]:
    if isinstance(value, list | tuple):
        return value
    raise _NotPlain


def _plain(value: Any, kind: Any, info: Any) -> Any:
    """Return a value as `kind`; `info` is the `OptionInfo` or `ArgumentInfo` of its parameter. Raises _NotPlain."""
    if info.parser is None:
        if kind is str and isinstance(value, str):
            return value
        if kind is Path and _is_plain_path(value, info):
            return Path(value)
        if get_origin(kind) is Literal and value in get_args(kind):
            return value
        if kind in NUMBERS and (type(value) is kind or _is_number(value, kind)) and _is_within(kind(value), info):
            return kind(value)
    raise _NotPlain


def _is_number(value: Any, kind: type) -> bool:
    return isinstance(value, str) and NUMBERS[kind].fullmatch(value) is not None


def _is_within(number: float, info: Any) -> bool:
    return (info.min is None or info.min <= number) and (info.max is None or number <= info.max)


def _is_plain_path(value: Any, info: Any) -> bool:
    """Return whether a path is readable or does not exist, and its parameter asks for no other check."""
    checked = info.exists or info.writable or info.resolve_path or not (info.file_okay and info.dir_okay)
    if checked or info.path_type is not None or not isinstance(value, str | Path):
        return False
    return os.access(value, os.R_OK) or not os.path.lexists(value)
