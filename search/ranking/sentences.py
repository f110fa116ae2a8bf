"""Compare sentences by their words alone: case, punctuation, spaces and the form of characters do not matter."""

from __future__ import annotations

import re
import unicodedata

_WORD = re.compile(r"[^\W_]+")


def words_of(text: str) -> str:
    """Return the words of a sentence in lower case, separated by single spaces; all of it if it contains no word."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
        text = "".join(char for char in text if unicodedata.category(char) != "Cf")  # invisible characters
    return " ".join(_WORD.findall(text.casefold())) or text.strip()
