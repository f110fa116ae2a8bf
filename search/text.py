"""The policy for text that cannot be encoded or decoded.

Text is Unicode without NUL and without lone surrogates (half of a pair, such as `\\ud83d` in JSON, or a byte of a file
name that is not UTF-8). Text files are UTF-8, with or without a byte order mark. JSON is strict in both directions: no
NaN, no Infinity, and output is valid UTF-8, with lone surrogates spelled out. A path may consist of any bytes; if it is
not UTF-8 and must be stored as text, it is stored as a `file:` URL, also if it is relative: `file://caf%E9.jpg`.
"""

from __future__ import annotations

import codecs
import json
import math
import os
import re
from pathlib import Path, PurePath
from typing import Any, NoReturn, TextIO
from urllib.parse import quote, unquote_to_bytes

from search.errors import TextError

_WIDE = re.compile(  # how UTF-16 and UTF-32 begin: a byte order mark, or a character below 256
    rb"\xff\xfe|\xfe\xff|\0\0\xfe\xff|[^\0]\0[^\0]\0|\0[^\0]\0[^\0]|[^\0]\0\0\0|\0\0\0[^\0]|[^\0]\0\Z|\0[^\0]\Z"
)
_LONE = re.compile("[\ud800-\udfff]")
_NOT_ASCII = re.compile("[^\x00-\x7f]+")
_FILE_URL = "file://"


def check_text(text: str) -> str:
    """Return `text` unchanged.

    Raises:
        TextError: it contains NUL or a lone surrogate, which models and indexes cannot read.
    """
    if "\0" in text:
        raise TextError("the text contains a NUL character")
    try:
        text.encode()
    except UnicodeEncodeError:
        only_bytes = all("\udc80" <= char <= "\udcff" for char in _LONE.findall(text))  # how Python decodes other bytes
        reason = "" if only_bytes else ": it contains half of a surrogate pair"
        raise TextError(f"the text is not valid UTF-8{reason}") from None
    return text


def refuse_wide(start: bytes) -> None:
    """Check the first bytes of a text file, of which four are enough.

    Raises:
        TextError: they are UTF-16 or UTF-32.
    """
    if _WIDE.match(start[:4]):
        raise TextError("the text is UTF-16 or UTF-32: save it as UTF-8")


def decode_text(content: bytes) -> str:
    """Decode UTF-8, with or without a byte order mark.

    Raises:
        TextError: it is UTF-16 or UTF-32, not valid UTF-8, or contains NUL.
    """
    refuse_wide(content)
    try:
        return check_text(content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise TextError("the text is not valid UTF-8") from None


def shown(text: str) -> str:
    """Return `text` with each lone surrogate spelled out as `\\ud83d`, so that it can be written as UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def parse_json(text: str, *, unique: bool = False) -> Any:
    """Parse strict JSON; with `unique`, which takes longer, no object may have a name twice.

    Raises:
        ValueError: it is not JSON, or contains NaN, Infinity or a number too large for a float.
        RecursionError: it is nested too deeply.
    """
    hook = _refuse_repeated if unique else None
    return json.loads(text, parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=hook)


def _refuse_repeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{repeated!r} is given twice")
    return fields


def to_json(value: object, *, indent: int | None = None, ascii_only: bool = False) -> str:
    """Return `value` as strict JSON that can be written as UTF-8, or in any encoding if `ascii_only`.

    A lone surrogate becomes the six characters `\\ud83d`, not the JSON escape of the same form, which many parsers
    refuse.

    Raises:
        ValueError: `value` contains NaN or an infinite number.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
    if text.isascii():  # known without reading it
        return text
    text = _LONE.sub(lambda lone: f"\\\\u{ord(lone[0]):04x}", text)
    return _NOT_ASCII.sub(lambda run: json.dumps(run[0])[1:-1], text) if ascii_only else text


def holds_unicode(stream: TextIO | None) -> bool:
    """Return whether every character can be written to `stream`."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return codecs.lookup(encoding).name.startswith("utf-")


def spell_path(path: PurePath) -> str:
    """Return a path as text: unchanged, or with percent signs after `file://` if its bytes are not UTF-8."""
    text = str(path)
    return text if _LONE.search(text) is None else _FILE_URL + percent_encoded(path)


def percent_encoded(path: PurePath) -> str:
    """Return a path as part of a URL, with every byte outside ASCII's letters, digits and `_.-~/` as `%E9`."""
    return quote(os.fsencode(path))


def read_path(text: str) -> Path:
    """Return the path that `spell_path` turned into text."""
    return Path(os.fsdecode(unquote_to_bytes(text.removeprefix(_FILE_URL))) if text.startswith(_FILE_URL) else text)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not valid JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"the number {digits[:20]} is too large")
    return number
