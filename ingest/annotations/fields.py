"""The rules for paths, captions, splits and ids, which are the same in every format."""

from __future__ import annotations

import os
import re
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from search.errors import TextError
from search.index.points import MAX_ID
from search.text import check_text

_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")  # the last ones reverse the text that follows


def check_path(path: str) -> str:
    """Return the path of a photo below its folder unchanged.

    Raises:
        ValueError: it may lead out of the folder, or cannot be stored as text.
    """
    if "\\" in path:
        raise ValueError(f"{path!r} has a backslash: write / between folders")
    if path.startswith("/") or (".." in path and ".." in path.split("/")):  # pathlib takes 20 µs
        leads_out = os.path.normpath(path).startswith(("/", ".."))
        raise ValueError(f"{path!r} leads out of the photo folder" if leads_out else f"{path!r} has '..': leave it out")
    return _check_unicode(path)


def check_caption(text: str) -> str:
    """Return the caption without white space at both ends.

    Raises:
        ValueError: it is empty, or cannot be encoded.
    """
    if not (stripped := text.strip()):
        raise ValueError("the caption is empty")
    return _check_unicode(stripped)


def check_split(name: str) -> str:
    """Return the name of a split unchanged.

    Raises:
        ValueError: it is reserved, or cannot be stored or shown.
    """
    if name == "all":
        raise ValueError("'all' stands for every split: use another name")
    if _CONTROLS.search(_check_unicode(name)):
        raise ValueError(f"the split {name!r} contains line breaks or control characters")
    return name


def _check_unicode(text: str) -> str:
    try:
        return check_text(text)
    except TextError as error:
        raise ValueError(str(error)) from None


SplitName = Annotated[str, AfterValidator(check_split)]
Id = Annotated[int, Field(ge=0, lt=MAX_ID)]
# The checks come before pydantic's own: it would describe half of a surrogate pair in its own words.
PhotoPath = Annotated[str, BeforeValidator(lambda value: check_path(value) if isinstance(value, str) else value)]
CaptionText = Annotated[str, BeforeValidator(lambda value: check_caption(value) if isinstance(value, str) else value)]


def id_or_none(value: object) -> int | None:
    """Return the id if it is valid."""
    return value if type(value) is int and 0 <= value < MAX_ID else None
