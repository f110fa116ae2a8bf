"""The policy for text that cannot be encoded or decoded, in one place.

Text is Unicode without NUL and without lone surrogates (half of a pair, as JSON can spell with `\\ud83d`). Text files
are UTF-8, with or without a byte order mark.
"""

from __future__ import annotations

import codecs

from search.errors import TextError


def check_text(text: str) -> str:
    """Return `text` unchanged.

    Raises:
        TextError: it contains NUL or a lone surrogate, which no model and no index can read.
    """
    if "\0" in text:
        raise TextError("the text contains a NUL character")
    if any(0xD800 <= ord(char) <= 0xDFFF for char in text):
        raise TextError("the text is not valid Unicode: it contains half of a surrogate pair")
    return text


def decode_text(content: bytes) -> str:
    """Decode UTF-8, with or without a byte order mark.

    Raises:
        TextError: it is UTF-16 or UTF-32, not valid UTF-8, or contains NUL.
    """
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # UTF-32's marks begin or end like these
        raise TextError("the text is UTF-16: save it as UTF-8")
    try:
        return check_text(content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise TextError("the text is not valid UTF-8") from None


def shown(text: str) -> str:
    """Return `text` with each lone surrogate spelled out as `\\ud83d`, so that it can be written as UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
